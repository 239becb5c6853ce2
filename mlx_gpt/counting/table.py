"""A counted model as arrays: the probability of every seen n-gram, and what is left for the unseen ones.

p(w | h) is stored where h w was seen; elsewhere it is backoff(h) * p(w | h without its first token). Every
smoothing of this package, interpolated or not, can be written so (Chen & Goodman 1999, section 2.8).

N order, V vocabulary, B sequences, T tokens. A state (N - 1, B) holds, for k = 1 … N - 1, the row of the k-gram
that each sequence ends with, -1 where it was never seen: all that the next token can depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_gpt.counting.counts import SPAN, threads_here
from mlx_gpt.counting.index import Finder
from mlx_gpt.counting.packed import Codes, Starts, groups

MANY = 2 * SPAN  # tokens from which on two threads are sooner done than one
NEAR = 64  # rows of a dense table that fit a core's own cache
CELLS = 2**21  # entries of a dense table that one thread makes in one go


@dataclass(frozen=True)
class Level:
    """One order: R rows in lexicographic order (see counts.Order), C contexts.

    tokens         (R,)      last token
    starts         (C + 1,)  children of context c: rows starts[c] to starts[c + 1]
    probabilities  (R,)      p(last token | the tokens before it), float32 or 8-bit codes
    backoffs       (R,)      what multiplies the lower order when this k-gram, as a context, has no such child;
                             None for the highest order
    """

    tokens: np.ndarray
    starts: Starts
    probabilities: np.ndarray | Codes
    backoffs: np.ndarray | Codes | None


class Table:
    """All orders together, asked for many positions at once."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = list(levels)
        self.order, self.vocab_size = len(self.levels), len(self.levels[0].tokens)
        self.finder = Finder([(level.starts, level.tokens) for level in self.levels])
        self.unigram = np.asarray(self.levels[0].probabilities.take(np.arange(self.vocab_size)))

    @property
    def rows(self) -> list[int]:
        """Distinct n-grams of each order."""
        return [len(level.tokens) for level in self.levels]

    def with_suffixes(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Every row of orders 2 to N in groups: order, first row, and the rows (R,) of its context and of its
        suffix in the order below."""
        if self.finder.may_index:
            self.finder.build()
        below = np.empty(0, np.int32)
        for k in range(2, self.order + 1):
            level = self.levels[k - 1]
            suffixes = np.empty(len(level.tokens), np.int32)
            for begin, edges in groups(level.starts.part, level.starts.contexts):
                low, high = int(edges[0]), int(edges[-1])
                tokens = level.tokens[low:high].astype(np.int64)
                contexts = np.repeat(np.arange(begin, begin + len(edges) - 1), np.diff(edges))
                suffixes[low:high] = (
                    tokens if k == 2 else self.finder.find(k - 1, below.take(contexts).astype(np.int64), tokens)
                )
                yield k, low, contexts, suffixes[low:high]
            below = suffixes

    def empty(self, batch: int) -> np.ndarray:
        """The state of `batch` sequences that have not begun."""
        return np.full((self.order - 1, batch), -1, np.int64)

    def score(
        self, ids: np.ndarray, state: np.ndarray | None = None, threads: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """ln p of each of ids (B, T) given those before it, float32, and how many tokens of context, itself
        included, it was found with (int8). Without a state the first column is scored by the unigram."""
        scores, lengths = np.empty(ids.shape, np.float32), np.empty(ids.shape, np.int8)
        self.finder.expect(ids.size)

        def work(part: tuple[slice, int, int]) -> None:
            rows, begin, stop = part
            warm = min(begin, self.order - 1)  # tokens read again: all that the first score can depend on
            before = None if warm or state is None else state[:, rows]
            p, found = self._score(ids[rows, begin - warm : stop], before)
            scores[rows, begin:stop], lengths[rows, begin:stop] = p[:, warm:], found[:, warm:]

        _share(work, _tiles(*ids.shape), threads if ids.size > MANY else 1)
        return scores, lengths

    def advance(self, ids: np.ndarray, state: np.ndarray | None = None) -> np.ndarray:
        """The states (N - 1, B, T) after each of ids (B, T)."""
        self.finder.expect(ids.size)
        states = np.empty((self.order - 1, *ids.shape), np.int64)
        if self.order == 1:
            return states
        for rows, begin, stop in _tiles(*ids.shape):
            warm = min(begin, self.order - 1)
            before = None if warm or state is None else state[:, rows]
            for k, (_, found) in enumerate(self.walk(ids[rows, begin - warm : stop], before, self.order - 1)):
                states[k, rows, begin:stop] = found[:, warm:]
        return states

    def walk(self, ids: np.ndarray, state: np.ndarray | None, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For k = 1 … most: the row of the (k-1)-gram before each token, and of the k-gram that ends with it."""
        tokens = ids.astype(np.int64)
        here = tokens
        yield np.zeros_like(tokens), here
        for k in range(2, most + 1):
            context = np.empty_like(here)
            context[:, 1:] = here[:, :-1]
            context[:, 0] = -1 if state is None else state[k - 2]
            both = np.flatnonzero((context | here) >= 0)  # a k-gram is a row only if its suffix is one
            rows = self.finder.find(k, context.ravel().take(both), tokens.ravel().take(both))
            here = np.full(ids.shape, -1, np.int64)
            here.reshape(-1)[both] = rows
            yield context, here

    def _score(self, ids: np.ndarray, state: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        p, lengths = np.empty(ids.size, np.float32), np.ones(ids.size, np.int8)
        for k, (context, row) in enumerate(self.walk(ids, state, self.order), 1):
            context, row = context.ravel(), row.ravel()
            if k == 1:
                np.take(self.unigram, row, out=p)
                continue
            seen = np.flatnonzero(row >= 0)
            p[seen] = self.levels[k - 1].probabilities.take(row.take(seen))
            lengths[seen] = k
            missed = np.flatnonzero((context >= 0) & (row < 0))
            backoffs = self.levels[k - 2].backoffs
            assert backoffs is not None
            p[missed] *= backoffs.take(context.take(missed))
        with np.errstate(divide="ignore"):
            return np.log(p, out=p).reshape(ids.shape), lengths.reshape(ids.shape)

    def likeliest(self, past: Sequence[int], most: int) -> list[int]:
        """`most` ids to follow `past`, at least one id, each the likeliest after those before it."""
        state, tokens = [-1] * (self.order - 1), list[int]()
        for token in past[-max(1, self.order - 1) :]:
            state = self._next(state, token)
        while len(tokens) < most:
            tokens.append(int(self.distribution(state).argmax()))
            state = self._next(state, tokens[-1])
        return tokens

    def _next(self, state: Sequence[int], token: int) -> list[int]:
        """The state (N - 1,) of one sequence after one more token, as `advance` tells it."""
        after = [token][: self.order - 1]
        for k, context in enumerate(state[:-1], 2):
            after.append(self.finder.row(k, context, token) if context >= 0 and after[-1] >= 0 else -1)
        return after

    def distributions(self, state: np.ndarray, threads: int = 0, out: np.ndarray | None = None) -> np.ndarray:
        """p(every token | state), (B, V) float32, for a state (N - 1, B); in `out` if given, which saves making it."""
        batch = state.shape[1]
        if batch == 1 and out is None:
            return self.distribution(state[:, 0])[None]
        out = np.empty((batch, self.vocab_size), np.float32) if out is None else out
        step = max(1, CELLS // self.vocab_size)

        def work(begin: int) -> None:
            self._distributions(state[:, begin : begin + step], out[begin : begin + step])

        _share(work, list(range(0, batch, step)), threads)
        return out

    def distribution(self, state: np.ndarray | Sequence[int]) -> np.ndarray:
        """p(every token | state), (V,) float32, for the state (N - 1,) of one sequence."""
        spans, weight = [], 1.0
        for k in range(self.order - 1, 0, -1):
            context = state[k - 1]
            if context < 0:
                continue
            level, below = self.levels[k], self.levels[k - 1].backoffs
            begin, stop = level.starts.span(int(context))
            if begin < stop:
                spans.append((level, begin, stop, weight))
            assert below is not None
            weight *= float(below.take(context))
        p = self.unigram * np.float32(weight)
        for level, begin, stop, scale in reversed(spans):
            children = level.probabilities[begin:stop]
            p[level.tokens[begin:stop]] = children if scale == 1 else children * np.float32(scale)
        return p

    def _distributions(self, state: np.ndarray, out: np.ndarray) -> None:
        batch = state.shape[1]
        if self.order == 1:
            out[:] = self.unigram
            return
        weights = [np.ones(batch, np.float32)]  # what multiplies each order, from the highest down
        for k in range(self.order - 1, 1, -1):
            backoffs = self.levels[k - 1].backoffs
            assert backoffs is not None
            known = np.flatnonzero(state[k - 1] >= 0)
            weights.append(weights[-1].copy())
            weights[-1][known] *= backoffs.take(state[k - 1].take(known))
        weights.reverse()
        last, which = np.unique(state[0], return_inverse=True)  # many sequences end with the same few tokens
        out_of_one = np.repeat(self.unigram[None], len(last), axis=0)
        self._put(1, last, np.ones(len(last), np.float32), out_of_one, True)
        for a in range(0, batch, NEAR):
            near = out[a : a + NEAR]
            np.take(out_of_one, which[a : a + NEAR], axis=0, out=near, mode="clip")
            near *= weights[0][a : a + NEAR, None]
        for k in range(2, self.order):
            self._put(k, state[k - 1], weights[k - 1], out, False)

    def _put(self, k: int, contexts: np.ndarray, weights: np.ndarray, out: np.ndarray, scale: bool) -> None:
        """Put the children of contexts (B,) of order k, times weights (B,), into the rows of out (B, V); with
        `scale` the rows are multiplied by the contexts' backoffs first."""
        known = np.flatnonzero(contexts >= 0)
        level, rows = self.levels[k], contexts.take(known)
        if scale:
            backoffs = self.levels[k - 1].backoffs
            assert backoffs is not None
            out[known] *= backoffs.take(rows)[:, None]
        begins, stops = level.starts.spans(rows)
        sizes = stops - begins
        children = ranges(begins, sizes)
        if not len(children):
            return
        cells = np.repeat(known * self.vocab_size, sizes)
        cells += level.tokens.take(children)
        out.reshape(-1)[cells] = level.probabilities.take(children) * np.repeat(weights.take(known), sizes)


def ranges(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """begin, begin + 1, … for each of many ranges, one after the other."""
    offsets = np.repeat(begins - (np.cumsum(sizes) - sizes), sizes)
    offsets += np.arange(len(offsets))
    return offsets


def _tiles(batch: int, length: int) -> list[tuple[slice, int, int]]:
    """Rows and columns that cover (B, T) in tiles of about SPAN tokens."""
    width = max(1, min(length, SPAN))
    height = max(1, SPAN // width)
    rows = [slice(row, row + height) for row in range(0, batch, height)]
    return [(each, begin, min(begin + width, length)) for each in rows for begin in range(0, length, width)]


def _share(work: Callable[[Any], None], parts: list[Any], threads: int) -> None:
    workers = min(threads or threads_here(), len(parts))
    if workers <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, parts))
