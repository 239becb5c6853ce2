"""A GPT's memory: the keys and values of the tokens before, layer by layer, grown in place.

To the end of the context; or without an end, as a window that moves on while the first tokens stay (attention sinks:
Xiao et al. 2023, "Efficient streaming language models with attention sinks", section 3.2). Whole, or in few bits.

B batch, T tokens, S tokens that are seen, C context, K heads, E width of one head, L layers, N first tokens kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_gpt.errors import SettingError
from mlx_gpt.memory import SPARE, Growing, ending

GROUPS = (64, 32)  # numbers that share a scale: the first that divides a head


@dataclass(frozen=True)
class Layout:
    """What a model keeps in its cache. `tails` are K and D of each place where it convolves: the last K tokens there,
    zero before the first. `rotary` says that places are turns of the keys, so that only distances count."""

    layers: int
    heads: int
    head_width: int
    context: int
    tails: tuple[tuple[int, int], ...] = ()
    rotary: bool = False
    dtype: mx.Dtype = mx.float32

    def __deepcopy__(self, memo: dict[int, object]) -> Layout:
        return self  # nothing in it changes, and a Dtype cannot be copied


@dataclass(frozen=True)
class Sinks:
    """The first tokens of each text, for queries from which they would be out of sight.

    keys, values  (B, K, N, E)
    places        (T,) or (B, T): where the queries stand as seen from them, never further than the cache reaches
    visible       (1 or B, 1, T, N)
    """

    keys: mx.array
    values: mx.array
    places: mx.array
    visible: mx.array


class KVCache(Growing):
    """Keys, then values of each layer (B, K, capacity, E); behind them the first N of each; then the tails (B, K, D),
    and in front of each up to `SPARE` tokens more, for when the last ones are forgotten.

    In few bits each of the keys, values and firsts is three arrays: packed numbers, scales and biases (see
    mx.quantize, affine).
    """

    step = 64

    def __init__(self, batch: int, layout: Layout, keep_first: int | None = None, bits: int | None = None) -> None:
        """Raises SettingError where more is to be kept than fits, or no group divides the heads."""
        assert layout.rotary or keep_first is None, "places beyond the context of a model that knows none"
        super().__init__(layout.context, keep_first)
        self.layout, self.bits = layout, bits
        self.group = next((group for group in GROUPS if layout.head_width % group == 0), 0)
        if self.span < 1:
            raise SettingError(f"--keep-first {keep_first}: the context is {layout.context} tokens; keep fewer")
        if bits is not None and not self.group:
            raise SettingError(
                f"--cache-bits {bits}: no group of 64 or 32 numbers divides heads of {layout.head_width}; drop it"
            )
        for places in (min(self.step, self.span), *([keep_first] if keep_first else [])):
            empty = self._packed(mx.zeros((batch, layout.heads, places, layout.head_width), layout.dtype))
            self.arrays += [mx.zeros_like(part) for _ in range(2 * layout.layers) for part in empty]
        self._firsts, self._tails = 2 * layout.layers * self._pieces, len(self.arrays)
        self.arrays += [mx.zeros((batch, *tail), layout.dtype) for tail in layout.tails]
        self.tails = {self._tails + place: size for place, (size, _) in enumerate(layout.tails)}

    def axes(self) -> list[int | None]:
        return [2 if at < self._firsts else None for at in range(len(self.arrays))]

    @property
    def before(self) -> int | mx.array:
        """How many tokens stand before the next one: of all texts, or of each (B,)."""
        return self.length if self.starts is None else self.length - self.starts

    @property
    def _first(self) -> int:
        """The first place that any of the next tokens sees."""
        return max(self.dropped, self.length - self.span + 1)

    def sight(self, window: int) -> int:
        """How many places back a token sees at most, its own included, in a layer with a window; 0 is one without."""
        return min(window or self.span, self.span)

    def blank(self, seen: int) -> mx.array | None:
        """Which of the `seen` places that `extend` gives hold no token, (B, 1, 1, seen); None where all of them do."""
        if self.starts is None or self.latest <= self._first:
            return None
        return (mx.arange(self._first, self._first + seen) < self.starts[:, None])[:, None, None]

    def extend(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Store (B, K, T, E) at the end of a layer; returns all keys and values that these tokens see (B, K, S, E).

        The length moves on only with `advance`, once every layer has stored the same tokens.
        """
        start, first = self.length - self.dropped, self._first - self.dropped
        stop, found = start + keys.shape[2], []
        for kind, new in enumerate((keys, values)):
            seen = []
            for at, part in enumerate(self._packed(new), self._at(layer, kind)):
                held = self.arrays[at]
                if stop > held.shape[2]:
                    most = self.span if self.keep_first is None else self.span + SPARE + self.step
                    capacity = max(stop, min(-(-stop // self.step) * self.step, most))
                    grown = (*held.shape[:2], capacity - held.shape[2], held.shape[3])
                    held = mx.concatenate([held, mx.zeros(grown, held.dtype)], axis=2)
                held[:, :, start:stop] = part
                self.arrays[at] = held
                seen.append(held[:, :, first:stop])
                if self.length - self.latest < (self.keep_first or 0):
                    self._keep(self._firsts + at, part)
            found.append(self._whole(seen))
        return found[0], found[1]

    def sinks(self, layer: int, tokens: int, window: int) -> Sinks | None:
        """The first tokens, for the `tokens` that a layer has just stored; None where they all see them as others,
        or not at all for the layer's window."""
        if not self.keep_first or self.length + tokens <= self.span or 0 < window <= self.span:
            return None
        places, first = self.positions(tokens), mx.arange(self.keep_first)
        near = mx.minimum(places, self.context - 1)
        visible = places[..., None] - first >= self.span  # (T, N) or (B, T, N)
        visible = visible & (near[..., None] - first < window) if window else visible
        keys, values = (
            self._whole(self.arrays[at : at + self._pieces])
            for at in (self._firsts + self._at(layer, kind) for kind in range(2))
        )
        return Sinks(keys, values, near, visible.reshape(-1, 1, tokens, self.keep_first))

    def behind(self, place: int, x: mx.array) -> mx.array:
        """x (B, T, D) with tail `place` in front (B, K + T, D); keeps the last of them as the new tail."""
        at = self._tails + place
        size = self.tails[at]
        seen = mx.concatenate([self.arrays[at].astype(x.dtype), x], axis=1)
        self.arrays[at] = ending(seen, size + SPARE)
        return ending(seen, size + x.shape[1])

    def advance(self, tokens: int) -> None:
        """Count `tokens` more as remembered."""
        self.length += tokens
        kept = self.span + SPARE
        if self.length - self.dropped >= kept + self.step and self.keep_first is not None:
            self.arrays, self.dropped = self._between(self.length - kept), self.length - kept

    @property
    def _pieces(self) -> int:
        return 1 if self.bits is None else 3

    def _at(self, layer: int, kind: int) -> int:
        """Where the keys (0) or values (1) of a layer stand among the arrays."""
        return (2 * layer + kind) * self._pieces

    def _keep(self, at: int, new: mx.array) -> None:
        """Put those of the new tokens (B, K, T, …) that are among the first of their texts where these are kept."""
        index = mx.arange(self.keep_first or 0) - mx.array(self.before)[..., None]  # of the new tokens, (N,) or (B, N)
        index = index.reshape(-1, 1, index.shape[-1], 1)
        here = mx.take_along_axis(new, mx.clip(index, 0, new.shape[2] - 1), axis=2)
        self.arrays[at] = mx.where((index >= 0) & (index < new.shape[2]), here, self.arrays[at])

    def _packed(self, x: mx.array) -> Sequence[mx.array]:
        return [x] if self.bits is None else mx.quantize(x, group_size=self.group, bits=self.bits)

    def _whole(self, parts: Sequence[mx.array]) -> mx.array:
        if self.bits is None:
            return parts[0]
        packed, scales, biases = parts
        return mx.dequantize(packed, scales, biases, group_size=self.group, bits=self.bits)
