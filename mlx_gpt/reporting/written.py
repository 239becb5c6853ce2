"""What can be told of written text by counting: how varied it is, how it repeats itself, what of it is copied.

distinct-n   different n-grams as a share of all, over all texts together (Li et al. 2016, arXiv 1510.03055)
repetition   4-grams that stood before in the same text, as a share, over all texts (Welleck et al. 2020, arXiv
             1908.04319, seq-rep-4)
copied       8-grams that also stand in the training text, as a share: memorisation
longest      words of the longest passage whose every 8-gram stands in the training text; 0 where none does

An n-gram is of n words, whatever the tokenizer: runs of letters and digits, and every other sign by itself. All of
them depend on how much text there is, so they are told by length and beside the number of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mlx_gpt.corpus import Text
from mlx_gpt.tokenizer import Tokenizer

WORD = re.compile(r"\w+|[^\w\s]")
COPY, REPEAT = 8, 4  # words of an n-gram
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial that an n-gram's hash is
CHUNK = 2**20  # tokens of a training text read at one time
OVERLAP = 2_000  # bytes of the chunk before that are read again


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams as a share of all, 0 to 1. None where there is none."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(texts: Sequence[str]) -> float | None:
    """4-grams that stood before in the same text, as a share of all, 0 to 1. None where there is none."""
    grams = [_grams(text, REPEAT) for text in texts]
    count = sum(map(len, grams))
    return 1 - sum(len(set(each)) for each in grams) / count if count else None


class Copies:
    """The 8-grams of some texts and of their beginnings, and which of them a training text was seen to hold."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.numbers: dict[str, int] = {}
        for text in texts:
            for word in WORD.findall(text):
                self.numbers.setdefault(word, len(self.numbers) + 1)
        self.wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *(_hashes(self._ids(text)) for text in texts)]))
        self.found = np.zeros(len(self.wanted), bool)

    def look(self, pieces: Iterable[str]) -> None:
        """Read a training text; 8-grams across the ends of pieces are not looked for."""
        for piece in pieces if len(self.wanted) else ():
            ids = self._ids(piece)
            here = _hashes(ids)[_whole(ids)]
            at = self._places(here)
            self.found[at[self.wanted[at] == here]] = True

    def starts(self, text: str) -> np.ndarray:
        """The words (N,) of one of the texts at which a copied 8-gram begins."""
        here = _hashes(self._ids(text))  # none, where none is wanted
        at = self._places(here)
        return np.flatnonzero((self.wanted[at] == here) & self.found[at])

    def _ids(self, text: str) -> np.ndarray:
        return np.array([self.numbers.get(word, 0) for word in WORD.findall(text)], np.uint64)

    def _places(self, hashes: np.ndarray) -> np.ndarray:
        """Where in `wanted` each would stand, if it is there."""
        return np.minimum(np.searchsorted(self.wanted, hashes), len(self.wanted) - 1)

    def spans(self, text: str) -> list[list[int]]:
        """The parts of one of the texts that are copied: first letter and the one after the last."""
        places = [(match.start(), match.end()) for match in WORD.finditer(text)]
        spans: list[list[int]] = []
        for start in self.starts(text).tolist():
            first, end = places[start][0], places[start + COPY - 1][1]
            if spans and first <= spans[-1][1]:
                spans[-1][1] = end
            else:
                spans.append([first, end])
        return spans

    def share(self, texts: Sequence[str]) -> float | None:
        """Copied 8-grams as a share of all, 0 to 1. None where there is none."""
        count = sum(len(_grams(text, COPY)) for text in texts)
        return sum(len(self.starts(text)) for text in texts) / count if count else None

    def longest(self, texts: Sequence[str]) -> int:
        """Words of the longest passage of the texts whose every 8-gram is copied."""
        most = 0
        for text in texts:
            starts = self.starts(text)
            runs = np.split(starts, np.flatnonzero(np.diff(starts) > 1) + 1)
            most = max(most, max(map(len, runs)))
        return most + COPY - 1 if most else 0


def measures(texts: Sequence[str], copies: Copies | None) -> dict[str, Any]:
    """All figures of texts of one length; `copied` and `longest` are None where the training text is gone."""
    told: dict[str, Any] = {"words": sum(len(WORD.findall(text)) for text in texts)}
    told |= {f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}
    told["repetition"] = repetition(texts)
    if copies is None:
        return told | {"copied": None, "longest": None}
    return told | {"copied": copies.share(texts), "longest": copies.longest(texts)}


def training_pieces(text: Text, tokenizer: Tokenizer) -> Iterator[str]:
    """A training text in pieces that overlap, with a sign between documents that is a word of no text."""
    before = b""
    for chunk in chunks(text, tokenizer, b"\0"):
        raw = before + chunk
        before = raw[-OVERLAP:]
        yield raw.decode("utf-8", errors="replace")


def chunks(text: Text, tokenizer: Tokenizer, between: bytes) -> Iterator[bytes]:
    """The bytes of so many tokens of a text at a time, with `between` where a document begins."""
    for start in range(0, len(text.ids), CHUNK):
        ids = text.ids[start : start + CHUNK]
        parts = np.split(ids, np.flatnonzero(ids == tokenizer.eot))
        yield between.join(tokenizer.decode_bytes(part) for part in parts)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = WORD.findall(text)
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def _hashes(ids: np.ndarray) -> np.ndarray:
    """64 bits of each 8-gram of ids (N,), (N - 7,): a polynomial in the scrambled ids."""
    count = max(0, len(ids) - COPY + 1)
    mixed = (ids ^ (ids << np.uint64(21))) * FACTOR
    mixed ^= mixed >> np.uint64(29)
    whole = np.zeros(count, np.uint64)
    for at in range(COPY):
        whole = whole * FACTOR + mixed[at : at + count]
    return whole ^ (whole >> np.uint64(32))


def _whole(ids: np.ndarray) -> np.ndarray:
    """Which 8-grams of ids (N,), (N - 7,), have no unknown word, 0."""
    known = np.append(0, np.cumsum(ids > 0))
    return known[COPY:] - known[: len(known) - COPY] == COPY if len(ids) >= COPY else np.zeros(0, bool)
