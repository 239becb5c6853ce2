"""N-gram: how often each token follows the n - 1 before it, mixed with all shorter contexts.

    p_k(w | h) = l_k(c(h)) c(h w) / c(h) + (1 - l_k(c(h))) p_{k-1}(w | h')

Remembers: n-1 tokens.

Better than the bigram: whole phrases, and a context that was seen often is trusted more.
Still wrong: shorter contexts are believed by their frequency, though "Francisco" is frequent after one word only.

Source: Jelinek & Mercer 1980; weights by expectation-maximisation on held-out text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_gpt.counting import HIGHEST_ORDER, Counted, Counts, Smoothing, fitted
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Counting, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What an n-gram model is."""

    order: int = setting(
        4,
        "tokens in an n-gram, the predicted one included; auto: best on validation text",
        low=1,
        high=HIGHEST_ORDER,
        auto=True,
    )
    buckets: int = setting(
        5, "classes of contexts by how often they were seen, each with its own weight", low=1, high=9
    )


class NGram(Counted):
    """N levels, each with a weight for every class of contexts."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__(config.order, vocab_size)
        self.config = config

    def smoothing(self, counts: Counts, heldout: np.ndarray, recipe: Any) -> Smoothing:
        """Relative frequencies of all orders, mixed."""
        return fitted(counts, heldout, self.config.buckets, recipe.em_rounds)


STAGE = Stage(
    model=NGram,
    config=Config(),
    recipe=Counting(),
    tiny=Preset(Config(order=3), Counting(em_rounds=10)),
    presets={"base": Preset(Config(), Counting()), "large": Preset(Config(order=5), Counting())},
)
