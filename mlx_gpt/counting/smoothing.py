"""From counts to probabilities: how mass is taken from what was seen and given to what was not.

Every function returns the probabilities (R,) and backoffs (R,) of each order. The unigram interpolates with
the uniform distribution over the vocabulary, so that every token has mass. c count, h context, h' the context
without its first token, n(h) different tokens after h.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlx_gpt.counting.counts import Order, continuation_counts
from mlx_gpt.counting.table import Level, Table

Notice = Callable[[str], None]
FALLBACK = (0.5, 1.0, 1.5)  # discounts where the counts of counts leave them undefined, as KenLM's lmplz does


def add_k(orders: list[Order], k: float) -> Table:
    """p(w) = (c(w) + k) / (N + k V), order 1 only (Laplace; Lidstone 1920)."""
    counts = orders[0].counts
    p = (counts + k) / (counts.sum() + k * len(counts))
    return Table([_level(orders[0], p, np.ones(len(p)))])


def jelinek_mercer(orders: list[Order], heldout: np.ndarray, buckets: int, rounds: int) -> Table:
    """p_k(w | h) = l c(h w) / c(h) + (1 - l) p_{k-1}(w | h'), with l fitted by EM on held-out text.

    Jelinek & Mercer 1980. The weight l depends on the order and on how often h was seen, in `buckets`
    classes, each ten times as often as the one before. `heldout` is a stream of documents.
    """
    vocab_size = len(orders[0].keys)
    totals = _totals(orders)
    ratios = [order.counts / total[order.contexts] for order, total in zip(orders, totals, strict=True)]
    classes = [np.minimum(np.log10(np.maximum(total, 1)).astype(np.int64), buckets - 1) for total in totals]

    # of each held-out token: its relative frequency under each order, and its context's class there
    counted = Table([_level(order, ratio, np.ones(len(ratio))) for order, ratio in zip(orders, ratios, strict=True)])
    stream = np.asarray(heldout, np.int64)[None]
    rows = [row[0] for row in counted.rows(stream)]
    frequencies, groups = [], []
    for k, ratio in enumerate(ratios):
        context = rows[k - 1][:-1] if k else np.zeros(stream.size - 1, np.int64)
        hit = rows[k][1:]
        has_children = (context >= 0) & (totals[k][np.maximum(context, 0)] > 0)
        frequencies.append(np.where(hit >= 0, ratio[hit] if len(ratio) else 0.0, 0.0))
        groups.append(np.where(has_children, classes[k][np.maximum(context, 0)], -1))
    weights = _maximise(np.array(frequencies), np.array(groups), buckets, vocab_size, rounds)

    levels: list[Level] = []
    lower, base = np.array([]), 1.0 / vocab_size
    for k, order in enumerate(orders):
        weight = weights[k][classes[k]] * (totals[k] > 0)
        below = lower[order.suffixes] if k else np.full(vocab_size, base)
        p = weight[order.contexts] * ratios[k] + (1 - weight[order.contexts]) * below
        if k:
            levels[-1] = Level(levels[-1].keys, levels[-1].probabilities, (1 - weight).astype(np.float32))
        levels.append(_level(order, p, np.ones(len(p))))
        lower = p
    return Table(levels)


def _maximise(frequencies: np.ndarray, groups: np.ndarray, buckets: int, vocab_size: int, rounds: int) -> np.ndarray:
    """EM for the weights (N, buckets) of a recursive mixture; group -1 means the context was never seen."""
    orders, _ = frequencies.shape
    weights = np.full((orders, buckets), 0.5)
    for _ in range(rounds):
        chosen = np.where(groups >= 0, np.take_along_axis(weights, np.maximum(groups, 0), axis=1), 0.0)
        passed = np.ones((orders + 1, frequencies.shape[1]))  # share that order k hands down, from the top
        for k in range(orders - 1, -1, -1):
            passed[k] = passed[k + 1] * (1 - chosen[k])
        stays = passed[1:] * chosen * frequencies
        floor = passed[0] / vocab_size
        whole = stays.sum(axis=0) + floor
        here = stays / whole
        reached = np.cumsum(here, axis=0) + floor / whole  # posterior that order k or a lower one speaks
        for k in range(orders):
            seen = groups[k] >= 0
            taken = np.bincount(groups[k][seen], weights=here[k][seen], minlength=buckets)
            offered = np.bincount(groups[k][seen], weights=reached[k][seen], minlength=buckets)
            weights[k] = (taken + 0.5) / (offered + 1)  # half a token each way: no weight becomes 0 or 1
    return weights


def kneser_ney(orders: list[Order], notice: Notice) -> Table:
    """Interpolated modified Kneser-Ney: three discounts an order, lower orders count continuations.

    Kneser & Ney 1995; Chen & Goodman 1999, section 4.1. Discounts that the counts of counts leave undefined
    (small or artificial texts) fall back to 0.5, 1, 1.5 with a notice.
    """
    adjusted = continuation_counts(orders)
    discounts = []
    for k, counts in enumerate(adjusted):
        found = _three_discounts(counts)
        if found is None:
            notice(f"order {k + 1}: too few counts for Kneser-Ney's discounts, so {FALLBACK} are used")
        discounts.append(np.array([0.0, *(found or FALLBACK)]))
    taken = [discount[np.minimum(counts, 3)] for discount, counts in zip(discounts, adjusted, strict=True)]
    return _discounted(orders, adjusted, taken)


def _three_discounts(counts: np.ndarray) -> tuple[float, float, float] | None:
    """D_j = j - (j + 1) Y n_{j+1} / n_j with Y = n_1 / (n_1 + 2 n_2), or None where that is no discount."""
    n = [0, *(int((counts == j).sum()) for j in range(1, 5))]
    if not (n[1] and n[2] and n[3]):
        return None
    y = n[1] / (n[1] + 2 * n[2])
    found = tuple(j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3))
    return (found[0], found[1], found[2]) if all(0 <= d <= j for j, d in enumerate(found, 1)) else None


def absolute(orders: list[Order], notice: Notice) -> Table:
    """Absolute discounting, interpolated: p = max(c - D, 0) / c(h) + D n(h) / c(h) p(w | h').

    Ney, Essen & Kneser 1994, with their D = n_1 / (n_1 + 2 n_2) for each order.
    """
    taken = []
    for k, order in enumerate(orders):
        once, twice = (int((order.counts == j).sum()) for j in (1, 2))
        if not once:
            notice(f"order {k + 1}: nothing was seen just once, so the discount is {FALLBACK[0]}")
        discount = once / (once + 2 * twice) if once else FALLBACK[0]
        taken.append(np.minimum(order.counts, discount))
    return _discounted(orders, [order.counts for order in orders], taken)


def witten_bell(orders: list[Order], notice: Notice) -> Table:
    """p = (c(h w) + n(h) p(w | h')) / (c(h) + n(h)) (Witten & Bell 1991, method C; interpolated)."""
    taken = []
    for order, total in zip(orders, _totals(orders), strict=True):
        kinds = order.sums(order.counts > 0, len(total))
        share = kinds / np.maximum(total + kinds, 1)
        taken.append(order.counts * share[order.contexts])
    return _discounted(orders, [order.counts for order in orders], taken)


def katz(orders: list[Order], notice: Notice) -> Table:
    """Good-Turing discounts for counts up to 5; what they free goes to unseen words only (Katz 1987)."""
    counts = [order.counts for order in orders]
    taken = [order_counts * (1 - _good_turing(order_counts, k + 1, notice)) for k, order_counts in enumerate(counts)]
    levels = _discounted(orders[:1], counts[:1], taken[:1]).levels
    for k in range(1, len(orders)):
        order, contexts = orders[k], len(orders[k - 1].keys)
        total = order.sums(counts[k], contexts)
        total += order.sums(taken[k], contexts) <= 0  # nothing was discounted: one more, for the unseen
        p = (counts[k] - taken[k]) / total[order.contexts]
        lower = levels[-1].probabilities.astype(np.float64)
        left, free = 1 - order.sums(p, contexts), 1 - order.sums(lower[order.suffixes], contexts)
        exhausted = free < 1e-6  # every word follows this context, so nobody can take what is left
        p = np.where(exhausted[order.contexts], p / (1 - left)[order.contexts], p)
        backoff = np.where(exhausted, 1.0, left / np.where(exhausted, 1.0, free))
        levels[-1] = Level(levels[-1].keys, levels[-1].probabilities, backoff.astype(np.float32))
        levels.append(_level(order, p, np.ones(len(p))))
    return Table(levels)


def _good_turing(counts: np.ndarray, order: int, notice: Notice, largest: int = 5) -> np.ndarray:
    """Katz's ratio d_r for each count: r* / r corrected so that counts above `largest` stay as they are."""
    n = np.bincount(np.minimum(counts, largest + 1), minlength=largest + 2).astype(np.float64)
    n[largest + 1] = (counts == largest + 1).sum()
    ratio = np.ones(largest + 2)
    r = np.arange(1, largest + 1)
    if (n[1 : largest + 2] > 0).all():
        common = (largest + 1) * n[largest + 1] / n[1]
        found = ((r + 1) * n[r + 1] / (r * n[r]) - common) / (1 - common) if common < 1 else np.zeros(largest)
        if ((found > 0) & (found <= 1)).all():
            ratio[1 : largest + 1] = found
            return ratio[np.minimum(counts, largest + 1)]
    notice(f"order {order}: too few counts for Good-Turing, so absolute discounts of {FALLBACK[0]} are used")
    return np.where(counts > 0, 1 - FALLBACK[0] / np.maximum(counts, 1), 1.0)


FAMILY: dict[str, Callable[[list[Order], Notice], Table]] = {
    "kneser-ney": kneser_ney,
    "absolute": absolute,
    "witten-bell": witten_bell,
    "katz": katz,
}


def _discounted(orders: list[Order], counts: list[np.ndarray], taken: list[np.ndarray]) -> Table:
    """p(w | h) = (c - taken) / c(h) + [all that was taken after h] / c(h) p(w | h')."""
    levels: list[Level] = []
    lower = np.array([])
    for k, order in enumerate(orders):
        contexts = len(orders[k - 1].keys) if k else 1
        total = order.sums(counts[k], contexts)
        rest = np.where(total > 0, order.sums(taken[k], contexts) / np.maximum(total, 1), 1.0)
        below = lower[order.suffixes] if k else np.full(len(order.keys), 1.0 / len(order.keys))
        p = (counts[k] - taken[k]) / np.maximum(total, 1)[order.contexts] + rest[order.contexts] * below
        if k:
            levels[-1] = Level(levels[-1].keys, levels[-1].probabilities, rest.astype(np.float32))
        levels.append(_level(order, p, np.ones(len(p))))
        lower = p
    return Table(levels)


def _totals(orders: list[Order]) -> list[np.ndarray]:
    """c(h) of every context of each order; order 1 has the one empty context."""
    sizes = [1, *(len(order.keys) for order in orders[:-1])]
    return [order.sums(order.counts, size) for order, size in zip(orders, sizes, strict=True)]


def _level(order: Order, probabilities: np.ndarray, backoffs: np.ndarray) -> Level:
    return Level(order.keys, probabilities.astype(np.float32), backoffs.astype(np.float32))
