"""How sure a score is: a bootstrap over units of text, never over tokens, and what follows from it for differences.

A score is a ratio of sums, r = sum y_u / sum x_u, over units u (documents, or blocks of one): y bits, x bytes. Tokens
of one unit share its subject and its style, so they are no independent witnesses; units are (Miller 2024, arXiv
2411.00640, section 2). The standard error is that of the linearised ratio (Cochran 1977, section 2.11),

    s^2 = U / (U - 1) sum (y_u - r x_u)^2 / (sum x_u)^2

and how many of them the interval reaches is the 95 % quantile of |r* - r| / s* over resampled units: the symmetric
studentised bootstrap (Hall 1988, J. R. Statist. Soc. B 50:35), which covers where the percentiles of r* fall short.
A difference between two models is the same with y the difference of their bits unit by unit: paired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 2_000
MOST = 5_000  # units that are drawn; of more, neighbours are put together
DRAWN = 2**20  # units in memory at one time
NORMAL = 200  # degrees of freedom beyond which Student's quantiles are the normal ones
LEAST = 1e-9  # a p-value below is told as this


@dataclass(frozen=True)
class Estimate:
    """A ratio with its standard error, the half width of its 95 % interval (infinite where the units do not tell),
    and the two-sided p-value of its being 0."""

    value: float
    error: float
    margin: float
    p: float


def estimate(costs: np.ndarray, sizes: np.ndarray, seed: int = 0) -> Estimate | None:
    """The ratio of the sums of costs (U,) and sizes (U,), any and positive. None for fewer than two units, or a cost
    that is not finite."""
    if len(costs) < 2 or not np.isfinite(costs).all():
        return None
    y, x = fewer(costs), fewer(sizes.astype(np.float64))
    count, total = len(y), x.sum()
    value = float(y.sum() / total)
    left = y - value * x
    error = float(np.sqrt(count / (count - 1) * (left**2).sum()) / total)
    if error == 0:
        return Estimate(value, 0.0, 0.0, 1.0 if value == 0 else 0.0)
    chance, parts = np.random.default_rng(seed), []
    for rows in np.array_split(np.arange(RESAMPLES), -(-RESAMPLES * count // DRAWN)):
        drawn = chance.integers(0, count, (len(rows), count))
        e, z = left[drawn], x[drawn]
        whole = z.sum(axis=1)
        shift = e.sum(axis=1) / whole  # r* - r
        spread = np.sqrt(count / (count - 1) * ((e - shift[:, None] * z) ** 2).sum(axis=1)) / whole
        parts.append(np.divide(abs(shift), spread, out=np.full(len(rows), np.inf), where=spread > 0))
    strayed = np.sort(np.concatenate(parts))
    reach = strayed[math.ceil(LEVEL * (RESAMPLES + 1)) - 1]
    beyond = RESAMPLES - np.searchsorted(strayed, abs(value) / error)
    p = float((1 + beyond) / (1 + RESAMPLES))
    if not beyond:  # further than any resample: how much further, Student's tail tells
        p = min(p, max(LEAST, student_p(value / error, count - 1)))
    return Estimate(value, error, float(reach * error), p)


@dataclass(frozen=True)
class Noise:
    """The variance of a mean over seeds, and its degrees of freedom: what training alone adds to a score."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class Verdict:
    """Of a difference of two rows: its p-value, the least true difference that such a test finds in 80 % of cases,
    and the standard error that training alone gives it, None where it is not known of both rows."""

    p: float
    detectable: float
    training: float | None


def noise_of(scores: Sequence[float], counted: bool) -> Noise | None:
    """Of the mean score of seeds; counting has no chance in it. None where one seed alone cannot tell."""
    return noise_from(float(np.std(scores, ddof=1)) if len(scores) > 1 else None, len(scores), counted)


def noise_from(spread: float | None, seeds: int, counted: bool) -> Noise | None:
    """As `noise_of`, from the standard deviation over so many seeds; None of one."""
    if spread is not None:
        return Noise(spread**2 / seeds, seeds - 1)
    return Noise(0.0, 1) if counted else None


def judged(found: Estimate, noises: Sequence[Noise | None]) -> Verdict:
    """A difference with the noise of training of both rows, as far as it is known: p is that of Student's t with it and
    that of the text (degrees of freedom: Welch 1947), unless the text alone has a larger one."""
    known = [each for each in noises if each is not None]
    training = math.sqrt(sum(each.variance for each in known))
    wide = found.margin / NormalDist().inv_cdf((1 + LEVEL) / 2)  # more than the error where units are few
    p, least = found.p, detectable(wide)
    if training and math.isfinite(found.error):
        both = math.hypot(found.error, training)
        freedom = _welch(both, known)
        p, least = max(p, student_p(found.value / both, freedom)), max(least, detectable(both, freedom))
    return Verdict(p, least, training if len(known) == len(noises) else None)


def trained_apart(difference: float, noises: Sequence[Noise | None]) -> float | None:
    """The p-value of a difference of two rows of which the noise of training alone is known, as of two points of
    learning curves (Student's t, Welch 1947); None where one seed alone cannot tell it, or nothing has chance in it."""
    known = [each for each in noises if each is not None]
    training = math.sqrt(sum(each.variance for each in known))
    return student_p(difference / training, _welch(training, known)) if training and len(known) == len(noises) else None


def _welch(error: float, noises: Sequence[Noise]) -> int:
    """Degrees of freedom of a standard error that holds these, and else what is known for sure."""
    return max(1, int(min(MOST, error**4 / sum(each.variance**2 / each.freedom for each in noises))))


def detectable(error: float, freedom: int = MOST) -> float:
    """The least true difference that a two-sided test at 5 % finds in 80 % of such cases, from its standard error."""
    normal = NormalDist()
    if freedom > NORMAL:
        return (normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * error
    return (student_reach(1 - LEVEL, freedom) + student_reach(2 * (1 - POWER), freedom)) * error


def student_p(t: float, dof: int) -> float:
    """The chance of |T| >= t with `dof` degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(dof))
    cos, sin = math.cos(angle), math.sin(angle)
    odd = dof % 2
    term = cos if odd else 1.0
    total = 0.0 if dof == 1 else term
    for k in range(2 + odd, dof - 1, 2):
        term *= cos * cos * (k - 1) / k
        total += term
    within = 2 / math.pi * (angle + sin * total) if odd else sin * total
    return max(0.0, 1 - within)


def student_reach(p: float, dof: int) -> float:
    """The t that |T| reaches with chance p: by halving, for it falls all the way."""
    low, high = 0.0, 1e6
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, dof) > p else (low, middle)
    return high


def holm(p: Sequence[float]) -> list[float]:
    """p-values (N,), each raised so that 0.05 is the chance of any false finding among all (Holm 1979)."""
    raised, highest = [0.0] * len(p), 0.0
    for rank, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[at]))
        raised[at] = highest
    return raised


def fewer(values: np.ndarray, most: int = MOST) -> np.ndarray:
    """At most so many sums of neighbours."""
    return values if len(values) <= most else np.add.reduceat(values, firsts(len(values), most))


def firsts(count: int, most: int = MOST) -> np.ndarray:
    """Which of `count` values are the first of those that `fewer` puts together."""
    kept = min(count, most)
    return np.arange(kept) * count // kept
