"""Eleven language models, from unigram counts to a GPT tuned for Apple's M2."""

from mlx_gpt.device import load_blas

__version__ = "0.1.0"

load_blas()  # before anything imports MLX, whose Linux wheel carries an untuned BLAS
