"""The number format of the forward and backward pass, and the loss scale that float16 needs.

Masters, optimiser, norms, softmax and loss stay in float32; the matrices and what flows between them do not.
M1 and M2 have no bfloat16 units and are quicker in float16, whose smallest numbers, though, swallow gradients: so the
loss is scaled up before the backward pass and the gradient down after it, by a power of two that follows what overflows
(Micikevicius et al. 2018).
"""

from __future__ import annotations

import time

import mlx.core as mx

TYPES = {"fp32": mx.float32, "bf16": mx.bfloat16, "fp16": mx.float16}
FIRST_SCALE, LARGEST_SCALE = 2.0**16, 2.0**24
PATIENCE = 500  # steps without an overflow before the scale doubles
WORTH = 0.9  # share of float32's time that another format must beat to be picked


def first_scale(precision: str) -> mx.array:
    """What the loss is multiplied by at first: 1 where numbers cannot get too small."""
    return mx.array(FIRST_SCALE if precision == "fp16" else 1.0)


def next_scale(precision: str, scale: mx.array, calm: mx.array, finite: mx.array) -> tuple[mx.array, mx.array]:
    """The scale after a step, and the steps since it last changed: halved by an overflow, doubled after a calm."""
    if precision != "fp16":
        return scale, calm
    calm = mx.where(finite, calm + 1, 0)
    risen = calm >= PATIENCE
    scale = mx.where(finite, mx.where(risen, mx.minimum(scale * 2, LARGEST_SCALE), scale), mx.maximum(scale / 2, 1))
    return scale, mx.where(risen, 0, calm)


def fastest(seconds: float = 1.0) -> tuple[str, dict[str, float]]:
    """The format in which this device does a block's work soonest, measured, and each format's time in seconds.

    Two products and a gate between them, as large as float32 does in some milliseconds; takes about `seconds`.
    """
    size, times = 64, dict[str, float]()
    while _time("fp32", size, 0.0) < 0.004 and size < 2_048:
        size *= 2
    for name in TYPES:
        times[name] = _time(name, size, seconds / len(TYPES))
    chosen = min(times, key=lambda name: times[name])
    return (chosen if times[chosen] < WORTH * times["fp32"] else "fp32"), times


def _time(name: str, size: int, seconds: float) -> float:
    """The least seconds of several rounds, at least one after the first."""
    x, w = (mx.random.normal((size, size), key=mx.random.key(n)).astype(TYPES[name]) for n in range(2))

    def work() -> float:
        started = time.perf_counter()
        h = x @ w
        mx.eval((h * mx.sigmoid(h)) @ w)
        return time.perf_counter() - started

    mx.eval(x, w)
    work()  # the first round makes kernels and buffers
    best, until = work(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        best = min(best, work())
    return best
