"""The recurrent scans of stages 6 and 7, with backward passes written by hand.

Autodiff of a loop over time makes one weight gradient a step, and keeps every number a step has touched. Here the
backward loop makes only what the step before needs (Werbos 1990), the gradients of the weights follow from all steps
at once in one matrix product, and what is kept for it is what cannot be had again for a few multiplications: the
states, and for the LSTM the gates (Appleyard et al. 2016). Arrays are time-major, so that a step is one piece of
memory.

T tokens, B batch, D width. Matrix products are in the type of the inputs; the arithmetic of the cells and the protected
vector c are in float32 whatever that is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.descent.exponential import LOG2_E, exp2
from mlx_gpt.descent.packed import Matrix, Packed, whole

SMALLEST = 1e-30  # where an output gate counts as shut
THREADS = 256  # of a Metal thread group


def rnn_scan(inputs: mx.array, recurrent: Matrix, h: mx.array) -> tuple[mx.array, mx.array]:
    """h_t = tanh(x_t + U h_{t-1}) for t = 1 … T.

    inputs (T, B, D), what x and the bias come to; recurrent U (D, D); h (B, D) before the first step
    -> every h (T, B, D) and the last (B, D). Gradients in all three. Source: Elman 1990.
    """
    if isinstance(recurrent, Packed) and len(inputs) == 1:  # not written out for the sake of one token
        every = mx.tanh(inputs + recurrent.times(h.astype(inputs.dtype)))
        return every, every[0].astype(h.dtype)
    outputs: Any = _rnn(inputs, whole(recurrent).astype(inputs.dtype), h.astype(inputs.dtype))
    every, last = outputs
    return every, last.astype(h.dtype)


def lstm_scan(inputs: mx.array, recurrent: Matrix, h: mx.array, c: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """i, f, g, o = x_t + U h_{t-1};  c_t = σ(f) c_{t-1} + σ(i) tanh(g);  h_t = σ(o) tanh(c_t)  for t = 1 … T.

    inputs (T, B, 4 D), what x and the bias come to; recurrent U (4 D, D); h and c (B, D) before the first step
    -> every h (T, B, D), the last h and the last c (B, D). Gradients in all four. Source: Gers et al. 2000.
    """
    dtype = inputs.dtype
    if isinstance(recurrent, Packed) and len(inputs) == 1:
        z = inputs[0] + recurrent.times(h.astype(dtype))  # (B, 4 D)
        seen, after, _ = lstm_cell(c.shape[-1])(z, c.astype(mx.float32))
        return seen[None], seen.astype(h.dtype), after.astype(c.dtype)
    outputs: Any = _lstm(inputs, whole(recurrent).astype(dtype), h.astype(dtype), c.astype(mx.float32))
    every, last, after = outputs[:3]
    return every, last.astype(h.dtype), after.astype(c.dtype)


# --- the loops. Steps are cut out of (T B, …) with one split: fewer pieces of graph than T slices


@mx.custom_function
def _rnn(inputs: mx.array, recurrent: mx.array, h: mx.array) -> tuple[mx.array, mx.array]:
    turned, seen = recurrent.T, list[mx.array]()
    for x in _steps(inputs):
        h = mx.tanh(mx.addmm(x, h, turned))  # (B, D)
        seen.append(h)
    return _joined(seen), h


@_rnn.vjp
def _rnn_back(
    primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
) -> tuple[mx.array, ...]:
    _, recurrent, first = primals
    every, seen = outputs[0], _steps(outputs[0])
    d_seen = _steps(cotangents[0])
    d_h, d_z = d_seen[-1] + cotangents[1], list[mx.array]()
    for t in reversed(range(len(seen))):
        d_z.append(rnn_cell_back(d_h, seen[t]))  # (B, D)
        d_h = mx.addmm(d_seen[t - 1], d_z[-1], recurrent) if t else d_z[-1] @ recurrent
    d_inputs = _joined(d_z[::-1])
    return d_inputs, _recurrent_back(d_inputs, first, every), d_h


@mx.custom_function
def _lstm(inputs: mx.array, recurrent: mx.array, h: mx.array, c: mx.array) -> tuple[mx.array, ...]:
    """Besides what lstm_scan returns: the c (B, D) before each step, and the gates (B, 4 D) of each.

    They are outputs because a backward pass may use nothing else, and not joined because then there are two of each.
    """
    cell, turned = lstm_cell(c.shape[-1]), recurrent.T
    seen, before, kept = list[mx.array](), list[mx.array](), list[mx.array]()
    for x in _steps(inputs):
        before.append(c)
        h, c, gates = cell(mx.addmm(x, h, turned), c)  # (B, D), (B, D), (B, 4 D)
        seen.append(h)
        kept.append(gates)
    return _joined(seen), h, c, *before, *kept


@_lstm.vjp
def _lstm_back(
    primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
) -> tuple[mx.array, ...]:
    inputs, recurrent, first, _ = primals
    every, before, kept = outputs[0], outputs[3 : 3 + len(inputs)], outputs[3 + len(inputs) :]
    seen, d_seen = _steps(every), _steps(cotangents[0])
    d_h, d_c, steps = d_seen[-1] + cotangents[1], cotangents[2], list[mx.array]()
    for t in reversed(range(len(seen))):
        d_z, d_c = lstm_cell_back(d_h, d_c, kept[t], before[t], seen[t])  # (B, 4 D), (B, D)
        steps.append(d_z)
        d_h = mx.addmm(d_seen[t - 1], d_z, recurrent) if t else d_z @ recurrent
    d_inputs = _joined(steps[::-1])
    return d_inputs, _recurrent_back(d_inputs, first, every), d_h, d_c


def _recurrent_back(d_inputs: mx.array, first: mx.array, every: mx.array) -> mx.array:
    """The gradient in U (G, D), given that in the inputs (T, B, G), the first h (B, D) and every later one."""
    at_first = d_inputs[0].T @ first
    if len(every) == 1:
        return at_first
    return mx.addmm(at_first, d_inputs[1:].flatten(0, 1).T, every[:-1].flatten(0, 1))


def _steps(x: mx.array) -> list[mx.array]:
    """(T, B, …) -> T of (B, …)."""
    return [x[0]] if len(x) == 1 else list(mx.split(x.flatten(0, 1), len(x)))


def _joined(steps: list[mx.array]) -> mx.array:
    """T of (B, …) -> (T, B, …)."""
    return steps[0][None] if len(steps) == 1 else mx.unflatten(mx.concatenate(steps), 0, (len(steps), -1))


# --- the cells


def rnn_cell_back(d_h: mx.array, h: mx.array) -> mx.array:
    """The gradient in h (B, D) -> that in z (B, D), h = tanh(z). Compiled it is one kernel: none is written for it."""
    wide = h.astype(mx.float32)
    return (d_h * (1 - wide * wide)).astype(h.dtype)


def lstm_cell(width: int) -> Callable[[mx.array, mx.array], tuple[mx.array, mx.array, mx.array]]:
    """For a width D the step z (B, 4 D), c (B, D) float32 -> h (B, D), c (B, D) float32, gates (B, 4 D)."""
    return _lstm_cell_on_metal if _on_metal() else written_out(width)


def written_out(width: int) -> Callable[[mx.array, mx.array], tuple[mx.array, mx.array, mx.array]]:
    """What the Metal kernel computes, in plain operations.

    σ(z) = 1 / (1 + 2^(-z log2 e)) and tanh(z) = 2 σ(2 z) - 1: all gates at once, by the function
    that MLX's CPU does soonest.
    """
    slope, rate, drop = _slopes(width)

    def cell(z: mx.array, c: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        gates = slope / (1 + exp2(z.astype(mx.float32) * rate)) - drop
        i, f, g, o = mx.split(gates, 4, axis=-1)
        c = f * c + i * g
        return (o * mx.tanh(c)).astype(z.dtype), c, gates.astype(z.dtype)

    return cell


@functools.cache
def _slopes(width: int) -> tuple[mx.array, mx.array, mx.array]:
    """Constants (4 D,): 1 for σ and 2 for tanh, that times -log2 e, and less 1; made of NumPy's, so that a trace that
    asks first leaves nothing of itself in them."""
    slope = np.repeat(np.array([1, 1, 2, 1], np.float32), width)
    return mx.array(slope), mx.array(slope * np.float32(-LOG2_E)), mx.array(slope - 1)


def lstm_cell_back(
    d_h: mx.array, d_c: mx.array, gates: mx.array, before: mx.array, h: mx.array
) -> tuple[mx.array, mx.array]:
    """Gradients in h and c after a step (B, D), its gates (B, 4 D), the c before and the h after it (B, D)
    -> the gradients in z (B, 4 D) and in the c before."""
    if _on_metal():
        return _lstm_cell_back_on_metal(d_h, d_c, gates, before)
    return written_out_back(d_h, d_c, gates, before, h)


def written_out_back(
    d_h: mx.array, d_c: mx.array, gates: mx.array, before: mx.array, h: mx.array
) -> tuple[mx.array, mx.array]:
    """What the Metal kernel computes, in plain operations."""
    i, f, g, o = mx.split(gates.astype(mx.float32), 4, axis=-1)
    # h = o tanh(c) has tanh(c) in it, at the price of a division; in 16 bits it is too coarse for 1 - tanh²
    squashed = h / mx.maximum(o, SMALLEST) if h.dtype == mx.float32 else mx.tanh(f * before + i * g)
    d_c = d_c + d_h * o * (1 - squashed * squashed)
    parts = [
        d_c * g * i * (1 - i),
        d_c * before * f * (1 - f),
        d_c * i * (1 - g * g),
        d_h * squashed * o * (1 - o),
    ]
    return mx.concatenate([part.astype(gates.dtype) for part in parts], axis=-1), d_c * f


# --- the cell of the LSTM on Metal, where a kernel more or less is most of the time of a step


def _on_metal() -> bool:
    return mx.metal.is_available() and mx.default_device() == mx.gpu


SIGMOID = """
inline float opened(float z) {
    float y = 1.0f / (1.0f + metal::precise::exp(metal::abs(z)));
    return z < 0.0f ? y : 1.0f - y;
}
"""

FORWARD = """
    uint index = thread_position_in_grid.x;
    uint width = c_shape[1];
    if (index >= uint(c_shape[0]) * width) return;
    uint first = index / width * 4 * width + index % width;
    float i = opened(float(z[first]));
    float f = opened(float(z[first + width]));
    float g = metal::precise::tanh(float(z[first + 2 * width]));
    float o = opened(float(z[first + 3 * width]));
    float kept = f * float(c[index]) + i * g;
    after[index] = kept;
    h[index] = static_cast<T>(o * metal::precise::tanh(kept));
    gates[first] = static_cast<T>(i);
    gates[first + width] = static_cast<T>(f);
    gates[first + 2 * width] = static_cast<T>(g);
    gates[first + 3 * width] = static_cast<T>(o);
"""

BACKWARD = """
    uint index = thread_position_in_grid.x;
    uint width = before_shape[1];
    if (index >= uint(before_shape[0]) * width) return;
    uint first = index / width * 4 * width + index % width;
    float i = float(gates[first]);
    float f = float(gates[first + width]);
    float g = float(gates[first + 2 * width]);
    float o = float(gates[first + 3 * width]);
    float c = float(before[index]);
    float squashed = metal::precise::tanh(f * c + i * g);
    float at_h = float(d_h[index]);
    float at_c = float(d_c[index]) + at_h * o * (1.0f - squashed * squashed);
    d_z[first] = static_cast<T>(at_c * g * i * (1.0f - i));
    d_z[first + width] = static_cast<T>(at_c * c * f * (1.0f - f));
    d_z[first + 2 * width] = static_cast<T>(at_c * i * (1.0f - g * g));
    d_z[first + 3 * width] = static_cast<T>(at_h * squashed * o * (1.0f - o));
    d_before[index] = at_c * f;
"""


@functools.cache
def _kernel(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], source: str) -> Any:
    return mx.fast.metal_kernel(name, list(inputs), list(outputs), source, header=SIGMOID)


def _lstm_cell_on_metal(z: mx.array, c: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    kernel = _kernel("mlx_gpt_lstm", ("z", "c"), ("h", "after", "gates"), FORWARD)
    h, after, gates = kernel(
        inputs=[z, c],
        template=[("T", z.dtype)],
        grid=(c.size, 1, 1),
        threadgroup=(min(THREADS, c.size), 1, 1),
        output_shapes=[c.shape, c.shape, z.shape],
        output_dtypes=[z.dtype, mx.float32, z.dtype],
    )
    return h, after, gates


def _lstm_cell_back_on_metal(
    d_h: mx.array, d_c: mx.array, gates: mx.array, before: mx.array
) -> tuple[mx.array, mx.array]:
    names = ("d_h", "d_c", "gates", "before")
    kernel = _kernel("mlx_gpt_lstm_back", names, ("d_z", "d_before"), BACKWARD)
    d_z, d_before = kernel(
        inputs=[d_h, d_c, gates, before],
        template=[("T", gates.dtype)],
        grid=(before.size, 1, 1),
        threadgroup=(min(THREADS, before.size), 1, 1),
        output_shapes=[gates.shape, before.shape],
        output_dtypes=[gates.dtype, mx.float32],
    )
    return d_z, d_before
