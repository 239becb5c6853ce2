"""Words found by their letters, a hundred thousand at a time: exact hashing by open addressing.

A word is read in units of 8 bytes; of the last one only what belongs to it counts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

U64 = np.uint64
UNIT = 8  # bytes
OWN = np.array([2 ** (8 * size) - 1 for size in range(UNIT + 1)], U64)  # what of a unit belongs to a word
LONGEST = 2**14  # bytes of a word that is looked for
EMPTY = -1


class Words:
    """Stretches of a text, M of them: where they begin, and how many bytes they have (at least one)."""

    def __init__(self, text: bytes, begins: np.ndarray, sizes: np.ndarray) -> None:
        self.units: np.ndarray = np.ndarray((len(text) + 1,), "<u8", text + bytes(UNIT), 0, (1,))  # one at every byte
        self.begins, self.sizes = begins, sizes
        self.first = self.unit(np.arange(len(begins)), 0)

    def unit(self, which: np.ndarray, number: int) -> np.ndarray:
        """The unit of that number of words (W,) that are long enough."""
        return self.units[self.begins.take(which) + UNIT * number] & OWN.take(
            np.minimum(self.sizes.take(which) - UNIT * number, UNIT)
        )

    def longer(self, which: np.ndarray, units: int) -> np.ndarray:
        """Those of words (W,) that have more units."""
        return which[self.sizes.take(which) > UNIT * units]


class Lexicon:
    """V different words, numbered in their order; those beyond the longest that is looked for are not found."""

    def __init__(self, words: Sequence[bytes]) -> None:
        sizes = np.array([len(word) for word in words])
        self.words = Words(b"".join(words), np.cumsum(sizes) - sizes, sizes)
        self.longest = min(int(sizes.max()), LONGEST)
        # drawn anew each time, so that nobody can write words that all want one slot
        self.multiplier = U64(int.from_bytes(os.urandom(UNIT), "little") | 1)
        bits = len(words).bit_length() + 2
        self.shift, self.last = U64(64 - bits), 2**bits - 1
        self.slots = np.full(self.last + 1, EMPTY)
        numbers, at = np.arange(len(words)), self._slots(self.words)
        while len(at):
            free = self.slots.take(at) == EMPTY
            self.slots[at[free]] = numbers[free]  # of several that want one slot, the last one has it
            lost = np.flatnonzero(self.slots.take(at) != numbers)
            numbers, at = numbers.take(lost), (at.take(lost) + 1) & self.last

    def find(self, words: Words) -> np.ndarray:
        """The number (M,) of each word, -1 where it is none of these."""
        found = np.full(len(words.begins), EMPTY)
        left = np.flatnonzero(words.sizes <= self.longest)
        at = self._slots(words).take(left)
        while len(left):
            tried = self.slots.take(at)
            same = self._same(tried, words, left)
            hits = np.flatnonzero(same)
            found[left.take(hits)] = tried.take(hits)
            on = np.flatnonzero((tried != EMPTY) & ~same)
            left, at = left.take(on), (at.take(on) + 1) & self.last
        return found

    def _slots(self, words: Words) -> np.ndarray:
        mixed = words.first * self.multiplier
        which, number = np.flatnonzero((words.sizes > UNIT) & (words.sizes <= self.longest)), 1
        while len(which):
            before = mixed.take(which)
            mixed[which] = (before ^ (before >> U64(32)) ^ words.unit(which, number)) * self.multiplier
            number += 1
            which = words.longer(which, number)
        return (mixed >> self.shift).view(np.int64)

    def _same(self, numbers: np.ndarray, words: Words, which: np.ndarray) -> np.ndarray:
        """Whether words `which` (W,) of a text are those of these numbers (W,)."""
        own = self.words
        same = own.sizes.take(numbers, mode="clip") == words.sizes.take(which)
        same &= own.first.take(numbers, mode="clip") == words.first.take(which)
        same &= numbers != EMPTY
        left, number = np.flatnonzero(same & (words.sizes.take(which) > UNIT)), 1
        while len(left):
            equal = own.unit(numbers.take(left), number) == words.unit(which.take(left), number)
            same[left[~equal]] = False
            number += 1
            left = left[equal & (words.sizes.take(which.take(left)) > UNIT * number)]
        return same
