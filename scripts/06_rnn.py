"""Train stage 6: python scripts/06_rnn.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(6)
