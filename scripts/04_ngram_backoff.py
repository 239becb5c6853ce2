"""Train stage 4: python scripts/04_ngram_backoff.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(4)
