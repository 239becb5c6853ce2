"""From counts to a table, in one pass over each order, in memory or through files.

Contexts are taken in groups of whole contexts, always the same ones, so that a model counted in one piece, in
shards or on disk is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mlx_gpt.counting.columns import Column, Shelf, Stored, in_order, whole
from mlx_gpt.counting.counts import CHUNK, MOST_ROWS, Counts, Order, threads_here
from mlx_gpt.counting.packed import Starts, groups
from mlx_gpt.counting.smoothing import Group, Smoothing
from mlx_gpt.counting.statistics import Notice, Statistics, continuation_counts, correct_as_kenlm, statistics
from mlx_gpt.counting.table import Level, Table
from mlx_gpt.errors import SettingError

GONE = np.empty(0, np.int32)
LARGEST_BACKOFF = 10.0  # where unseen words alone get the rest; it also bounds what rounding does to the sum
SPENT = Order(GONE, GONE, GONE, GONE)


def estimate(
    counts: Counts,
    smoothing: Smoothing,
    notice: Notice,
    prune: Sequence[int] = (),
    shelf: Shelf | None = None,
    most: int = MOST_ROWS,
    threads: int = 0,
) -> tuple[Table, list[Statistics]]:
    """The table of these counts, and what its orders are made of. Uses the counts up as it goes.

    prune  for each order from 1, drop n-grams seen that many times or less; the last holds for higher orders
    shelf  where the columns are made; in memory without it
    most   numbers held in memory at one time where a column must be met in any order
    """
    work = _Estimation(counts, smoothing, notice, prune, shelf or Shelf(), most)
    if sum(len(order.tokens) for order in counts.orders) < CHUNK:
        return work.run(None)
    with ThreadPoolExecutor(threads or threads_here()) as pool:
        return work.run(pool)


def thresholds(text: str) -> tuple[int, ...]:
    """The numbers of a setting such as "0 0 1" for `prune`: rising, the first 0, since every token has a row.

    Raises SettingError for anything else.
    """
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() and len(word) < 10 for word in words):
        raise SettingError(f"--prune {text!r}: expected whole numbers, one for each order, such as '0 0 1'")
    numbers = tuple(int(word) for word in words)
    if numbers[:1] not in ((), (0,)):
        raise SettingError(f"--prune {text!r}: begins with 0, for every token of the vocabulary is kept")
    if list(numbers) != sorted(numbers):
        raise SettingError(f"--prune {text!r}: must not fall, for an n-gram is seen no more often than its parts")
    return numbers


class _Estimation:
    def __init__(
        self,
        counts: Counts,
        smoothing: Smoothing,
        notice: Notice,
        prune: Sequence[int],
        shelf: Shelf,
        most: int,
    ) -> None:
        self.counts, self.smoothing, self.shelf, self.most = counts, smoothing, shelf, most
        orders = len(counts.orders)
        self.limits = [*prune, *[prune[-1] if prune else 0] * orders][:orders]
        self.pruned = any(self.limits)
        raw = [order.counts for order in counts.orders]
        self.counted: list[Column] = continuation_counts(counts, shelf, most) if smoothing.continuation else list(raw)
        self.found = [statistics(column) for column in self.counted]
        if smoothing.continuation:
            correct_as_kenlm(counts, self.counted, self.found)
        self.mass = np.ones(1)
        smoothing.learn(counts, self.found, notice)

    def run(self, pool: ThreadPoolExecutor | None) -> tuple[Table, list[Statistics]]:
        levels: list[Level] = []
        lower: Column = np.full(1, 1 / self.counts.vocab_size, np.float32)
        kept: _Outputs | None = None
        for k in range(1, len(self.counts.orders) + 1):
            made = self._order(k, lower, pool)
            if kept is not None:
                levels.append(kept.level(made.backoffs.close()))
            self.counted[k - 1], self.mass = GONE, whole(made.mass.close())
            looks_below = self.pruned or not self.smoothing.interpolated  # at the order below, that is
            done = k - 2 if looks_below else k - 1
            if done >= 0:
                self.counts.orders[done] = SPENT
            lower, kept = made.close(), made
        assert kept is not None
        table = Table([*levels, kept.level(None)])
        for each, rows in zip(self.found, table.rows, strict=True):
            each.kept = rows
        return table, self.found

    def _order(self, k: int, lower: Column, pool: ThreadPoolExecutor | None) -> _Outputs:
        """The rows of order k and the backoffs of their contexts, given the probabilities of order k - 1."""
        order = self.counts.orders[k - 1]
        below, outputs = self._below(lower, order.suffixes), _Outputs(self.shelf, order, self.pruned)
        parts = groups(lambda begin, stop: order.starts[begin:stop], len(order.starts) - 1)
        for made in in_order(pool, lambda part: self._group(k, below, *part), parts):
            outputs.append(*made)
        return outputs

    def _below(self, lower: Column, suffixes: Column) -> Column:
        """What to look the lower order's probability up in: the column, or one already in the order of the rows."""
        if isinstance(lower, np.ndarray):
            return lower
        if len(lower) <= self.most:
            return lower[0 : len(lower)]
        gathered: Column | None = None
        for low in range(0, len(lower), self.most):
            part, column = lower[low : low + self.most], self.shelf.column(np.float32, len(suffixes))
            for a in range(0, len(suffixes), CHUNK):
                wanted = suffixes[a : a + CHUNK] - np.int32(low)
                values = np.zeros(len(wanted), np.float32) if gathered is None else gathered[a : a + CHUNK]
                inside = np.flatnonzero((wanted >= 0) & (wanted < len(part)))
                values[inside] = part.take(wanted.take(inside))
                column.append(values)
            gathered = column.close()
        assert isinstance(gathered, Stored)
        return gathered

    def _tails(self, k: int, context: int, number: int) -> np.ndarray:
        """The contexts of order k, without their first tokens, as rows of order k - 2."""
        return self.counts.orders[k - 2].suffixes[context : context + number]

    def _group(self, k: int, below: Column, context: int, edges: np.ndarray) -> tuple[np.ndarray, ...]:
        """Backoffs (C,) of a group's contexts, probabilities (R,) of its rows, the sums (C,) of the distributions
        where they are needed, and what of all is kept."""
        order, begin, stop = self.counts.orders[k - 1], int(edges[0]), int(edges[-1])
        group = Group(np.diff(edges), self.counted[k - 1][begin:stop])
        taken = self.smoothing.taken(k, group)
        limit = self.limits[k - 1]
        kept = order.counts[begin:stop] > limit if limit else np.ones(stop - begin, bool)
        if limit:
            taken = np.where(kept, taken, group.counts)
        known = group.totals > 0
        totals = np.where(known, group.totals, 1)
        rest = np.where(known, group.sum(taken) / totals, 1.0)
        p = (group.counts - taken) / group.spread(totals)
        suffixes = order.suffixes[begin:stop]
        lower = below[begin:stop] if isinstance(below, Stored) else below.take(suffixes)
        if self.smoothing.interpolated or k == 1:
            p += group.spread(rest) * lower
        else:
            tails = np.zeros(len(rest), np.int64) if k == 2 else self._tails(k, context, len(rest))
            free = np.maximum(self.mass.take(tails) - group.sum(lower * kept), 0)  # of what was not seen here
            over = known & (rest > LARGEST_BACKOFF * free)  # few are left to take it: what was seen keeps the rest
            p *= group.spread(np.where(over, (1 - LARGEST_BACKOFF * free) / np.where(over, 1 - rest, 1.0), 1.0))
            rest = np.where(over, LARGEST_BACKOFF, rest / np.where(over | ~known, 1.0, free))
        p, rest = np.minimum(p, 1).astype(np.float32), rest.astype(np.float32)
        mass = GONE if self.smoothing.interpolated else group.sum(p * kept) + rest * (free if k > 1 else 0.0)
        contexts = np.ones(len(rest), bool)
        if k > 1 and self.limits[k - 2]:
            contexts = self.counts.orders[k - 2].counts[context : context + len(rest)] > self.limits[k - 2]
        return (
            rest,
            p,
            mass,
            contexts,
            kept,
            group.sum(kept).astype(np.int32) if self.pruned else group.sizes,
            order.tokens[begin:stop] if self.pruned else GONE,
        )


class _Outputs:
    """The columns of one order as they are made."""

    def __init__(self, shelf: Shelf, order: Order, pruned: bool) -> None:
        rows, contexts = len(order.tokens), len(order.starts) - 1
        self.order_tokens, self.order_starts, self.pruned = order.tokens, order.starts, pruned
        self.whole = shelf.column(np.float32, rows)
        self.all: Column = GONE
        self.mass = shelf.column(np.float64, contexts)  # what each context's distribution sums to, as rounded
        self.backoffs = shelf.column(np.float32, contexts)
        if pruned:
            self.kept, self.tokens = shelf.column(np.float32, rows), shelf.column(order.tokens.dtype, rows)
            self.starts, self.row = shelf.column(np.int32, contexts + 1), 0
            self.starts.append(np.zeros(1, np.int32))

    def append(
        self,
        rest: np.ndarray,
        p: np.ndarray,
        mass: np.ndarray,
        contexts: np.ndarray,
        kept: np.ndarray,
        sizes: np.ndarray,
        tokens: np.ndarray,
    ) -> None:
        self.whole.append(p)
        if len(mass):
            self.mass.append(mass)
        if not self.pruned:
            self.backoffs.append(rest)
            return
        self.backoffs.append(rest[contexts])
        self.kept.append(p[kept])
        self.tokens.append(tokens[kept])
        self.starts.append((self.row + np.cumsum(sizes[contexts])).astype(np.int32))
        self.row += int(sizes.sum())

    def close(self) -> Column:
        """The probabilities of all rows, for the order above."""
        self.all = self.whole.close()
        return self.all

    def level(self, backoffs: Column | None) -> Level:
        """What the table keeps, once the order above has made this one's backoffs."""
        tokens, starts, probabilities = self.order_tokens, self.order_starts, self.all
        if self.pruned:
            tokens, starts, probabilities = self.tokens.close(), self.starts.close(), self.kept.close()
        last = None if backoffs is None else whole(backoffs)
        return Level(whole(tokens), Starts(whole(starts)), whole(probabilities), last)
