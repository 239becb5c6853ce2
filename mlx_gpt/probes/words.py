"""Words and passages that the models of a text know, as probes need them: found by counting, by no model."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlx_gpt.corpus import Text
from mlx_gpt.tokenizer import Tokenizer

READ = 1_000_000  # bytes of a text that are looked at, about
OFTEN = 4  # a word that stands there so often is known
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")
PLAIN = re.compile(r"\b[a-z]{3,}\b")
SENTENCE = re.compile(r"(?:(?<=[.!?] )|(?<=\n)|^)[A-Z][a-z]*(?: [a-z]+)(?:,? [a-z]+)+[.!?](?=\s|$)", re.M)
COLOURS = """red blue green white black yellow brown pink purple golden grey silver"""
THINGS = """ball hat box book cup coat bag kite ring sword dress flag horse stone boat drum scarf marble"""
NOUNS = """
dog cat bird tree boy girl king lord friend flower car toy book horse house man/men woman/women child/children eye
hand tear word door star cloud fish/fishes rock ship soldier brother sister mother father daughter son letter crab
gull seal turtle owl fox/foxes badger squirrel hen goat pig cow duck dragon raven bat hound falcon pigeon poodle
sparrow rat camel lizard snake eagle bear lynx/lynxes ram bee snail frog robin worm penguin hare otter monkey parrot
tiger elephant beaver heron swan newt toad lion pony/ponies zebra peacock llama shell wave tower road enemy/enemies
sword window picture rose servant stranger farmer teacher rabbit bunny/bunnies puppy/puppies leaf/leaves
"""
QUOTES = ('""', "“”", "‘’", "()", "[]", "«»")


@dataclass(frozen=True)
class Words:
    """What probes are made of.

    names      of people, and `following`, what most often stands behind one
    plain      frequent words of a text, for lists of words
    things, colours, nouns   those of ours that stand in the text; nouns in the singular and in the plural
    verbs      of being, for one and for many, and `after`, what most often stands behind either
    sentences  without names, quotes and figures
    quotes     passages: what stands before one, within it and behind it, by each kind of quote or bracket in use
    """

    names: tuple[str, ...]
    following: str
    plain: tuple[str, ...]
    things: tuple[str, ...]
    colours: tuple[str, ...]
    nouns: tuple[tuple[str, str], ...]
    verbs: tuple[str, str]
    after: str
    sentences: tuple[str, ...]
    quotes: dict[str, list[tuple[str, str, str]]]


def find(trained: str, held_out: str) -> Words:
    """Words from a training text; passages from a held-out one, so that none can be known by heart."""
    counts, pairs = Counter(re.findall(r"[A-Za-z]+", trained)), Counter(pairwise(re.findall(r"[A-Za-z]+", trained)))
    named = Counter(NAME.findall(trained))
    known = [name for name, count in named.most_common() if count >= OFTEN and counts[name.lower()] * 20 <= count]
    names = tuple(sorted(known[:24]))
    plain = [word for word, _ in Counter(PLAIN.findall(trained)).most_common(430)]
    both = [(one, many) for one, many in map(_plural, NOUNS.split()) if min(counts[one], counts[many]) >= OFTEN]
    both = sorted(both, key=lambda pair: -min(counts[pair[0]], counts[pair[1]]))[:16]
    verbs = max((("was", "were"), ("is", "are")), key=lambda pair: min(counts[pair[0]], counts[pair[1]]))
    behind = ((word, min(pairs[verbs[0], word], pairs[verbs[1], word])) for word in plain)
    used = [kind for kind in QUOTES if min(trained.count(kind[0]), trained.count(kind[1])) >= 50]
    return Words(
        names=names,
        following=_most(((b, n) for (a, b), n in pairs.items() if a in names and b.islower()), "was"),
        plain=tuple(plain[30:]),
        things=tuple(word for word in THINGS.split() if counts[word] >= OFTEN),
        colours=tuple(word for word in COLOURS.split() if counts[word] >= OFTEN),
        nouns=tuple(both),
        verbs=verbs,
        after=_most(behind, "not"),
        sentences=tuple(dict.fromkeys(SENTENCE.findall(held_out))),
        quotes={kind: _quoted(kind, held_out) for kind in used},
    )


def sample(text: Text, tokenizer: Tokenizer, size: int = READ) -> str:
    """About so many bytes of a text, from documents all over it, the same whatever the tokenizer."""
    chosen = sorted(random.Random(0).sample(range(len(text)), min(len(text), 2_000)))
    each = max(200, size // len(chosen))
    while sum(np.minimum(text.sizes[chosen], each)) < min(size, text.bytes) and each < text.sizes.max():
        each *= 2
    raw = (tokenizer.decode_bytes(text.document(at)[1 : each + 1])[:each] for at in chosen)
    return "\n".join(part.decode(errors="ignore") for part in raw)


def _plural(noun: str) -> tuple[str, str]:
    one, _, many = noun.partition("/")
    return one, many or one + "s"


def _most(counts: Iterable[tuple[str, int]], otherwise: str) -> str:
    """The word whose counts add up to the most."""
    whole: Counter[str] = Counter()
    for word, count in counts:
        whole[word] += count
    return max(sorted(whole), key=whole.__getitem__, default=otherwise)


def _quoted(kind: str, text: str) -> list[tuple[str, str, str]]:
    start, end = map(re.escape, kind)
    within, mark = rf"[^\n{start}{end}]", r"[.!?,]" if kind not in ("()", "[]") else ""
    told = []
    for found in re.finditer(rf"(?<=\s){start}([A-Za-z]{within}{{8,300}}{mark}){end}( {within}{{12,40}})\b", text):
        before = text[max(0, found.start() - 60) : found.start()]
        told.append((re.split(rf"[\n{start}{end}]", before)[-1], found[1], found[2]))
    return told


def pick(chance: random.Random, options: Sequence[str], count: int) -> list[str]:
    """So many different ones."""
    return chance.sample(sorted(set(options)), count)


def fill(chance: random.Random, parts: Sequence[str], size: int) -> str:
    """Parts in any order, as many as have so many bytes together, none twice while there are others."""
    order, taken, length = list[str](), list[str](), 0
    while length < size:
        order = order or chance.sample(parts, len(parts))
        taken.append(order.pop())
        length += len(taken[-1].encode()) + 1
    return " ".join(taken)
