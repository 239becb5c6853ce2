"""Three ways through a grammar: `sample` a story, `read` (score) one, compute exact `expectation`s.

A grammar is one function `scene(walk, state) -> state`, called with None first and until it returns None; its
states are hashable. All chance lies in the walk's methods, and every choice shows in the text at once (a
unifilar source), so p(text) is the product of the probabilities of the choices.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, final

from mlx_gpt.errors import DataError
from mlx_gpt.stories.notation import Argument, Either, Result, Walk
from mlx_gpt.stories.told import Told
from mlx_gpt.stories.words import Lexicon, Odds, Spelling, Word, odds

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Span:
    """One choice (or fixed text) of a story: its text, its tag (see `TAGS`), and -log p in nats.

    back  for a word that was said before, or depends on one that was: bytes back to the last place that tells it
    """

    text: str
    tag: str
    nats: float
    back: int | None = None


@dataclass(frozen=True)
class Entropy:
    """What a story costs on average, exactly."""

    nats_per_story: float
    bytes_per_story: float

    @property
    def bits_per_byte(self) -> float:
        """The lowest loss any model can have on these stories, in bits per UTF-8 byte."""
        return self.nats_per_story / self.bytes_per_story / math.log(2)


class Telling(Walk[Word]):
    """A walk along one story; who decides is left open."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, float, int | None]] = []
        self._told = Told()
        self._frame: tuple[str, float] | None = None  # an alternative taken, not yet seen in the text

    @abstractmethod
    def decide(self, options: Either) -> int:
        """Which option."""

    @abstractmethod
    def name(self, spelling: Spelling, chances: Odds) -> int:
        """Which word."""

    @abstractmethod
    def write(self, text: str) -> None:
        """This text is next."""

    def say(self, text: str, tag: str) -> None:
        self.write(text)
        tag, nats = self._frame or (tag, 0.0)
        self._frame = None
        self._add(text, tag, nats, None)

    def show(self, word: Word, form: str, tag: str, given: Word | None = None) -> None:
        text = word.forms[form]
        self.write(text)
        self._name(word, form, tag, 0.0, given)

    def choose(self, lexicon: Lexicon, given: Word | None, form: str) -> Word:
        table = lexicon.table(given)
        spelling = table.spelling(form)
        index = self.name(spelling, table.odds)
        back = None if given is None else self._told.back(given)
        self._told.choose(table.words[index])
        self._add(spelling.texts[index], lexicon.tag, table.odds.nats[index], back)
        return table.words[index]

    def either(self, options: Either, cast: dict[str, Word]) -> None:
        self.fork(options, cast)

    def fork(self, options: Either, cast: dict[str, Word]) -> int:
        index = self.decide(options)
        before = self._frame[1] if self._frame else 0.0  # alternatives at one place share one span
        tag = self._frame[0] if self._frame else options.tag
        self._frame = tag, before + options.odds.nats[index]
        self.play(options.options[index], cast)
        return index

    def which(self, words: Sequence[Word], weights: Sequence[int], form: str, tag: str) -> int:
        chances = odds(*weights)
        spelling = Spelling(tuple(word.forms[form] for word in words))
        index = self.name(spelling, chances)
        self._name(words[index], form, tag, chances.nats[index], None)
        return index

    def call(self, part: Callable[[Walk[Word], Argument], Result], argument: Argument) -> Result:
        return part(self, argument)

    def _name(self, word: Word, form: str, tag: str, nats: float, given: Word | None) -> None:
        back = self._told.back(word, word.forms[form]) if given is None else self._told.holder(given)
        if given is not None:
            self._told.answer(given)
        self._told.say(word, form, tag)
        self._add(word.forms[form], tag, nats, back)

    def _add(self, text: str, tag: str, nats: float, back: int | None) -> None:
        self.spans.append((text, tag, nats, back))
        self._told.size += len(text.encode())


@final
class Sampling(Telling):
    """Decisions by chance."""

    def __init__(self, seed: str) -> None:
        super().__init__()
        self._uniform = random.Random(seed).random

    def decide(self, options: Either) -> int:
        return options.odds.draw(self._uniform())

    def name(self, spelling: Spelling, chances: Odds) -> int:
        return chances.draw(self._uniform())

    def write(self, text: str) -> None:
        pass


@final
class Reading(Telling):
    """Decisions by a given text. Raises DataError where the text leaves the grammar."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self._at = 0

    def decide(self, options: Either) -> int:
        index = options.find(self._text, self._at)
        if index is None or not options.odds.weights[index]:
            raise self._error(sorted(options.signs))
        return index

    def name(self, spelling: Spelling, chances: Odds) -> int:
        index = spelling.find(self._text, self._at)
        if index is None or not chances.weights[index]:
            raise self._error(spelling.texts)
        self._at += len(spelling.texts[index])
        return index

    def write(self, text: str) -> None:
        if not self._text.startswith(text, self._at):
            raise self._error((text,))
        self._at += len(text)

    def finish(self) -> None:
        """The story is over: so should be the text."""
        if self._at != len(self._text):
            raise self._error(("the end of the story",))

    def _error(self, expected: Sequence[str]) -> DataError:
        position = len(self._text[: self._at].encode())
        some = ", ".join(map(repr, expected[:8]))
        if len(expected) > 8:
            some += f" or {len(expected) - 8} others"
        found = self._text[self._at : self._at + 24]
        return DataError(f"not a story: at byte {position} expected {some}, found {found!r}")


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


def _walk(scene: Callable[[Walk[Word], S | None], S | None], walk: Telling) -> list[Span]:
    state = scene(walk, None)
    while state is not None:
        state = scene(walk, state)
    return [Span(*span) for span in walk.spans]


def sample(scene: Callable[[Walk[Word], S | None], S | None], seed: str) -> list[Span]:
    """A story by chance; equal seeds give equal stories."""
    return _walk(scene, Sampling(seed))


def read(scene: Callable[[Walk[Word], S | None], S | None], text: str) -> list[Span]:
    """The choices that make up `text`. Raises DataError if the grammar cannot produce it."""
    walk = Reading(text)
    spans = _walk(scene, walk)
    walk.finish()
    return spans


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
