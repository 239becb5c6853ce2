"""Forgetting the last tokens: what a memory then tells is what it would have told had it never read them."""

import mlx.core as mx
import pytest

from mlx_gpt.corpus import Corpus
from mlx_gpt.endless import Endless
from tests.conftest import with_slow


@pytest.mark.parametrize("number", with_slow([8, 9, 10, 11]))
@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("read", [1, 2, 14, 30, 31, 40, 70])
def test_what_is_forgotten_was_never_read(number: int, one_by_one: bool, read: int, rough, corpus: Corpus) -> None:
    """Up to 15 tokens, taken back from within one context of 32 and across its ends, twice."""
    model = Endless(rough(number))
    ids, others = corpus.test.ids[: read + 3].tolist(), corpus.test.ids[200:300].tolist()
    memory, fresh = model.memory(), model.memory()
    for at in range(read):
        model.following(mx.array([ids[at : at + 1]]), fresh)
        model.following(mx.array([ids[at : at + 1]]), memory)
    for tokens in (15, 7):
        wrong = [others[:1] for _ in range(tokens)] if one_by_one else [others[:tokens]]
        for part in wrong:
            mx.eval(model.logprobs(mx.array([part]), memory))
        assert memory.shorten(tokens)
    rest = mx.array([ids[read:]])
    assert mx.allclose(model.logprobs(rest, memory), model.logprobs(rest, fresh), atol=1e-4)


@pytest.mark.parametrize("number", [8, 9, 10, 11])
def test_a_shortened_memory_is_kept_and_joined_as_any(number: int, rough, corpus: Corpus) -> None:
    model, ids = rough(number), corpus.test.ids[:20].tolist()
    memory, fresh = model.memory(), model.memory()
    model.following(mx.array([ids[:9]]), fresh)
    model.following(mx.array([ids[:14]]), memory)
    assert memory.shorten(5)
    for one, other in zip(memory.held(), fresh.held(), strict=True):
        assert one.shape == other.shape and mx.allclose(one, other, atol=1e-5)
    for side in (fresh, memory):
        model.following(mx.array([ids[9:14]]), side)
    two, again = fresh.joined(memory), memory.rows([0, 0])
    rest = mx.array([ids[14:], ids[14:]])
    assert mx.allclose(model.logprobs(rest, two), model.logprobs(rest, again), atol=1e-4)


@pytest.mark.parametrize("number", [1, 4, 5, 6, 7])
def test_a_memory_that_cannot_go_back_says_so(number: int, rough) -> None:
    assert not rough(number).memory().shorten(0) and not Endless(rough(number)).memory().shorten(0)
