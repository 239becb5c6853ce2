"""A table in 8-bit numbers: half the size, and a distribution to within a fraction of a per cent."""

from __future__ import annotations

import numpy as np

from mlx_gpt.counting.counts import CHUNK
from mlx_gpt.counting.packed import Codes
from mlx_gpt.counting.table import Level, Table

TRUST = 0.1  # the largest correction of a backoff, as a share of it
ROUNDS = 20
SAMPLE = 2**20  # numbers that a book of codes is made from


def quantised(table: Table) -> Table:
    """The same table with 8-bit probabilities and backoffs, and starts of two bytes where they suffice.

    The backoffs are computed anew, so that what each context's rounded children leave is what its backoff gives;
    then they are rounded as well.
    """
    codes = [quantise(level.probabilities[0 : len(level.tokens)]) for level in table.levels]
    seen, covered = ([np.zeros(rows, np.float32) for rows in table.rows[:-1]] for _ in range(2))  # by context
    for k, row, contexts, suffixes in table.with_suffixes():
        first = int(contexts[0]) if len(contexts) else 0
        own, lower = codes[k - 1][row : row + len(contexts)], codes[k - 2].take(suffixes)
        for sums, values in ((seen, own), (covered, lower)):  # probability of the children, here and below
            added = np.bincount(contexts - first, weights=values)
            sums[k - 2][first : first + len(added)] += added
    levels = []
    for k, level in enumerate(table.levels):
        backoffs = None
        if level.backoffs is not None:
            backoffs = quantise(_anew(level.backoffs[0 : len(level.tokens)], seen[k], covered[k]))
        levels.append(Level(level.tokens, level.starts.pack(), codes[k], backoffs))
    made = Table(levels)
    made.finder.may_index = table.finder.may_index
    return made


def _anew(backoffs: np.ndarray, seen: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Backoffs (R,) that give what rounded children leave, from the children's probability here and below."""
    found = np.empty(len(backoffs), np.float32)
    for a in range(0, len(backoffs), CHUNK):
        held, here = backoffs[a : a + CHUNK].astype(np.float64), seen[a : a + CHUNK].astype(np.float64)
        anew = (1 - here) / np.maximum(1 - covered[a : a + CHUNK].astype(np.float64), 1e-6)
        anew = np.clip(anew, held * (1 - TRUST), held * (1 + TRUST))  # a small rest can be rounding alone
        found[a : a + CHUNK] = np.where(here > 0, anew, held)
    return found


def quantise(values: np.ndarray) -> Codes:
    """Positive numbers (R,) in 8 bits: each becomes the nearest, by its logarithm, of 255 values.

    Three quarters of the values begin as equally filled bins of a sample (as KenLM's), then move to the means of
    their own numbers a few times (Lloyd 1982). The rest are spread evenly over the sum of the sample: large
    numbers are few, but they weigh. Zeros keep a value of their own.
    """
    sample = values[:: max(1, len(values) // SAMPLE)].astype(np.float64)
    logs = np.log(np.sort(sample[sample > 0]))
    book = np.unique(logs)
    if len(book) > 255:
        weights = np.cumsum(np.exp(logs))
        heavy = logs[np.searchsorted(weights, np.arange(1, 64) / 64 * weights[-1])]
        book = np.unique(logs[((np.arange(192) + 0.5) / 192 * len(logs)).astype(np.int64)])
        sums = np.concatenate([[0], np.cumsum(logs)])
        for _ in range(ROUNDS):
            cuts = np.searchsorted(logs, [-np.inf, *(book[1:] + book[:-1]) / 2, np.inf])
            filled = np.diff(cuts) > 0
            book = np.where(filled, np.diff(sums[cuts]) / np.maximum(np.diff(cuts), 1), book)
        book = np.unique([*book, *heavy])
    edges = np.exp((book[1:] + book[:-1]) / 2).astype(np.float32)
    codes = np.empty(len(values), np.uint8)
    for a in range(0, len(values), CHUNK):
        part = values[a : a + CHUNK]
        codes[a : a + len(part)] = np.where(part > 0, 1 + np.searchsorted(edges, part), 0)
    full = np.zeros(256, np.float32)
    full[1 : 1 + len(book)] = np.exp(book)
    return Codes(codes, full)
