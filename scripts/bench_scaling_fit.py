"""L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022, eq. 2), or E + B / D^b, fitted to runs in NumPy.

As there, the logarithm of the law is held against the logarithm of the loss with a Huber loss, from many starts. What
they minimise with L-BFGS is a sum of small residuals' squares, so Gauss and Newton's steps, damped (Levenberg 1944,
Marquardt 1963) and weighted by Huber's weights, get there in tens of steps, all starts and resamples at one time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HUBER = 1e-3  # theirs: of residuals in log space
STEPS = 150
HIGHEST = 3.0  # of an exponent
EMPTY = -12.0  # a logarithm of E: nothing
NEAR = 1e-3  # of an end of what is searched


@dataclass(frozen=True)
class Law:
    """`scales` (K,) and `exponents` (K,) of each size, N and D or D alone; E; the root of the mean square of what is
    left, in log space, which is a share of the loss."""

    floor: float
    scales: tuple[float, ...]
    exponents: tuple[float, ...]
    left: float

    def loss(self, sizes: Sequence[float]) -> float:
        """What it says of sizes (K,)."""
        return self.floor + sum(
            scale / size**power for scale, power, size in zip(self.scales, self.exponents, sizes, strict=True)
        )


@dataclass(frozen=True)
class Fitted:
    """A law, and 95 % intervals of E and of its exponents, from resampled sizes; `bound` names those of E, a and b that
    end where the search does, not where the runs say."""

    law: Law
    floor: tuple[float, float]
    exponents: tuple[tuple[float, float], ...]
    bound: tuple[str, ...]


def fit(sizes: np.ndarray, losses: np.ndarray) -> Law:
    """sizes (R, K), K = 1 or 2, and losses (R,), all positive; at least 2 K + 2 runs make sense."""
    logs, target = _logs(sizes), np.log(losses)
    return _law(_best(logs, target), _middle(sizes), logs, target)


def fitted(sizes: np.ndarray, losses: np.ndarray, resamples: int = 400, seed: int = 0) -> Fitted:
    """A law with intervals: percentiles over sizes drawn with replacement, each with all its runs, for the seeds of one
    size tell no more of the law than their mean; each fit is begun at the law of all runs and at a few others."""
    logs, target, middle = _logs(sizes), np.log(losses), _middle(sizes)
    best, starts = _best(logs, target), _starts(target, logs.shape[1])
    chance = np.random.default_rng(seed)
    distinct, of = np.unique(sizes, axis=0, return_inverse=True)
    drawn = chance.multinomial(len(distinct), np.full(len(distinct), 1 / len(distinct)), resamples)
    drawn = drawn[:, of.reshape(-1)].astype(np.float64)
    known = np.concatenate([best[None], starts[chance.choice(len(starts), 3, replace=False)]])
    tries = len(known)
    laws, costs = _descend(np.tile(known, (resamples, 1)), logs, target, np.repeat(drawn, tries, axis=0))
    kept = laws.reshape(resamples, tries, -1)[np.arange(resamples), costs.reshape(resamples, tries).argmin(axis=1)]
    low, high = np.quantile(kept, [0.025, 0.975], axis=0)
    sides = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    floor = (float(np.exp(low[-1])), float(np.exp(high[-1])))
    powers, names = tuple(sides[1:-1:2]), ("a", "b") if sizes.shape[1] == 2 else ("b",)
    bound = ["E"] if low[-1] <= EMPTY + NEAR else []
    bound += [name for name, (a, b) in zip(names, powers, strict=True) if a <= NEAR or b >= HIGHEST - NEAR]
    return Fitted(_law(best, middle, logs, target), floor, powers, tuple(bound))


def _best(logs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The law (2 K + 1,) that all runs make: a few steps from every start, all steps from where it looks well."""
    alike = np.ones((1, len(target)))
    found, costs = _descend(_starts(target, logs.shape[1]), logs, target, alike, steps=15)
    found, costs = _descend(found[np.argsort(costs)[:12]], logs, target, alike)
    return found[np.argmin(costs)]


def _middle(sizes: np.ndarray) -> np.ndarray:
    return np.log(sizes).mean(axis=0)


def _logs(sizes: np.ndarray) -> np.ndarray:
    """Centred, or a scale and its exponent would be as good as one number."""
    return np.log(sizes) - _middle(sizes)


def _starts(target: np.ndarray, terms: int) -> np.ndarray:
    """(S, 2 K + 1): of each term the logarithm of what it adds in the middle, and its exponent; last that of E."""
    middle = float(target.mean())
    each = list(itertools.product((middle - 2.5, middle - 1), (0.15, 0.4, 1.0)))
    floors = (middle - 3, middle - 0.5)
    rows = [sum(choice, ()) for choice in itertools.product(each, repeat=terms)]
    return np.array([[*row, floor] for row in rows for floor in floors])


def _law(theta: np.ndarray, middle: np.ndarray, logs: np.ndarray, target: np.ndarray) -> Law:
    powers = theta[1:-1:2]
    left = _said(theta[None], logs)[0][0] - target
    return Law(
        float(np.exp(theta[-1])),
        tuple(float(scale) for scale in np.exp(theta[:-1:2] + powers * middle)),
        tuple(float(power) for power in powers),
        float(np.sqrt((left**2).mean())),
    )


def _said(theta: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of the law (S, R), and each term's share of it (S, R, K + 1), the last E's."""
    terms = theta[:, None, :-1:2] - theta[:, None, 1:-1:2] * logs[None]  # (S, R, K)
    floor = np.broadcast_to(theta[:, None, -1:], (*terms.shape[:2], 1))
    terms = np.concatenate([terms, floor], axis=2)
    top = terms.max(axis=2, keepdims=True)
    parts = np.exp(terms - top)
    total = parts.sum(axis=2, keepdims=True)
    return (top + np.log(total))[..., 0], parts / total


def _cost(left: np.ndarray, weights: np.ndarray) -> np.ndarray:
    size = np.abs(left)
    return (weights * np.where(size < HUBER, left**2 / 2, HUBER * (size - HUBER / 2))).sum(axis=1)


def _descend(
    theta: np.ndarray, logs: np.ndarray, target: np.ndarray, weights: np.ndarray, steps: int = STEPS
) -> tuple[np.ndarray, np.ndarray]:
    """From starts (S, P), with weights (S, R) or (1, R) of the runs, to where no step helps; and the costs (S,)."""
    theta = theta.copy()
    damping = np.full(len(theta), 1e-2)
    said, shares = _said(theta, logs)
    left = said - target
    costs = _cost(left, weights)
    for _ in range(steps):
        slopes = np.empty((*left.shape, theta.shape[1]))
        slopes[..., :-1:2] = shares[..., :-1]
        slopes[..., 1:-1:2] = -shares[..., :-1] * logs
        slopes[..., -1] = shares[..., -1]
        held = weights * np.minimum(1, HUBER / np.maximum(np.abs(left), 1e-15))
        turned = slopes.swapaxes(1, 2)
        square = turned @ (held[..., None] * slopes)
        pull = turned @ (held * left)[..., None]
        own = np.einsum("sii->si", square)
        square = square + np.eye(theta.shape[1]) * (damping[:, None] * (own + 1e-9))[:, None]
        moved = theta - np.linalg.solve(square, pull)[..., 0]
        moved[:, 1:-1:2] = np.clip(moved[:, 1:-1:2], 0, HIGHEST)
        moved[:, -1] = np.maximum(moved[:, -1], EMPTY)
        moved[:, :-1:2] = np.clip(moved[:, :-1:2], -30, 30)
        said, new = _said(moved, logs)
        after = _cost(said - target, weights)
        better = after < costs
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        gain = np.where(better, (costs - after) / np.maximum(costs, 1e-300), 0)
        theta = np.where(better[:, None], moved, theta)
        left = np.where(better[:, None], said - target, left)
        shares = np.where(better[:, None, None], new, shares)
        costs = np.where(better, after, costs)
        if not (gain > 1e-9).any() and (damping > 1e3).all():
            break
    return theta, costs
