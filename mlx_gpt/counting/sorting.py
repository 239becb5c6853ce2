"""N-grams counted by sorting packed integers: no strings and no hashing, on as many threads as there are cores.

A k-gram is named by its row in lexicographic order. The k-gram that ends at position p is the pair (row of the
(k-1)-gram that ends at p - 1, token at p), packed into one integer with the position in its low bits: sorting
these integers sorts n-grams and says where they stand, so the rows of order k + 1 can be made from those of
order k. Windows are dealt out by their first token; each part is a range of rows of its own at every order, so
that threads need not meet and only a few parts' keys exist at one time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_gpt.counting.columns import whole
from mlx_gpt.counting.counts import CHUNK, MOST_ROWS, NEVER, SPAN, Counts, Order, id_type, threads_here
from mlx_gpt.errors import DataError

PARTS_PER_THREAD = 3
LAST_PARTS_PER_THREAD = 5  # of the highest order, when memory is fullest: the fewer keys at one time, the better

U64 = np.uint64


def count(ids: np.ndarray, order: int, vocab_size: int, eot: int, threads: int = 0, context: int = 1) -> Counts:
    """Count a stream of documents (eot d1 eot d2 eot …), orders 1 to `order`; no n-gram spans two documents.

    An end-of-text mark can open an n-gram (KenLM's <s>) or close it (</s>). The first `context` ids are not
    counted, they only stand before what is: the mark that opens the stream, or in a shard the order - 1 tokens
    that belong to the shard before.
    """
    if len(ids) >= MOST_ROWS:
        raise DataError(f"{len(ids):,} tokens: more than can be counted at once; count them in shards")
    stream = np.asarray(ids).astype(id_type(vocab_size), copy=False)
    workers = threads or threads_here()
    if len(stream) < CHUNK:
        return _Counting(stream, order, vocab_size, eot, context, 1, map).whole()
    with ThreadPoolExecutor(workers) as pool:
        return _Counting(stream, order, vocab_size, eot, context, workers, pool.map).whole()


class _Counting:
    """The arrays that live while a stream (N,) is counted.

    reach  (N,)  tokens between the last end-of-text mark and this position, at most the order: a k-gram can end
                 at p if reach[p] >= k - 1
    rows   (N,)  row of the k-gram that ends at each position, for the order counted last
    edges        the first row of each part, and the number of rows
    """

    def __init__(
        self,
        stream: np.ndarray,
        order: int,
        vocab_size: int,
        eot: int,
        context: int,
        workers: int,
        pmap: Callable[..., Any],
    ) -> None:
        self.stream, self.order, self.vocab_size, self.eot, self.context = stream, order, vocab_size, eot, context
        self.workers, self.pmap = workers, pmap
        self.seen, self.first = _tally(stream, vocab_size)
        self.reach = _reach(stream, order, eot)
        self.rows = stream
        self._deal(PARTS_PER_THREAD, [])

    def _deal(self, per_thread: int, orders: Sequence[Order]) -> None:
        """Deal the windows out, by their first token, to parts of about one size; `orders` are those counted."""
        many = min(255, per_thread * self.workers) if self.workers > 1 else 1
        share = np.concatenate([[0], np.cumsum(self.seen)])
        cuts = np.searchsorted(share[1:], len(self.stream) * np.arange(1, many) / many)
        edges = np.unique([0, *cuts.tolist(), self.vocab_size]).astype(np.int64)
        self.part = np.repeat(np.arange(len(edges) - 1, dtype=np.uint8), np.diff(edges)).take(self.stream)
        self.keys: list[np.ndarray] = []
        self.keys = [np.empty(int(np.diff(share[edges]).max()), U64) for _ in range(self.workers)]
        for order in orders[1:]:  # the rows whose first token is at or past an edge
            edges = whole(order.starts).take(edges).astype(np.int64)
        self.edges = edges

    def whole(self) -> Counts:
        """All orders."""
        none, ids = np.zeros(self.vocab_size, np.int32), np.arange(self.vocab_size, dtype=self.stream.dtype)
        counts = self.seen - np.bincount(self.stream[: self.context], minlength=self.vocab_size)
        orders = [Order(ids, np.array([0, self.vocab_size], np.int32), none, counts)]
        spare = None
        for k in range(2, self.order + 1):
            last = k == self.order
            if last:  # needs no positions
                spare = np.empty(0, np.int32)
                self._deal(LAST_PARTS_PER_THREAD, orders)
            new = np.empty(len(self.stream), np.int32) if spare is None else spare
            spare = self.rows if k > 2 else None
            orders.append(self._next(k, last, new, whole(orders[-1].tokens)))
            self.rows = new
        return Counts(orders, self.first, max(0, len(self.stream) - self.context), self.eot)

    def _next(self, k: int, last: bool, new: np.ndarray, below: np.ndarray) -> Order:
        """Order k, given the rows of order k - 1; puts the rows of order k into `new` (N,) unless it is the last."""
        contexts, parts = int(self.edges[-1]), len(self.edges) - 1
        if last:
            self.reach[: self.context] = 0
        windows = int(np.count_nonzero(self.reach >= k - 1))
        out = _Rows(
            np.empty(windows, self.stream.dtype),
            np.full(contexts + 1, MOST_ROWS, np.int32),
            np.empty(windows, np.int32),
            np.empty(windows, np.int32),
        )
        bases, made = [0], _Maker(self, k, last, new, below, out)
        for wave in range(0, parts, self.workers):
            numbers = range(wave, min(wave + self.workers, parts))
            sizes = list(self.pmap(made.sort, numbers, range(len(numbers))))
            wave_bases = bases[-1] + np.cumsum([0, *sizes])
            bases += wave_bases[1:].tolist()
            list(self.pmap(made.emit, numbers, wave_bases[:-1].tolist()))
        self.edges = np.array(bases, np.int64)
        rows = bases[-1]
        tokens, starts, suffixes, counts = out.tokens, out.starts, out.suffixes, out.counts
        starts[-1] = rows
        backwards = starts[::-1]
        np.minimum.accumulate(backwards, out=backwards)  # a context without children starts where the next one does
        for array in (tokens, suffixes, counts):
            array.resize(rows, refcheck=False)
        if not last:  # what ends in the context is a row, to be a context itself, but is not counted
            ends = np.arange(k - 1, self.context)
            np.subtract.at(counts, new[ends[self.reach[ends] >= k - 1]], np.int32(1))
        return Order(out.tokens, out.starts, out.suffixes, out.counts)


@dataclass(frozen=True)
class _Rows:
    """An order being written: as Order, in memory."""

    tokens: np.ndarray
    starts: np.ndarray
    suffixes: np.ndarray
    counts: np.ndarray


class _Maker:
    """One order in the making: sorts the windows of a part, then writes its rows. Parts may run side by side."""

    def __init__(self, counting: _Counting, k: int, last: bool, new: np.ndarray, below: np.ndarray, out: _Rows) -> None:
        self.on, self.k, self.last, self.new, self.below, self.out = counting, k, last, new, below, out
        top = int(counting.edges[-1]) if last else counting.vocab_size
        self.low_bits = bits(top)
        self.place_bits = 0 if last else bits(len(counting.stream))
        self.held: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    def sort(self, part: int, slot: int) -> int:
        """Sort a part's windows by (context, token) and return how many differ; of the last order by (context,
        suffix), which is the same order and needs no positions."""
        on, k, place_bits = self.on, self.k, U64(self.place_bits)
        low = on.rows if self.last else on.stream
        base = int(on.edges[part])
        fits = bits(int(on.edges[part + 1]) - base) + self.low_bits + self.place_bits <= 64
        keys, places, filled = on.keys[slot], list[np.ndarray](), 0
        for a in range(k - 1, len(on.stream), SPAN):
            b = min(a + SPAN, len(on.stream))
            mine = on.part[a - k + 1 : b - k + 1] == part
            mine &= on.reach[a:b] >= k - 1
            ends = np.flatnonzero(mine)
            ends += a
            key = on.rows.take(ends - 1).astype(U64)
            key -= U64(base)
            key <<= U64(self.low_bits)
            key |= low.take(ends).astype(U64)
            if fits and not self.last:
                key <<= place_bits
                key |= ends.view(U64)
            elif not fits:
                places.append(ends)
            keys[filled : filled + len(key)] = key
            filled += len(key)
        keys = keys[:filled]
        if fits:
            keys.sort()
            self.held[part] = keys, None
        else:  # too many rows for one integer: several times as slow
            by_key = np.argsort(keys)
            self.held[part] = keys[by_key], np.concatenate(places)[by_key]
        return sum(int(np.count_nonzero(fresh)) for _, _, _, fresh in self._chunks(part))

    def _chunks(self, part: int) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Start, places, keys without places, and whether each key is the first of its kind."""
        keys, places = self.held[part]
        before, place_bits, mask = None, U64(self.place_bits), U64(2**self.place_bits - 1)
        for a in range(0, len(keys), SPAN):
            bare = keys[a : a + SPAN]
            ends = bare.view(np.int64) if places is None else places[a : a + SPAN]
            if places is None and self.place_bits:
                ends = (bare & mask).view(np.int64)
                bare = bare >> place_bits
            fresh = np.empty(len(bare), bool)
            np.not_equal(bare[1:], bare[:-1], out=fresh[1:])
            fresh[0] = bare[0] != before
            before = bare[-1]
            yield a, ends, bare, fresh

    def emit(self, part: int, row: int) -> None:
        """Write the rows of a sorted part, the first of which is `row`."""
        on, out = self.on, self.out
        base, mask, total = int(on.edges[part]), U64(2**self.low_bits - 1), len(self.held[part][0])
        begun, context = -1, -1  # where the last row begins among the keys, and its context
        for a, ends, bare, fresh in self._chunks(part):
            found = np.flatnonzero(fresh)
            stop = row + len(found)
            if not self.last:
                ranks = np.cumsum(fresh, dtype=np.int32)
                ranks += np.int32(row - 1)
                self.new[ends] = ranks
            if not len(found):
                continue
            pairs = bare.take(found)
            contexts = (pairs >> U64(self.low_bits)).view(np.int64)
            pairs &= mask
            if self.last:
                suffixes = pairs.view(np.int64)
                out.suffixes[row:stop] = suffixes
                out.tokens[row:stop] = self.below.take(suffixes)
            else:
                out.tokens[row:stop] = pairs
                out.suffixes[row:stop] = on.rows.take(ends.take(found))
            turns = np.empty(len(found), bool)
            np.not_equal(contexts[1:], contexts[:-1], out=turns[1:])
            turns[0] = contexts[0] != context
            context = contexts[-1]
            turns = np.flatnonzero(turns)
            out.starts[contexts.take(turns) + base] = row + turns
            if begun >= 0:
                out.counts[row - 1] = a + found[0] - begun
            np.subtract(found[1:], found[:-1], out=out.counts[row : stop - 1], casting="unsafe")
            begun = a + int(found[-1])
            row = stop
        if begun >= 0:
            out.counts[row - 1] = total - begun
        del self.held[part]


def bits(numbers: int) -> int:
    """How many bits tell so many numbers apart."""
    return max(1, (numbers - 1).bit_length())


def _tally(stream: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each id comes (V,), and where it comes first (V,)."""
    seen, first = np.zeros(vocab_size, np.int64), np.full(vocab_size, NEVER)
    for a in range(0, len(stream), SPAN):
        part = stream[a : a + SPAN]
        places = np.flatnonzero((seen == 0).take(part))
        first[part[places[::-1]]] = a + places[::-1]
        seen += np.bincount(part, minlength=vocab_size)
    return seen, first


def _reach(stream: np.ndarray, order: int, eot: int) -> np.ndarray:
    reach = np.full(len(stream), order, np.uint8)
    marks = [np.flatnonzero(stream[a : a + SPAN] == eot) + a for a in range(0, len(stream), SPAN)]
    begins = np.concatenate([[0], *marks])  # what stands at the very front has nothing before it either
    for distance in range(order - 1, 0, -1):
        at = begins + distance
        reach[at[at < len(stream)]] = distance
    reach[:1] = 0
    return reach
