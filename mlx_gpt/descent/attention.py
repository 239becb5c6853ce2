"""Causal attention in memory linear in the length: MLX's kernel on a GPU, blocks of queries on a CPU.

MLX's CPU has no such kernel: it writes all T x T scores, those of the future too, and keeps them for the backward
pass. Here a block of queries meets only the keys it may see, and what is kept is one number a query, from which the
backward pass makes the block's scores again (FlashAttention: Dao et al. 2022).

B batch, H heads, K heads of keys and values, G = H / K, T queries, S keys, E numbers in a head.
"""

from __future__ import annotations

from typing import cast

import mlx.core as mx

from mlx_gpt.descent.exponential import LOG2_E, exp2
from mlx_gpt.kv_cache import Sinks

BLOCK = 128  # queries whose scores exist at one time


def attention(q: mx.array, k: mx.array, v: mx.array, window: int = 0, blank: mx.array | None = None) -> mx.array:
    """softmax(q k^T / sqrt(E)) v for q (B, H, T, E), the last T of the S places of k and v (B, K, S, E).

    A query sees its own place and those before it, with a window only the last `window` of them, and none that is
    `blank` (B, 1, 1, S).
    """
    tokens, seen = q.shape[2], k.shape[2]
    window = window if seen > window else 0
    if tokens == 1 or blank is not None or mx.default_device() == mx.gpu:
        # the kernel's own causal mask wherever it serves: only a window that bites, or blanks, need an array
        mask: mx.array | str | None = None if tokens == 1 else "causal"
        if window or blank is not None:
            mask = _visible(seen - tokens, seen, 0, seen, window)
            mask = mask if blank is None else mask & ~blank
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)
    return _in_blocks(q, k, v, window)


def attention_with_sinks(
    q: mx.array, far: mx.array, k: mx.array, v: mx.array, sinks: Sinks, window: int, blank: mx.array | None
) -> mx.array:
    """As `attention` with a window, and each query sees the sinks, too: one softmax over both.

    far (B, H, T, E) are the queries, turned to the places where they stand as seen from the sinks. Not differentiable
    in little memory: it is for reading.
    """
    tokens, seen, groups, first = q.shape[2], k.shape[2], k.shape[1], sinks.keys.shape[2]
    share, found = q.shape[1] // groups, list[mx.array]()

    def scores(q: mx.array, k: mx.array, visible: mx.array) -> mx.array:
        """q (B, H, t, E), k (B, K, s, E), visible (1 or B, 1, t, s) -> (B, K, G t, s) in float32."""
        rows = mx.unflatten(q, 1, (groups, share)).flatten(2, 3) * q.shape[-1] ** -0.5
        return mx.where(mx.tile(visible, (1, 1, share, 1)), (rows @ k.swapaxes(2, 3)).astype(mx.float32), -mx.inf)

    for start in range(0, tokens, BLOCK):
        if found:  # as in `_in_blocks`
            q = mx.depends([q], [found[-1]])[0]
        part = slice(start, min(start + BLOCK, tokens))
        begin, end = seen - tokens + part.start, seen - tokens + part.stop
        at = slice(max(0, begin - window + 1), end)
        near = _visible(begin, end, at.start, end, window)[None, None]
        near = near if blank is None else near & ~blank[..., at]
        far_scores = scores(far[:, :, part], sinks.keys, sinks.visible[:, :, part])
        both = mx.concatenate([far_scores, scores(q[:, :, part], k[:, :, at], near)], axis=-1)
        weights = mx.softmax(both, axis=-1, precise=True).astype(v.dtype)
        out = weights[..., :first] @ sinks.values + weights[..., first:] @ v[:, :, at]
        found.append(mx.unflatten(out, 2, (share, -1)).flatten(1, 2))
    return mx.concatenate(found, axis=2)


def _in_blocks(q: mx.array, k: mx.array, v: mx.array, window: int) -> mx.array:
    (_, heads, tokens, width), groups = q.shape, k.shape[1]
    before, scale = k.shape[2] - tokens, width**-0.5
    share = heads // groups
    spans = [(start, min(start + BLOCK, tokens)) for start in range(0, tokens, BLOCK)]

    def rows(x: mx.array, start: int, stop: int) -> mx.array:
        """A block of queries, those that share keys under each other: (B, H, T, E) -> (B, K, G block, E)."""
        return mx.unflatten(x[:, :, start:stop], 1, (groups, share)).flatten(2, 3)

    def places(start: int, stop: int) -> slice:
        """The keys that any query of a block sees."""
        return slice(max(0, before + start - window + 1) if window else 0, before + stop)

    def scores(q: mx.array, k: mx.array, start: int, stop: int) -> mx.array:
        """Of a block, in units of log 2: 2^x is the exponential that MLX's CPU does soonest."""
        at = places(start, stop)
        s = (rows(q, start, stop) * (scale * LOG2_E)) @ k[:, :, at].swapaxes(2, 3)  # (B, K, G block, keys)
        visible = _visible(before + start, before + stop, at.start, at.stop, window)
        return s.astype(mx.float32) + mx.tile(mx.where(visible, 0.0, -mx.inf), (share, 1))

    @mx.custom_function
    def forward(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        found, masses = list[mx.array](), list[mx.array]()
        for start, stop in spans:
            if found:  # else MLX would be free to make the scores of all blocks first
                q = mx.depends([q], [found[-1]])[0]
            s = scores(q, k, start, stop)
            highest = s.max(axis=-1, keepdims=True)
            p = exp2(s - highest)
            mass = p.sum(axis=-1, keepdims=True)
            out = ((p.astype(v.dtype) @ v[:, :, places(start, stop)]).astype(mx.float32) / mass).astype(v.dtype)
            found.append(mx.unflatten(out, 2, (share, -1)).flatten(1, 2))
            masses.append(highest + mx.log2(mass))
        return mx.concatenate(found, axis=2), mx.concatenate(masses, axis=2)

    @forward.vjp
    def backward(
        primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> tuple[mx.array, ...]:
        q, k, v = primals
        d_out = cotangents[0]
        inner = (d_out * outputs[0]).sum(axis=-1, keepdims=True)  # (B, H, T, 1)
        d_q, d_k, d_v = list[mx.array](), mx.zeros(k.shape), mx.zeros(v.shape)
        for start, stop in spans:
            if d_q:
                q = mx.depends([q], [d_q[-1], d_k, d_v])[0]
            at, own = places(start, stop), slice(share * start, share * stop)
            p = exp2(scores(q, k, start, stop) - outputs[1][:, :, own])
            d = rows(d_out, start, stop)
            d_s = p * (d @ v[:, :, at].swapaxes(2, 3) - rows(inner, start, stop)) * scale
            d_s = d_s.astype(q.dtype)
            d_q.append(mx.unflatten(d_s @ k[:, :, at], 2, (share, -1)).flatten(1, 2))
            d_k = d_k.at[:, :, at].add(d_s.swapaxes(2, 3) @ rows(q, start, stop))
            d_v = d_v.at[:, :, at].add(p.astype(d.dtype).swapaxes(2, 3) @ d)
        return mx.concatenate(d_q, axis=2), d_k.astype(k.dtype), d_v.astype(v.dtype)

    return cast("tuple[mx.array, mx.array]", forward(q, k, v))[0]


def _visible(start: int, stop: int, first: int, last: int, window: int) -> mx.array:
    """Whether the query at each place start … stop sees the key at each place first … last, (queries, keys)."""
    ask, answer = mx.arange(start, stop)[:, None], mx.arange(first, last)
    seen = answer <= ask
    return seen & (ask - answer < window) if window else seen
