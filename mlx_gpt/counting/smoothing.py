"""From counts to probabilities: how mass is taken from what was seen and given to what was not.

A smoothing says how much it takes from each count c of a word w after a context h. The rest is one rule:

    p(w | h) = (c - taken) / c(h) + rest(h) p(w | h'),   rest(h) = all that was taken after h / c(h)

with h' the context without its first token and, below the unigram, 1 / V for every token of the vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlx_gpt.counting.counts import Counts
from mlx_gpt.counting.statistics import FALLBACK, Notice, Statistics, good_turing


@dataclass(frozen=True)
class Group:
    """The children of neighbouring contexts: R rows of C contexts, each context whole.

    sizes   (C,)  children of each context
    counts  (R,)  how often each child was counted, 0 only for tokens of the vocabulary that were never seen
    """

    sizes: np.ndarray
    counts: np.ndarray

    def sum(self, values: np.ndarray) -> np.ndarray:
        """(R,) -> (C,): the sum over each context's children."""
        found = np.zeros(len(self.sizes))
        if len(values):
            filled, begins = self._filled
            found[filled] = np.add.reduceat(values.astype(np.float64, copy=False), begins)
        return found

    @cached_property
    def _filled(self) -> tuple[np.ndarray, np.ndarray]:
        """The contexts that have children, and where these begin."""
        filled = np.flatnonzero(self.sizes)
        return filled, (np.cumsum(self.sizes) - self.sizes).take(filled)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """(C,) -> (R,): each context's value for each of its children."""
        return np.repeat(values, self.sizes)

    @cached_property
    def totals(self) -> np.ndarray:
        """(C,): how often something was counted after each context."""
        return self.sum(self.counts)

    @cached_property
    def kinds(self) -> np.ndarray:
        """(C,): how many different tokens came after each context."""
        return self.sum(self.counts > 0)


class Smoothing(ABC):
    """How mass is taken. One object serves one estimation: `learn` is called once, then `taken` for every group."""

    continuation = False  # lower orders count in how many places an n-gram continues something
    interpolated = True  # what was taken goes to all words by the lower order; else to the unseen alone

    @abstractmethod
    def learn(self, counts: Counts, found: Sequence[Statistics], notice: Notice) -> None:
        """Look at the whole once; may put its discounts into `found`."""

    @abstractmethod
    def taken(self, k: int, group: Group) -> np.ndarray:
        """(R,) what is taken from each count of order k."""


class MaximumLikelihood(Smoothing):
    """p = c / c(h): nothing is taken, the unseen has no mass, and an unseen context asks the shorter one."""

    def learn(self, counts: Counts, found: Sequence[Statistics], notice: Notice) -> None:
        return

    def taken(self, k: int, group: Group) -> np.ndarray:
        return np.zeros(len(group.counts))


class AddK(Smoothing):
    """p = (c + k) / (c(h) + k V) at the highest order (Laplace 1814 with k = 1; Lidstone 1920).

    Written by the one rule: the lower orders take everything, so that they are uniform.
    """

    def __init__(self, add: float) -> None:
        self.add = add

    def learn(self, counts: Counts, found: Sequence[Statistics], notice: Notice) -> None:
        self.order, self.mass = len(counts.orders), self.add * counts.vocab_size

    def taken(self, k: int, group: Group) -> np.ndarray:
        if k < self.order:
            return group.counts.astype(np.float64)
        return group.counts * group.spread(self.mass / (group.totals + self.mass))


class Mixture(Smoothing):
    """p = l c / c(h) + (1 - l) p(w | h') with weights l (N, buckets) by order and by how often h was seen.

    Jelinek & Mercer 1980; counting/weights.py fits them on held-out text.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def learn(self, counts: Counts, found: Sequence[Statistics], notice: Notice) -> None:
        return

    def taken(self, k: int, group: Group) -> np.ndarray:
        given = 1 - self.weights[k - 1][buckets(group.totals, self.weights.shape[1])]
        return group.counts * group.spread(given)


def buckets(totals: np.ndarray, most: int) -> np.ndarray:
    """Class 0, 1, … of contexts seen 1, 10, 100, … times or more; the last class has no end."""
    return np.minimum(np.log10(np.maximum(totals, 1)).astype(np.int64), most - 1)


class WittenBell(Smoothing):
    """p = (c + n(h) p(w | h')) / (c(h) + n(h)), n(h) different tokens after h (Witten & Bell 1991, method C)."""

    def learn(self, counts: Counts, found: Sequence[Statistics], notice: Notice) -> None:
        return

    def taken(self, k: int, group: Group) -> np.ndarray:
        return group.counts * group.spread(group.kinds / np.maximum(group.totals + group.kinds, 1))


class Discounting(Smoothing):
    """A fixed amount is taken from every count: one for all, or three for counts of 1, 2 and more, by order.

    Absolute discounting (Ney, Essen & Kneser 1994); with continuation counts Kneser & Ney 1995, interpolated
    and with three amounts modified Kneser-Ney (Chen & Goodman 1999), which is KenLM's model.
    """

    def __init__(self, rule: Callable[[np.ndarray], tuple[float, ...] | None], continuation: bool) -> None:
        self.rule, self.continuation = rule, continuation

    def learn(self, counts: Counts, found: Sequence[Statistics], notice: Notice) -> None:
        self.amounts = []
        failed = []
        for k, each in enumerate(found, 1):
            defined = self.rule(each.times)
            each.discounts = FALLBACK if defined is None else defined
            failed += [] if defined else [str(k)]
            self.amounts.append(np.array([0.0, *each.discounts]))
        if failed:
            orders = f"order{'s' if len(failed) > 1 else ''} {', '.join(failed)}"
            spelled = ", ".join(f"{amount:g}" for amount in FALLBACK)
            notice(f"{orders}: so small or repetitive a text allows no estimate of discounts, so {spelled} are used")

    def taken(self, k: int, group: Group) -> np.ndarray:
        return self.amounts[k - 1].take(np.minimum(group.counts, 3))


class Katz(Smoothing):
    """Good-Turing takes from counts up to 5; what it frees goes to unseen words alone (Katz 1987)."""

    interpolated = False

    def learn(self, counts: Counts, found: Sequence[Statistics], notice: Notice) -> None:
        self.ratios = []
        for k, each in enumerate(found, 1):
            defined = good_turing(each.times)
            if defined is None:
                notice(f"order {k}: too few rare n-grams for Good and Turing, so {FALLBACK[0]} is taken from each")
            self.ratios.append(defined)

    def taken(self, k: int, group: Group) -> np.ndarray:
        ratios = self.ratios[k - 1]
        if ratios is None:
            taken = np.minimum(group.counts, FALLBACK[0])
        else:
            taken = group.counts * (1 - ratios.take(np.minimum(group.counts, len(ratios) - 1)))
        untouched = (group.sum(taken) <= 0) & (group.totals > 0)  # one more, for the unseen
        return np.where(group.spread(untouched), group.counts / group.spread(group.totals + 1), taken)
