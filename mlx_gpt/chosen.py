"""What log-probabilities say of a chosen token, and of those that might have stood in its place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class Chosen:
    """A token, its log-probability in nats, and the likeliest tokens with theirs, the likeliest first.

    The token is one of those if it is likely enough.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]

    @property
    def bits(self) -> float:
        """How surprising the token was."""
        return -self.logprob / math.log(2)


def chosen(logprobs: mx.array, tokens: mx.array, alternatives: int = 0) -> list[Chosen]:
    """What log-probabilities (B, V) say of tokens (B,), and that many of the likeliest; the lowest ids of equals."""
    rows = np.array(logprobs.astype(mx.float32))
    told = []
    for row, token in zip(rows, np.array(tokens).tolist(), strict=True):
        best = ((int(each), float(row[each])) for each in largest(row, alternatives))
        told.append(Chosen(token, float(row[token]), tuple(best)))
    return told


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest of (N,), or of all there are, the largest first and the lowest index of equals."""
    count = min(count, len(values))
    if count == 0:
        return np.zeros(0, np.intp)
    able = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return able[np.argsort(-values[able], kind="stable")][:count]
