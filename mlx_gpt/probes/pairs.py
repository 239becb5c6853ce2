"""Probes: twins of texts that differ in one word that decides, each with a right and a wrong way to go on.

What is wrong in a text is right in its twin, and from the place asked about on, both read the same. Right and wrong are
whole texts with the same end, and their whole probabilities are compared: how a tokenizer cuts them up, or joins them,
favours neither. The two are judged together, as a choice of which answer goes with which text:

    log p(right in the first) + log p(right in the second) > log p(wrong in the first) + log p(wrong in the second)

What a model likes better in any case cancels, so chance is 1/2 and a model that does not see what decides is at a tie:
an n-gram model cannot leave it where the deciding word lies beyond its order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlx_gpt.probes.words import Words, fill, pick


@dataclass(frozen=True)
class Twins:
    """Two texts, each as (right, wrong)."""

    first: tuple[str, str]
    second: tuple[str, str]

    @property
    def texts(self) -> tuple[str, str, str, str]:
        return *self.first, *self.second


@dataclass(frozen=True)
class Skill:
    """A kind of probe: its group and which one of it, what it asks, how many twins there are at most, and how each is
    made.

    bytes  how far back what decides stands, about; 0: right before
    """

    group: str
    part: str
    asks: str
    count: int
    make: Callable[[random.Random, Words, int], Twins | None]
    bytes: int = 0

    @property
    def name(self) -> str:
        """Of both."""
        return f"{self.group} {self.part}".strip()


def _twins(frame: Callable[[str, str], str], one: str, other: str) -> Twins:
    """frame(what decides, the answer): the answer is what decides."""
    return Twins((frame(one, one), frame(one, other)), (frame(other, other), frame(other, one)))


def _agreement(chance: random.Random, words: Words, size: int) -> Twins | None:
    if len(words.nouns) < 4:
        return None
    (one, many), between = chance.choice(words.nouns), ""
    if size:
        nearer = chance.choice([pair for pair in words.nouns if pair[0] != one])[chance.randrange(2)]
        between = f" {chance.choice(('near', 'behind', 'with', 'by'))} the {nearer}"
        between = f"{between} of the {chance.choice(_others(words, one))}" if size > 20 else between
    texts = {(n, v): f"The {n}{between} {v} {words.after}" for n in (one, many) for v in words.verbs}
    single, several = words.verbs
    return Twins((texts[one, single], texts[one, several]), (texts[many, several], texts[many, single]))


def _others(words: Words, one: str) -> list[str]:
    """Nouns in either number, but for one."""
    return [noun for pair in words.nouns if pair[0] != one for noun in pair]


def _copy(chance: random.Random, words: Words, size: int) -> Twins | None:
    if len(words.plain) < 100:
        return None
    a, b, c, d, *rest = pick(chance, words.plain, len(words.plain))
    left, right = rest[:2], rest[2:4]
    turned = chance.random() < 0.5
    between = fill(chance, rest[4:-1], max(0, size - 20))

    def text(behind: str, answer: str) -> str:
        pairs = [f"{a} {behind}", f"{c} {d if behind == b else b}"]
        known = f" {' '.join(right)} ".join(reversed(pairs) if turned else pairs)
        return f"{' '.join(left)} {known} {between} {a} {answer} {rest[-1]}"

    return _twins(text, b, d)


def _phrase(chance: random.Random, words: Words, size: int) -> Twins | None:
    long = [each for each in words.sentences if each.count(" ") >= 4]
    if len(long) < 40:
        return None
    (said, other) = pick(chance, long, 2)
    (begin, _, one), (_, _, another) = said.rpartition(" "), other.rpartition(" ")
    if one[:-1] == another[:-1]:
        return None
    between = fill(chance, [each for each in words.sentences if each not in (said, other)], max(0, size - len(begin)))

    def text(last: str, answer: str) -> str:
        return " ".join(filter(None, (f"{begin} {last}.", between, f"{begin} {answer}.")))

    return _twins(text, one[:-1], another[:-1])


def _recall(chance: random.Random, words: Words, size: int) -> Twins | None:
    if len(words.names) < 4 or len(words.sentences) < 20:
        return None
    one, other = pick(chance, words.names, 2)
    between = fill(chance, words.sentences, max(0, size - 40))

    def text(said: str, answer: str) -> str:
        return " ".join(filter(None, (f"{said} was happy.", between, f"Then {answer} {words.following}")))

    return _twins(text, one, other)


def _binding(chance: random.Random, words: Words, size: int) -> Twins | None:
    if len(words.names) < 4 or len(words.colours) < 4 or not words.things:
        return None
    (one, other), (this, that) = pick(chance, words.names, 2), pick(chance, words.colours, 2)
    thing, asked = chance.choice(words.things), chance.choice((True, False))

    def text(colour: str, answer: str) -> str:
        theirs = that if colour == this else this
        first, second = (colour, theirs) if asked else (theirs, colour)
        told = f"{one} had a {first} {thing}. {other} had a {second} {thing}."
        return f"{told} {one if asked else other} had a {answer} {thing}"

    return _twins(text, this, that)


def _quote(chance: random.Random, words: Words, size: int) -> Twins | None:
    kind = max(words.quotes, key=lambda kind: len(words.quotes[kind]), default="")
    fitting = [each for each in words.quotes.get(kind, ()) if size / 2 <= len(each[1]) < size * 2]
    if len(fitting) < 8:
        return None
    before, within, behind = chance.choice(fitting)
    start, end = kind[0], kind[1]
    said, unsaid = f"{before}{start}{within}", f"{before}{within}"
    return Twins(
        (f"{said}{end}{behind}", f"{said}{behind}"),
        (f"{unsaid}{behind}", f"{unsaid}{end}{behind}"),
    )


def _nesting(chance: random.Random, words: Words, size: int) -> Twins | None:
    kind = max(words.quotes, key=lambda kind: len(words.quotes[kind]), default="")
    others = [each for each in words.quotes if each != kind]
    fitting = [each for each in words.quotes.get(kind, ()) if 16 <= len(each[1]) < 80]
    if not others or len(fitting) < 8:
        return None
    (before, within, behind), (_, more, _) = chance.choice(fitting), chance.choice(fitting)
    inner = " ".join(more.split()[:3]).rstrip(".,!?")

    def text(kinds: tuple[str, str], answer: str) -> str:
        outer, nested = kinds
        return f"{before}{outer[0]}{more} {nested[0]}{inner}{nested[1]} {within}{answer}{behind}"

    this, that = (kind, others[0]), (others[0], kind)
    ends = kind[1], others[0][1]
    return Twins((text(this, ends[0]), text(this, ends[1])), (text(that, ends[1]), text(that, ends[0])))


SKILLS = (
    Skill("agreement", "next", "the verb of one or of many, right behind its subject", 64, _agreement),
    Skill("agreement", "across 1", "the same behind another noun, of one or of many", 64, _agreement, 16),
    Skill("agreement", "across 2", "the same behind two other nouns", 64, _agreement, 32),
    Skill("copy", "32 B", "A B … A: what stood behind A so many bytes ago, in a list of words", 64, _copy, 32),
    Skill("copy", "128 B", "the same, so much later", 48, _copy, 128),
    Skill("phrase", "32 B", "the last word of a sentence that was said in full so many bytes ago", 48, _phrase, 32),
    Skill("phrase", "128 B", "the same, behind other sentences", 48, _phrase, 128),
    Skill("phrase", "512 B", "the same, so much later", 16, _phrase, 512),
    Skill("recall", "32 B", "which of two names was told so many bytes ago", 64, _recall, 32),
    Skill("recall", "128 B", "the same, behind sentences of others", 48, _recall, 128),
    Skill("recall", "512 B", "the same, so much later", 16, _recall, 512),
    Skill("recall", "2048 B", "the same, so much later", 8, _recall, 2_048),
    Skill("binding", "", "which of two children had the thing of which colour", 64, _binding, 32),
    Skill("quote", "32 B", "whether a quote or bracket is to be closed, by whether it was opened", 64, _quote, 32),
    Skill("quote", "128 B", "the same, opened so many bytes ago", 32, _quote, 128),
    Skill("nesting", "", "which of two kinds is to be closed, behind one closed within", 32, _nesting, 64),
)


def twins(words: Words, seed: int = 0) -> Iterator[tuple[Skill, list[Twins]]]:
    """All probes by skill, the same for the same words; none of a skill for which the text lacks the words.

    No twins come twice, in either order: asked again, they would tell nothing new, and narrow the interval.
    """
    for skill in SKILLS:
        chance, made = random.Random(f"{skill.name} {seed}"), dict[frozenset[tuple[str, str]], Twins]()
        for _ in range(skill.count):
            each = skill.make(chance, words, skill.bytes)
            if each is not None:
                made.setdefault(frozenset((each.first, each.second)), each)
        yield skill, list(made.values())
