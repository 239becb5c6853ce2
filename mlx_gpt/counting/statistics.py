"""Counts of counts, and the discounts that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlx_gpt.counting.columns import Column, Shelf, whole
from mlx_gpt.counting.counts import CHUNK, NEVER, Counts

Notice = Callable[[str], None]
FALLBACK = (0.5, 1.0, 1.5)  # discounts where the counts of counts leave them undefined, as KenLM's lmplz does
LARGEST = 6  # counts of counts are kept up to here: Good and Turing need five and one more


@dataclass
class Statistics:
    """One order: how many n-grams there are, how many of them were counted j times, and what each of those loses.

    rows       distinct n-grams that were seen
    kept       those that pruning leaves
    times      (LARGEST + 1,)  n-grams counted 0, 1, … times
    discounts  of n-grams counted once, twice, three times or more; empty for smoothings without
    """

    rows: int
    times: np.ndarray
    discounts: tuple[float, ...] = field(default=())
    kept: int = -1


def statistics(counts: Column) -> Statistics:
    """The counts of counts (R,) of one order."""
    times = np.zeros(LARGEST + 2, np.int64)
    for a in range(0, len(counts), CHUNK):
        times += np.bincount(np.minimum(counts[a : a + CHUNK], LARGEST + 1), minlength=LARGEST + 2)
    return Statistics(len(counts) - int(times[0]), times[: LARGEST + 1])


def statistics_lines(found: Sequence[Statistics]) -> list[str]:
    """A line for each order as lmplz prints it, and the counts of counts behind the discounts.

    Like lmplz, the first line counts <s> and <unk> among the words.
    """
    lines = []
    for k, each in enumerate(found, 1):
        names = zip(("D1", "D2", "D3+"), each.discounts, strict=False)
        discounts = "".join(f" {name}={amount:.6g}" for name, amount in names)
        times = "".join(f" n{j}={each.times[j]}" for j in range(1, 5))
        rows = each.rows + 2 * (k == 1)
        shown = f"{each.kept}/{rows}" if k > 1 and each.kept not in (-1, each.rows) else f"{rows}"
        lines.append(f"{k} {shown}{discounts} {times}")
    return lines


def continuation_counts(counts: Counts, shelf: Shelf, most: int) -> list[Column]:
    """Kneser & Ney's counts: in how many different places a k-gram continues something.

    The highest order keeps its occurrences, and so do n-grams that open a document: nothing stands before them.
    `most` counters are held in memory at one time.
    """
    adjusted = []
    for k, order in enumerate(counts.orders[:-1]):
        above, rows = counts.orders[k + 1].suffixes, len(order.tokens)
        column = shelf.column(np.int32 if k else np.int64, rows)
        for low in range(0, rows, most):
            high = min(low + most, rows)
            left = np.zeros(high - low, np.int32)
            for a in range(0, len(above), CHUNK):
                suffixes = above[a : a + CHUNK]
                if high - low < rows:
                    suffixes = suffixes[(suffixes >= low) & (suffixes < high)] - np.int32(low)
                np.add.at(left, suffixes, np.int32(1))
            for a in range(low, high, CHUNK):
                part = left[a - low : min(a + CHUNK, high) - low]
                column.append(np.where(part == 0, order.counts[a : a + len(part)], part) if k else part)
        adjusted.append(column.close())
    return [*adjusted, counts.orders[-1].counts]


def correct_as_kenlm(counts: Counts, adjusted: Sequence[Column], found: Sequence[Statistics]) -> None:
    """File one n-gram of each lower order by its occurrences, as KenLM's lmplz does.

    When lmplz comes to the end of its n-grams, sorted from their last word backwards with words numbered by
    first appearance, the last one of each lower order is filed in the counts of counts by its occurrences, not
    by its left neighbours. Without this the discounts of small texts differ from KenLM's.
    """
    first = counts.first
    words = np.flatnonzero((first != NEVER) & (np.arange(len(first)) != counts.eot))
    rank = np.zeros(len(first), np.int64)  # the mark comes before every word
    rank[words] = 1 + np.argsort(np.argsort(first[words]))
    row = int(words[np.argmax(rank[words])]) if len(words) else counts.eot
    for k in range(len(adjusted) - 1):
        for filed, by in ((adjusted[k], -1), (counts.orders[k].counts, 1)):
            times = int(filed[row : row + 1][0])
            if times <= LARGEST:
                found[k].times[times] += by
        above = counts.orders[k + 1].suffixes
        rows = [np.flatnonzero(above[a : a + CHUNK] == row) + a for a in range(0, len(above), CHUNK)]
        longer = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        if not len(longer):
            return  # it opens a document
        row = int(longer[np.argmax(rank[_first_tokens(counts, k + 1, longer)])])


def _first_tokens(counts: Counts, k: int, rows: np.ndarray) -> np.ndarray:
    for order in reversed(counts.orders[1 : k + 1]):
        rows = np.searchsorted(whole(order.starts), rows.astype(np.int32), side="right") - 1
    return rows


def three_discounts(times: np.ndarray) -> tuple[float, ...] | None:
    """D_j = j - (j + 1) Y n_{j+1} / n_j with Y = n_1 / (n_1 + 2 n_2), or None where that is no discount.

    Chen & Goodman 1999, equation 26. In whole numbers to the end, so that a discount of 0 is not one just below.
    """
    if not times[1:4].all():
        return None
    n = times.tolist()
    share = n[1] + 2 * n[2]
    found = tuple((j * share * n[j] - (j + 1) * n[1] * n[j + 1]) / (share * n[j]) for j in (1, 2, 3))
    return found if all(0 <= d <= j for j, d in enumerate(found, 1)) else None


def one_discount(times: np.ndarray) -> tuple[float, ...] | None:
    """D = n_1 / (n_1 + 2 n_2) for every count (Ney, Essen & Kneser 1994), or None where nothing came once."""
    if not times[1]:
        return None
    return (float(times[1] / (times[1] + 2 * times[2])),) * 3


def good_turing(times: np.ndarray, largest: int = 5) -> np.ndarray | None:
    """Katz's ratios d_0 … d_{largest+1} of r* to r, corrected so that larger counts stay whole; None if undefined.

    Katz 1987, after Good 1953.
    """
    if not times[1 : largest + 2].all():
        return None
    r = np.arange(1, largest + 1)
    common = (largest + 1) * times[largest + 1] / times[1]
    if common >= 1:
        return None
    found = ((r + 1) * times[r + 1] / (r * times[r]) - common) / (1 - common)
    return np.array([1.0, *found, 1.0]) if ((found > 0) & (found <= 1)).all() else None
