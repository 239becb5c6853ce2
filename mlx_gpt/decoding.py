"""From a model to text: one loop for every stage and for any number of texts, and what of it may be shown when.

The rule where a context has an end is that of scores, too: a memory that is full is emptied, and the last half of the
context is read again. Of a prompt that is longer than the context that much is read.

B texts, T tokens, V vocabulary.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gpt.memory import Memory, read_again
from mlx_gpt.model import LanguageModel, check_ids
from mlx_gpt.sampling import Taste, choose, folded, row_keys
from mlx_gpt.tokenizer import Tokenizer

CHUNK = 1_024  # tokens of a prompt read in one go
LENGTH, END_OF_TEXT, STOP = "length", "end of text", "stop"  # what ends a text


@dataclass(frozen=True)
class Reading:
    """The beginning of a prompt, and what a model remembers of it."""

    ids: list[int]
    memory: Memory

    def begins(self, prompt: Sequence[int]) -> bool:
        """Whether this prompt begins so, and the rest of it has room."""
        rest, room = len(prompt) - len(self.ids), self.memory.room
        return rest > 0 and (room is None or rest <= room) and list(prompt[: len(self.ids)]) == self.ids


@dataclass
class _Text:
    """One text of a batch: its number, all its ids, how many of them the memory holds; its chance, how many tokens
    were chosen for it, and how often each (V,), as far as anybody asks."""

    number: int
    ids: list[int]
    held: int
    key: mx.array  # (1, 2)
    written: int
    counts: mx.array | None


def read(model: LanguageModel, prompt: Sequence[int]) -> Reading:
    """Read a prompt but for its last token; nothing of one that is longer than the context, for it is read at its end.

    Raises TokenizerError for ids outside the vocabulary.
    """
    check_ids(mx.array([list(prompt)]), model.vocab_size)
    memory = model.memory()
    ids = list(prompt[:-1]) if memory.room is None or len(prompt) <= memory.room else []
    if ids:
        following(model, [ids], memory)
        mx.eval(memory.arrays)
    return Reading(ids, memory)


def readable(ids: Sequence[int], context: int | None) -> list[int]:
    """What an empty memory reads of ids."""
    if context is None or len(ids) <= context:
        return list(ids)
    return list(ids[-(read_again(context) + 1) :])


def following(model: LanguageModel, ids: Sequence[Sequence[int]], memory: Memory) -> mx.array:
    """Log-probabilities (B, V) after ids (B, T); what comes before the last chunk is only remembered."""
    tokens = mx.array([list(row) for row in ids])
    for start in range(0, tokens.shape[1] - CHUNK, CHUNK):
        model.following(tokens[:, start : start + CHUNK], memory)
        mx.eval(memory.arrays)
    last = (tokens.shape[1] - 1) // CHUNK * CHUNK
    return model.following(tokens[:, last:], memory)


class Batch:
    """Texts continued side by side, each as it would be alone; they may come and go at any time.

    While the caller looks at one token of each, the next ones are being computed.
    """

    def __init__(self, model: LanguageModel, taste: Taste) -> None:
        self.model, self.taste = model, taste
        self.context = model.memory().room
        self._texts: list[_Text] = []  # in the order of the memory's rows
        self._memory: Memory | None = None
        self._ahead: mx.array | None = None  # (B,) chosen, but not yet remembered
        self._added = 0

    def add(self, prompt: Sequence[int], seed: int, reading: Reading | None = None) -> int:
        """Take in the text that begins with a prompt of at least one id; returns its number, from 0 on.

        What was read of the prompt before is not read again.
        Raises TokenizerError for ids outside the vocabulary.
        """
        return self.add_samples(prompt, [seed], reading)[0]

    def add_samples(self, prompt: Sequence[int], seeds: Sequence[int], reading: Reading | None = None) -> list[int]:
        """As `add`, for a text of each seed; the prompt is read once for all of them."""
        check_ids(mx.array([list(prompt)]), self.model.vocab_size)
        ids, unread, memory = list(prompt), readable(prompt, self.context), self.model.memory()
        held = len(unread)
        if reading is not None and reading.begins(ids):
            unread, memory = ids[len(reading.ids) :], reading.memory.rows([0])
        logprobs = following(self.model, [unread], memory)  # (1, V)
        texts = []
        for seed in seeds:
            counts = mx.zeros(self.model.vocab_size, mx.int32) if self.taste.counts else None
            texts.append(_Text(self._added, list(ids), held, row_keys([seed]), 0, counts))
            self._added += 1
        if len(seeds) > 1:
            memory, logprobs = memory.rows([0] * len(seeds)), mx.repeat(logprobs, len(seeds), axis=0)
        first = self._choose(logprobs, texts)
        if self._memory is None:
            self._memory, self._ahead = memory, first
        else:
            self._memory, self._ahead = self._memory.joined(memory), mx.concatenate([self._next(), first])
        self._texts += texts
        return [text.number for text in texts]

    def step(self) -> dict[int, int]:
        """The next token of every text, by the text's number; there must be one."""
        told = self._next()
        self._ahead = None
        assert self._memory is not None
        if self._memory.room != 0:
            logprobs = self.model.following(told[:, None], self._memory)
            for text in self._texts:
                text.held += 1
            self._ahead = self._choose(logprobs, self._texts)
        tokens: list[int] = np.array(told).tolist()
        for text, token in zip(self._texts, tokens, strict=True):
            text.ids.append(token)
        return {text.number: token for text, token in zip(self._texts, tokens, strict=True)}

    def drop(self, number: int) -> None:
        """Leave a text alone from now on."""
        rest = [row for row, text in enumerate(self._texts) if text.number != number]
        self._texts = [self._texts[row] for row in rest]
        if not rest:
            self._memory = self._ahead = None
            return
        assert self._memory is not None
        self._memory = self._memory.rows(rest)
        if self._ahead is not None:
            self._ahead = self._ahead[mx.array(rest)]

    @property
    def numbers(self) -> list[int]:
        """The texts in it, in the order in which they came."""
        return sorted(text.number for text in self._texts)

    def _next(self) -> mx.array:
        """The next tokens (B,); where a memory is full, after its text was read again."""
        if self._ahead is None:
            assert self._memory is not None
            full = [text for text in self._texts if text.held == self.context]
            rest = [row for row, text in enumerate(self._texts) if text.held != self.context]
            again = [readable(text.ids, self.context) for text in full]  # alike in length, for all are over it
            memory = self.model.memory(len(full))
            logprobs = following(self.model, again, memory)
            for text in full:
                text.held = len(again[0])
            if rest:
                going = [self._texts[row] for row in rest]
                others = self._memory.rows(rest)
                near = self.model.following(mx.array([[text.ids[-1]] for text in going]), others)
                for text in going:
                    text.held += 1
                self._texts, logprobs = going + full, mx.concatenate([near, logprobs])
                memory = others.joined(memory)
            self._memory, self._ahead = memory, self._choose(logprobs, self._texts)
        return self._ahead

    def _choose(self, logprobs: mx.array, texts: Sequence[_Text]) -> mx.array:
        """A token of each row of (B, V), (B,), by the chance of its own text; asked for, not waited for."""
        positions = mx.array([text.written for text in texts])
        keys = folded(mx.concatenate([text.key for text in texts]), positions)
        held = [text.counts for text in texts if text.counts is not None]
        counts = mx.stack(held) if held else None  # (B, V)
        tokens = choose(logprobs, self.taste, keys, counts)
        for text in texts:
            text.written += 1
        if counts is None:
            mx.async_eval(tokens)  # type: ignore[no-untyped-call]
            return tokens
        counts = counts.at[mx.arange(len(texts)), tokens].add(1)
        for row, text in enumerate(texts):
            text.counts = counts[row]
        mx.async_eval(tokens, counts)  # type: ignore[no-untyped-call]
        return tokens


def generate(model: LanguageModel, prompt: Sequence[int], taste: Taste, seed: int) -> Iterator[int]:
    """Token ids that follow a prompt of at least one id, without end."""
    batch = Batch(model, taste)
    number = batch.add(prompt, seed)
    while True:
        yield batch.step()[number]


class Writer:
    """The text of tokens as they come, up to `most` of them, the end of text, or a string that ends it.

    Never half a character, and nothing of a stop string: what may become either is held back. `tokens` are all that
    were taken, `finish_reason` is what ended the text: LENGTH, END_OF_TEXT or STOP; empty before.
    """

    def __init__(self, tokenizer: Tokenizer, most: int, stops: Sequence[str] = ()) -> None:
        assert all(stops), "a stop string of no letters"
        self.tokens: list[int] = []
        self.finish_reason = "" if most else LENGTH
        self._tokenizer, self._most, self._stops = tokenizer, most, stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    @property
    def ended(self) -> bool:
        """Whether no more tokens are taken."""
        return bool(self.finish_reason)

    def take(self, token: int) -> str:
        """What is sure to be shown now that this token is known, and has not been before."""
        assert not self.ended
        self.tokens.append(token)
        if token == self._tokenizer.eot:
            self.finish_reason = END_OF_TEXT
        elif len(self.tokens) == self._most:
            self.finish_reason = LENGTH
        self._held += self._decoder.decode(self._tokenizer.decode_bytes([token]), final=self.ended)
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:  # of several the one that was complete first, however the tokens fall
            self.finish_reason, self._held = STOP, self._held[: min(found)[1]]
        sure = len(self._held) - (0 if self.ended else self._doubtful())
        shown, self._held = self._held[:sure], self._held[sure:]
        return shown

    def _doubtful(self) -> int:
        """How many of the last letters may be the beginning of a stop string."""
        most = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        sizes = range(most, 0, -1)
        return next((n for n in sizes if any(stop.startswith(self._held[-n:]) for stop in self._stops)), 0)


def stream(tokens: Iterable[int], writer: Writer) -> Iterator[str]:
    """The text of tokens, piece by piece, as a writer shows it."""
    source = iter(tokens)
    while not writer.ended:
        if piece := writer.take(next(source)):
            yield piece


def streams(batch: Batch, writers: Sequence[Writer]) -> list[Iterator[str]]:
    """As `stream`, for every text of a batch; whichever is asked for, all of them are written on together."""
    named = dict(zip(batch.numbers, writers, strict=True))
    waiting: dict[int, deque[str]] = {number: deque() for number in named}

    def text(number: int) -> Iterator[str]:
        while True:
            while waiting[number]:
                yield waiting[number].popleft()
            if named[number].ended:
                return
            for each, token in batch.step().items():
                waiting[each].append(named[each].take(token))
                if named[each].ended:
                    batch.drop(each)

    return [text(number) for number in named]
