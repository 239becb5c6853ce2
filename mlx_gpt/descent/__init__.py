"""Gradient models in MLX: one base, one loop, one loss, its optimisers."""

from mlx_gpt.descent.dropout import Dropout
from mlx_gpt.descent.neural import Neural

__all__ = ["Dropout", "Neural"]
