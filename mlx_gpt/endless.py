"""Any model as one whose memory has no end: when it is full, a new one reads the last half of its context again.

The rule that `measure` and `generate` follow, here behind the contract, so that models of different contexts can
read side by side, each by its own rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import mlx.core as mx

from mlx_gpt.memory import SPARE, Memory, Nested, read_again
from mlx_gpt.model import LanguageModel, Wrapped, check_ids


class Renewed(Nested):
    """A memory that is replaced when it is full, and the ids (B, up to half a context) that the next one reads, with
    up to `SPARE` more in front of them; and the full ones, while a token that they hold may be forgotten."""

    read = 0  # tokens, in all
    full: tuple[tuple[int, Memory], ...] = ()  # each with `read` when it was replaced

    def rows(self, which: Sequence[int]) -> Self:
        found = self._rows(which)
        found.full = ()
        return found

    def shorten(self, tokens: int) -> bool:
        inner, end, full, length = self.inner[0], self.read, self.full, self.read - tokens
        while full and full[-1][0] > length:
            (end, inner), full = full[-1], full[:-1]
        if tokens > SPARE or not inner.shorten(end - length):
            return False
        self.inner[0], self.full, self.read = inner, full, length
        self.arrays[0] = self.arrays[0][:, : max(0, self.arrays[0].shape[1] - tokens)]
        return True


class Endless(Wrapped):
    """A model read through `Renewed` memories; one without an end of its own is asked as it is."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model)
        self.context = model.memory().room
        self.half = 0 if self.context is None else read_again(self.context)

    def memory(self, batch: int = 1) -> Renewed:
        """An empty memory, without an end."""
        return Renewed([self.model.memory(batch)], [mx.zeros((batch, 0), mx.int32)])

    def renewed(self, ids: Sequence[int], memory: Memory) -> Renewed:
        """A memory without an end that goes on from the model's own one of these ids."""
        return Renewed([memory], [mx.array([ids[max(0, len(ids) - self.half) :]], mx.int32)])

    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, V), for any T."""
        check_ids(ids, self.vocab_size)
        held = self._held(ids, memory)
        parts = [self.model.logprobs(ids[:, a:b], held.inner[0]) for a, b in self._parts(ids, ids.shape[1], held)]
        return mx.concatenate(parts, axis=1)

    def following(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, V), after the last id alone, for any T."""
        held, after = self._held(ids, memory), mx.zeros(())
        for start, stop in self._parts(ids, ids.shape[1], held):
            after = self.model.following(ids[:, start:stop], held.inner[0])
        return after

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T - 1), for any T."""
        check_ids(ids, self.vocab_size)
        held, last = self._held(ids, memory), ids.shape[1] - 1
        parts = [self.model.score(ids[:, a : b + 1], held.inner[0]) for a, b in self._parts(ids, last, held)]
        return mx.concatenate(parts, axis=1) if parts else mx.zeros((ids.shape[0], 0))

    def _held(self, ids: mx.array, memory: Memory | None) -> Renewed:
        held = self.memory(ids.shape[0]) if memory is None else memory
        assert isinstance(held, Renewed), "a memory of another model"
        return held

    def _parts(self, ids: mx.array, stop: int, held: Renewed) -> Iterator[tuple[int, int]]:
        """Spans of ids up to `stop` that fit the memory as it is when each of them is read."""
        start = 0
        while start < stop:
            room = held.inner[0].room
            if room is None:
                yield start, stop
                return
            if room == 0:
                held.full = (*held.full, (held.read, held.inner[0]))
                held.inner[0], room = self.model.memory(ids.shape[0]), self.context
                if self.half:
                    self.model.following(held.arrays[0][:, -self.half :], held.inner[0])
                    room = held.inner[0].room
            assert room, "a memory that was renewed and is full"
            end = min(stop, start + room)
            yield start, end
            seen = mx.concatenate([held.arrays[0], ids[:, start:end].astype(mx.int32)], axis=1)
            held.arrays[0] = seen[:, max(0, seen.shape[1] - self.half - SPARE) :]
            held.read += end - start
            held.full = tuple(each for each in held.full if each[0] > held.read - SPARE)
            start = end
