"""Small arrays that stand for large ones: where each context's children begin, and 8-bit numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mlx_gpt.counting.counts import CHUNK

BLOCKS = (256, 128, 64, 32, 16, 8, 4)  # contexts that share one base


class Starts:
    """Where the children of each of C contexts begin: whole numbers, or short offsets from a base by block."""

    def __init__(self, offsets: np.ndarray, bases: np.ndarray | None = None, block: int = 1) -> None:
        """offsets (C + 1,) int32 without bases; else uint16, and bases (ceil((C + 1) / block),)."""
        self.offsets, self.bases, self.block = offsets, bases, block

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def contexts(self) -> int:
        return len(self.offsets) - 1

    def take(self, contexts: np.ndarray) -> np.ndarray:
        """(M,) -> (M,) int64."""
        found = self.offsets.take(contexts).astype(np.int64)
        if self.bases is not None:
            found += self.bases.take(contexts // self.block)
        return found

    def span(self, context: int) -> tuple[int, int]:
        """First and one past the last child of one context."""
        begin, stop = int(self.offsets[context]), int(self.offsets[context + 1])
        if self.bases is None:
            return begin, stop
        bases, block = self.bases, self.block
        return begin + int(bases[context // block]), stop + int(bases[(context + 1) // block])

    def spans(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and one past the last child of each context, (M,) and (M,)."""
        return self.take(contexts), self.take(contexts + 1)

    def part(self, begin: int, stop: int) -> np.ndarray:
        """The starts of contexts begin to stop - 1, as int64."""
        return self.take(np.arange(begin, stop))

    def pack(self) -> Starts:
        """The same in half the room, or itself where blocks of contexts have too many children."""
        if self.bases is not None:
            return self
        for block in BLOCKS:
            bases = np.ascontiguousarray(self.offsets[::block])
            ends = np.append(self.offsets[block - 1 :: block], self.offsets[-1])[: len(bases)]
            if len(bases) and int((ends - bases).max()) < 2**16:
                offsets = self.offsets - np.repeat(bases, block)[: len(self.offsets)]
                return Starts(offsets.astype(np.uint16), bases, block)
        return self


def groups(read: Callable[[int, int], np.ndarray], contexts: int) -> Iterator[tuple[int, np.ndarray]]:
    """Neighbouring contexts, whole, in groups of at most about CHUNK rows and CHUNK contexts.

    `read(begin, stop)` gives a part of the starts of all contexts. Yields each group's first context and its
    edges (C + 1,) int64: context c of the group has the rows edges[c] to edges[c + 1].
    """
    for begin in range(0, contexts, CHUNK):
        edges = read(begin, min(begin + CHUNK, contexts) + 1).astype(np.int64)
        at = 0
        while at < len(edges) - 1:
            fits = int(np.searchsorted(edges, edges[at] + CHUNK, side="right")) - 1
            stop = max(at + 1, fits)
            yield begin + at, edges[at : stop + 1]
            at = stop


class Codes:
    """Numbers as one byte each: places in a book of 256 values."""

    def __init__(self, codes: np.ndarray, book: np.ndarray) -> None:
        """codes (R,) uint8, book (256,) float32."""
        self.codes, self.book = codes, book

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Any) -> np.ndarray:
        """(M,) -> (M,) float32."""
        return self.book.take(self.codes.take(rows))

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.book.take(self.codes[part])
