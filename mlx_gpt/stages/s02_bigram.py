"""Bigram: how often each token follows the one before it.

    p(w | v) = l c(v w) / c(v) + (1 - l) p(w)

Remembers: one token.

Better than the unigram: neighbours fit each other ("once upon", "said the").
Still wrong: no phrase hangs together beyond two tokens, and one weight l serves common and rare v alike.

Source: Jelinek & Mercer 1980; the weight is fitted on held-out text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_gpt.counting import Counted, Counts, Smoothing, fitted
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Counting, Settings


@dataclass(frozen=True)
class Config(Settings):
    """A bigram model has nothing to set."""


class Bigram(Counted):
    """Two levels and one weight each."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__(2, vocab_size)

    def smoothing(self, counts: Counts, heldout: np.ndarray, recipe: Any) -> Smoothing:
        """Relative frequencies, mixed with the unigram's."""
        return fitted(counts, heldout, classes=1, rounds=recipe.em_rounds)


STAGE = Stage(
    model=Bigram,
    config=Config(),
    recipe=Counting(),
    tiny=Preset(Config(), Counting(em_rounds=10)),
    presets={"base": Preset(Config(), Counting()), "large": Preset(Config(), Counting())},
)
