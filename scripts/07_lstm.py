"""Train stage 7: python scripts/07_lstm.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(7)
