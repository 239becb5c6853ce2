"""What a model carries from token to token: the story of the eleven stages told by their memories.

B batch, T tokens, S tokens remembered, C context, H heads, E width of one head, L layers, N order of an n-gram.

A text that begins later than the longest one of its batch stands at the end of the same S places; `starts` (B,) says
at which of them each text begins, and is None where all of them begin at the first.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, Self

import mlx.core as mx

from mlx_gpt.errors import CheckpointError, SettingError

SPARE = 16  # tokens, the last ones read, that a memory which can forget them is sure to


def read_again(context: int) -> int:
    """How many of the last tokens a new memory reads again where one is full: scores, texts and mixtures agree."""
    return context - max(1, context // 2)


class Memory(Protocol):
    """All that a model knows of the tokens before; a model's `logprobs` reads it and brings it up to date."""

    arrays: list[mx.array]

    @property
    def room(self) -> int | None:
        """How many more tokens fit; None where there is no end."""
        ...

    def rows(self, which: Sequence[int]) -> Self:
        """A memory of its own for some texts of this one, in that order; one may come more than once."""
        ...

    def joined(self, other: Self) -> Self:
        """One memory for the texts of this one and then those of the other, which may be longer or shorter."""
        ...

    def shorten(self, tokens: int) -> bool:
        """Forget the last tokens read, at most `SPARE`. False where that cannot be, even for none; nothing changes."""
        ...

    def held(self) -> list[mx.array]:
        """What there is to save of the memory of one text."""
        ...

    def hold(self, arrays: Sequence[mx.array], tokens: int) -> None:
        """Take over what `held` gave after so many tokens of one text.

        Raises CheckpointError where shapes or types are others.
        """
        ...


class Fixed:
    """A memory whose size is the same after every token."""

    axis = 0  # which axis of the arrays the texts of a batch are

    def __init__(self, arrays: list[mx.array]) -> None:
        self.arrays = arrays

    @property
    def room(self) -> int | None:
        return None

    def rows(self, which: Sequence[int]) -> Self:
        return self._with([_picked(array, which, self.axis) for array in self.arrays])

    def joined(self, other: Self) -> Self:
        pairs = zip(self.arrays, other.arrays, strict=True)
        return self._with([mx.concatenate(list(pair), self.axis) for pair in pairs])

    def shorten(self, tokens: int) -> bool:
        return False

    def held(self) -> list[mx.array]:
        return self.arrays

    def hold(self, arrays: Sequence[mx.array], tokens: int) -> None:
        _check(arrays, self.arrays, [array.shape for array in self.arrays])
        self.arrays = list(arrays)

    def _with(self, arrays: list[mx.array]) -> Self:
        found = copy.copy(self)
        found.arrays = arrays
        return found


class Window(Fixed):
    """The last few token ids: all that a feed-forward model remembers."""

    def __init__(self, batch: int, size: int, nothing: int) -> None:
        """`nothing` is the id that stands where no token has been read yet."""
        super().__init__([mx.full((batch, size), nothing, mx.int32)])  # (B, size)
        self.size = size

    def extend(self, ids: mx.array) -> mx.array:
        """Ids (B, T) with the remembered ones in front (B, size + T); keeps the last `size` of them."""
        seen = mx.concatenate([self.arrays[0], ids.astype(mx.int32)], axis=1)
        self.arrays[0] = seen[:, max(0, seen.shape[1] - self.size) :]
        return seen


class Rows(Fixed):
    """Where a counted model stands: for k = 1 … N - 1 the row of the k-gram just read, -1 where it was never seen.

    All that the next token's probabilities can depend on, found without reading anything again.
    """

    axis = 1

    def __init__(self, batch: int, order: int) -> None:
        super().__init__([mx.full((order - 1, batch), -1, mx.int32)])  # (N - 1, B)


class State(Fixed):
    """A fixed number of vectors, rewritten at every token: what a recurrent model remembers."""


class Nested:
    """What a model made of others remembers: a memory for each of them, and arrays of its own, texts first."""

    def __init__(self, inner: Sequence[Memory], arrays: list[mx.array]) -> None:
        self.inner, self.arrays = list(inner), arrays

    @property
    def room(self) -> int | None:
        return None

    def rows(self, which: Sequence[int]) -> Self:
        found = copy.copy(self)
        found.inner = [each.rows(which) for each in self.inner]
        found.arrays = [_picked(array, which) for array in self.arrays]
        return found

    def joined(self, other: Self) -> Self:
        raise SettingError("models made of others write one text at a time")

    def shorten(self, tokens: int) -> bool:
        return False

    def held(self) -> list[mx.array]:
        raise SettingError("the memory of a model made of others is not kept in a file")

    def hold(self, arrays: Sequence[mx.array], tokens: int) -> None:
        self.held()


class Growing(ABC):
    """A memory that grows by a place with every token until the context is full."""

    def __init__(self, context: int) -> None:
        self.context = context
        self.length = 0  # places filled, S
        self.starts: mx.array | None = None  # (B,)
        self.arrays: list[mx.array] = []

    @abstractmethod
    def axes(self) -> list[int | None]:
        """Which axis of each array the places are; None of an array that has none. The first axis is the texts."""

    @property
    def room(self) -> int | None:
        return self.context - self.length

    def positions(self, tokens: int) -> mx.array:
        """How many tokens stand before each of the next ones: (T,), or (B, T) where texts begin at several places."""
        places = mx.arange(self.length, self.length + tokens)
        return places if self.starts is None else places - self.starts[:, None]

    def rows(self, which: Sequence[int]) -> Self:
        starts = [self._begin()[row] for row in which]
        unused = min(starts)
        arrays = [_picked(array, which) for array in self._filled(unused)]
        return self._with(arrays, self.length - unused, [start - unused for start in starts])

    def joined(self, other: Self) -> Self:
        length = max(self.length, other.length)
        starts = [start + length - each.length for each in (self, other) for start in each._begin()]
        pairs = zip(self._filled(), other._filled(), self.axes(), strict=True)
        arrays = [mx.concatenate([_at_end(one, axis, length), _at_end(two, axis, length)]) for one, two, axis in pairs]
        return self._with(arrays, length, starts)

    def shorten(self, tokens: int) -> bool:
        self.length -= tokens  # what stands behind it is written over
        return True

    def held(self) -> list[mx.array]:
        return self._filled()

    def hold(self, arrays: Sequence[mx.array], tokens: int) -> None:
        if tokens > self.context:
            raise CheckpointError(f"{tokens} tokens are more than the context of {self.context}")
        shapes = [list(array.shape) for array in self.arrays]
        for shape, axis in zip(shapes, self.axes(), strict=True):
            if axis is not None:
                shape[axis] = tokens
        _check(arrays, self.arrays, [tuple(shape) for shape in shapes])
        self.arrays, self.length = list(arrays), tokens

    def _begin(self) -> list[int]:
        return [0] * self.arrays[0].shape[0] if self.starts is None else self.starts.tolist()  # type: ignore[return-value]

    def _filled(self, first: int = 0) -> list[mx.array]:
        """The arrays without the places before `first` and after the last that is filled."""
        places = slice(first, self.length)
        pairs = zip(self.arrays, self.axes(), strict=True)
        return [array if axis is None else array[(slice(None),) * axis + (places,)] for array, axis in pairs]

    def _with(self, arrays: list[mx.array], length: int, starts: list[int]) -> Self:
        found = copy.copy(self)
        found.arrays, found.length = arrays, length
        found.starts = mx.array(starts) if any(starts) else None
        return found


class Transcript(Growing):
    """Every id of the context so far, to be read again for each new token: a transformer without a cache."""

    def __init__(self, batch: int, context: int) -> None:
        super().__init__(context)
        self.arrays = [mx.zeros((batch, 0), mx.int32)]  # (B, S)

    def axes(self) -> list[int | None]:
        return [1]

    def shorten(self, tokens: int) -> bool:
        super().shorten(tokens)
        self.arrays = self._filled()
        return True

    def extend(self, ids: mx.array) -> mx.array:
        """Every text from its beginning (B, S), with ids (B, T) at its end; what follows a shorter one is no text."""
        seen = self.arrays[0] = mx.concatenate([self.arrays[0], ids.astype(mx.int32)], axis=1)
        self.length = seen.shape[1]
        if self.starts is None:
            return seen
        return mx.take_along_axis(seen, (mx.arange(self.length) + self.starts[:, None]) % self.length, axis=1)

    def last(self, x: mx.array, tokens: int) -> mx.array:
        """Of x (B, S, D), made of what `extend` gave, the last T tokens of every text (B, T, D)."""
        first = self.length - tokens
        if self.starts is None:
            return x[:, first:]
        places = mx.arange(first, self.length) - self.starts[:, None]  # (B, T)
        return mx.take_along_axis(x, places[..., None], axis=1)


class KVCache(Growing):
    """The keys and values of every token so far, layer by layer: a GPT's memory, grown in place.

    Layer l holds keys at arrays[2 l] and values at arrays[2 l + 1], each (B, H, capacity, E). Behind those of all
    layers may stand tails (B, K, D): the last K tokens at places where the model convolves, and in front of them up
    to `SPARE` more, for when the last ones are forgotten.
    """

    step = 64

    def __init__(
        self, batch: int, layers: int, heads: int, head_width: int, context: int, tails: Sequence[tuple[int, int]] = ()
    ) -> None:
        """`tails` gives K and D of each; before the first token they are zero."""
        super().__init__(context)
        shape = (batch, heads, min(self.step, context), head_width)
        self.arrays = [mx.zeros(shape) for _ in range(2 * layers)]
        self._first_tail, self._tails = len(self.arrays), [size for size, _ in tails]
        self.arrays += [mx.zeros((batch, *tail)) for tail in tails]

    def axes(self) -> list[int | None]:
        return [2 if at < self._first_tail else None for at in range(len(self.arrays))]

    @property
    def before(self) -> int | mx.array:
        """How many tokens stand before the next one: of all texts, or of each (B,)."""
        return self.length if self.starts is None else self.length - self.starts

    def blank(self, seen: int) -> mx.array | None:
        """Which of the first `seen` places hold no token, (B, 1, 1, seen); None where all of them do."""
        return None if self.starts is None else (mx.arange(seen) < self.starts[:, None])[:, None, None]

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
        """x (B, T, D) with tail `place` in front (B, K + T, D); keeps the last of them as the new tail."""
        at, size = self._first_tail + place, self._tails[place]
        seen = mx.concatenate([self.arrays[at].astype(x.dtype), x], axis=1)
        self.arrays[at] = _last(seen, size + SPARE)
        return _last(seen, size + x.shape[1])

    def advance(self, tokens: int) -> None:
        """Count `tokens` more as remembered."""
        self.length += tokens

    def shorten(self, tokens: int) -> bool:
        tails = self.arrays[self._first_tail :]
        if any(tail.shape[1] < size + tokens for tail, size in zip(tails, self._tails, strict=True)):
            return False
        self.arrays[self._first_tail :] = [tail[:, : tail.shape[1] - tokens] for tail in tails]
        return super().shorten(tokens)

    def _filled(self, first: int = 0) -> list[mx.array]:
        found = super()._filled(first)
        tails = zip(found[self._first_tail :], self._tails, strict=True)
        return [*found[: self._first_tail], *(_last(tail, size) for tail, size in tails)]


def _last(array: mx.array, size: int) -> mx.array:
    """(B, S, D) -> (B, at most `size`, D)."""
    return array[:, max(0, array.shape[1] - size) :]


def _picked(array: mx.array, which: Sequence[int], axis: int = 0) -> mx.array:
    return mx.take(array, mx.array(list(which)), axis=axis)


def _at_end(array: mx.array, axis: int | None, length: int) -> mx.array:
    """An array with zeros before its places, so that they are `length`."""
    if axis is None:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (length - array.shape[axis], 0)
    return mx.pad(array, widths)


def _check(found: Sequence[mx.array], own: Sequence[mx.array], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise CheckpointError where arrays are not of the types of `own` and of these shapes."""
    wanted = [(array.dtype, shape) for array, shape in zip(own, shapes, strict=True)]
    if [(array.dtype, array.shape) for array in found] != wanted:
        raise CheckpointError("its arrays are no memory of this model")
