"""Train stage 3: python scripts/03_ngram.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(3)
