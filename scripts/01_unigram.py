"""Train stage 1: python scripts/01_unigram.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(1)
