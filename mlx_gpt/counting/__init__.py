"""N-gram models in NumPy: counts, smoothing, and tables that answer for many positions at once."""

from mlx_gpt.counting.counted import Counted
from mlx_gpt.counting.counts import Order, count
from mlx_gpt.counting.smoothing import FAMILY, add_k, jelinek_mercer
from mlx_gpt.counting.table import Level, Table

__all__ = ["FAMILY", "Counted", "Level", "Order", "Table", "add_k", "count", "jelinek_mercer"]
