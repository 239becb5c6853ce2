"""The weights of interpolated relative frequencies, fitted on held-out text by expectation-maximisation.

Source: Jelinek & Mercer 1980; Dempster, Laird & Rubin 1977.
"""

from __future__ import annotations

import numpy as np

from mlx_gpt.counting.columns import Column, whole
from mlx_gpt.counting.counts import Counts
from mlx_gpt.counting.packed import Starts, groups
from mlx_gpt.counting.smoothing import Group, Mixture, buckets
from mlx_gpt.counting.table import Level, Table


def fitted(counts: Counts, heldout: np.ndarray, classes: int, rounds: int) -> Mixture:
    """The mixture that gives the stream `heldout` (M,) the most probability.

    Each order has a weight for every class of contexts, by how often they were seen (see smoothing.buckets).
    """
    stream = np.asarray(heldout, np.int64)[None]
    levels = [
        Level(whole(order.tokens), Starts(whole(order.starts)), np.ones(len(order.tokens), np.float32), None)
        for order in counts.orders
    ]
    frequencies, kinds = [], []
    for k, (context, row) in enumerate(Table(levels).walk(stream, None, len(levels)), 1):
        order = counts.orders[k - 1]
        before, found, held = context[0, 1:], row[0, 1:], whole(order.counts)
        totals = _totals(order.counts, order.starts)
        known = _of_rows(totals, before)
        frequencies.append(_of_rows(held, found) / np.maximum(known, 1))
        kinds.append(np.where(known > 0, buckets(known, classes), -1))
    return Mixture(_maximise(np.array(frequencies), np.array(kinds), classes, counts.vocab_size, rounds))


def _of_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Each row's value, 0 where the row is -1."""
    found = np.zeros(len(rows))
    known = np.flatnonzero(rows >= 0)
    found[known] = values[rows[known]]
    return found


def _totals(counts: Column, starts: Column) -> np.ndarray:
    """How often something was counted after each context, (C,)."""
    parts = groups(lambda begin, stop: starts[begin:stop], len(starts) - 1)
    sums = [Group(np.diff(edges), counts[int(edges[0]) : int(edges[-1])]).totals for _, edges in parts]
    return np.concatenate(sums) if sums else np.zeros(0)


def _maximise(frequencies: np.ndarray, kinds: np.ndarray, classes: int, vocab_size: int, rounds: int) -> np.ndarray:
    """Weights (N, classes) of a recursive mixture, from relative frequencies and classes (N, M); class -1: the
    context was never seen."""
    orders, _ = frequencies.shape
    weights = np.full((orders, classes), 0.5)
    for _ in range(rounds):
        chosen = np.where(kinds >= 0, np.take_along_axis(weights, np.maximum(kinds, 0), axis=1), 0.0)
        passed = np.ones((orders + 1, frequencies.shape[1]))  # share that order k hands down, from the top
        for k in range(orders - 1, -1, -1):
            passed[k] = passed[k + 1] * (1 - chosen[k])
        stays = passed[1:] * chosen * frequencies
        floor = passed[0] / vocab_size
        all_orders = stays.sum(axis=0) + floor
        here = stays / all_orders
        reached = np.cumsum(here, axis=0) + floor / all_orders  # posterior that order k or a lower one speaks
        for k in range(orders):
            seen = kinds[k] >= 0
            taken = np.bincount(kinds[k][seen], weights=here[k][seen], minlength=classes)
            offered = np.bincount(kinds[k][seen], weights=reached[k][seen], minlength=classes)
            weights[k] = (taken + 0.5) / (offered + 1)  # half a token each way: no weight becomes 0 or 1
    return weights
