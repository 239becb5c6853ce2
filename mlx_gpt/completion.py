"""Texts that follow a prompt, and what a model says of them token by token, as JSON or as a table."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.beam import beam_search
from mlx_gpt.checkpoint import Checkpoint
from mlx_gpt.chosen import Chosen, chosen
from mlx_gpt.decoding import Batch, Reading, Writer, readable, stream, streams
from mlx_gpt.drafting import Reader
from mlx_gpt.endless import Endless
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste, distribution
from mlx_gpt.tokenizer import Tokenizer

AT_ONCE = 256  # tokens of which (T, V) log-probabilities are held


def remarks(trained: Checkpoint, ids: Sequence[int]) -> list[str]:
    """What is to be known of a prompt that the model cannot take in as it is: a line each."""
    unknown, context = trained.tokenizer.unknown_in(ids), trained.model.memory().room
    found = [f"{unknown:,} words of the prompt are not in the model's vocabulary"] if unknown else []
    if context is not None and len(ids) > context:
        read = len(readable(ids, context))
        found.append(f"of the {len(ids):,} tokens of the prompt the last {read:,} are read: the context is {context:,}")
    return found


@dataclass(frozen=True)
class Text:
    """A text that follows a prompt: what tells it from others, its writer, and its pieces as they are written."""

    facts: Mapping[str, int | float]  # its seed; or its log-probability in nats and its score
    writer: Writer
    pieces: Iterator[str]


def drawn(
    model: LanguageModel,
    ids: Sequence[int],
    reading: Reading | None,
    taste: Taste,
    seeds: Sequence[int],
    writer: Callable[[], Writer],
    together: int,
) -> Iterator[Text]:
    """A text for each seed, `together` of them written side by side."""
    for first in range(0, len(seeds), together):
        batch, some = Batch(model, taste), seeds[first : first + together]
        batch.add_samples(ids, some, reading)
        writers = [writer() for _ in some]
        for seed, each, pieces in zip(some, writers, streams(batch, writers), strict=True):
            yield Text({"seed": seed}, each, pieces)


def likeliest(
    trained: Checkpoint,
    ids: Sequence[int],
    reading: Reading | None,
    width: int,
    best: int,
    tokens: int,
    length_penalty: float,
) -> Iterator[Text]:
    """The best texts that a beam of this width finds."""
    end = trained.tokenizer.eot
    found = beam_search(trained.model, ids, width, tokens, end=end, length_penalty=length_penalty, reading=reading)
    for each in found[:best]:
        writer = Writer(trained.tokenizer, tokens)
        yield Text({"logprob": each.logprob, "score": each.score}, writer, stream(each.ids, writer))


def told(
    model: LanguageModel, prompt: Sequence[int], reading: Reading | None, tokens: Sequence[int], alternatives: int = 0
) -> Iterator[tuple[mx.array, list[Chosen]]]:
    """What a model says of the tokens written after a prompt of at least one id, and of that many of the likeliest.

    Some tokens at a time, behind the log-probabilities (T, V) they were chosen from, in nats; read as
    `decoding.generate` reads, a full context included. What was read of the prompt before is not read again.
    Raises TokenizerError for ids outside the vocabulary.
    """
    reader = Reader(model, prompt, reading)
    for start in range(0, len(tokens), AT_ONCE):
        some = tokens[start : start + AT_ONCE]
        logprobs = reader.after([*prompt, *tokens[:start]], some[:-1])
        yield logprobs, chosen(logprobs, mx.array(list(some)), alternatives)


def surprise(trained: Checkpoint, ids: Sequence[int]) -> tuple[list[str], list[float]]:
    """What each of ids but the first adds to a text, and its bits, -log2 p, whatever a taste would make of that."""
    tokenizer, decoder = trained.tokenizer, codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces = [decoder.decode(tokenizer.decode_bytes([token])) for token in ids[1:]]
    if unfinished := decoder.decode(b"", final=True):
        pieces[-1] += unfinished
    scores: list[float] = Endless(trained.model).score(mx.array([ids]))[0].tolist()  # type: ignore[assignment]
    return pieces, [-score / math.log(2) for score in scores]


def sampling_logprobs(logprobs: mx.array, tokens: Sequence[int], counts: np.ndarray, taste: Taste) -> list[float]:
    """What the law that a taste makes of log-probabilities (T, V) said of the tokens drawn from it, in nats.

    counts (V,) are of the tokens written before; they take these ones in.
    """
    before = None
    if taste.counts:
        written = np.zeros((len(tokens) + 1, len(counts)), np.int32)
        written[0] = counts
        written[np.arange(1, len(written)), tokens] = 1
        written = written.cumsum(axis=0, dtype=np.int32)
        before, counts[:] = mx.array(written[:-1]), written[-1]
    law = np.array(distribution(logprobs, taste, before))
    found: list[float] = law[np.arange(len(tokens)), tokens].tolist()
    return found


def in_full(
    text: Text,
    trained: Checkpoint,
    prompt: str,
    ids: Sequence[int],
    reading: Reading | None,
    taste: Taste | None,
    alternatives: int,
) -> dict[str, Any]:
    """A text, once it is written, as one JSON object; names and log-probabilities are those of OpenAI's API.

    `tokens` are all that were chosen, those of a stop string and the end of the text too; with a taste, beside what the
    model says of a token, what the law it was drawn from says. Log-probabilities are in nats.
    """
    written, rows, counts = "".join(text.pieces), [], np.zeros(trained.model.vocab_size, np.int32)
    for logprobs, tokens in told(trained.model, ids, reading, text.writer.tokens, alternatives):
        some = [_row(each.token, each.logprob, trained.tokenizer) for each in tokens]
        if taste is not None:
            law = sampling_logprobs(logprobs, [each.token for each in tokens], counts, taste)
            some = [{**row, "sampling_logprob": nats} for row, nats in zip(some, law, strict=True)]
        if alternatives:
            others = [[_row(*other, trained.tokenizer) for other in each.alternatives] for each in tokens]
            some = [{**row, "top_logprobs": top} for row, top in zip(some, others, strict=True)]
        rows += some
    facts = {"prompt": prompt, **text.facts, "text": written, "finish_reason": text.writer.finish_reason}
    return {**facts, "tokens": rows}


def _row(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, object]:
    return {"id": token, "token": tokenizer.spelled(token), "logprob": logprob}


def table(text: Text, trained: Checkpoint, ids: Sequence[int], reading: Reading | None, alternatives: int) -> str:
    """A text, once it is written, a line a token: its probability, the token, and the likeliest ones with theirs."""
    for _ in text.pieces:
        pass
    tokens = [each for _, some in told(trained.model, ids, reading, text.writer.tokens, alternatives) for each in some]
    names = [_quoted(each.token, trained.tokenizer) for each in tokens]
    width = max(map(len, names))
    lines = []
    for name, each in zip(names, tokens, strict=True):
        others = [f"{_quoted(token, trained.tokenizer)} {math.exp(nats):.3g}" for token, nats in each.alternatives]
        lines.append("  ".join([f"{math.exp(each.logprob):8.3g}", name.ljust(width), *others]).rstrip())
    return "\n".join(lines)


def _quoted(token: int, tokenizer: Tokenizer) -> str:
    return json.dumps(tokenizer.spelled(token), ensure_ascii=False)
