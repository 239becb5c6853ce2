"""Rotary positions (Su et al. 2021): one kernel on a GPU; on a CPU, where that kernel makes the angles anew at every
call, angles that are made once for all layers.

B batch, H heads, K heads of keys, T tokens, E numbers in a head.
"""

from __future__ import annotations

import mlx.core as mx

Turns = tuple[mx.array, mx.array]


class Rotation:
    """The positions of T tokens that are read together."""

    def __init__(self, before: int | mx.array, tokens: int, width: int, base: float) -> None:
        """`before` tokens stand before the first: of all texts, or of each (B,). `width` is E."""
        self.before, self.base = before, base
        self._turns: Turns | None = None
        if mx.default_device() == mx.cpu:
            first = before if isinstance(before, int) else before[:, None]
            self._turns = _turns(mx.arange(tokens) + first, width, base)

    def of(self, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        """q (B, H, T, E) and k (B, K, T, E), each pair (x_i, x_{i + E/2}) turned by the angle of its place."""
        if q.shape[2] > 1:
            return self._turned(q), self._turned(k)
        both = self._turned(mx.concatenate([q, k], axis=1))  # one vector a head: what counts is how many operations
        return both[:, : q.shape[1]], both[:, q.shape[1] :]

    def _turned(self, x: mx.array) -> mx.array:
        if self._turns is None:
            return mx.fast.rope(x, x.shape[-1], traditional=False, base=self.base, scale=1.0, offset=self.before)
        return _turned(x, self._turns)


def turned_to(x: mx.array, places: mx.array, base: float) -> mx.array:
    """x (B, H, T, E), each token turned to a place of its own, (T,) or (B, T), whatever stands beside it."""
    return _turned(x, _turns(places, x.shape[-1], base))


def _turns(places: mx.array, width: int, base: float) -> Turns:
    """Cosines (…, T, 1, E / 2) and signed sines (…, T, 2, E / 2) of places (T,) or (B, T)."""
    angle = mx.expand_dims(places[..., None] * base ** (-mx.arange(width // 2) / (width // 2)), -3)
    sin = mx.sin(angle)
    return mx.cos(angle)[..., None, :], mx.stack([-sin, sin], axis=-2)


def _turned(x: mx.array, turns: Turns) -> mx.array:
    cos, sin = turns
    pairs = mx.unflatten(x, -1, (2, -1))
    return (pairs * cos + pairs[..., ::-1, :] * sin).astype(x.dtype).flatten(-2)
