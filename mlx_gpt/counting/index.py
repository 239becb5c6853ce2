"""Finding n-grams: from (context row, token) to row, for many at once.

Without preparation it is a binary search among the children of each context. Once so much was asked that it
pays, an index is built: for bigrams of a small vocabulary a bit for every pair of tokens, with running sums, so
that a row is a count of bits; for the rest exact hashing by open addressing, with the row beside its key.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from mlx_gpt.counting.packed import Starts, groups

U64 = np.uint64
MULTIPLIERS = U64(0x9E3779B97F4A7C15), U64(0xBF58476D1CE4E5B9)  # of splitmix64 (Steele et al. 2014)
EMPTY = U64(2**64 - 1)
ROOM = 2.0  # slots of a hash table for each row
SPARE = 4_096  # slots past the end, so that a search need not wrap around
PAIRS = 2**29  # pairs of tokens for which bits are kept: 64 MB
FEW = 128  # searches so unlucky that bisection is sooner done with them
WORTH = 0.15  # queries a row after which an index pays for itself


class Finder:
    """Finds rows of orders 2 to N. Answers are exact, with or without the index."""

    def __init__(self, orders: Sequence[tuple[Starts, np.ndarray]]) -> None:
        """(starts, tokens) of orders 1 to N, as in table.Level."""
        self.orders = list(orders)
        self.vocab_size = len(self.orders[0][1])
        self.rows = sum(len(tokens) for _, tokens in self.orders)
        self.asked = 0
        self.lock = threading.Lock()
        self.indexes: list[_Pairs | _Hash | None] = [None] * len(self.orders)
        self.indexed = False
        self.may_index = True  # an index takes about twice the memory of the table

    def expect(self, queries: int) -> None:
        """Say that so many tokens will be looked for: builds the index when their sum makes it worth while."""
        self.asked += queries
        if self.may_index and not self.indexed and self.asked > WORTH * self.rows:
            self.build()

    def build(self) -> None:
        """Build the index now."""
        with self.lock:
            if self.indexed:
                return
            for k in range(2, len(self.orders) + 1):
                starts, tokens = self.orders[k - 1]
                if k == 2 and self.vocab_size**2 <= PAIRS:
                    self.indexes[k - 1] = _Pairs(starts, tokens, self.vocab_size)
                elif _Hash.fits(starts, tokens, self.vocab_size):
                    self.indexes[k - 1] = _Hash(starts, tokens, self.vocab_size)
            self.indexed = True

    def find(self, k: int, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The rows of order k for contexts (M,) >= 0 and tokens (M,), both int64; -1 where there is none."""
        index = self.indexes[k - 1]
        if index is None:
            return self._search(k, contexts, tokens)
        rows, left = index.find(contexts, tokens)
        if len(left):
            rows[left] = self._search(k, contexts.take(left), tokens.take(left))
        return rows

    def row(self, k: int, context: int, token: int) -> int:
        """The row of order k of one context of order k - 1 and one token, -1 where there is none."""
        starts, stored = self.orders[k - 1]
        begin, stop = starts.span(context)
        row = begin + int(np.searchsorted(stored[begin:stop], stored.dtype.type(token)))
        return row if row < stop and stored[row] == token else -1

    def _search(self, k: int, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        starts, stored = self.orders[k - 1]
        if len(contexts) == 1:  # a text being written: no arrays of one number are moved about
            return np.array([self.row(k, int(contexts[0]), int(tokens[0]))])
        found = np.full(len(contexts), -1, np.int64)
        low, high = starts.spans(contexts)
        left = np.flatnonzero(low < high)
        low, high, wanted = low.take(left), high.take(left), tokens.take(left)
        while len(left):
            middle = (low + high) >> 1
            token = stored.take(middle).astype(np.int64)
            hit = token == wanted
            found[left[hit]] = middle[hit]
            low = np.where(token < wanted, middle + 1, low)
            high = np.where(token < wanted, high, middle)
            open_ = np.flatnonzero((low < high) & ~hit)
            left, low, high, wanted = left.take(open_), low.take(open_), high.take(open_), wanted.take(open_)
        return found


def _contexts(starts: Starts) -> Iterator[tuple[int, np.ndarray]]:
    """The first row, and the context (R,) of each row, of one group of contexts after the other."""
    for begin, edges in groups(starts.part, starts.contexts):
        yield int(edges[0]), np.repeat(np.arange(begin, begin + len(edges) - 1), np.diff(edges))


class _Pairs:
    """A bit for every pair of ids, and how many are set before each word of 64."""

    def __init__(self, starts: Starts, tokens: np.ndarray, vocab_size: int) -> None:
        self.width = -(-vocab_size // 64) * 64
        self.bits = np.zeros(vocab_size * self.width // 64, U64)
        for row, contexts in _contexts(starts):
            cell = contexts * self.width + tokens[row : row + len(contexts)]
            words, first = np.unique(cell >> 6, return_index=True)
            if len(words):
                self.bits[words] = np.bitwise_or.reduceat(U64(1) << (cell & 63).astype(U64), first)
        ones = np.bitwise_count(self.bits).astype(np.int32)
        self.before = np.cumsum(ones, dtype=np.int32) - ones

    def find(self, contexts: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows, and which of them (none) are still to be found."""
        cell = contexts * self.width
        cell += tokens
        bit = (cell & 63).view(U64)
        cell >>= 6
        word = self.bits.take(cell)
        rows = self.before.take(cell).astype(np.int64)
        bit = U64(1) << bit
        rows += np.bitwise_count(word & (bit - U64(1)))
        rows[(word & bit) == 0] = -1
        return rows, rows[:0]


class _Hash:
    """Open addressing with linear probing; an entry is key << bits | row, key = context << bits | token."""

    def __init__(self, starts: Starts, tokens: np.ndarray, vocab_size: int) -> None:
        rows = len(tokens)
        self.token_bits, self.row_bits = U64((vocab_size - 1).bit_length()), U64(max(1, rows.bit_length()))
        self.row_mask = U64(2 ** int(self.row_bits) - 1)
        self.size = U64(max(16, int(rows * ROOM)))
        self.slots = np.full(int(self.size) + SPARE, EMPTY, U64)
        for row, contexts in _contexts(starts):
            key = contexts.astype(U64)
            key <<= self.token_bits
            key |= tokens[row : row + len(contexts)].astype(U64)
            at = self._slot(key)
            key <<= self.row_bits
            key |= np.arange(row, row + len(contexts), dtype=U64)
            while len(at):
                free = self.slots.take(at) == EMPTY
                self.slots[at[free]] = key[free]  # of several that want one slot, the last one has it
                lost = np.flatnonzero(self.slots.take(at) != key)
                at, key = at.take(lost) + 1, key.take(lost)

    @staticmethod
    def fits(starts: Starts, tokens: np.ndarray, vocab_size: int) -> bool:
        """Whether context, token and row have room in 64 bits."""
        bits = (max(1, starts.contexts).bit_length(), (vocab_size - 1).bit_length(), len(tokens).bit_length())
        return sum(bits) <= 63

    def _slot(self, key: np.ndarray) -> np.ndarray:
        mixed = key ^ (key >> U64(15))
        mixed *= MULTIPLIERS[0]
        mixed ^= mixed >> U64(29)
        mixed *= MULTIPLIERS[1]
        mixed >>= U64(32)
        mixed *= self.size
        mixed >>= U64(32)
        return mixed.view(np.int64)

    def find(self, contexts: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows, and which few of them are still to be found."""
        key = contexts.astype(U64)
        key <<= self.token_bits
        key |= tokens.view(U64)
        at = self._slot(key)
        entry = self.slots.take(at)
        rows = (entry & self.row_mask).view(np.int64)
        wrong = (entry >> self.row_bits) != key
        rows[wrong] = -1
        wrong &= entry != EMPTY
        left = np.flatnonzero(wrong)
        at, key = at.take(left), key.take(left)
        while len(left) > FEW:
            at += 1
            entry = self.slots.take(at)
            hit = (entry >> self.row_bits) == key
            good = np.flatnonzero(hit)
            rows[left.take(good)] = (entry.take(good) & self.row_mask).view(np.int64)
            open_ = np.flatnonzero(~hit & (entry != EMPTY))
            left, at, key = left.take(open_), at.take(open_), key.take(open_)
        return rows, left
