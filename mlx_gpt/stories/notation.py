"""The notation in which sentences are written, and the `Walk` that carries them out.

    plain text          itself
    [told|tells]        the first in a story of the past, the second in one of the present
    {hero.her}          a form of a word chosen earlier (`{hero}`: its plain form); `{hero:tag}` sets the tag
    {keeper/toy}        the same where not the word itself was said before, but that it goes with the word `toy`
    {toy=toys.a/hue}    choose from the lexicon `toys`, in form `a`, given the word `hue`; call it `toy`
    {+toys.a/hue}       the same, not remembered
    (one|two|)          an alternative, likelier the earlier it stands; remembers nothing outside

An alternative is decided by the text alone: parsing proves, by looking at the first n characters of all that
each option and what follows it can produce, that no two options ever begin alike (LL(n) over characters).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeAlias, TypeVar

from mlx_gpt.stories.words import Lexicon, Odds, odds, zipf

V = TypeVar("V")
Argument = TypeVar("Argument")
Result = TypeVar("Result")

FIXED = "fixed"
TENSE = "tense"
FORMS_OF_TENSE = {"did": ("past", "now"), "was": ("was", "is"), "had": ("had", "has")}
LOOKAHEAD = 40  # characters; more would mean that a reader has to guess for too long


class Walk(ABC, Generic[V]):
    """One pass through a grammar: sampling, reading or computing expectations.

    The grammar is generic in V, what a chosen word is to this walk. It can therefore pass words on but never
    look inside one: which sentences follow cannot depend on which word it was. Exactness rests on this.
    """

    @abstractmethod
    def say(self, text: str, tag: str) -> None:
        """Text without choice."""

    @abstractmethod
    def show(self, word: V, form: str, tag: str, given: V | None = None) -> None:
        """A word chosen earlier; `given` is the word that decides which, if another."""

    @abstractmethod
    def choose(self, lexicon: Lexicon, given: V | None, form: str) -> V:
        """A new word."""

    @abstractmethod
    def either(self, options: Either, cast: dict[str, V]) -> None:
        """One of several continuations that leave no trace but their text."""

    @abstractmethod
    def fork(self, options: Either, cast: dict[str, V]) -> int:
        """One of several continuations that the story depends on: which one. Its new words join `cast`."""

    @abstractmethod
    def which(self, words: Sequence[V], weights: Sequence[int], form: str, tag: str) -> int:
        """One of several words chosen earlier, shown: its position."""

    @abstractmethod
    def call(self, part: Callable[[Walk[V], Argument], Result], argument: Argument) -> Result:
        """A part of the grammar that depends on nothing but its (hashable) argument."""

    def play(self, sentence: Sentence, cast: dict[str, V]) -> None:
        """Carry out a sentence; the words it remembers join `cast`."""
        for node in sentence:
            node.play(self, cast)


@dataclass(frozen=True, eq=False, slots=True)
class Fixed:
    """Text without choice."""

    text: str
    tag: str

    def play(self, walk: Walk[V], cast: dict[str, V]) -> None:
        """Say it."""
        walk.say(self.text, self.tag)

    def beginnings(self, length: int) -> frozenset[str]:
        """All texts this can produce, cut off after `length` characters."""
        return frozenset((self.text[:length],))


@dataclass(frozen=True, eq=False, slots=True)
class Mention:
    """A word chosen earlier."""

    name: str
    form: str
    given: str
    tag: str
    domain: tuple[Lexicon, ...]

    def play(self, walk: Walk[V], cast: dict[str, V]) -> None:
        """Show it."""
        walk.show(cast[self.name], self.form, self.tag, cast[self.given] if self.given else None)

    def beginnings(self, length: int) -> frozenset[str]:
        """All texts this can produce, cut off after `length` characters."""
        return frozenset(text[:length] for lexicon in self.domain for text in lexicon.texts(self.form))


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """A new word, remembered under `name` ("" for not at all)."""

    name: str
    lexicon: Lexicon
    form: str
    given: str

    def play(self, walk: Walk[V], cast: dict[str, V]) -> None:
        """Choose it."""
        word = walk.choose(self.lexicon, cast[self.given] if self.given else None, self.form)
        if self.name:
            cast[self.name] = word

    def beginnings(self, length: int) -> frozenset[str]:
        """All texts this can produce, cut off after `length` characters."""
        return frozenset(text[:length] for text in self.lexicon.texts(self.form))


@dataclass(frozen=True, eq=False)
class Either:
    """Options, each a sentence; `after` is what follows within the enclosing sentence."""

    options: tuple[Sentence, ...]
    odds: Odds
    tag: str
    after: Sentence

    def play(self, walk: Walk[V], cast: dict[str, V]) -> None:
        """Take one."""
        walk.either(self, cast)

    def beginnings(self, length: int) -> frozenset[str]:
        """All texts this can produce, cut off after `length` characters."""
        return frozenset(text for option in self.options for text in beginnings(option, length))

    @cached_property
    def signs(self) -> dict[str, int]:
        """The beginnings by which a text tells which option it took."""
        for length in range(1, LOOKAHEAD + 1):
            starts = [beginnings(option + self.after, length) for option in self.options]
            signs = {text: index for index, texts in enumerate(starts) for text in texts}
            shorter = sorted({len(text) for text in signs if len(text) < length})
            same = sum(map(len, starts)) != len(signs)
            nested = any(signs.get(text[:cut], at) != at for text, at in signs.items() for cut in shorter)
            if not same and not nested:
                return signs
        raise AssertionError(f"options that begin alike: {[sorted(texts)[:3] for texts in starts]}")

    @cached_property
    def sign_lengths(self) -> tuple[int, ...]:
        """The lengths in characters that signs have."""
        return tuple(sorted({len(sign) for sign in self.signs}))

    def find(self, text: str, start: int) -> int | None:
        """Which option the text at `start` took; None if none fits."""
        for length in self.sign_lengths:
            index = self.signs.get(text[start : start + length])
            if index is not None:
                return index
        return None


Node: TypeAlias = Fixed | Mention | Choice | Either
Sentence: TypeAlias = tuple[Node, ...]
Tree: TypeAlias = list["str | list[Tree]"]  # a sequence of tokens and alternatives of such sequences


def beginnings(sentence: Sentence, length: int) -> frozenset[str]:
    """All texts a sentence can produce, cut off after `length` characters."""
    found = frozenset(("",))
    for node in sentence:
        short = [text for text in found if len(text) < length]
        if not short:
            break
        more = node.beginnings(length - min(map(len, short)))
        found = frozenset(text for text in found if len(text) == length) | frozenset(
            (text + rest)[:length] for text in short for rest in more
        )
    return found


TOKENS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[()|]|[^{}\[\]()|]+")
SLOT = re.compile(
    r"\{(?:(?P<bind>\w+=|\+)(?P<lexicon>\w+)|(?P<name>\w+))"
    r"(?:\.(?P<form>\w+))?(?:/(?P<given>\w+))?(?::(?P<tag>\w+))?\}"
)


@dataclass(frozen=True, eq=False)
class Notation:
    """What the notation may refer to.

    lexicons   name -> lexicon
    domains    remembered name -> the lexicons its word may come from
    form_tags  form -> tag of a mention in that form, in place of the lexicon's echo
    """

    lexicons: Mapping[str, Lexicon]
    domains: Mapping[str, tuple[str, ...]]
    form_tags: Mapping[str, str]
    exponent: float = 0.3  # of the odds of alternatives
    _parsed: dict[tuple[str, int], Sentence] = field(default_factory=dict)
    _forks: dict[tuple[tuple[str, ...], int, tuple[int, ...]], Either] = field(default_factory=dict)

    def sentence(self, text: str, tense: int) -> Sentence:
        """Parse (once) what is written in the notation; `tense` is 0 for the past, 1 for the present."""
        key = text, tense
        if key not in self._parsed:
            tokens = TOKENS.findall(text)
            assert "".join(tokens) == text, f"unbalanced: {text!r}"
            self._parsed[key] = self._sequence(self._tree(tokens), (), tense)
        return self._parsed[key]

    def fork(self, texts: tuple[str, ...], tense: int, weights: tuple[int, ...]) -> Either:
        """Alternatives that the story depends on, for `Walk.fork`."""
        key = texts, tense, weights
        if key not in self._forks:
            options = tuple(self.sentence(text, tense) for text in texts)
            self._forks[key] = Either(options, odds(*weights), "event", ())
            assert self._forks[key].signs
        return self._forks[key]

    def _tree(self, tokens: list[str]) -> Tree:
        """Nest the parentheses: a string is a token, a list an alternative."""
        stack: list[list[Tree]] = [[[]]]
        for token in tokens:
            if token == "(":
                stack.append([[]])
            elif token == "|":
                stack[-1].append([])
            elif token == ")":
                options = stack.pop()
                stack[-1][-1].append(options)
            else:
                stack[-1][-1].append(token)
        assert len(stack) == 1 and len(stack[0]) == 1, f"unbalanced: {tokens}"
        return stack[0][0]

    def _sequence(self, parts: Tree, after: Sentence, tense: int) -> Sentence:
        """Nodes from right to left, so that each alternative knows what follows it."""
        nodes: Sentence = ()
        for part in reversed(parts):
            if isinstance(part, list):
                follows = nodes + after
                options = tuple(self._sequence(option, follows, tense) for option in part)
                starts = [(option + follows)[:1] for option in options]
                fixed = all(start and isinstance(start[0], Fixed | Either) for start in starts)
                assert fixed, f"an option has to begin with fixed text: {part}"
                either = Either(options, zipf(len(options), self.exponent), "frame", follows)
                assert either.signs
                node: Node = either
            elif part.startswith("["):
                node = Fixed(part[1:-1].split("|")[tense], TENSE)
            elif part.startswith("{"):
                node = self._slot(part, tense)
            else:
                node = Fixed(part, FIXED)
            nodes = (node, *nodes)
        return nodes

    def _slot(self, text: str, tense: int) -> Mention | Choice:
        match = SLOT.fullmatch(text)
        assert match, f"not a slot: {text}"
        form = match["form"] or ""
        form = FORMS_OF_TENSE[form][tense] if form in FORMS_OF_TENSE else form
        if match["lexicon"]:
            lexicon = self.lexicons[match["lexicon"]]
            assert all(form in word.forms for word in lexicon.words), f"no such form: {text}"
            assert (lexicon.given == (None,)) == (not match["given"]), f"given what? {text}"
            return Choice(match["bind"].rstrip("=+"), lexicon, form, match["given"] or "")
        domain = tuple(self.lexicons[name] for name in self.domains[match["name"]])
        tag = match["tag"] or self.form_tags.get(form) or domain[0].echo
        return Mention(match["name"], form, match["given"] or "", tag, domain)
