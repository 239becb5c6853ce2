"""Train stage 5: python scripts/05_feed_forward.py, with the options of python -m mlx_gpt.train."""

from mlx_gpt.train import train_stage

train_stage(5)
