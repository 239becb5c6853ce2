"""Every smoothing by name: what --smoothing chooses from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlx_gpt.counting.counts import Counts
from mlx_gpt.counting.smoothing import AddK, Discounting, Katz, MaximumLikelihood, Smoothing, WittenBell
from mlx_gpt.counting.statistics import one_discount, three_discounts
from mlx_gpt.counting.weights import fitted


@dataclass(frozen=True)
class Wanted:
    """What a smoothing may need: counts, held-out text (M,), the k of add-k, and how weights are fitted."""

    counts: Counts
    heldout: np.ndarray
    add: float
    buckets: int
    em_rounds: int


FAMILY: dict[str, Callable[[Wanted], Smoothing]] = {
    "modified-kneser-ney": lambda wanted: Discounting(three_discounts, continuation=True),
    "kneser-ney": lambda wanted: Discounting(one_discount, continuation=True),
    "absolute": lambda wanted: Discounting(one_discount, continuation=False),
    "katz": lambda wanted: Katz(),
    "witten-bell": lambda wanted: WittenBell(),
    "jelinek-mercer": lambda wanted: fitted(wanted.counts, wanted.heldout, wanted.buckets, wanted.em_rounds),
    "add-k": lambda wanted: AddK(wanted.add),
    "maximum-likelihood": lambda wanted: MaximumLikelihood(),
}
