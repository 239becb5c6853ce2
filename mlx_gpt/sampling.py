"""From log-probabilities to tokens: samplers are functions, and one loop generates for every stage."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gpt.model import LanguageModel
from mlx_gpt.recipe import Settings, setting
from mlx_gpt.tokenizer import Tokenizer

PREFILL = 1_024  # tokens of a prompt read in one go


@dataclass(frozen=True)
class Taste(Settings):
    """How a token is chosen."""

    temperature: float = setting(
        0.8, "below 1 prefers the likely, above 1 the unlikely; 0 takes the likeliest", low=0.0, high=100.0
    )
    top_k: int = setting(0, "choose among the k likeliest tokens; 0 means all", low=0, high=2**31 - 1)
    top_p: float = setting(
        1.0, "choose among the likeliest tokens that together have this probability", low=1e-9, high=1.0
    )


def with_temperature(logprobs: mx.array, temperature: float) -> mx.array:
    """Log-probabilities (..., V) divided by a temperature > 0 and normalised again (Ackley et al. 1985)."""
    scaled = logprobs / temperature
    return scaled - mx.logsumexp(scaled, axis=-1, keepdims=True)


def keep_top_k(logprobs: mx.array, k: int) -> mx.array:
    """All but the k likeliest of (..., V) at minus infinity (Fan et al. 2018); ties with the k-th stay."""
    if k >= logprobs.shape[-1]:
        return logprobs
    edge = mx.min(mx.topk(logprobs, k, axis=-1), axis=-1, keepdims=True)
    return mx.where(logprobs < edge, -mx.inf, logprobs)


def keep_top_p(logprobs: mx.array, p: float) -> mx.array:
    """The fewest likeliest of (..., V) that reach probability p; the others at minus infinity.

    Nucleus sampling (Holtzman et al. 2020). The likeliest token always stays.
    """
    order = mx.argsort(-logprobs, axis=-1)
    ranked = mx.exp(mx.take_along_axis(logprobs, order, axis=-1))
    before = mx.cumsum(ranked, axis=-1) - ranked  # probability of all that are likelier
    kept = mx.where((before < p) | (mx.arange(order.shape[-1]) == 0), 0.0, -mx.inf)
    return logprobs + mx.take_along_axis(kept, mx.argsort(order, axis=-1), axis=-1)


def choose(logprobs: mx.array, taste: Taste, key: mx.array) -> mx.array:
    """One token id for each row of log-probabilities (B, V), shape (B,)."""
    if taste.temperature == 0:
        return mx.argmax(logprobs, axis=-1)
    logprobs = with_temperature(logprobs, taste.temperature)
    if taste.top_k:
        logprobs = keep_top_k(logprobs, taste.top_k)
    if taste.top_p < 1:
        logprobs = keep_top_p(logprobs, taste.top_p)
    return mx.random.categorical(logprobs, key=key)


def generate(model: LanguageModel, prompt: Sequence[int], taste: Taste, seed: int) -> Iterator[int]:
    """Token ids that follow a prompt of at least one id, without end.

    A memory that is full is emptied and reads the last half of its context again: the rule that scores
    follow, too.
    """
    memory = model.memory()
    context = memory.room
    past, unread = list(prompt), list(prompt)
    key = mx.random.key(seed)
    while True:
        room = memory.room
        if context is not None and room is not None and len(unread) > room:
            memory = model.memory()
            unread = past[-(context - max(1, context // 2) + 1) :] if len(past) > context else past
        if context is None:  # a long prompt is read without a table of the vocabulary for each token
            for start in range(0, len(unread) - 1, PREFILL):
                mx.eval(model.score(mx.array([unread[start : start + PREFILL + 1]]), memory))
            unread = unread[-1:]
        logprobs = model.logprobs(mx.array([unread]), memory)[:, -1]  # (1, V)
        key, now = mx.random.split(key)
        token = int(np.array(choose(logprobs, taste, now))[0])
        yield token
        past.append(token)
        unread = [token]


def stream(tokens: Iterator[int], tokenizer: Tokenizer, most: int) -> Iterator[str]:
    """Text as it comes, up to `most` tokens or the end of text; never half a character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for _ in range(most):
        token = next(tokens)
        if token == tokenizer.eot:
            break
        text = decoder.decode(tokenizer.decode_bytes([token]))
        if text:
            yield text
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest
