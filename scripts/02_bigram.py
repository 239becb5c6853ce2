"""Train stage 2: python scripts/02_bigram.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(2)
