"""How well a model predicts a text: every token once, on the axis of bits per raw byte.

The context rule, the same for every stage: each document is read on its own, from the end-of-text mark that
stands before it. A model whose memory has an end reads overlapping windows: when the window is full, its last
half is read again and the next half window is scored. The mark that ends a document is scored too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np

from mlx_gpt.bootstrap import Estimate, estimate
from mlx_gpt.corpus import Text, Units
from mlx_gpt.memory import Memory, read_again
from mlx_gpt.model import LanguageModel

BATCH_TOKENS = 8_192  # scored in one call
UNENDING = 1_024  # tokens handed at a time to a memory without an end
UNROLLED = 64  # the same where all batches have one shape: a compiled graph holds every one of them

Scorer = Callable[[mx.array, Memory | None], mx.array]


@runtime_checkable
class Scorable(Protocol):
    """A model that has a way of its own to what `scored` gives."""

    def scored(self, text: Text) -> Iterator[tuple[int, int, np.ndarray]]: ...


@dataclass(frozen=True)
class Score:
    """What a text cost a model: `nats` and `sizes` (U,), raw bytes, of each document or other unit it is resampled by,
    with what is needed to put it on any axis."""

    nats: np.ndarray
    sizes: np.ndarray
    tokens: int
    seconds: float

    @property
    def bytes(self) -> int:
        """Raw UTF-8 bytes."""
        return int(self.sizes.sum())

    @property
    def bits(self) -> np.ndarray:
        """(U,), as `nats`."""
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits per raw UTF-8 byte."""
        return float(self.bits.sum()) / self.bytes

    def estimate(self) -> Estimate | None:
        """Bits per byte with its interval; see bootstrap. None for a single unit, or one that is impossible."""
        return estimate(self.bits, self.sizes)

    @property
    def perplexity(self) -> float:
        """Per token, so comparable only between models with one tokenizer."""
        nats = float(self.nats.sum()) / self.tokens
        return math.exp(nats) if nats < 700 else math.inf

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class _Piece:
    """Ids [start, stop) of a document of which the last stop - fresh are targets not yet scored."""

    document: int
    start: int
    fresh: int
    stop: int


def measure(
    model: LanguageModel,
    text: Text,
    alike: Scorer | None = None,
    units: Units | None = None,
    told: np.ndarray | None = None,
) -> Score:
    """Score every document of a text.

    alike  scores instead of `model.score`, and is given batches of one shape only, so that it may be compiled
    units  what the nats are added up by, if not by document
    told   (T,), filled with the log-probability of every token in the order of the text
    """
    parts = text if units is None else units
    cuts, nats = parts.starts, np.zeros(len(parts.sizes))
    started = time.perf_counter()
    for document, start, logprobs in scored(model, text, alike):
        first = int(text.starts[document]) + start
        if told is not None:
            told[first : first + len(logprobs)] = logprobs
        at, last = np.searchsorted(cuts, [first, first + len(logprobs)], side="right") - 1
        for unit, part in enumerate(np.split(logprobs, cuts[at + 1 : last + 1] - first), at):
            nats[min(unit, len(nats) - 1)] -= part.sum(dtype=np.float64)
    return Score(nats, parts.sizes, text.tokens, time.perf_counter() - started)


def scored(model: LanguageModel, text: Text, alike: Scorer | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
    """Every token once: its document, the place there of the token before the first of some that follow each other,
    and their log-probabilities (T,). Each batch is scored when it is come to."""
    if isinstance(model, Scorable) and alike is None:
        return model.scored(text)
    context = model.memory().room
    return _unending(model, text, alike) if context is None else _windows(model, text, context, alike)


def _windows(
    model: LanguageModel, text: Text, context: int, alike: Scorer | None
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Overlapping windows, alike in length put together; each target is scored in exactly one of them."""
    pieces = []
    for document in range(len(text)):
        length = int(text.starts[document + 1] - text.starts[document]) + 1
        fresh = 1
        while fresh < length:
            start = 0 if fresh == 1 else fresh - 1 - read_again(context)
            stop = min(length, start + context + 1)
            pieces.append(_Piece(document, start, fresh, stop))
            fresh = stop
    pieces.sort(key=lambda piece: piece.stop - piece.start)
    score = alike or model.score
    width, together = 0, 0
    while pieces:
        if not (alike and width):
            width = pieces[-1].stop - pieces[-1].start
            together = min(len(pieces), max(1, BATCH_TOKENS // width))
        rows = [pieces.pop() for _ in range(min(len(pieces), together))]
        ids = np.zeros((together if alike else len(rows), width), np.int32)
        for row, piece in enumerate(rows):
            ids[row, : piece.stop - piece.start] = text.document(piece.document)[piece.start : piece.stop]
        logprobs = np.array(score(mx.array(ids), None))
        for row, piece in enumerate(rows):
            begin = piece.fresh - 1
            yield piece.document, begin, logprobs[row, begin - piece.start : piece.stop - piece.start - 1]


def _unending(model: LanguageModel, text: Text, alike: Scorer | None) -> Iterator[tuple[int, int, np.ndarray]]:
    """Documents side by side, the longest first, their memory carried from chunk to chunk to their ends."""
    lengths = np.diff(text.starts) + 1
    order = np.argsort(-lengths, kind="stable")
    score = alike or model.score
    width, together = 0, 0
    while len(order):
        if not (alike and width):
            width = min(int(lengths[order[0]]) - 1, UNROLLED if alike else UNENDING)
            together = min(len(order), max(1, BATCH_TOKENS // width))
        rows, order = np.split(order, [together])
        filled = together if alike else len(rows)
        memory = model.memory(filled)
        for start in range(0, int(lengths[rows[0]]) - 1, width):
            ids = np.zeros((filled, width + 1), np.int32)
            for row, document in enumerate(rows):
                part = text.document(document)[start : start + width + 1]
                ids[row, : len(part)] = part
            logprobs = np.array(score(mx.array(ids), memory))
            for row, document in enumerate(rows):
                real = max(0, min(width, int(lengths[document]) - 1 - start))
                yield int(document), start, logprobs[row, :real]
