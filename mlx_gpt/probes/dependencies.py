"""On the built-in stories: what a model pays above the exact floor, by what has to be remembered and how far back.

A story is a row of choices, each with its exact cost (`stories.spans`). A choice shows in the token that holds its
first byte: that of a name in " Lily", though the blank belongs to the phrase before. This token and those up to the
next choice are what a model pays for it. Where several choices show in one token, it goes with the floor of them all
to the one whose own is highest, and the others are not counted. The mark that ends a story goes to the last choice. So
all kinds add up to the whole excess.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_gpt import stories
from mlx_gpt.bootstrap import estimate
from mlx_gpt.corpus import Text, encode_text
from mlx_gpt.measure import scored
from mlx_gpt.model import LanguageModel
from mlx_gpt.stories import Span
from mlx_gpt.tokenizer import Tokenizer

READ = 128  # stories; the same for every run
SAID = ("agreement", "pronoun", "name", "belongs", "holder", "copy", "return")  # kinds told by words that stand before
NEAREST, FARTHEST = 4, 9  # distances are told in powers of two: below 2**5 bytes, …, 2**9 and more
FIXED = "fixed"


@dataclass(frozen=True)
class Choices:
    """The choices of some stories, one after the other, each (N,).

    story  which story it is of
    kind   its place in TAGS
    back   bytes back to what decides it, 0 where that is nothing that was said
    floor  exact bits
    bits   what a model paid
    sizes  (S,) bytes of each story
    """

    story: np.ndarray
    kind: np.ndarray
    back: np.ndarray
    floor: np.ndarray
    bits: np.ndarray
    sizes: np.ndarray

    def excess(self, chosen: np.ndarray) -> dict[str, Any]:
        """Bits above the floor of the chosen ones (N,): a choice, with its interval over stories, and a byte."""
        over, count = self.bits - self.floor, len(self.sizes)
        sums = np.bincount(self.story[chosen], over[chosen], count)
        choices = np.bincount(self.story[chosen], minlength=count)
        has = choices > 0
        found = estimate(sums[has], choices[has])
        whole = int(choices.sum())
        return {
            "choices": whole,
            "floor": float(self.floor[chosen].sum() / whole),
            "value": float(sums.sum() / whole),
            "margin": None if found is None else found.margin,
            "per_byte": float(sums.sum() / self.sizes.sum()),
        }


def sampled(text: Text, tokenizer: Tokenizer) -> list[str]:
    """Some stories of a text, the same whatever the tokenizer."""
    chosen = sorted(random.Random(0).sample(range(len(text)), min(READ, len(text))))
    return [tokenizer.decode(text.document(at)[1:]) for at in chosen]


def choices(model: LanguageModel, tokenizer: Tokenizer, told: Sequence[str]) -> Choices:
    """Every choice of some stories and what it cost. Raises DataError for a text that is no story."""
    text, kinds = encode_text(told, tokenizer), list(stories.TAGS)
    paid = [np.zeros(length) for length in np.diff(text.starts)]
    for document, start, logprobs in scored(model, text):
        paid[document][start : start + len(logprobs)] = -logprobs / math.log(2)
    rows, bits = list[tuple[int, int, int, float]](), list[np.ndarray]()
    for at, each in enumerate(told):
        begins = np.append(0, np.cumsum(tokenizer.lengths()[text.document(at)[1:]]))[: len(paid[at])]
        heads, floor, shown = _shown(stories.spans(each), begins)
        bits.append(np.bincount(shown, paid[at], len(heads)))
        rows += [(at, kinds.index(span.tag), span.back or 0, least) for span, least in zip(heads, floor, strict=True)]
    story, kind, back, exact = (np.array(column) for column in zip(*rows, strict=True))
    return Choices(story, kind, back, exact, np.concatenate(bits), text.sizes)


def _shown(spans: Sequence[Span], begins: np.ndarray) -> tuple[list[Span], list[float], np.ndarray]:
    """The choices that are counted and their bits of floor, and to which of them each token goes, by its first byte."""
    heads, floor, shown = list[Span](), list[float](), np.zeros(len(begins), np.int64)
    end, before = 0, -1
    for span in spans:
        token = int(np.searchsorted(begins, end, side="right")) - 1
        bits, end = span.nats / math.log(2), end + len(span.text.encode())
        if token == before:
            if (span.nats, span.tag != FIXED) > (heads[-1].nats, heads[-1].tag != FIXED):
                heads[-1] = span
            floor[-1] += bits
            continue
        heads.append(span)
        floor.append(bits)
        shown[token:] = len(heads) - 1
        before = token
    return heads, floor, shown


def dependencies(model: LanguageModel, tokenizer: Tokenizer, told: Sequence[str]) -> dict[str, Any]:
    """Excess bits by kind, by distance, and by both, and `per_byte`, of everything: bits per byte above the floor."""
    found = choices(model, tokenizer, told)
    kinds = list(stories.TAGS)
    power = np.log2(np.maximum(found.back, 1)).astype(int).clip(NEAREST, FARTHEST)
    said = np.isin(found.kind, [kinds.index(kind) for kind in SAID]) & (found.back > 0)
    every = range(NEAREST, FARTHEST + 1)

    def rows(chosen: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        return [{"name": name} | found.excess(each) for name, each in chosen.items() if each.any()]

    return {
        "stories": len(told),
        "bytes": int(found.sizes.sum()),
        "floor": float(found.floor.sum() / found.sizes.sum()),
        "per_byte": float((found.bits - found.floor).sum() / found.sizes.sum()),
        "kinds": rows({kind: found.kind == at for at, kind in enumerate(kinds)}),
        "distances": rows({_named(at): said & (power == at) for at in every}),
        "kinds_by_distance": {
            kind: rows({_named(at): said & (found.kind == kinds.index(kind)) & (power == at) for at in every})
            for kind in SAID
        },
    }


def _named(power: int) -> str:
    """Bytes back, in words."""
    if power == NEAREST:
        return f"below {2 ** (NEAREST + 1)}"
    return f"{2**power} and more" if power == FARTHEST else f"{2**power} to {2 ** (power + 1) - 1}"
