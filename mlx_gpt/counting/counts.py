"""N-grams counted by sorting: every order's rows in lexicographic order, as arrays.

A k-gram is named by its row. Row r of order k is the pair (row of its first k - 1 tokens, last token), packed
into one integer; so sorting integers sorts n-grams, and the children of a context lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """The distinct k-grams of one order, R rows.

    keys      (R,)  context row * V + last token, ascending (order 1: the token itself, R = V)
    counts    (R,)  occurrences
    contexts  (R,)  row of the first k - 1 tokens in the order below
    suffixes  (R,)  row of the last k - 1 tokens in the order below
    """

    keys: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    suffixes: np.ndarray

    def sums(self, values: np.ndarray, contexts: int) -> np.ndarray:
        """The sum of a value (R,) over the children of each of `contexts` contexts."""
        return np.bincount(self.contexts, weights=values, minlength=contexts)


def count(ids: np.ndarray, order: int, vocab_size: int, eot: int) -> list[Order]:
    """Count a stream of documents (eot d1 eot d2 eot …), orders 1 to `order`; none spans two documents.

    An end-of-text mark can open an n-gram (the start of a document) or close it (its end). Order 1 has a
    row for every id and counts tokens to be predicted, so the mark that opens the stream is not counted.
    """
    stream = np.asarray(ids, np.int64)
    none = np.zeros(vocab_size, np.int64)
    orders = [
        Order(np.arange(vocab_size), np.bincount(stream[1:], minlength=vocab_size), none, none),
    ]
    rows = stream.copy()  # row of the k-gram that ends at each position, -1 where there is none
    for k in range(2, order + 1):
        before = np.concatenate([[-1], rows[:-1]])
        valid = before >= 0
        if k > 2:
            valid[1:] &= stream[:-1] != eot
        keys = before[valid] * vocab_size + stream[valid]
        distinct, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        suffixes = rows[valid][first]
        rows = np.full(len(stream), -1, np.int64)
        rows[valid] = inverse
        orders.append(Order(distinct, counts, distinct // vocab_size, suffixes))
    return orders


def continuation_counts(orders: list[Order]) -> list[np.ndarray]:
    """Kneser & Ney's counts: in how many different places a k-gram continues something.

    The highest order keeps its occurrences, and so do n-grams that open a document: nothing stands before them.
    """
    adjusted = []
    for k, order in enumerate(orders[:-1]):
        left = np.bincount(orders[k + 1].suffixes, minlength=len(order.keys))
        adjusted.append(np.where(left > 0, left, order.counts) if k else left)
    return [*adjusted, orders[-1].counts]
