"""Unigram: how often each token comes, whatever stood before it.

    p(w) = (c(w) + k) / (N + k V)

Remembers: nothing.

Better than guessing: common tokens are expected more than rare ones.
Still wrong: word salad; "the the the" is its likeliest sentence.

Source: Laplace's rule of succession (k = 1) with Lidstone's k (1920).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_gpt.counting import AddK, Counted, Counts, Smoothing
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Counting, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What a unigram model is."""

    add: float = setting(1.0, "count added to every token, so that unseen ones have mass", low=1e-9, high=1e9)


class Unigram(Counted):
    """One probability for each token."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__(1, vocab_size)
        self.config = config

    def smoothing(self, counts: Counts, heldout: np.ndarray, recipe: Any) -> Smoothing:
        """Counts plus k."""
        return AddK(self.config.add)


STAGE = Stage(
    model=Unigram,
    config=Config(),
    recipe=Counting(),
    tiny=Preset(Config(), Counting()),
    presets={"base": Preset(Config(), Counting()), "large": Preset(Config(), Counting())},
)
