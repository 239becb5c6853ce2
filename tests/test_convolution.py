"""The causal convolution is the sum that defines it, forward and backward, however few tokens there are."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.descent.convolution import convolved


@pytest.mark.parametrize(("taps", "tokens"), [(1, 1), (1, 6), (4, 1), (4, 3), (4, 9), (5, 2)])
def test_values_and_gradients_are_the_sums_written_out(taps: int, tokens: int) -> None:
    """out[t] = sum_k w[k] x[t - k]: the gradient in x[s] is sum_k w[k] d[s + k], that in w[k] is sum_t d[t] x[t - k]."""
    chance = np.random.default_rng(taps * 10 + tokens)
    x, w, d = (chance.normal(size=shape) for shape in ((2, taps - 1 + tokens, 3), (taps, 3), (2, tokens, 3)))
    out, in_x, in_w = np.zeros((2, tokens, 3)), np.zeros(x.shape), np.zeros(w.shape)
    for t in range(tokens):
        for k in range(taps):
            at = taps - 1 + t - k
            out[:, t] += w[k] * x[:, at]
            in_x[:, at] += w[k] * d[:, t]
            in_w[k] += (d[:, t] * x[:, at]).sum(axis=0)
    found, gradients = mx.vjp(convolved, [mx.array(x, mx.float32), mx.array(w, mx.float32)], [mx.array(d, mx.float32)])
    for ours, theirs in zip((found[0], *gradients), (out, in_x, in_w), strict=True):
        assert np.allclose(np.array(ours), theirs, atol=1e-5)
