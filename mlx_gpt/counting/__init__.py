"""N-gram models in NumPy: counted by sorting, smoothed by one rule, asked for millions of tokens at once."""

from mlx_gpt.counting.counted import Counted
from mlx_gpt.counting.counts import HIGHEST_ORDER, Counts, Order
from mlx_gpt.counting.estimate import estimate, thresholds
from mlx_gpt.counting.family import FAMILY, Wanted
from mlx_gpt.counting.sampler import Sampler
from mlx_gpt.counting.smoothing import AddK, Smoothing
from mlx_gpt.counting.sorting import count
from mlx_gpt.counting.table import Level, Table
from mlx_gpt.counting.weights import fitted

__all__ = [
    "FAMILY",
    "HIGHEST_ORDER",
    "AddK",
    "Counted",
    "Counts",
    "Level",
    "Order",
    "Sampler",
    "Smoothing",
    "Table",
    "Wanted",
    "count",
    "estimate",
    "fitted",
    "thresholds",
]
