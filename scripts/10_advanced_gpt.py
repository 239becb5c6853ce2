"""Train stage 10: python scripts/10_advanced_gpt.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(10)
