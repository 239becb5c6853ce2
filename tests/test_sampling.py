"""Samplers against their definitions in NumPy, and one generator for all stages."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import stages
from mlx_gpt.corpus import Corpus
from mlx_gpt.sampling import Taste, choose, generate, keep_top_k, keep_top_p, stream, with_temperature
from mlx_gpt.tokenizer import Tokenizer


def distributions(rows: int = 200, vocabulary: int = 12) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(rows, vocabulary)).astype(np.float32) * 2
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_temperature_is_a_power_of_the_distribution() -> None:
    logprobs = distributions()
    expected = np.exp(logprobs) ** (1 / 0.7)
    found = np.exp(np.array(with_temperature(mx.array(logprobs), 0.7)))
    assert np.allclose(found, expected / expected.sum(-1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 12, 40])
def test_top_k_keeps_the_k_likeliest(k: int) -> None:
    logprobs = distributions()
    kept = np.isfinite(np.array(keep_top_k(mx.array(logprobs), k)))
    for row, mask in zip(logprobs, kept, strict=True):
        assert set(np.flatnonzero(mask)) == set(np.argsort(-row)[:k])


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_keeps_the_smallest_nucleus(p: float) -> None:
    logprobs = distributions()
    kept = np.isfinite(np.array(keep_top_p(mx.array(logprobs), p)))
    for row, mask in zip(logprobs, kept, strict=True):
        order = np.argsort(-row)
        size = 1 + int((np.cumsum(np.exp(row[order]))[:-1] < p).sum())
        assert set(np.flatnonzero(mask)) == set(order[:size])


def test_sampling_follows_the_distribution() -> None:
    logprobs = distributions(1, 6)
    many = mx.array(np.repeat(logprobs, 20_000, axis=0))
    drawn = np.bincount(np.array(choose(many, Taste(temperature=1.0), mx.random.key(1))), minlength=6)
    expected = 20_000 * np.exp(logprobs[0])
    assert ((drawn - expected) ** 2 / expected).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001


def test_temperature_zero_takes_the_likeliest() -> None:
    logprobs = distributions()
    assert (
        np.array(choose(mx.array(logprobs), Taste(temperature=0), mx.random.key(0))).tolist()
        == logprobs.argmax(-1).tolist()
    )


@pytest.mark.parametrize("number", stages.numbers())
def test_every_stage_generates_beyond_its_context_and_again_by_seed(number: int, trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    eot = corpus.tokenizer.eot
    first, again, other = (
        list(itertools.islice(generate(trained(number), [eot], Taste(), seed), 80)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert all(0 <= token < corpus.tokenizer.vocab_size for token in first)


@pytest.mark.parametrize("number", [4, 7, 8, 11])
def test_greedy_generation_is_the_argmax_of_rereading(number: int, trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    ids = [corpus.tokenizer.eot]
    for token in itertools.islice(generate(trained(number), ids, Taste(temperature=0), 0), 20):
        expected = mx.argmax(trained(number).logprobs(mx.array([ids]))[0, -1]).item()
        assert token == expected
        ids.append(token)


def test_a_prompt_longer_than_the_context_is_read_at_its_end(trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    prompt = corpus.test.ids[:200].tolist()
    assert len(list(itertools.islice(generate(trained(11), prompt, Taste(), 0), 5))) == 5


def test_streaming_never_cuts_a_character_and_stops_at_the_end_of_text() -> None:
    tokenizer = Tokenizer("byte")
    tokens = [*tokenizer.encode("né 😀!"), tokenizer.eot, *tokenizer.encode("never")]
    pieces = list(stream(iter(tokens), tokenizer, 100))
    assert "".join(pieces) == "né 😀!" and "\ufffd" not in "".join(pieces)
    assert "".join(stream(iter(tokens), tokenizer, 2)) == "n\ufffd"  # the most tokens end inside a character
