"""Train stage 9: python scripts/09_simple_gpt.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(9)
