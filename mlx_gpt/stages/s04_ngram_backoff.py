"""N-gram with backoff: modified Kneser-Ney, the best that counting ever did.

    p(w | h) = max(c(h w) - D, 0) / c(h) + g(h) p(w | h'),   D = 0, D1, D2 or D3 for c = 0, 1, 2, 3 or more

where the lower orders count in how many contexts a token appears, not how often.

Remembers: n-1 tokens, and which of them to ignore.

Better than the n-gram: rare contexts give up the right share of their mass, and "Francisco" is expected after
"San" only.
Still wrong: every phrase is an island; having seen "a red ball" says nothing about "a blue ball".

Source: Kneser & Ney 1995; Chen & Goodman 1999. Katz 1987, Witten & Bell 1991 and Ney et al. 1994 to compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_gpt.counting import FAMILY, Counted, Order, Table
from mlx_gpt.model import Preset, Report, Stage
from mlx_gpt.recipe import Counting, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What a backoff model is."""

    order: int = setting(5, "tokens in an n-gram, the predicted one included", low=1, high=10)
    smoothing: str = setting("kneser-ney", "how mass is taken from the seen and given on", choices=tuple(FAMILY))


class Backoff(Counted):
    """Discounted counts; what was taken is handed to the shorter context."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__(config.order, vocab_size)
        self.config = config

    def estimate(self, orders: list[Order], heldout: np.ndarray, recipe: Any, report: Report) -> Table:
        """Needs no held-out text: the discounts follow from the counts of counts."""
        return FAMILY[self.config.smoothing](orders, report.notice)


STAGE = Stage(
    model=Backoff,
    config=Config(),
    recipe=Counting(),
    tiny=Preset(Config(order=4), Counting()),
    presets={"base": Preset(Config(), Counting()), "large": Preset(Config(order=6), Counting())},
)
