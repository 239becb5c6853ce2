"""What a model carries from token to token: the story of the eleven stages told by their memories.

B batch, T tokens, C context, H heads, E width of one head, L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import mlx.core as mx


class Memory(Protocol):
    """All that a model knows of the tokens before; a model's `logprobs` reads it and brings it up to date."""

    arrays: list[mx.array]

    @property
    def room(self) -> int | None:
        """How many more tokens fit; None where there is no end."""
        ...

    def take(self, rows: mx.array) -> Self:
        """Another memory, whose row r is row `rows[r]` of this one; rows may repeat and leave some out."""
        ...


Kind = TypeVar("Kind", bound=Memory)


def taken(memory: Kind, rows: mx.array, axis: int = 0) -> Kind:
    """A copy of a memory with these rows of its arrays, which lie along `axis`."""
    other = copy.copy(memory)
    other.arrays = [mx.take(array, rows, axis=axis) for array in memory.arrays]
    return other


class Window:
    """The last few token ids: all that a feed-forward model remembers."""

    def __init__(self, batch: int, size: int, nothing: int) -> None:
        """`nothing` is the id that stands where no token has been read yet."""
        self.size = size
        self.arrays = [mx.full((batch, size), nothing, mx.int32)]  # (B, size)

    @property
    def room(self) -> int | None:
        return None

    def take(self, rows: mx.array) -> Self:
        return taken(self, rows)

    def extend(self, ids: mx.array) -> mx.array:
        """Ids (B, T) with the remembered ones in front (B, size + T); keeps the last `size` of them."""
        seen = mx.concatenate([self.arrays[0], ids.astype(mx.int32)], axis=1)
        self.arrays[0] = seen[:, max(0, seen.shape[1] - self.size) :]
        return seen


class Rows:
    """Where a counted model stands: for k = 1 … N - 1 the row of the k-gram just read, -1 where it was never seen.

    All that the next token's probabilities can depend on, found without reading anything again.
    """

    def __init__(self, batch: int, order: int) -> None:
        self.arrays = [mx.full((order - 1, batch), -1, mx.int32)]  # (N - 1, B)

    @property
    def room(self) -> int | None:
        return None

    def take(self, rows: mx.array) -> Self:
        return taken(self, rows, axis=1)


class State:
    """A fixed number of vectors, rewritten at every token: what a recurrent model remembers."""

    def __init__(self, arrays: list[mx.array]) -> None:
        self.arrays = arrays

    @property
    def room(self) -> int | None:
        return None

    def take(self, rows: mx.array) -> Self:
        return taken(self, rows)


class Transcript:
    """Every id of the context so far, to be read again for each new token: a transformer without a cache."""

    def __init__(self, batch: int, context: int) -> None:
        self.context = context
        self.arrays = [mx.zeros((batch, 0), mx.int32)]  # (B, <= C)

    @property
    def room(self) -> int | None:
        return self.context - self.arrays[0].shape[1]

    def take(self, rows: mx.array) -> Self:
        return taken(self, rows)

    def extend(self, ids: mx.array) -> mx.array:
        """The whole context with ids (B, T) at its end."""
        self.arrays[0] = mx.concatenate([self.arrays[0], ids.astype(mx.int32)], axis=1)
        return self.arrays[0]


class KVCache:
    """The keys and values of every token so far, layer by layer: a GPT's memory, grown in place.

    Layer l holds keys at arrays[2 l] and values at arrays[2 l + 1], each (B, H, capacity, E). Behind those of all
    layers may stand tails (B, K, D): the last K tokens at places where the model convolves.
    """

    step = 64

    def __init__(
        self, batch: int, layers: int, heads: int, head_width: int, context: int, tails: Sequence[tuple[int, int]] = ()
    ) -> None:
        """`tails` gives K and D of each; before the first token they are zero."""
        self.context = context
        self.length = 0
        shape = (batch, heads, min(self.step, context), head_width)
        self.arrays = [mx.zeros(shape) for _ in range(2 * layers)]
        self._first_tail = len(self.arrays)
        self.arrays += [mx.zeros((batch, *tail)) for tail in tails]

    @property
    def room(self) -> int | None:
        return self.context - self.length

    def take(self, rows: mx.array) -> Self:
        return taken(self, rows)

    def extend(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Store (B, H, T, E) at the end of a layer; returns all keys and values so far (B, H, S, E).

        The length moves on only with `advance`, once every layer has stored the same tokens.
        """
        stop = self.length + keys.shape[2]
        for at, new in ((2 * layer, keys), (2 * layer + 1, values)):
            held = self.arrays[at]
            if stop > held.shape[2]:
                capacity = min(-(-stop // self.step) * self.step, self.context)
                grown = (*held.shape[:2], capacity - held.shape[2], held.shape[3])
                held = mx.concatenate([held.astype(new.dtype), mx.zeros(grown, new.dtype)], axis=2)
            held[:, :, self.length : stop, :] = new
            self.arrays[at] = held
        return self.arrays[2 * layer][:, :, :stop, :], self.arrays[2 * layer + 1][:, :, :stop, :]

    def behind(self, place: int, x: mx.array) -> mx.array:
        """x (B, T, D) with tail `place` in front (B, K + T, D); keeps the last K of them as the new tail."""
        at = self._first_tail + place
        tail = self.arrays[at]
        seen = mx.concatenate([tail.astype(x.dtype), x], axis=1)
        self.arrays[at] = seen[:, seen.shape[1] - tail.shape[1] :]
        return seen

    def advance(self, tokens: int) -> None:
        """Count `tokens` more as remembered."""
        self.length += tokens
