"""Train stage 11: python scripts/11_m2_gpt.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(11)
