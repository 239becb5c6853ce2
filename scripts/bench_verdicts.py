"""What a change is worth, from a few seeds: Student's t on paired differences, and a verdict in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_gpt.bootstrap import LEVEL, POWER, holm, student_p, student_reach

ALPHA = 1 - LEVEL
PAYS, COSTS, NONE_FOUND = "pays", "costs", "no difference found"


@dataclass(frozen=True)
class Paired:
    """The mean of differences, half the width of its 95 % interval, the two-sided p-value of its being 0, and the
    least true difference that a test at 5 % finds in 80 % of such samples."""

    mean: float
    margin: float
    p: float
    detectable: float


def paired(differences: Sequence[float]) -> Paired:
    """Differences seed by seed, two at least."""
    count = len(differences)
    mean, error = statistics.mean(differences), statistics.stdev(differences) / math.sqrt(count)
    wide, strong = student_reach(ALPHA, count - 1), student_reach(2 * (1 - POWER), count - 1)
    p = student_p(mean / error, count - 1) if error else float(mean == 0)
    return Paired(mean, wide * error, p, (wide + strong) * error)


def verdicts(found: Sequence[Paired]) -> list[tuple[str, float]]:
    """Of bits saved: whether each change pays or costs, and its p-value after Holm, all being one family."""
    told = []
    for each, p in zip(found, holm([each.p for each in found]), strict=True):
        sure = PAYS if each.mean > 0 else COSTS
        told.append((sure if p < ALPHA else NONE_FOUND, p))
    return told
