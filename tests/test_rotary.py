"""Rotary positions are those of MLX's own kernel, from one place or from several, one token or many."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.descent.rotary import Rotation, turned_to

WIDTH, BASE = 16, 10_000.0


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("before", [0, 3, [0, 7, 200]])
def test_it_is_the_rotation_of_mlx(tokens: int, before: int | list[int]) -> None:
    offset = before if isinstance(before, int) else mx.array(before)
    q, k = mx.random.normal((3, 4, tokens, WIDTH)), mx.random.normal((3, 2, tokens, WIDTH))
    for ours, x in zip(Rotation(offset, tokens, WIDTH, BASE).of(q, k), (q, k), strict=True):
        theirs = mx.fast.rope(x, WIDTH, traditional=False, base=BASE, scale=1.0, offset=offset)
        assert np.allclose(ours, theirs, atol=1e-4)


def test_a_turn_depends_on_the_distance_alone() -> None:
    """Su et al. 2021, equation 16: <R_m q, R_n k> is a function of m - n."""
    q, k = mx.random.normal((1, 1, 1, WIDTH)), mx.random.normal((1, 1, 1, WIDTH))

    def score(m: int, n: int) -> float:
        return float((Rotation(m, 1, WIDTH, BASE).of(q, k)[0] * Rotation(n, 1, WIDTH, BASE).of(q, k)[1]).sum().item())

    assert abs(score(9, 4) - score(105, 100)) < 1e-4
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_its_type_is_that_of_what_is_turned() -> None:
    x = mx.ones((1, 1, 2, WIDTH), mx.float16)
    assert Rotation(0, 2, WIDTH, BASE).of(x, x)[0].dtype == mx.float16


def test_tokens_may_be_turned_to_places_of_their_own() -> None:
    x, places = mx.random.normal((2, 3, 4, WIDTH)), mx.array([[0, 5, 5, 90], [7, 1, 0, 2]])
    found = turned_to(x, places, BASE)
    for text in range(2):
        for token in range(4):
            alone = x[text : text + 1, :, token : token + 1]
            expected = mx.fast.rope(alone, WIDTH, traditional=False, base=BASE, scale=1.0, offset=places[text, token])
            assert np.allclose(found[text, :, token], expected[0, :, 0], atol=1e-4)
