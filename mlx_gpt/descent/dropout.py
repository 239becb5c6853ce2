"""Dropout that takes its masks from a key in hand, and blocks that are computed twice with the same masks.

A mask drawn from MLX's global stream is drawn anew when a block is recomputed in the backward pass, and the gradient
is silently that of another network. Here every mask follows from one key a step, handed down through `keyed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

_in_hand: list[mx.array] = []  # keys (2,), the innermost last


@contextlib.contextmanager
def keyed(key: mx.array) -> Iterator[None]:
    """All masks drawn inside follow from this key (2,) uint32."""
    _in_hand.append(key)
    try:
        yield
    finally:
        _in_hand.pop()


def next_key() -> mx.array | None:
    """A key (2,) that no one else gets; None, MLX's global stream, where no key is in hand."""
    if not _in_hand:
        return None
    _in_hand[-1], key = mx.random.split(_in_hand[-1])
    return key


class Dropout(nn.Module):
    """Sets a share of the numbers to zero while training and scales up the rest (Srivastava et al. 2014)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def __call__(self, x: mx.array, shape: tuple[int, ...] | None = None) -> mx.array:
        """x, any shape; `shape` of the mask, where one mask serves several places (1 in those dimensions)."""
        if not self.training or not self.share:
            return x
        kept = mx.random.bernoulli(1 - self.share, x.shape if shape is None else shape, key=next_key())
        return mx.where(kept, x * (1 / (1 - self.share)), 0)


def through(block: nn.Module, x: mx.array, *rest: Any, again: bool) -> mx.array:
    """block(x, *rest); with `again` nothing of its inside is kept for the backward pass, which computes it again.

    The gradients are the same to rounding, dropout included: either way a block draws its masks from a key of its own
    (recomputation: Chen et al. 2016).
    """
    key = next_key()
    if not again:
        with contextlib.nullcontext() if key is None else keyed(key):
            return block(x, *rest)

    assert key is not None, "a block computed again needs a key in hand"
    weights = tree_flatten(block.trainable_parameters())
    names, arrays = [name for name, _ in weights], [array for _, array in weights]

    def inner(key: mx.array, x: mx.array, *arrays: mx.array) -> mx.array:
        block.update(tree_unflatten(list(zip(names, arrays, strict=True))))
        with keyed(key):
            return block(x, *rest)

    outer = mx.custom_function(inner)

    @outer.vjp
    def backward(primals: tuple[mx.array, ...], cotangent: mx.array, output: mx.array) -> tuple[mx.array, ...]:
        # mx.checkpoint lets MLX compute all blocks again before the first gradient, and saves little: here a block
        # waits for the gradient that comes down to it
        key, *others = mx.depends(list(primals), [cotangent])
        _, (down, *gradients) = mx.vjp(lambda *others: [inner(key, *others)], others, [cotangent])
        down = mx.depends([down], gradients)[0]  # and the next block for this one's weights, else all insides pile up
        return mx.zeros_like(key), down, *gradients

    return cast(mx.array, outer(key, x, *arrays))
