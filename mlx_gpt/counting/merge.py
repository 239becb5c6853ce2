"""Counts of parts of a text added up: shards counted apart, or one after the other where memory ends.

Counting is a sum. Every shard numbers its n-grams in the same lexicographic order, so what the merge needs of
a shard is one rising list for each order: its rows' numbers in the whole. Orders are merged from the lowest up,
a group of contexts at a time; nothing is read twice but these lists.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_gpt.counting.columns import Column, Shelf, let_go, whole
from mlx_gpt.counting.counts import CHUNK, MOST_ROWS, NEVER, Counts, Order
from mlx_gpt.counting.sorting import count
from mlx_gpt.errors import DataError

TOGETHER = 4 * CHUNK  # rows of all shards merged in one go


def count_in_shards(
    ids: np.ndarray, order: int, vocab_size: int, eot: int, size: int, shelf: Shelf, threads: int = 0
) -> Counts:
    """The counts of a stream (see sorting.count), made from shards of `size` tokens; equal to the bit."""
    shards = [
        stored(count_shard(ids, order, vocab_size, eot, begin, min(begin + size, len(ids)), threads), shelf)
        for begin in range(0, max(1, len(ids)), size)
    ]
    return shards[0] if len(shards) == 1 else merge(shards, shelf)


def count_shard(
    ids: np.ndarray, order: int, vocab_size: int, eot: int, begin: int, stop: int, threads: int = 0
) -> Counts:
    """What the ids begin to stop - 1 of a stream add to its counts; the ids before them are only context."""
    context = min(begin, max(1, order - 1)) if begin else 1
    first = begin - context if begin else 0
    counts = count(ids[first:stop], order, vocab_size, eot, threads, context)
    let_go(ids)
    return Counts(counts.orders, np.where(counts.first == NEVER, NEVER, counts.first + first), counts.tokens, eot)


def stored(counts: Counts, shelf: Shelf) -> Counts:
    """The same counts with their columns on the shelf."""
    if shelf.home is None:
        return counts
    orders = []
    for order in counts.orders:
        columns = []
        for column in (order.tokens, order.starts, order.suffixes, order.counts):
            writer = shelf.column(column.dtype, len(column))
            for a in range(0, len(column), CHUNK):
                writer.append(column[a : a + CHUNK])
            columns.append(writer.close())
        orders.append(Order(*columns))
    return Counts(orders, counts.first, counts.tokens, counts.eot)


def merge(shards: Sequence[Counts], shelf: Shelf) -> Counts:
    """The sum of the counts of several parts of a text, all of one vocabulary and order."""
    lowest = [shard.orders[0] for shard in shards]
    total = np.stack([whole(order.counts) for order in lowest]).sum(axis=0, dtype=np.int64)
    orders = [Order(lowest[0].tokens, lowest[0].starts, lowest[0].suffixes, total)]
    ids = np.arange(len(total), dtype=np.int32)
    numbers: list[Column] = [ids] * len(shards)  # of each shard's rows in the whole
    for k in range(1, len(shards[0].orders)):
        merged, numbers = _merge_order([shard.orders[k] for shard in shards], numbers, len(orders[-1].tokens), shelf)
        orders.append(merged)
    first = np.min([shard.first for shard in shards], axis=0)
    return Counts(orders, first, sum(shard.tokens for shard in shards), shards[0].eot)


def _merge_order(
    shards: Sequence[Order], contexts: Sequence[Column], all_contexts: int, shelf: Shelf
) -> tuple[Order, list[Column]]:
    """One order of the whole, and the numbers in it of each shard's rows, given those of the order below."""
    rows = sum(len(shard.tokens) for shard in shards)
    suffixes = [_renumbered(shard.suffixes, numbers, shelf) for shard, numbers in zip(shards, contexts, strict=True)]
    tokens = shelf.column(shards[0].tokens.dtype, rows)
    starts, counts = shelf.column(np.int32, all_contexts + 1), shelf.column(np.int32, rows)
    tails = shelf.column(np.int32, rows)
    numbers = [shelf.column(np.int32, len(shard.tokens)) for shard in shards]
    starts.append(np.zeros(1, np.int32))
    row = begin = 0
    step, reached = CHUNK, [0] * len(shards)  # contexts of each shard that are done
    while begin < all_contexts:
        stop = min(begin + step, all_contexts)
        near = [numbers[a : a + stop - begin] for numbers, a in zip(contexts, reached, strict=True)]
        near = [each[: np.searchsorted(each, stop)] for each in near]
        own = [shard.starts[a : a + len(each) + 1] for shard, each, a in zip(shards, near, reached, strict=True)]
        sizes = [int(edges[-1] - edges[0]) for edges in own]
        if sum(sizes) > TOGETHER and step > 1:
            step = max(1, step // 4)
            continue
        pairs, times, ends = [], [], []
        for shard, edges, mine, tail in zip(shards, own, near, suffixes, strict=True):
            low, high = int(edges[0]), int(edges[-1])
            context = np.repeat(mine.astype(np.int64) - begin, np.diff(edges))
            pairs.append((context << 32) | shard.tokens[low:high])
            times.append(shard.counts[low:high])
            ends.append(tail[low:high])
        pair, by_pair = np.concatenate(pairs), np.argsort(np.concatenate(pairs), kind="stable")  # of sorted runs: quick
        pair = pair.take(by_pair)
        fresh = np.ones(len(pair), bool)
        np.not_equal(pair[1:], pair[:-1], out=fresh[1:])
        firsts = np.flatnonzero(fresh)
        if row + len(firsts) > MOST_ROWS:
            raise DataError(f"more than {MOST_ROWS:,} n-grams of one order; take a lower --order")
        rank = np.empty(len(pair), np.int32)
        rank[by_pair] = row + np.cumsum(fresh) - 1
        for column, part in zip(numbers, np.split(rank, np.cumsum(sizes)[:-1]), strict=True):
            column.append(part)
        distinct = pair.take(firsts)
        tokens.append((distinct & (2**32 - 1)).astype(tokens.dtype))
        tails.append(np.concatenate(ends).take(by_pair.take(firsts)))
        if len(firsts):
            added = np.add.reduceat(np.concatenate(times).take(by_pair), firsts, dtype=np.int64)
            counts.append(np.minimum(added, MOST_ROWS).astype(np.int32))
        children = np.bincount(distinct >> 32, minlength=stop - begin)
        starts.append((row + np.cumsum(children)).astype(np.int32))
        row += len(firsts)
        begin, step = stop, min(CHUNK, 2 * step)
        reached = [a + len(each) for a, each in zip(reached, near, strict=True)]
    return Order(tokens.close(), starts.close(), tails.close(), counts.close()), [each.close() for each in numbers]


def _renumbered(rows: Column, numbers: Column, shelf: Shelf) -> Column:
    """Rows of a shard by their numbers in the whole."""
    held = numbers[0 : len(numbers)]
    column = shelf.column(np.int32, len(rows))
    for a in range(0, len(rows), CHUNK):
        column.append(held.take(rows[a : a + CHUNK]))
    return column.close()
