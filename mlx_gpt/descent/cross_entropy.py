"""The loss: nats of each target, from logits, or from hidden vectors without ever holding all logits."""

from __future__ import annotations

from typing import cast

import mlx.core as mx


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Logits (N, V), targets (N,) -> -log softmax(logits)[target], (N,)."""
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return mx.logsumexp(logits, axis=-1) - chosen


def chunked_cross_entropy(
    hidden: mx.array, weight: mx.array, bias: mx.array | None, targets: mx.array, chunk: int
) -> mx.array:
    """The summed loss of hidden (N, D) under weight (V, D): a few tables of (chunk, V) exist at one time.

    The gradients are made together with the loss, while a chunk's logits are there: the loss is a sum, so
    the backward pass only multiplies them by one number, and no logit is computed twice.
    """
    plain = mx.zeros((weight.shape[0],)) if bias is None else bias

    @mx.custom_function
    def fused(hidden: mx.array, weight: mx.array, bias: mx.array) -> tuple[mx.array, ...]:
        total, d_hidden = mx.array(0.0), list[mx.array]()
        d_weight, d_bias = mx.zeros_like(weight), mx.zeros_like(bias)
        for start in range(0, targets.size, chunk):
            h, target = hidden[start : start + chunk], targets[start : start + chunk]  # (c, D), (c,)
            if d_hidden:  # else MLX would make every chunk's logits before the first gradient
                h = mx.depends([h], [total, d_hidden[-1], d_weight, d_bias])[0]
            logits = mx.addmm(bias, h, weight.T)  # (c, V)
            exp = mx.exp(logits - logits.max(axis=-1, keepdims=True))
            mass = exp.sum(axis=-1, keepdims=True)
            highest = logits.max(axis=-1)
            chosen = mx.take_along_axis(logits, target[:, None], axis=-1)[:, 0]
            total = total + (mx.log(mass[:, 0]) + highest - chosen).sum()
            p = exp / mass
            d_hidden.append(p @ weight - weight[target])
            d_weight = (d_weight + p.T @ h).at[target].add(-h)
            d_bias = (d_bias + p.sum(axis=0)).at[target].add(mx.array(-1.0))
        return total, mx.concatenate(d_hidden), d_weight, d_bias

    @fused.vjp
    def backward(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        scale = cotangents[0]
        return outputs[1] * scale, outputs[2] * scale, outputs[3] * scale

    return cast("tuple[mx.array, ...]", fused(hidden, weight, plain))[0]
