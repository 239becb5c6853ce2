"""The likeliest texts by beam search, for every stage: it needs the contract and a memory whose rows can be taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gpt.chosen import largest
from mlx_gpt.decoding import Reading, following, readable
from mlx_gpt.errors import SettingError
from mlx_gpt.memory import Memory
from mlx_gpt.model import LanguageModel, check_ids


@dataclass(frozen=True)
class Found:
    """A text that follows a prompt: its ids, its log-probability in nats, and the score that ranks it."""

    ids: tuple[int, ...]
    logprob: float
    score: float


def beam_search(
    model: LanguageModel,
    prompt: Sequence[int],
    width: int,
    tokens: int,
    *,
    end: int | None = None,
    length_penalty: float = 0.0,
    reading: Reading | None = None,
) -> list[Found]:
    """At most `width` texts that follow a prompt of at least one id, the best first; of equals the lowest ids.

    A text ends with the id `end`, which counts as one of its tokens, or after `tokens` of them. At each length the
    `width` likeliest that have not ended are read on. Texts are ranked by log p / lp, where for |Y| tokens
    lp = (5 + |Y|)^length_penalty / 6^length_penalty (Wu et al. 2016). With a width of V^(tokens - 1) or more nothing
    is left out. What was read of the prompt before is not read again.
    Raises SettingError for a setting out of its range, TokenizerError for ids outside the vocabulary.
    """
    for name, value, low in (("--width", width, 1), ("--tokens", tokens, 1), ("--length-penalty", length_penalty, 0)):
        if not low <= value < np.inf:
            raise SettingError(f"{name} {value}: must be a number of at least {low}")
    assert len(prompt) > 0, "a prompt of at least one id"
    check_ids(mx.array([list(prompt)]), model.vocab_size)
    past = np.array([prompt], np.int32)
    memory, unread = model.memory(), past
    if reading is not None and reading.begins(prompt):
        memory, unread = reading.memory.rows([0]), past[:, len(reading.ids) :]
    logprobs, memory = _read(model, memory, past, unread)
    alive, ended = np.zeros(1), list[Found]()
    for written in range(1, tokens + 1):
        divisor = _length_penalty(written, length_penalty)
        longer = alive[:, None] + logprobs  # (R, V), one row for each text that is read on
        if end is not None:
            ended += [
                Found((*past[row, len(prompt) :].tolist(), end), float(nats), float(nats) / divisor)
                for row, nats in enumerate(longer[:, end])
                if nats > -np.inf
            ]
            longer[:, end] = -np.inf
        best = largest(longer.reshape(-1), width)
        best = np.sort(best[longer.reshape(-1)[best] > -np.inf])  # texts in the order of their ids: so are equals
        rows, ids = np.divmod(best, longer.shape[1])
        alive = longer[rows, ids]
        past = np.concatenate([past[rows], ids[:, None].astype(np.int32)], axis=1)
        if written == tokens:
            ended += [
                Found(tuple(text[len(prompt) :].tolist()), float(nats), float(nats) / divisor)
                for text, nats in zip(past, alive, strict=True)
            ]
        ended = sorted(ended, key=lambda found: (-found.score, found.ids))[:width]
        hope = alive.max(initial=-np.inf) / _length_penalty(tokens, length_penalty)  # no text read on can beat this
        if written == tokens or not len(best) or (len(ended) == width and hope < ended[-1].score):
            break
        logprobs, memory = _read(model, memory.rows(rows.tolist()), past, past[:, -1:])
    return ended


def _length_penalty(tokens: int, exponent: float) -> float:
    return float(((5 + tokens) / 6) ** exponent)


def _read(model: LanguageModel, memory: Memory, past: np.ndarray, unread: np.ndarray) -> tuple[np.ndarray, Memory]:
    """Log-probabilities (R, V) after unread ids (R, T), the end of all `past` ones, and the memory that holds them.

    A memory that is full is emptied, as `generate` does.
    """
    context, room = model.memory().room, memory.room
    if room is not None and unread.shape[1] > room:
        memory = model.memory(len(past))
        unread = np.array([readable(row, context) for row in past.tolist()], np.int32)
    logprobs = following(model, unread.tolist(), memory).astype(mx.float32)
    return np.array(logprobs).astype(np.float64), memory
