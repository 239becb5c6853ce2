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

from mlx_gpt.counting import FAMILY, HIGHEST_ORDER, Counted, Counts, Smoothing, Wanted, thresholds
from mlx_gpt.errors import SettingError
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Counting, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What a backoff model is."""

    order: int = setting(
        5,
        "tokens in an n-gram, the predicted one included; auto: best on validation text",
        low=1,
        high=HIGHEST_ORDER,
        auto=True,
    )
    smoothing: str = setting("modified-kneser-ney", "how mass is taken and given on", choices=tuple(FAMILY))
    add: float = setting(1.0, "with add-k: count added to every token", low=1e-9, high=1e9)
    buckets: int = setting(5, "with jelinek-mercer: classes of contexts, each with its own weight", low=1, high=9)
    prune: str = setting(
        "",
        'by order, drop n-grams seen so many times or less, as lmplz: "0 0 1" drops trigrams and longer seen once',
        reads=thresholds,
    )
    quantised: bool = setting(
        False, "keep numbers in 8 bits: half the size; probabilities then sum to 1 within a few per cent only"
    )


class Backoff(Counted):
    """Discounted counts; what was taken is handed to the shorter context."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__(config.order, vocab_size)
        self.config, self.in_bits = config, config.quantised
        self.prune = thresholds(config.prune)
        if config.order and len(self.prune) > config.order:
            raise SettingError(f"--prune {config.prune!r}: more numbers than orders; --order is {config.order}")

    def smoothing(self, counts: Counts, heldout: np.ndarray, recipe: Any) -> Smoothing:
        """Kneser & Ney's discounts follow from the counts of counts; only some others need held-out text."""
        wanted = Wanted(counts, heldout, self.config.add, self.config.buckets, recipe.em_rounds)
        return FAMILY[self.config.smoothing](wanted)


STAGE = Stage(
    model=Backoff,
    config=Config(),
    recipe=Counting(),
    tiny=Preset(Config(order=4), Counting()),
    presets={"base": Preset(Config(), Counting()), "large": Preset(Config(order=6), Counting())},
)
