"""Drafting: a cheap guess at the next few tokens, checked by the target all at once, at no change of its law.

A draft proposes d_1 … d_g, each drawn from its own law q; the target says its laws p_1 … p_g+1 in one pass. Token
d_i is accepted with probability min(1, p_i(d_i) / q_i(d_i)); in place of the first that is not, one is drawn from
max(0, p_i - q_i), normalised; after the last one that is, from p_g+1. Every token then has the law of the target,
whatever q is (Leviathan et al. 2023, algorithm 1; Chen et al. 2023). At temperature 0 the text is the target's own.

What follows where the end of the text stood before is a draft, too: all of q on one token (Saxena 2023).

B batch, g drafted tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_gpt.decoding import CHUNK, Reading, readable
from mlx_gpt.endless import Endless, Renewed
from mlx_gpt.errors import TokenizerError
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste, distribution

MOST = 16  # tokens drafted at a time
PATIENCE = 8  # tokens that are read again in the next check rather than in a pass of their own
FADING = 0.9  # of what was accepted, in what is expected of the next draft, a round


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
    cost: float  # of one proposed token, as a share of a pass of the target

    def propose(self, past: Sequence[int], most: int, chance: np.random.Generator) -> tuple[list[int], np.ndarray]:
        """At most `most` tokens to follow `past`, and the laws they were drawn from (g, V).

        `past` goes on where that of the last call ended, with tokens of which some may be those proposed.
        """
        ...


class Reader:
    """A model that reads a text which may be taken back: where it stands, and where it stood before."""

    def __init__(self, model: LanguageModel, prompt: Sequence[int], reading: Reading | None = None) -> None:
        """A prompt longer than the context is read from where `decoding.generate` reads it; what was read of it before
        is not read again."""
        self.model = Endless(model)
        self.memory, self.read = self.model.memory(), len(prompt) - len(readable(prompt, self.model.context))
        if reading is not None and reading.begins(prompt):
            self.memory, self.read = self.model.renewed(reading.ids, reading.memory.rows([0])), len(reading.ids)
        self._before: list[tuple[int, Renewed]] = []

    def after(self, past: Sequence[int], more: Sequence[int] = ()) -> mx.array:
        """Log-probabilities after `past` and after each id of `more`, (1 + more, V); reads them all."""
        if len(past) - self.read > PATIENCE:
            for start in range(self.read, len(past) - 1, CHUNK):
                ids = past[start : min(start + CHUNK + 1, len(past))]
                mx.eval(self.model.score(mx.array([ids]), self.memory))
            self.read = len(past) - 1
        self._before.append((self.read, copy.deepcopy(self.memory)))  # arrays are shared until one is written to
        ids = [*past[self.read :], *more]
        self.read = len(past) + len(more)
        return self.model.logprobs(mx.array([ids]), self.memory)[0, -1 - len(more) :]

    def keep(self, length: int) -> None:
        """Go back to where no more than the first `length` tokens were read; what stood before is forgotten."""
        while self.read > length:
            self.read, self.memory = self._before.pop()
        self._before = []


class Model:
    """Any model over the target's vocabulary as the draft of one text, with the same taste."""

    def __init__(self, model: LanguageModel, taste: Taste, cost: float = 0.2) -> None:
        self.model, self.taste, self.cost, self.vocab_size = model, taste, cost, model.vocab_size
        self._reader: Reader | None = None
        self._text: list[int] = []
        self._sure = 0  # ids of the text that were past, not proposed

    def propose(self, past: Sequence[int], most: int, chance: np.random.Generator) -> tuple[list[int], np.ndarray]:
        reader, same = self._reader or Reader(self.model, past), self._sure
        while same < min(len(past) - 1, len(self._text)) and past[same] == self._text[same]:
            same += 1
        if self._reader:
            reader.keep(same)
        text, laws = list(past), np.empty((most, self.vocab_size))
        for row in laws:
            row[:] = law(reader.after(text), self.taste)[0]
            text.append(int(drawn(row[None], chance)[0]))
        self._reader, self._text, self._sure = reader, text, len(past)
        return text[len(past) :], laws


class Lookup:
    """The text itself as a draft: what followed the longest repeated end of it, where that last stood."""

    cost = 0.02

    def __init__(self, vocab_size: int, longest: int = 8) -> None:
        """Ends of up to `longest` tokens are looked for."""
        self.vocab_size, self.longest = vocab_size, longest

    def propose(self, past: Sequence[int], most: int, chance: np.random.Generator) -> tuple[list[int], np.ndarray]:
        text = np.array(past)
        places = np.flatnonzero(text[:-1] == text[-1])  # where the last token stood before
        for back in range(1, min(self.longest, len(text))):
            longer = places[places >= back]
            longer = longer[text[longer - back] == text[-1 - back]]
            if not len(longer):
                break
            places = longer
        tokens = text[places[-1] + 1 :][:most] if len(places) else text[:0]
        return tokens.tolist(), certain(tokens, self.vocab_size)


def certain(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """All probability on one token: (...) -> (..., V)."""
    p = np.zeros((*tokens.shape, vocab_size))
    np.put_along_axis(p, tokens[..., None].astype(np.int64), 1.0, axis=-1)
    return p


def law(logprobs: mx.array, taste: Taste) -> np.ndarray:
    """Probabilities (..., V) in float64 by which `sampling.choose` takes a token after these log-probabilities."""
    p = np.exp(np.array(distribution(logprobs, taste), np.float64))
    return p / p.sum(axis=-1, keepdims=True)


def drawn(p: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """One token (B,) for each row of weights (B, V), none of weight zero."""
    edges = np.cumsum(p, axis=-1)
    return (edges <= chance.random((len(p), 1)) * edges[:, -1:]).sum(axis=-1)


def settle(
    p: np.ndarray, q: np.ndarray, drafts: np.ndarray, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """How many drafted tokens are accepted (B,), and the token that follows them (B,).

    p       (B, g + 1, V)  the target's laws
    q       (B, g, V)      the draft's laws
    drafts  (B, g)         drawn from q
    """
    batch, g = drafts.shape
    of_target, of_draft = (np.take_along_axis(each[:, :g], drafts[..., None], axis=-1)[..., 0] for each in (p, q))
    accepted = (chance.random((batch, g)) * of_draft < of_target).cumprod(axis=1).sum(axis=1)
    rows = np.arange(batch)
    following = p[rows, accepted]
    refused = accepted < g
    left = np.maximum(following[refused] - q[rows[refused], accepted[refused]], 0)
    following[refused] = np.where(left.any(axis=-1, keepdims=True), left, following[refused])
    return accepted, drawn(following, chance)


def best_length(acceptance: float, cost: float, most: int = MOST) -> int:
    """The g, at least 1, that writes most tokens for what they cost: (1 - a^(g+1)) / (1 - a) of them are expected of
    a pass, and it costs 1 + g cost (Leviathan et al. 2023, section 3.3)."""
    g = np.arange(1, most + 1)
    expected = np.cumsum(acceptance ** np.arange(most + 1))[1:]
    return int(g[np.argmax(expected / (1 + cost * g))])


def drafted(
    model: LanguageModel, draft: Draft, prompt: Sequence[int], taste: Taste, seed: int, tally: Tally | None = None
) -> Iterator[int]:
    """Token ids that follow a prompt of at least one id, without end, by the law of `decoding.generate`.

    The length of the drafts follows what was accepted so far, not the clock: the same seed gives the same text.
    Raises TokenizerError where the draft knows another vocabulary.
    """
    if draft.vocab_size != model.vocab_size:
        raise TokenizerError(f"a draft of {draft.vocab_size} tokens for a model of {model.vocab_size}")
    tally = Tally() if tally is None else tally
    chance, past, reader = np.random.default_rng(seed), list(prompt), Reader(model, prompt)
    accepted_before, tried_before = 1.0, 2.0  # as if one of two had been accepted
    while True:
        tokens, q = draft.propose(past, best_length(accepted_before / tried_before, draft.cost), chance)
        p = law(reader.after(past, tokens), taste)
        accepted, following = settle(p[None], q[None], np.array([tokens], np.int64), chance)
        kept = int(accepted[0])
        tally.proposed += len(tokens)
        tally.accepted += kept
        tally.rounds += 1
        if tokens:
            accepted_before = FADING * accepted_before + kept
            tried_before = FADING * tried_before + kept + (kept < len(tokens))
        reader.keep(len(past) + kept)
        past += [*tokens[:kept], int(following[0])]
        yield from past[-1 - kept :]
