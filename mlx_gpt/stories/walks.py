"""Two ways along one story of a grammar: `sample` one by chance, or `read` (and score) a given one.

A grammar is one function `scene(walk, state) -> state`, called with None first and until it returns None; its
states are hashable. All chance lies in the walk's methods, and every choice shows in the text at once (a
unifilar source), so p(text) is the product of the probabilities of the choices.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

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
