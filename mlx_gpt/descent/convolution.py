"""A causal depthwise convolution: to each token its own number of the last few, mixed channel by channel.

As shift, multiply and add, which compile into few kernels, where `mx.conv1d` with a group for each channel is a loop
over groups on the CPU.

B batch, T tokens, D channels, K taps.
"""

from __future__ import annotations

from typing import cast

import mlx.core as mx

FEW = 16  # tokens; of so few, windows side by side take fewer operations, and what they take more of is little


def convolved(x: mx.array, taps: mx.array) -> mx.array:
    """x (B, K - 1 + T, D), which begins with what came before, and taps (K, D) -> (B, T, D):

    out[t] = sum over k < K of taps[k] * x[K - 1 + t - k]
    """
    return cast(mx.array, _convolved(x, taps))


@mx.custom_function
def _convolved(x: mx.array, taps: mx.array) -> mx.array:
    return _mixed(x, taps[::-1])


@_convolved.vjp
def _convolved_back(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    x, taps = primals
    size, tokens = taps.shape[0], cotangent.shape[1]
    around = mx.pad(cotangent, [(0, 0), (size - 1, size - 1), (0, 0)])
    wide = cotangent.astype(mx.float32)
    per_tap = [(wide * x[:, size - 1 - k : size - 1 - k + tokens]).sum(axis=(0, 1)) for k in range(size)]
    return _mixed(around, taps), mx.stack(per_tap).astype(taps.dtype)


def _mixed(x: mx.array, factors: mx.array) -> mx.array:
    """out[t] = sum over k of factors[k] * x[t + k], in the type of x."""
    size, (batch, seen, width) = factors.shape[0], x.shape
    tokens = seen - size + 1
    if tokens <= FEW:
        windows = mx.as_strided(x, (batch, tokens, size, width), (seen * width, width, width, 1))
        return (windows * factors).sum(axis=2)
    parts = [factors[k : k + 1] * x[:, k : k + tokens] for k in range(size)]
    return sum(parts[1:], parts[0])
