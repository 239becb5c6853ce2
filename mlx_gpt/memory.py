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


class Nested(ABC):
    """What a model made of others remembers: a memory for each of them, and arrays of its own, texts first."""

    def __init__(self, inner: Sequence[Memory], arrays: list[mx.array]) -> None:
        self.inner, self.arrays = list(inner), arrays

    @property
    def room(self) -> int | None:
        return None

    @abstractmethod
    def rows(self, which: Sequence[int]) -> Self: ...

    @abstractmethod
    def shorten(self, tokens: int) -> bool: ...

    def _rows(self, which: Sequence[int]) -> Self:
        """As `rows`, with all that is no array as it is here."""
        found = copy.copy(self)
        found.inner = [each.rows(which) for each in self.inner]
        found.arrays = [_picked(array, which) for array in self.arrays]
        return found

    def joined(self, other: Self) -> Self:
        raise SettingError("models made of others write one text at a time")

    def held(self) -> list[mx.array]:
        raise SettingError("the memory of a model made of others is not kept in a file")

    def hold(self, arrays: Sequence[mx.array], tokens: int) -> None:
        self.held()


class Growing(ABC):
    """A memory that grows by a place with every token until the context is full.

    With `keep_first` it has no end: a token sees itself, the last ones before it and that many of the first, together
    as many as the context, and what is further back is dropped from time to time.
    """

    def __init__(self, context: int, keep_first: int | None = None) -> None:
        self.context, self.keep_first = context, keep_first
        self.span = context - (keep_first or 0)  # places that a token sees, its own the last of them
        self.length = 0  # places filled so far, S
        self.dropped = 0  # how many of them are no longer in the arrays
        self.starts: mx.array | None = None  # (B,)
        self.latest = 0  # the last of them
        self.arrays: list[mx.array] = []
        self.tails: dict[int, int] = {}  # of arrays (B, K, D) of the last tokens alone, how many they are at least

    @abstractmethod
    def axes(self) -> list[int | None]:
        """Which axis of each array the places are; None of an array that has none. The first axis is the texts."""

    @property
    def room(self) -> int | None:
        return self.context - self.length if self.keep_first is None else None

    def positions(self, tokens: int) -> mx.array:
        """How many tokens stand before each of the next ones: (T,), or (B, T) where texts begin at several places."""
        places = mx.arange(self.length, self.length + tokens)
        return places if self.starts is None else places - self.starts[:, None]

    def rows(self, which: Sequence[int]) -> Self:
        starts = [self._begin()[row] for row in which]
        unused = min(starts)
        arrays = [_picked(array, which) for array in self._filled(unused)]
        places = self.length - max(unused, self.dropped)
        return self._with(arrays, places, self.length - unused, [start - unused for start in starts])

    def joined(self, other: Self) -> Self:
        length = max(self.length, other.length)
        starts = [start + length - each.length for each in (self, other) for start in each._begin()]
        places = max(each.length - each.dropped for each in (self, other))
        pairs = zip(self._filled(), other._filled(), self.axes(), strict=True)
        arrays = [mx.concatenate([_at_end(one, axis, places), _at_end(two, axis, places)]) for one, two, axis in pairs]
        return self._with(arrays, places, length, starts)

    def shorten(self, tokens: int) -> bool:
        if any(self.arrays[at].shape[1] < size + tokens for at, size in self.tails.items()):
            return False
        for at in self.tails:
            self.arrays[at] = self.arrays[at][:, : self.arrays[at].shape[1] - tokens]
        self.length -= tokens  # what stands behind it is written over
        return True

    def held(self) -> list[mx.array]:
        return self._filled(self.length - self.span)

    def hold(self, arrays: Sequence[mx.array], tokens: int) -> None:
        if self.room is not None and tokens > self.context:
            raise CheckpointError(f"{tokens} tokens are more than the context of {self.context}")
        shapes = [list(array.shape) for array in self.arrays]
        for shape, axis in zip(shapes, self.axes(), strict=True):
            if axis is not None:
                shape[axis] = min(tokens, self.span)
        _check(arrays, self.arrays, [tuple(shape) for shape in shapes])
        self.arrays, self.length, self.dropped = list(arrays), tokens, tokens - min(tokens, self.span)

    def _begin(self) -> list[int]:
        return [0] * self.arrays[0].shape[0] if self.starts is None else self.starts.tolist()  # type: ignore[return-value]

    def _filled(self, first: int = 0) -> list[mx.array]:
        """The arrays without the places before `first` and after the last that is filled, and tails of their least."""
        found = self._between(first)
        for at, size in self.tails.items():
            found[at] = ending(found[at], size)
        return found

    def _between(self, first: int) -> list[mx.array]:
        """The arrays without the places before `first` and after the last that is filled."""
        places = slice(max(first - self.dropped, 0), self.length - self.dropped)
        pairs = zip(self.arrays, self.axes(), strict=True)
        return [array if axis is None else array[(slice(None),) * axis + (places,)] for array, axis in pairs]

    def _with(self, arrays: list[mx.array], places: int, length: int, starts: list[int]) -> Self:
        """Such a memory of other texts: arrays that hold the last `places` of `length`."""
        found = copy.copy(self)
        found.arrays, found.length, found.dropped = arrays, length, length - places
        found.starts, found.latest = mx.array(starts) if any(starts) else None, max(starts)
        return found


class Transcript(Growing):
    """Every id of the context so far, to be read again for each new token: a transformer without a cache."""

    def __init__(self, batch: int, context: int) -> None:
        super().__init__(context)
        self.arrays = [mx.zeros((batch, 0), mx.int32)]  # (B, S)

    def axes(self) -> list[int | None]:
        return [1]

    def extend(self, ids: mx.array) -> mx.array:
        """Every text from its beginning (B, S), with ids (B, T) at its end; what follows a shorter one is no text."""
        seen = self.arrays[0] = mx.concatenate([self.arrays[0][:, : self.length], ids.astype(mx.int32)], axis=1)
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


def ending(array: mx.array, size: int) -> mx.array:
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
