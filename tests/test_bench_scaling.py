"""The fit of a scaling law finds the exponents of data made by one, and its intervals hold them."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
# Hoffmann et al. 2022, eq. 10
FLOOR, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def grid() -> tuple[np.ndarray, np.ndarray]:
    n, d = np.meshgrid(np.geomspace(1e4, 1e6, 4), np.geomspace(1e5, 1e7, 4))
    sizes = np.stack([n.ravel(), d.ravel()], axis=1)
    return sizes, FLOOR + A / sizes[:, 0] ** ALPHA + B / sizes[:, 1] ** BETA


def test_a_law_without_noise_is_found_to_the_digit(load) -> None:
    law = load("bench_scaling_fit").fit(*grid())
    assert law.floor == pytest.approx(FLOOR, rel=1e-4)
    assert law.exponents == pytest.approx((ALPHA, BETA), rel=1e-4) and law.scales == pytest.approx((A, B), rel=1e-3)
    assert law.left < 1e-6
    assert law.loss((70e9, 1.4e12)) == pytest.approx(FLOOR + A / 70e9**ALPHA + B / 1.4e12**BETA)


def test_a_law_of_text_alone_is_found_too(load) -> None:
    d = np.geomspace(1e4, 1e6, 6)
    law = load("bench_scaling_fit").fit(d[:, None], 0.9 + 50 / d**0.4)
    assert law.floor == pytest.approx(0.9, rel=1e-4) and law.exponents == pytest.approx((0.4,), rel=1e-4)


def test_one_run_that_went_wrong_moves_the_law_little(load) -> None:
    """Huber's loss: with one run 20 % off, least squares would be 0.03 off in an exponent."""
    sizes, losses = grid()
    losses[5] *= 1.2
    assert load("bench_scaling_fit").fit(sizes, losses).exponents == pytest.approx((ALPHA, BETA), abs=0.002)


def test_with_noise_the_intervals_hold_the_true_exponents(load) -> None:
    sizes, losses = grid()
    noise = np.random.default_rng(3).normal(0, 0.003, len(losses))
    found = load("bench_scaling_fit").fitted(sizes, losses * np.exp(noise), resamples=30)
    for (low, high), true in zip(found.exponents, (ALPHA, BETA), strict=True):
        assert low <= true <= high and high - low < 0.2
    assert found.bound == ()


def test_a_run_told_twice_is_no_second_run(load) -> None:
    """Seeds of one size are drawn together, so that repeating each run leaves the intervals as they are."""
    sizes, losses = grid()
    losses = losses * np.exp(np.random.default_rng(3).normal(0, 0.003, len(losses)))
    fitted = load("bench_scaling_fit").fitted
    once = fitted(sizes, losses, resamples=30)
    twice = fitted(np.repeat(sizes, 2, axis=0), np.repeat(losses, 2), resamples=30)
    assert np.ravel(twice.exponents) == pytest.approx(np.ravel(once.exponents), abs=1e-3)


def test_an_exponent_that_the_runs_do_not_tell_is_named(load) -> None:
    """Losses that do not depend on N leave a anywhere between the ends of the search."""
    sizes, _ = grid()
    losses = 1.0 + 50 / sizes[:, 1] ** 0.4
    noise = np.random.default_rng(0).normal(0, 0.003, len(losses))
    assert "a" in load("bench_scaling_fit").fitted(sizes, losses * np.exp(noise), resamples=30).bound


def test_a_model_grows_in_proportion_and_adamw_gets_a_lower_rate(load) -> None:
    scaling = load("bench_scaling")
    config, recipe = scaling.widened(9, 64)  # its tiny preset has 32 and 1e-2
    assert config.width == 64 and recipe.learning_rate == pytest.approx(5e-3)
    config, recipe = scaling.widened(11, 64)  # 32 and 64 units, Muon
    assert (config.width, config.inner) == (64, 128) and recipe.learning_rate == pytest.approx(1e-2)


def test_a_counted_stage_gets_its_law(
    load, story_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = load("bench_scaling")
    asked = ["--data", str(story_file), "--out", str(tmp_path), "--stages", "1", "--resamples", "20"]
    scaling.main([*asked, "--vocab-size", "320"], standalone_mode=False)
    told = json.loads((tmp_path / "scaling.json").read_text())["01-unigram"]
    assert len(told["runs"]) >= 4 and math.isfinite(told["law"]["floor"]) and len(told["exponents"]) == 1
    assert "L = " in capsys.readouterr().out
