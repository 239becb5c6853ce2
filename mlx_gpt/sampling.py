"""From log-probabilities to tokens: samplers are functions.

Each sampler takes log-probabilities (..., V) that sum to one and gives such ones back, so that any of them may follow
any other. What stays is decided by probabilities alone, never by ids: equals stay or go together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gpt.errors import SettingError
from mlx_gpt.recipe import Settings, setting

COLDEST = 1e-30  # below it a temperature would be no normal number
LARGEST_BIAS = 10_000.0


def read_bias(text: str) -> dict[int, float]:
    """Token ids and what is added to their log-probabilities, from a text such as "17:-inf 42:2.5".

    Raises SettingError for anything else, an id that comes twice, or a value that is neither -inf nor within 10,000.
    """
    bias: dict[int, float] = {}
    for word in text.split():
        left, _, right = word.partition(":")
        try:
            token, value = int(left), float(right)
        except ValueError:
            raise SettingError(f"--bias {word}: expected id:value, such as 17:-inf or 42:2.5") from None
        if token < 0 or token in bias:
            raise SettingError(f"--bias {word}: an id is at least 0 and comes once")
        if value != -math.inf and not abs(value) <= LARGEST_BIAS:
            raise SettingError(f"--bias {word}: a value is -inf or between -{LARGEST_BIAS:g} and {LARGEST_BIAS:g}")
        bias[token] = value
    return bias


@dataclass(frozen=True)
class Taste(Settings):
    """How a token is chosen; `distribution` says in which order these apply."""

    temperature: float = setting(
        0.8, "below 1 prefers the likely, above 1 the unlikely; 0 takes the likeliest", low=0.0, high=100.0
    )
    top_k: int = setting(0, "choose among the k likeliest tokens; 0 means all", low=0, high=2**31 - 1)
    top_p: float = setting(
        1.0, "choose among the likeliest tokens that together have this probability", low=1e-9, high=1.0
    )
    min_p: float = setting(
        0.0, "choose among tokens with at least this share of the likeliest one's probability", low=0.0, high=1.0
    )
    typical_p: float = setting(
        1.0,
        "choose among the tokens nearest to the expected surprise that together have this probability",
        low=1e-9,
        high=1.0,
    )
    repetition_penalty: float = setting(
        1.0,
        "above 1 makes a token less likely once it was written: its probability to this power",
        low=0.01,
        high=100.0,
    )
    presence_penalty: float = setting(
        0.0, "nats taken off every token that was written already; below 0 adds", low=-100.0, high=100.0
    )
    frequency_penalty: float = setting(
        0.0, "nats taken off a token for each time it was written already; below 0 adds", low=-100.0, high=100.0
    )
    bias: str = setting("", "nats added to tokens by id, such as '17:-inf 42:2.5'; -inf forbids", reads=read_bias)

    @property
    def counts(self) -> bool:
        """Whether it matters which tokens were written already."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def normalised(scores: mx.array) -> mx.array:
    """Scores (..., V) moved so that their exponentials sum to one."""
    return scores - mx.logsumexp(scores, axis=-1, keepdims=True)


def penalise_repetition(logprobs: mx.array, counts: mx.array, penalty: float) -> mx.array:
    """p -> p^penalty for tokens of which counts (..., V) are not zero (Keskar et al. 2019, CTRL).

    The paper divides logits, whose sign it leaves open; log-probabilities are never above zero and are multiplied.
    """
    return normalised(mx.where(counts > 0, logprobs * penalty, logprobs))


def penalise_presence(logprobs: mx.array, counts: mx.array, penalty: float) -> mx.array:
    """log p - penalty [count > 0], counts (..., V) (the presence penalty of OpenAI's API)."""
    return normalised(logprobs - penalty * (counts > 0))


def penalise_frequency(logprobs: mx.array, counts: mx.array, penalty: float) -> mx.array:
    """log p - penalty count, counts (..., V) (the frequency penalty of OpenAI's API)."""
    return normalised(logprobs - penalty * counts)


def with_bias(logprobs: mx.array, bias: Mapping[int, float]) -> mx.array:
    """log p + bias for the ids that have one; -inf forbids (the logit bias of OpenAI's API).

    Where all that was possible is forbidden the likeliest token stays. Raises SettingError for an id beyond V.
    """
    vocab_size = logprobs.shape[-1]
    outside = [token for token in bias if token >= vocab_size]
    if outside:
        raise SettingError(f"--bias {outside[0]}: the ids of this vocabulary are 0 to {vocab_size - 1}")
    added = np.zeros(vocab_size, np.float32)
    added[list(bias)] = list(bias.values())
    moved = logprobs + mx.array(added)
    nothing = mx.max(moved, axis=-1, keepdims=True) == -mx.inf
    return normalised(mx.where(nothing, _likeliest_alone(logprobs), moved))


def with_temperature(logprobs: mx.array, temperature: float) -> mx.array:
    """p^(1 / temperature) (Ackley et al. 1985); at 0 the likeliest token alone, the lowest id of equals."""
    if temperature == 0:
        return _likeliest_alone(logprobs)
    below = logprobs - mx.max(logprobs, axis=-1, keepdims=True)
    return normalised(below / max(temperature, COLDEST))


def keep_top_k(logprobs: mx.array, k: int) -> mx.array:
    """The k >= 1 likeliest (Fan et al. 2018); equals of the k-th stay."""
    if k >= logprobs.shape[-1]:
        return logprobs
    return _kept(logprobs, mx.min(mx.topk(logprobs, k, axis=-1), axis=-1, keepdims=True))


def keep_top_p(logprobs: mx.array, p: float) -> mx.array:
    """The fewest likeliest that together reach probability p (nucleus sampling, Holtzman et al. 2020).

    A token stays if all likelier ones together have less than p: the likeliest always, equals of the last one too.
    """
    ranked = mx.sort(-logprobs, axis=-1)
    return _kept(logprobs, -_edge(ranked, mx.exp(-ranked), p))


def keep_min_p(logprobs: mx.array, share: float) -> mx.array:
    """Tokens with at least `share` of the likeliest one's probability (Nguyen et al. 2024)."""
    if share == 0:
        return logprobs
    return _kept(logprobs, mx.max(logprobs, axis=-1, keepdims=True) + math.log(share))


def keep_typical(logprobs: mx.array, p: float) -> mx.array:
    """The tokens whose surprise is nearest to the entropy, as few as reach probability p (Meister et al. 2022).

    |-log p(w) - H| ranks them, so that the likeliest token may go; the most typical one never does.
    """
    probabilities = mx.exp(logprobs)
    possible = probabilities > 0
    surprise = mx.where(possible, -logprobs, 0.0)
    entropy = (probabilities * surprise).sum(axis=-1, keepdims=True)
    distance = mx.where(possible, mx.abs(surprise - entropy), mx.inf)
    order = mx.argsort(distance, axis=-1)
    ranked, weights = (mx.take_along_axis(each, order, axis=-1) for each in (distance, probabilities))
    return normalised(mx.where(possible & (distance <= _edge(ranked, weights, p)), logprobs, -mx.inf))


def _edge(ranked: mx.array, weights: mx.array, p: float) -> mx.array:
    """The last rank (..., 1) that stays: ranks (..., V) ascending, each with less than p of the weight before it."""
    before = mx.cumsum(weights, axis=-1) - weights
    stays = (before < p) | (mx.arange(ranked.shape[-1]) == 0)
    return mx.max(mx.where(stays, ranked, -mx.inf), axis=-1, keepdims=True)


def _kept(logprobs: mx.array, least: mx.array) -> mx.array:
    return normalised(mx.where(logprobs >= least, logprobs, -mx.inf))


def _likeliest_alone(logprobs: mx.array) -> mx.array:
    likeliest = mx.argmax(logprobs, axis=-1, keepdims=True)
    return mx.where(mx.arange(logprobs.shape[-1]) == likeliest, 0.0, -mx.inf)


def wished(logprobs: mx.array, taste: Taste, counts: mx.array | None = None) -> mx.array:
    """The first four steps of `distribution`: log-probabilities (B, V) by what was written and what is wanted."""
    logprobs = logprobs.astype(mx.float32)
    if counts is not None and taste.repetition_penalty != 1:
        logprobs = penalise_repetition(logprobs, counts, taste.repetition_penalty)
    if counts is not None and taste.presence_penalty:
        logprobs = penalise_presence(logprobs, counts, taste.presence_penalty)
    if counts is not None and taste.frequency_penalty:
        logprobs = penalise_frequency(logprobs, counts, taste.frequency_penalty)
    return with_bias(logprobs, read_bias(taste.bias)) if taste.bias else logprobs


def distribution(logprobs: mx.array, taste: Taste, counts: mx.array | None = None) -> mx.array:
    """The log-probabilities (B, V) that a taste makes of a model's (B, V).

    counts (B, V) are of the tokens already written; without them the penalties find nothing. In this order:
    repetition, presence, frequency, bias, temperature, top-k, typical, top-p, min-p. Each works on what the one before
    left, summing to one again: what was written and what is wanted first, then how bold to be, then where to cut.
    """
    logprobs = with_temperature(wished(logprobs, taste, counts), taste.temperature)
    if taste.top_k:
        logprobs = keep_top_k(logprobs, taste.top_k)
    if taste.typical_p < 1:
        logprobs = keep_typical(logprobs, taste.typical_p)
    if taste.top_p < 1:
        logprobs = keep_top_p(logprobs, taste.top_p)
    return keep_min_p(logprobs, taste.min_p)


def row_keys(seeds: Sequence[int]) -> mx.array:
    """A key (B, 2) for each seed, as far from those of the seeds beside it as from any other."""
    return mx.vmap(mx.random.split)(mx.stack([mx.random.key(seed) for seed in seeds]))[:, 0]


def folded(keys: mx.array, position: int | mx.array) -> mx.array:
    """The keys (B, 2) of a position, or of one (B,) for each row: tokens a row has written (Salmon et al. 2011).

    A row's draw thus depends on its seed and its position, never on the rows beside it or on when it began.
    """
    return mx.stack([keys[:, 0], keys[:, 1] + mx.array(position, mx.uint32)], axis=1)


def draw(logprobs: mx.array, keys: mx.array) -> mx.array:
    """One id (B,) for each row of log-probabilities (B, V) by its own key (B, 2): argmax of log p + Gumbel noise.

    Gumbel 1954; Maddison et al. 2014.
    """
    noise = mx.vmap(lambda key: mx.random.gumbel(logprobs.shape[-1:], key=key))(keys)
    # a uniform number that is exactly 0 would make -inf of a possible token; noise is below -4 once in 10^23 draws
    return mx.argmax(logprobs + mx.maximum(noise, -10.0), axis=-1)


def choose(logprobs: mx.array, taste: Taste, keys: mx.array, counts: mx.array | None = None) -> mx.array:
    """One token id (B,) for each row of log-probabilities (B, V), drawn from `distribution` by the row's key (B, 2)."""
    if taste.temperature == 0:  # the likeliest stays, wherever is cut
        return mx.argmax(wished(logprobs, taste, counts), axis=-1)
    return draw(distribution(logprobs, taste, counts), keys)
