"""What a model says of a text it has written: token by token, as JSON or as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gpt.chosen import Chosen, chosen
from mlx_gpt.drafting import Reader
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste, distribution
from mlx_gpt.tokenizer import Tokenizer

AT_ONCE = 256  # tokens of which (T, V) log-probabilities are held


@dataclass(frozen=True)
class Told:
    """A token that was written: what the model says of it, and its log-probability by the law it was drawn from."""

    chosen: Chosen
    sampling_logprob: float


def told(
    model: LanguageModel, prompt: Sequence[int], tokens: Sequence[int], taste: Taste, alternatives: int = 0
) -> list[Told]:
    """What a model says of each token written after a prompt of at least one id, and of that many of the likeliest.

    Read as `decoding.generate` reads, a full context included. Logarithms are natural.
    Raises TokenizerError for ids outside the vocabulary.
    """
    reader, found = Reader(model, prompt), list[Told]()
    written = np.zeros(model.vocab_size, np.int32)  # how often each token was, (V,)
    for start in range(0, len(tokens), AT_ONCE):
        some = list(tokens[start : start + AT_ONCE])
        logprobs = reader.after([*prompt, *tokens[:start]], some[:-1])  # (T, V)
        reader.keep(reader.read)
        counts = None
        if taste.counts:
            before = np.zeros((len(some) + 1, model.vocab_size), np.int32)
            before[np.arange(1, len(before)), some] = 1
            before = written + before.cumsum(axis=0)
            counts, written = mx.array(before[:-1]), before[-1]
        law = mx.take_along_axis(distribution(logprobs, taste, counts), mx.array(some)[:, None], axis=-1)[:, 0]
        drawn: list[float] = law.tolist()  # type: ignore[assignment]
        found += [Told(*each) for each in zip(chosen(logprobs, mx.array(some), alternatives), drawn, strict=True)]
    return found


def as_json(
    prompt: str, text: str, finish_reason: str, tokens: Sequence[Told], tokenizer: Tokenizer, facts: Mapping[str, float]
) -> str:
    """One line of JSON. Names and log-probabilities are those of OpenAI's API; an impossible token has null.

    `tokens` are all that were chosen, those of a stop string and the end of the text too.
    """
    rows = [
        {
            **_row(each.chosen.token, each.chosen.logprob, tokenizer),
            "sampling_logprob": _finite(each.sampling_logprob),
            "top_logprobs": [_row(*other, tokenizer) for other in each.chosen.alternatives],
        }
        for each in tokens
    ]
    return json.dumps({"prompt": prompt, **facts, "text": text, "finish_reason": finish_reason, "tokens": rows})


def _row(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, int | str | float | None]:
    return {"id": token, "token": tokenizer.spelled(token), "logprob": _finite(logprob)}


def _finite(nats: float) -> float | None:
    return nats if math.isfinite(nats) else None


def table(tokens: Sequence[Told], tokenizer: Tokenizer) -> list[str]:
    """A line for each token: its probability, the token in quotes, and the likeliest ones with theirs."""
    names = [_quoted(each.chosen.token, tokenizer) for each in tokens]
    width = max(map(len, names), default=0)
    lines = []
    for name, each in zip(names, tokens, strict=True):
        others = [f"{_quoted(token, tokenizer)} {math.exp(nats):.3g}" for token, nats in each.chosen.alternatives]
        lines.append("  ".join([f"{math.exp(each.chosen.logprob):8.3g}", name.ljust(width), *others]).rstrip())
    return lines


def _quoted(token: int, tokenizer: Tokenizer) -> str:
    return json.dumps(tokenizer.spelled(token), ensure_ascii=False)
