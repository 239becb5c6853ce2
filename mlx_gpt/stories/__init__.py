"""The built-in corpus: little English stories from a seeded grammar whose entropy is known exactly.

`story(seed, index)` writes one, `nats(text)` is -log p of a text under the grammar, `entropy()` the
expectation over all of them: the lowest loss a language model can reach. `spans` splits a story into its
choices, each with a tag that says what has to be remembered to predict it (`TAGS`), and how far back it was said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

from mlx_gpt.stories.belief import Entropy, expectation
from mlx_gpt.stories.plot import scene
from mlx_gpt.stories.sentences import TAGS
from mlx_gpt.stories.walks import Span, read, sample

__all__ = ["TAGS", "Entropy", "Span", "entropy", "nats", "spans", "stories", "story"]


def story(seed: int, index: int) -> str:
    """The story at `index` of the endless series `seed`."""
    return "".join(span.text for span in sample(scene, f"story {index} of series {seed}"))


def stories(seed: int, count: int) -> Iterator[str]:
    """The first `count` stories of the series `seed`."""
    return (story(seed, index) for index in range(count))


def nats(text: str) -> float:
    """-log p(text), exact, in nats. Raises DataError for a text that the grammar cannot produce."""
    return math.fsum(span.nats for span in spans(text))


def spans(text: str) -> list[Span]:
    """A story choice by choice. Raises DataError for a text that the grammar cannot produce."""
    return read(scene, text)


@cache
def entropy() -> Entropy:
    """The exact mean of `nats` and of the UTF-8 bytes of a story."""
    return expectation(scene)
