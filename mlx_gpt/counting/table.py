"""A counted model as arrays: the probability of every seen n-gram, and what is left for the unseen ones.

p(w | h) is stored where h w was seen; elsewhere it is backoff(h) * p(w | h without its first token). Every
smoothing of this package, interpolated or not, can be written so (Chen & Goodman 1999, section 2.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CELLS = 2**22  # entries of a dense table made in one go


@dataclass(frozen=True)
class Level:
    """One order: R rows in ascending order of their keys (see counts.Order).

    probabilities (R,)  p(last token | the tokens before it)
    backoffs      (R,)  what multiplies the lower order when this k-gram, as a context, has no such child
    """

    keys: np.ndarray
    probabilities: np.ndarray
    backoffs: np.ndarray


class Table:
    """All orders together, asked for many positions at once. N order, V vocabulary."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = list(levels)
        self.vocab_size = len(self.levels[0].keys)
        edges = [np.arange(len(level.keys) + 1) * self.vocab_size for level in self.levels[:-1]]
        # children of row r of order k are rows first[k][r] to first[k][r + 1] of order k + 1
        self.first = [np.searchsorted(level.keys, edge) for level, edge in zip(self.levels[1:], edges, strict=True)]

    @property
    def order(self) -> int:
        return len(self.levels)

    def rows(self, ids: np.ndarray) -> list[np.ndarray]:
        """Row of the k-gram that ends at each position, for k = 1 … N, each (B, T); -1 where it was never seen."""
        found = [ids.astype(np.int64)]
        for level in self.levels[1:]:
            before = np.full(ids.shape, -1, np.int64)
            before[:, 1:] = found[-1][:, :-1]
            keys = before * self.vocab_size + ids
            if not len(level.keys):
                found.append(np.full(ids.shape, -1, np.int64))
                continue
            at = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
            found.append(np.where((before >= 0) & (level.keys[at] == keys), at, -1))
        return found

    def score(self, ids: np.ndarray) -> np.ndarray:
        """log p of each id but the first, (B, T - 1), given those before it."""
        rows = self.rows(ids)
        p = self.levels[0].probabilities[ids[:, 1:]].astype(np.float64)
        for k in range(1, self.order):
            context, row = rows[k - 1][:, :-1], rows[k][:, 1:]
            backoff = np.where(context >= 0, self.levels[k - 1].backoffs[context], 1.0)
            p = np.where(row >= 0, self._probability(k, row), backoff * p)
        return np.log(p)

    def dense(self, ids: np.ndarray) -> np.ndarray:
        """log p of every token after each position, (B, T, V)."""
        rows = [row.reshape(-1) for row in self.rows(ids)]
        table = np.empty((ids.size, self.vocab_size), np.float32)
        step = max(1, CELLS // self.vocab_size)
        for start in range(0, ids.size, step):
            part = [row[start : start + step] for row in rows]
            table[start : start + step] = np.log(self._distributions(part))
        return table.reshape(*ids.shape, self.vocab_size)

    def _distributions(self, rows: list[np.ndarray]) -> np.ndarray:
        """p(every token | context), (M, V), for M contexts given by their rows in each order."""
        p = np.repeat(self.levels[0].probabilities[None].astype(np.float64), len(rows[0]), axis=0)
        for k in range(1, self.order):
            seen = np.flatnonzero(rows[k - 1] >= 0)
            context = rows[k - 1][seen]
            p[seen] *= self.levels[k - 1].backoffs[context][:, None]
            starts, stops = self.first[k - 1][context], self.first[k - 1][context + 1]
            children = _ranges(starts, stops)
            where = np.repeat(seen, stops - starts)
            p[where, self.levels[k].keys[children] % self.vocab_size] = self.levels[k].probabilities[children]
        return p

    def _probability(self, k: int, row: np.ndarray) -> np.ndarray:
        stored = self.levels[k].probabilities
        return stored[row] if len(stored) else np.zeros(row.shape, np.float32)


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The numbers start, …, stop - 1 of many ranges, one after the other."""
    lengths = stops - starts
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return offsets + np.arange(int(lengths.sum()))
