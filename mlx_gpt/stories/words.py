"""Words and how likely they are: `Odds` (exact integer weights), `Word` (spellings), `Table`, `Lexicon`."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class Odds:
    """A distribution with integer weights, so that every platform agrees on it: p(i) = weights[i] / total."""

    weights: tuple[int, ...]

    @cached_property
    def ceilings(self) -> tuple[int, ...]:
        """Running sums of the weights."""
        return tuple(accumulate(self.weights))

    @cached_property
    def nats(self) -> tuple[float, ...]:
        """-log p of each alternative; infinite for a weight of zero."""
        total = self.ceilings[-1]
        return tuple(math.log(total / weight) if weight else math.inf for weight in self.weights)

    @cached_property
    def chances(self) -> tuple[float, ...]:
        """p of each alternative."""
        return tuple(weight / self.ceilings[-1] for weight in self.weights)

    @cached_property
    def entropy(self) -> float:
        """Expected -log p, in nats."""
        return math.fsum(p * nats for p, nats in zip(self.chances, self.nats, strict=True) if p)

    def draw(self, uniform: float) -> int:
        """The alternative at `uniform` in [0, 1)."""
        return bisect_right(self.ceilings, uniform * self.ceilings[-1])


@cache
def odds(*weights: int) -> Odds:
    """The (shared) distribution with these weights."""
    return Odds(weights)


@cache
def zipf(count: int, exponent: float) -> Odds:
    """Weights falling as 1 / rank ** exponent."""
    return Odds(tuple(round(10_000 / (rank + 1) ** exponent) for rank in range(count)))


@dataclass(frozen=True, eq=False, slots=True)
class Word:
    """Something that can be named: one spelling for each of its forms (the plain form is called "")."""

    forms: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Spelling:
    """The texts of a table's words in one form, and the way back.

    A chosen word always ends where the next character is not a letter, so a text names at most one of them.
    """

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.texts)
        for text, other in pairwise(ordered):
            apart = not other.startswith(text) or other[len(text) :][:1].isalpha()
            assert apart, f"{text!r} and {other!r} cannot be told apart"

    @cached_property
    def indices(self) -> dict[str, int]:
        """Text -> position."""
        return {text: index for index, text in enumerate(self.texts)}

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The lengths in characters that occur."""
        return tuple(sorted({len(text) for text in self.texts}))

    def find(self, text: str, start: int) -> int | None:
        """Which of the words stands at `start` of `text`; None if none does."""
        for length in self.lengths:
            index = self.indices.get(text[start : start + length])
            if index is not None and not text[start + length : start + length + 1].isalpha():
                return index
        return None


@dataclass(frozen=True, eq=False)
class Table:
    """Words and their odds."""

    words: tuple[Word, ...]
    odds: Odds
    _spellings: dict[str, Spelling] = field(default_factory=dict)

    def spelling(self, form: str) -> Spelling:
        """How the words are written in `form`."""
        if form not in self._spellings:
            self._spellings[form] = Spelling(tuple(word.forms[form] for word in self.words))
        return self._spellings[form]


@dataclass(frozen=True, eq=False)
class Lexicon:
    """A table for each word that a choice may depend on; `given` is (None,) if it depends on none.

    tag    what a new choice from this lexicon is called
    echo   what a later mention of the chosen word is called
    """

    tag: str
    echo: str
    build: Callable[[Word | None], Table]
    given: tuple[Word | None, ...] = (None,)
    _tables: dict[Word | None, Table] = field(default_factory=dict)

    def table(self, given: Word | None) -> Table:
        """The table to choose from after `given`."""
        table = self._tables.get(given)
        if table is None:
            table = self._tables[given] = self.build(given)
        return table

    def texts(self, form: str) -> frozenset[str]:
        """All that may be written for a choice from this lexicon."""
        return frozenset(word.forms[form] for given in self.given for word in self.table(given).words)

    @property
    def words(self) -> tuple[Word, ...]:
        """All words of all tables, each once."""
        return tuple(dict.fromkeys(word for given in self.given for word in self.table(given).words))
