"""The loss: nats of each target, from logits, or from hidden vectors without ever holding all logits."""

from __future__ import annotations

from typing import cast

import mlx.core as mx

from mlx_gpt.descent.exponential import LOG2_E, exp2
from mlx_gpt.descent.packed import Matrix, linear


def logits_of(hidden: mx.array, weight: Matrix, bias: mx.array | None) -> mx.array:
    """hidden (..., D) under weight (V, D) and bias (V,) -> (..., V); a bias of no numbers is none."""
    return linear(hidden, weight, None if bias is None or not bias.size else bias)


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Logits (N, V), targets (N,) -> -log softmax(logits)[target], (N,), in float32 whatever the logits are."""
    if mx.default_device() == mx.gpu:
        return mx.fast.cross_entropy(logits, targets)
    logits = logits.astype(mx.float32)
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return mx.logsumexp(logits, axis=-1) - chosen


def nats_in_chunks(hidden: mx.array, weight: Matrix, bias: mx.array | None, targets: mx.array, chunk: int) -> mx.array:
    """The loss (N,) of each target after hidden (N, D) under weight (V, D), `chunk` rows of logits at a time.

    Forward only: its gradients would keep every chunk. One graph, so that it can be compiled.
    """
    parts: list[mx.array] = []
    for start in range(0, targets.size, chunk):
        h = hidden[start : start + chunk]
        if parts:  # else MLX would be free to make the logits of all chunks first
            h = mx.depends([h], [parts[-1]])[0]
        parts.append(cross_entropy(logits_of(h, weight, bias), targets[start : start + chunk]))
    return mx.concatenate(parts)


def chunked_cross_entropy(
    hidden: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array, chunk: int
) -> mx.array:
    """The summed loss of hidden (N, D) under weight (V, D): a few tables of (chunk, V) exist at one time.

    The gradients are made together with the loss, while a chunk's logits are there: the loss is a sum, so
    the backward pass only multiplies them by one number, and no logit is computed twice.
    """
    gradients = _fused if mx.default_device() == mx.gpu else _written_out

    @mx.custom_function
    def summed(hidden: mx.array, weight: mx.array, bias: mx.array) -> tuple[mx.array, ...]:
        total, d_hidden = mx.array(0.0), list[mx.array]()
        d_weight, d_bias = mx.zeros(weight.shape), mx.zeros(bias.shape)
        for start in range(0, targets.size, chunk):
            h = hidden[start : start + chunk]  # (c, D)
            if d_hidden:  # else MLX would make every chunk's logits before the first gradient
                h = mx.depends([h], [total, d_hidden[-1], d_weight, d_bias])[0]
            nats, at_hidden, at_weight, at_bias = gradients(h, weight, bias, targets[start : start + chunk])
            total, d_weight, d_bias = total + nats, d_weight + at_weight, d_bias + at_bias
            d_hidden.append(at_hidden)
        return total, mx.concatenate(d_hidden), d_weight, d_bias

    @summed.vjp
    def backward(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        scaled = (output * cotangents[0] for output in outputs[1:])
        return tuple(array.astype(primal.dtype) for array, primal in zip(scaled, primals, strict=True))

    nothing = mx.zeros((0,))  # stands for no bias, and has no gradient
    return cast("tuple[mx.array, ...]", summed(hidden, weight, nothing if bias is None else bias))[0]


def _written_out(h: mx.array, weight: mx.array, bias: mx.array, target: mx.array) -> tuple[mx.array, ...]:
    """The loss of a chunk and its gradients in h, weight and bias, in float32: each exponential is taken once."""
    h, weight = h.astype(mx.float32), weight.astype(mx.float32)
    logits = logits_of(h, weight, bias)  # (c, V)
    highest = logits.max(axis=-1, keepdims=True)
    exp = exp2((logits - highest) * LOG2_E)
    mass = exp.sum(axis=-1, keepdims=True)
    nats = (mx.log(mass) + highest - mx.take_along_axis(logits, target[:, None], axis=-1)).sum()
    # p = exp / mass; the division is of the small sides of the products, never of the table
    at_hidden = (exp @ weight) / mass - weight[target]
    at_weight = (exp.T @ (h / mass)).at[target].add(-h)
    if not bias.size:
        return nats, at_hidden, at_weight, bias
    return nats, at_hidden, at_weight, (exp.T @ (1 / mass))[:, 0].at[target].add(mx.array(-1.0))


def _fused(h: mx.array, weight: mx.array, bias: mx.array, target: mx.array) -> tuple[mx.array, ...]:
    """The same by MLX's kernel, which on a GPU reads the logits once each way."""

    # in float16 small probabilities must not vanish, nor a column's sum over the chunk overflow
    scale = 2.0**15 / max(target.size, 2**9) if h.dtype == mx.float16 else 1.0

    def nats(h: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        return mx.fast.cross_entropy(logits_of(h, weight, bias), target).sum() * scale

    total, gradients = mx.value_and_grad(nats, argnums=(0, 1, 2))(h, weight, bias)
    return total * (1 / scale), *(gradient.astype(mx.float32) * (1 / scale) for gradient in gradients)
