"""What can be said of a story before a word of it is known: exact `expectation`s over all stories of a grammar.

A grammar is written as for `walks.py`. Where a telling walk has a word, this one has a `Belief`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, final

from mlx_gpt.stories.notation import Argument, Either, Result, Walk
from mlx_gpt.stories.words import Lexicon, Word, odds

S = TypeVar("S")


@dataclass(frozen=True)
class Entropy:
    """What a story costs on average, exactly."""

    nats_per_story: float
    bytes_per_story: float

    @property
    def bits_per_byte(self) -> float:
        """The lowest loss any model can have on these stories, in bits per UTF-8 byte."""
        return self.nats_per_story / self.bytes_per_story / math.log(2)


@dataclass(frozen=True, eq=False)
class Belief:
    """What an expecting walk knows of a chosen word: how likely it is to be which."""

    chances: dict[Word, float]
    _bytes: dict[str, float] = field(default_factory=dict)

    def bytes(self, form: str) -> float:
        """Expected UTF-8 bytes of one form."""
        if form not in self._bytes:
            sizes = {word: len(word.forms[form].encode()) for word in self.chances}
            self._bytes[form] = math.fsum(p * sizes[word] for word, p in self.chances.items())
        return self._bytes[form]


@cache
def _chosen(lexicon: Lexicon, given: Belief | None) -> tuple[Belief, float]:
    """The belief in a word chosen after `given`, and the expected nats of that choice."""
    causes: Mapping[Word, float] | dict[None, float] = {None: 1.0} if given is None else given.chances
    chances: dict[Word, float] = defaultdict(float)
    nats = 0.0
    for cause, p in causes.items():
        table = lexicon.table(cause)
        nats += p * table.odds.entropy
        for word, q in zip(table.words, table.odds.chances, strict=True):
            chances[word] += p * q
    return Belief(dict(chances)), nats


@final
class Expecting(Walk[Belief]):
    """All stories at once, word by word, along one `path` of forks; expected nats and bytes are added up.

    Expectations are linear and forks never depend on words, so each word's own belief is all that is needed.
    """

    def __init__(self, path: tuple[int, ...]) -> None:
        self.path = path
        self.untried: list[tuple[int, ...]] = []
        self.chance = 1.0
        self.nats = 0.0
        self.bytes = 0.0
        self._depth = 0
        self._share = 1.0  # of the alternatives taken within a sentence

    def say(self, text: str, tag: str) -> None:
        self.bytes += self._share * len(text.encode())

    def show(self, word: Belief, form: str, tag: str, given: Belief | None = None) -> None:
        self.bytes += self._share * word.bytes(form)

    def choose(self, lexicon: Lexicon, given: Belief | None, form: str) -> Belief:
        belief, nats = _chosen(lexicon, given)
        self.nats += self._share * nats
        self.bytes += self._share * belief.bytes(form)
        return belief

    def either(self, options: Either, cast: dict[str, Belief]) -> None:
        share = self._share
        self.nats += share * options.odds.entropy
        for option, chance in zip(options.options, options.odds.chances, strict=True):
            self._share = share * chance
            self.play(option, dict(cast))
        self._share = share

    def fork(self, options: Either, cast: dict[str, Belief]) -> int:
        index = self._follow(options.odds.chances)
        self.nats += options.odds.nats[index]
        self.play(options.options[index], cast)
        return index

    def which(self, words: Sequence[Belief], weights: Sequence[int], form: str, tag: str) -> int:
        chances = odds(*weights)
        index = self._follow(chances.chances)
        self.nats += chances.nats[index]
        self.show(words[index], form, tag)
        return index

    def call(self, part: Callable[[Walk[Belief], Argument], Result], argument: Argument) -> Result:
        results: list[tuple[Result, float, float, float]] = _outcomes(part, argument)
        result, _, nats, size = results[self._follow([outcome[1] for outcome in results])]
        self.nats += nats
        self.bytes += size
        return result

    def _follow(self, chances: Sequence[float]) -> int:
        if self._depth == len(self.path):
            possible = [index for index, chance in enumerate(chances) if chance]
            self.untried.extend((*self.path, index) for index in possible[1:])
            self.path = (*self.path, possible[0])
        index = self.path[self._depth]
        self._depth += 1
        self.chance *= chances[index]
        return index


@cache
def _outcomes(part: Callable[..., Any], argument: Hashable) -> list[tuple[Any, float, float, float]]:
    """(result, its probability, expected nats and expected bytes given it) of a part of a grammar."""
    sums: dict[Any, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    paths: list[tuple[int, ...]] = [()]
    while paths:
        walk = Expecting(paths.pop())
        total = sums[part(walk, argument)]
        paths.extend(walk.untried)
        total[0] += walk.chance
        total[1] += walk.chance * walk.nats
        total[2] += walk.chance * walk.bytes
    return [(result, p, nats / p, size / p) for result, (p, nats, size) in sums.items()]


def expectation(scene: Callable[[Walk[Belief], S | None], S | None]) -> Entropy:
    """Exact expected nats and bytes of a story: forward through the Markov chain of states."""
    nats = size = 0.0
    states: dict[S | None, float] = {None: 1.0}
    while states:
        after: dict[S | None, float] = defaultdict(float)
        for state, p in states.items():
            outcomes: list[tuple[S | None, float, float, float]] = _outcomes(scene, state)
            for result, chance, result_nats, result_bytes in outcomes:
                nats += p * chance * result_nats
                size += p * chance * result_bytes
                if result is not None:
                    after[result] += p * chance
        states = after
    return Entropy(nats, size)
