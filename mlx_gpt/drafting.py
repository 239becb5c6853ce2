"""Drafting: a cheap guess at the next few tokens, checked by the target all at once, at no change of its law.

A draft proposes d_1 … d_g, each drawn from its own law q; the target says its laws p_1 … p_g+1 in one pass. Token
d_i is accepted with probability min(1, p_i(d_i) / q_i(d_i)); in place of the first that is not, one is drawn from
max(0, p_i - q_i), normalised; after the last one that is, from p_g+1. Every token then has the law of the target,
whatever q is (Leviathan et al. 2023, algorithm 1; Chen et al. 2023). At temperature 0 the text is the target's own:
d_i is accepted where it is the likeliest token, so that no law is ever made.

What follows where the end of the text stood before is a draft, too: all of q on one token (Saxena 2023). So is a
model that is itself drafted for: its tokens have its own law, so that drafts make a cascade, each exact by the same
rule (Spector & Re 2023, staged speculative decoding).

g drafted tokens, V vocabulary, B batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np

from mlx_gpt.decoding import CHUNK, Reading, readable
from mlx_gpt.endless import Endless
from mlx_gpt.errors import TokenizerError
from mlx_gpt.memory import Memory, Nested
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste, distribution, wished

LENGTHS = (1, 2, 3, 4, 5, 6, 7, 15)  # of drafts: on a CPU a product of 9 to 15 rows is slower than one of 16
MOST = LENGTHS[-1]
PATIENCE = 8  # tokens that are read again in the next check rather than in a pass of their own
FADING = 0.9  # of what was accepted, in what is expected of the next draft, a round
ROW = 1 / 32  # of a pass, what each further row of it costs
OPERATION = 2**18  # bytes that are read in the time it takes to begin what one matrix is for

Proposal = tuple[list[int], np.ndarray | None]  # tokens, and their laws (g, V); None: they were certain


@dataclass
class Tally:
    """What came of the drafts. Without them, every token would have been a round."""

    proposed: int = 0
    accepted: int = 0
    rounds: int = 0

    @property
    def tokens_per_round(self) -> float:
        """Tokens written for each pass of the target."""
        return 1 + self.accepted / max(1, self.rounds)


class Draft(Protocol):
    """Who proposes."""

    vocab_size: int

    @property
    def work(self) -> float:
        """What a proposed token costs: see `work_of`."""
        ...

    def propose(self, past: Sequence[int], most: int, chance: np.random.Generator) -> Proposal:
        """At most `most` tokens, 1 to `MOST`, to follow `past`, and the laws they were drawn from.

        `past` may differ from that of the last call, with the tokens then proposed, in the last `MOST` at most.
        """
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A model that has a way of its own to the likeliest ids, each after those before it: see `Reader.likeliest`."""

    def likeliest(self, past: Sequence[int], most: int) -> list[int]: ...


class Reader:
    """A model that reads a text of which the last tokens, at most `MOST`, may become others."""

    def __init__(self, model: LanguageModel, prompt: Sequence[int], reading: Reading | None = None) -> None:
        """A prompt longer than the context is read from where `decoding.generate` reads it; what was read of it before
        is not read again."""
        self.model = Endless(model)
        self.memory: Memory = self.model.memory()
        self._read = list(prompt[: len(prompt) - len(readable(prompt, self.model.context))])
        if reading is not None and reading.begins(prompt):
            self.memory, self._read = self.model.renewed(reading.ids, reading.memory.rows([0])), list(reading.ids)
        self._before: list[tuple[int, Memory]] = []  # of a memory that cannot be shortened

    def after(self, past: Sequence[int], more: Sequence[int] = ()) -> mx.array:
        """Log-probabilities after `past` and after each id of `more`, (1 + more, V); reads them all, but what it has
        read of them before only where the memory cannot go back that far."""
        same, end = max(0, len(self._read) - MOST), min(len(past) - 1, len(self._read))
        while same < end and past[same] == self._read[same]:
            same += 1
        self._back(min(same, end))
        if len(past) - len(self._read) > PATIENCE:
            for start in range(len(self._read), len(past) - 1, CHUNK):
                ids = past[start : min(start + CHUNK, len(past) - 1)]
                mx.eval(self.model.following(mx.array([ids]), self.memory))
            self._read = list(past[:-1])
        self._mark(len(self._read))
        ids = [*past[len(self._read) :], *more]
        self._read = [*past, *more]
        return self.model.logprobs(mx.array([ids]), self.memory)[0, -1 - len(more) :]

    def likeliest(self, past: Sequence[int], most: int, taste: Taste) -> list[int]:
        """`most` ids after `past`, each the likeliest after those before it, which is still on its way then."""
        tokens = [mx.argmax(wished(self.after(past), taste), axis=-1)]
        for at in range(most - 1):
            mx.async_eval(tokens[-1])  # type: ignore[no-untyped-call]
            self._mark(len(past) + at)
            logprobs = self.model.following(tokens[-1][None], self.memory)
            tokens.append(mx.argmax(wished(logprobs, taste), axis=-1))
        ids: list[int] = mx.concatenate(tokens).tolist()  # type: ignore[assignment]
        self._read += ids[:-1]
        return ids

    def _mark(self, read: int) -> None:
        """Keep a memory that cannot be shortened as it is after so many tokens."""
        if not self.memory.shorten(0):
            self._before.append((read, _marked(self.memory)))

    def _back(self, length: int) -> None:
        """To where no more than the first `length` tokens were read."""
        if not self.memory.shorten(len(self._read) - length):
            self._before.append((len(self._read), self.memory))
            while self._before[-1][0] > length:
                self._before.pop()
            read, self.memory = self._before.pop()
            old = [at for at, (stood, _) in enumerate(self._before) if stood <= read - MOST]
            self._before = self._before[old[-1] if old else 0 :]
            length = read
        del self._read[length:]


def _marked(memory: Memory) -> Memory:
    """The memory as it is now: its arrays are replaced, or written to only behind what they hold."""
    found = copy.copy(memory)
    found.arrays = list(memory.arrays)
    if isinstance(found, Nested):
        found.inner = [_marked(each) for each in found.inner]
    return found


class Model:
    """Any model as one who writes a text or drafts it: with a draft of its own, several tokens a pass."""

    def __init__(
        self, model: LanguageModel, taste: Taste, draft: Draft | None = None, tally: Tally | None = None
    ) -> None:
        """Raises TokenizerError where the draft knows another vocabulary."""
        if draft is not None and draft.vocab_size != model.vocab_size:
            raise TokenizerError(f"a draft of {draft.vocab_size} tokens for a model of {model.vocab_size}")
        self.model, self.taste, self.draft, self.vocab_size = model, taste, draft, model.vocab_size
        self.tally = Tally() if tally is None else tally
        self._pass = work_of(model)
        self._accepted, self._tried = 1.0, 2.0  # as if one of two had been accepted
        self._reader: Reader | None = None
        self._prompt = 0  # ids of it

    @property
    def work(self) -> float:
        return self._pass * (1.0 if self.draft is None else self._length()[1])

    def propose(self, past: Sequence[int], most: int, chance: np.random.Generator) -> Proposal:
        if self.draft is None and self.taste.temperature == 0 and not self.taste.counts:
            self.tally.rounds += most
            if isinstance(self.model, Foreseeing) and not self.taste.bias:
                return self.model.likeliest(past, most), None
            self._reader = self._reader or Reader(self.model, past)
            return self._reader.likeliest(past, most, self.taste), None
        text, laws = list(past), []
        while len(text) < len(past) + most:
            tokens, p = self.write(text, len(past) + most - len(text), chance)
            text += tokens
            laws.append(p)
        return text[len(past) :], None if laws[0] is None else np.concatenate(laws)  # type: ignore[arg-type]

    def write(self, past: Sequence[int], most: int, chance: np.random.Generator) -> Proposal:
        """One round: from 1 to `most` tokens to follow `past`, by the law of the model, and their laws."""
        if self._reader is None:
            self._reader, self._prompt = Reader(self.model, past), len(past)
        tokens, q = list[int](), None
        if self.draft is not None and most > 1:
            tokens, q = self.draft.propose(past, min(self._length()[0], most - 1), chance)
        logprobs, counts = self._reader.after(past, tokens), self._counts(past, tokens)
        if self.taste.temperature == 0:
            likeliest: list[int] = mx.argmax(wished(logprobs, self.taste, counts), axis=-1).tolist()  # type: ignore[assignment]
            refused = (at for at, token in enumerate(tokens) if token != likeliest[at])
            kept = next(refused, len(tokens))
            following, p = likeliest[kept], None
        else:
            p = law(logprobs, self.taste, counts)
            accepted, drawn_after = settle(p[None], None if q is None else q[None], np.array([tokens], int), chance)
            kept, following, p = int(accepted[0]), int(drawn_after[0]), p[: int(accepted[0]) + 1]
        self.tally.proposed += len(tokens)
        self.tally.accepted += kept
        self.tally.rounds += 1
        if tokens:
            self._accepted = FADING * self._accepted + kept
            self._tried = FADING * self._tried + kept + (kept < len(tokens))
        return [*tokens[:kept], following], p

    def _length(self) -> tuple[int, float]:
        assert self.draft is not None
        return best_length(self._accepted / self._tried, self.draft.work / self._pass)

    def _counts(self, past: Sequence[int], tokens: Sequence[int]) -> mx.array | None:
        """How often each token was written before each of the next ones (1 + g, V), where anybody asks."""
        if not self.taste.counts:
            return None
        written = np.bincount(np.array(past[self._prompt :], int), minlength=self.vocab_size)
        further = np.zeros((1 + len(tokens), self.vocab_size), np.int32)
        further[np.arange(len(tokens)) + 1, tokens] = 1
        return mx.array((written + further.cumsum(axis=0)).astype(np.int32))


class Lookup:
    """The text itself as a draft: what followed the longest repeated end of it, where that last stood."""

    work = float(OPERATION)

    def __init__(self, vocab_size: int, longest: int = 8) -> None:
        """Ends of up to `longest` tokens are looked for."""
        self.vocab_size, self.longest = vocab_size, longest

    def propose(self, past: Sequence[int], most: int, chance: np.random.Generator) -> Proposal:
        text = np.array(past)
        places = np.flatnonzero(text[:-1] == text[-1])  # where the last token stood before
        for back in range(1, min(self.longest, len(text))):
            longer = places[places >= back]
            longer = longer[text[longer - back] == text[-1 - back]]
            if not len(longer):
                break
            places = longer
        return text[places[-1] + 1 :][:most].tolist() if len(places) else [], None


def law(logprobs: mx.array, taste: Taste, counts: mx.array | None = None) -> np.ndarray:
    """Probabilities (..., V) in float64 by which `sampling.choose` takes a token after these log-probabilities."""
    p = np.exp(np.array(distribution(logprobs, taste, counts), np.float64))
    return p / p.sum(axis=-1, keepdims=True)


def drawn(p: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """One token (B,) for each row of weights (B, V), none of weight zero."""
    edges = np.cumsum(p, axis=-1)
    return (edges <= chance.random((len(p), 1)) * edges[:, -1:]).sum(axis=-1)


def settle(
    p: np.ndarray, q: np.ndarray | None, drafts: np.ndarray, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """How many drafted tokens are accepted (B,), and the token that follows them (B,).

    p       (B, g + 1, V)  the target's laws
    q       (B, g, V)      the draft's laws; None where all of each was on the token
    drafts  (B, g)         drawn from q
    """
    batch, g = drafts.shape
    rows = np.arange(batch)
    of_target, of_draft = (
        1.0 if each is None else np.take_along_axis(each[:, :g], drafts[..., None], axis=-1)[..., 0] for each in (p, q)
    )
    accepted = (chance.random((batch, g)) * of_draft < of_target).cumprod(axis=1).sum(axis=1)
    following = p[rows, accepted]
    refused = np.flatnonzero(accepted < g)
    left, at = following[refused], accepted[refused]
    if q is None:
        left[np.arange(len(refused)), drafts[refused, at]] = 0.0
    else:
        left = np.maximum(left - q[refused, at], 0)
    following[refused] = np.where(left.any(axis=-1, keepdims=True), left, following[refused])
    return accepted, drawn(following, chance)


def best_length(acceptance: float, cost: float) -> tuple[int, float]:
    """How many tokens, one of `LENGTHS`, to draft so that a written one costs least; and what it costs, in passes.

    (1 - a^(g+1)) / (1 - a) tokens are expected of a round if each of g drafted ones is accepted with probability a.
    A round costs a pass, `ROW` for each drafted token that it checks, and `cost` for each that is proposed (Leviathan
    et al. 2023, section 3.3, where rows are free). Both are known without a clock, so that the same seed gives the
    same text: a product with few rows takes about as long as its matrix takes to be read, and so does the draft's.
    """
    prices = {g: (1 + (ROW + cost) * g) / sum(acceptance**i for i in range(g + 1)) for g in LENGTHS}
    best = min(LENGTHS, key=prices.__getitem__)
    return best, prices[best]


def work_of(model: LanguageModel) -> float:
    """What a pass of one token costs, in bytes that are read: every matrix, and `OPERATION` for each and once more.

    A table of counts has no matrix; of its columns a few numbers are read.
    """
    arrays = model.arrays().values()
    matrices = [each.nbytes for each in arrays if isinstance(each, np.ndarray | mx.array) and each.ndim > 1]
    return float(sum(matrices) + OPERATION * (1 + len(matrices)))


def drafted(
    model: LanguageModel, draft: Draft, prompt: Sequence[int], taste: Taste, seed: int, tally: Tally | None = None
) -> Iterator[int]:
    """Token ids that follow a prompt of at least one id, without end, by the law of `decoding.generate`.

    The length of the drafts follows what was accepted so far, not the clock: the same seed gives the same text.
    Raises TokenizerError where the draft knows another vocabulary.
    """
    writer, chance, past = Model(model, taste, draft, tally), np.random.default_rng(seed), list(prompt)
    while True:
        tokens, _ = writer.write(past, MOST + 1, chance)
        past += tokens
        yield from tokens
