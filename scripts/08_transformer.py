"""Train stage 8: python scripts/08_transformer.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(8)
