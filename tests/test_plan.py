"""A plan says what a run takes before it starts, and is right: memory within a tenth, and a way that fits."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import stages
from mlx_gpt.corpus import Corpus
from mlx_gpt.descent import plan as planning
from mlx_gpt.descent import probe as probing
from mlx_gpt.descent.loop import sequence_length
from mlx_gpt.descent.neural import Neural
from mlx_gpt.descent.plan import bound, plan, require, work
from mlx_gpt.descent.planned import lines
from mlx_gpt.descent.probe import Probe, Way
from mlx_gpt.descent.step import Step
from mlx_gpt.errors import SettingError
from mlx_gpt.model import Silent
from mlx_gpt.recipe import Descent
from tests.conftest import Listener

ROOT = Path(__file__).parents[1]
NEURAL = (5, 6, 7, 8, 9, 10, 11)
VOCABULARY = {"tiny": 512, "small": 2_048, "base": 4_096}


def build(number: int, preset: str, **changes: int) -> functools.partial[Neural]:
    stage = stages.stage(number)
    config = dataclasses.replace(stage.preset(preset).config, **changes)
    return functools.partial(stage.model, config, VOCABULARY[preset])


def measured(make: functools.partial[Neural], recipe: Descent, steps: int = 4) -> float:
    """The highest memory over real steps after the first, done as the loop does them."""
    before = mx.get_active_memory()
    model = make()
    length = sequence_length(model, recipe)
    step = Step(model, recipe, "fp32", length)
    state, waiting = step.begin(), None
    chance = np.random.default_rng(1)
    for number in range(steps):
        if number == 1:
            mx.reset_peak_memory()
        ids = chance.integers(0, model.vocab_size, (recipe.batch_size, length + 1)).astype(np.int32)
        state, figures = step.take(state, ids, 1e-4, number)
        mx.async_eval(state, figures)
        if waiting is not None or number == 0:
            np.array((waiting or figures).bad)
        waiting = figures
    mx.eval(state)
    return mx.get_peak_memory() - before


def probe(make: functools.partial[Neural], recipe: Descent) -> Probe:
    return Probe(make, recipe, "fp32", sequence_length(make(), recipe), 4e9)


def asked(recipe: Descent) -> Way:
    return Way(recipe.accumulate, recipe.recompute, recipe.loss_chunk)


def agrees(number: int, preset: str, **changes: object) -> None:
    make, recipe = build(number, preset), dataclasses.replace(stages.stage(number).preset(preset).recipe, **changes)
    predicted = probe(make, recipe).step(asked(recipe)).peak
    assert predicted == pytest.approx(measured(make, recipe), rel=0.1)


@pytest.mark.parametrize("number", NEURAL)
def test_predicted_memory_is_within_a_tenth_of_what_a_run_takes(number: int) -> None:
    agrees(number, "tiny")


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"recompute": True}, {"accumulate": 2, "recompute": True}])
def test_so_it_is_for_parts_and_for_recomputation(changes: dict[str, object]) -> None:
    agrees(11, "tiny", **changes)


@pytest.mark.slow
@pytest.mark.parametrize("number", NEURAL)
def test_so_it_is_for_small_models(number: int) -> None:
    agrees(number, "small")


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (5, {"batch_size": 256}),
        *(pytest.param(11, changes, marks=pytest.mark.slow) for changes in ({}, {"recompute": True, "batch_size": 32})),
    ],
)
def test_a_run_too_slow_to_measure_is_predicted_from_few_rows(
    number: int, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(stages.stage(number).preset("small").recipe, **changes)
    make, largest = build(number, "small"), [0]
    real = Probe._measured_gradient

    def noted(self: Probe, way: Way, rows: int) -> probing.Reading:
        largest[0] = max(largest[0], rows)
        return real(self, way, rows)

    monkeypatch.setattr(Probe, "_measured_gradient", noted)
    monkeypatch.setattr(probing, "QUICK", 0.0)
    predicted = probe(make, recipe).step(asked(recipe)).peak
    assert largest[0] < recipe.batch_size
    assert predicted == pytest.approx(measured(make, recipe, 3), rel=0.1)


def test_what_a_plan_extrapolates_is_bounded_and_named(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything is slow: one whole step, gradients of one row and of two, and no gradient twice."""
    taken = [0, 0]
    whole, gradient = Step.take, Step.gradient

    def counted_take(self, *args):
        taken[0] += 1
        return whole(self, *args)

    def counted_gradient(self, *args):
        taken[1] += 1
        return gradient(self, *args)

    recipe = dataclasses.replace(stages.stage(8).tiny.recipe, batch_size=16)
    for slow in (False, True):
        monkeypatch.setattr(probing, "QUICK", 0.0 if slow else 1e9)
        monkeypatch.setattr(probing, "PATIENT", 0.0 if slow else 1e9)
        with monkeypatch.context() as patch:
            patch.setattr(Step, "take", counted_take)
            patch.setattr(Step, "gradient", counted_gradient)
            taken[:] = 0, 0
            found = plan(build(8, "tiny"), corpus, recipe, m2=False)
        told = "\n".join(lines(found))
        if slow:
            assert taken[0] == 1 and taken[1] - taken[0] <= 2 and found.measured == 2
        assert ("extrapolated: from 2 of 16 sequences" in told) == slow
        assert f"predicted from steps of {found.measured} of 16 sequences" in told


def test_a_look_is_predicted_and_with_it_the_whole_run(corpus: Corpus) -> None:
    """The highest memory of a run with two looks, best weights kept: what the plan's total stands for."""
    stage = stages.stage(8)
    recipe = dataclasses.replace(stage.tiny.recipe, steps=4, evaluate_every=2)
    make = build(8, "tiny")
    found = plan(make, corpus, recipe, m2=False)
    before = mx.get_active_memory()
    model = make()
    mx.reset_peak_memory()
    model.fit(corpus, recipe, Silent())
    assert found.given.need.total == pytest.approx(mx.get_peak_memory() - before, rel=0.1)
    assert found.given.need.best == sum(a.nbytes for a in model.arrays().values())


@pytest.mark.parametrize("number", NEURAL)
def test_the_rough_bound_is_above_every_run(number: int) -> None:
    recipe, make = stages.stage(number).tiny.recipe, build(number, "tiny")
    assert bound(make(), recipe) > measured(make, recipe)


def test_so_it_is_for_convolutions_that_are_longer_than_the_text() -> None:
    make = build(11, "tiny", width=64, layers=4, inner=16, taps=64)
    recipe = dataclasses.replace(stages.stage(11).tiny.recipe, batch_size=256, length=2)
    assert bound(make(), recipe) > measured(make, recipe)


def test_exact_parts_are_the_arrays(corpus: Corpus) -> None:
    """Stage 7, tiny: 43,712 weights of 4 bytes, two moments of AdamW, and 16 tracks of two vectors of 48."""
    need = plan(build(7, "tiny"), corpus, stages.stage(7).tiny.recipe, m2=False).given.need
    assert need.weights == 43_712 * 4
    assert need.optimizer == 2 * 43_712 * 4 + 4  # and the count of updates
    assert need.carried == 16 * 2 * 48 * 4
    assert need.gradients == need.weights


def test_work_is_what_a_hand_count_gives() -> None:
    """Stage 11, tiny: a block multiplies by query and output 32 x 32, key and value 16 x 32, three of 64 x 32:
    2048 + 1024 + 6144 = 9216. Two blocks and the head 512 x 32 make 34,816; attention is 2 layers x 32 wide x 32 long.
    Stage 9 looks its positions up, so they are not counted: blocks of 4 x 32^2 + 2 x 32 x 128 = 12,288.
    """
    found = work(build(11, "tiny")(), 10, 32)
    assert (found.multiplying, found.attention, found.tokens) == (34_816, 2_048, 320)
    assert found.per_token == 6 * 34_816 + 12 * 2_048
    assert work(build(9, "tiny")(), 1, 32).multiplying == 2 * 12_288 + 512 * 32
    recurrent = work(build(6, "tiny")(), 1, 24)
    assert (recurrent.multiplying, recurrent.attention) == (48 * 48 + 512 * 48, 0)


def limited(corpus: Corpus, recipe: Descent, size: str, monkeypatch: pytest.MonkeyPatch) -> Way | None:
    monkeypatch.setenv("MLX_GPT_MEMORY", size)
    found = plan(build(11, "tiny"), corpus, recipe, m2=False)
    return None if found.fitting is None else found.fitting.way


def test_less_memory_brings_parts_then_recomputation_and_the_way_named_really_fits(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ways in their order, each tried on the numbers that the one before needs too much for."""
    recipe = dataclasses.replace(stages.stage(11).tiny.recipe, batch_size=64)
    ways = list(planning.ways(recipe, True))
    parts = [1, 2, 4, 8, 16, 32, 64]
    assert [(w.accumulate, w.recompute) for w in ways] == [
        *((n, False) for n in parts), (1, True), *((n, True) for n in parts[1:]),
    ]  # fmt: skip
    needs = {way: probe(build(11, "tiny"), recipe).step(way).peak for way in (ways[0], ways[2])}
    monkeypatch.setattr(planning, "looked_at", lambda corpus: corpus.valid.head(64, corpus.tokenizer))  # no look counts
    limit = (needs[ways[0]] + needs[ways[2]]) / 2
    way = limited(corpus, recipe, f"{limit / 2**20:.1f}M", monkeypatch)
    assert way is not None and way.accumulate > 1 and not way.recompute
    assert measured(build(11, "tiny"), way.of(recipe, recipe.batch_size), 3) < limit


def test_what_never_fits_is_told_so_and_what_clearly_does_is_not_measured(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = stages.stage(8).tiny.recipe
    monkeypatch.setenv("MLX_GPT_MEMORY", "1M")
    with pytest.raises(SettingError, match="no --accumulate and no recomputation fits: take a smaller --length"):
        require(build(8, "tiny"), corpus, recipe)
    monkeypatch.setenv("MLX_GPT_MEMORY", "64G")
    monkeypatch.setattr(planning, "_probe", lambda *_: pytest.fail("measured a small run"))
    require(build(8, "tiny"), corpus, recipe)
    monkeypatch.setenv("MLX_GPT_MEMORY", "much")
    with pytest.raises(SettingError, match="MLX_GPT_MEMORY=much: expected a size such as 500M"):
        require(build(8, "tiny"), corpus, recipe)


def test_the_run_after_a_plan_is_the_run_without_one_to_the_bit(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(stages.stage(7).tiny.recipe, steps=10, evaluate_every=5)

    def bits(planned: bool) -> list[float]:
        make, report = build(7, "tiny", layers=2), Listener()
        if planned:
            plan(make, corpus, recipe, m2=False)
        mx.random.seed(3)
        make().fit(corpus, recipe, report)
        return report.bits + report.losses

    assert bits(True) == bits(False)


def test_predictions_for_an_m2_are_labelled(corpus: Corpus) -> None:
    told = lines(plan(build(11, "tiny"), corpus, stages.stage(11).tiny.recipe))
    m2 = [line for line in told if line.startswith("M2")]
    assert [line.split("GB")[0].split()[1] for line in m2] == ["8", "16", "24"]
    assert all("prediction, not measured" in line for line in m2)
    assert any(line.startswith("parameters  35,552") for line in told)
    assert any(f"{100 * 16 * 32:,} = 100 steps x 16 sequences x 32 tokens" in line for line in told)


def door(folder: Path, *words: str, memory: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlx_gpt.train", *words]
    env = {**os.environ, "MLX_GPT_MEMORY": memory, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)])}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_a_dry_run_leaves_no_file_and_is_not_for_a_run_that_was_begun(tmp_path: Path, story_file: Path) -> None:
    for stage, told in ((2, "not known before counting"), (8, "MLX's buffers at the highest")):
        done = door(tmp_path, "--stage", str(stage), "--preset", "tiny", "--data", str(story_file), "--dry-run")
        assert done.returncode == 0, done.stderr
        assert told in done.stdout
        assert ("measuring a step" in done.stderr) == (stage == 8)
    assert not list(tmp_path.iterdir())
    done = door(tmp_path, "--stage", "8", "--resume", "--dry-run")
    assert done.returncode == 2 and "--dry-run" in done.stderr.splitlines()[-1]


def test_a_run_that_cannot_fit_is_refused_and_starts_with_the_settings_it_is_told(
    tmp_path: Path, story_file: Path
) -> None:
    words = ["--stage", "8", "--preset", "tiny", "--data", str(story_file), "--steps", "1", "--batch-size", "128"]
    done = door(tmp_path, *words, memory="50M")
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "this fits, for the same steps: --accumulate" in line, done.stderr
    assert not list(tmp_path.iterdir()) and "MLX 0" not in done.stderr
    named = line.split("same steps: ")[1].split(" (")[0].split()
    assert door(tmp_path, *words, *named, memory="50M").returncode == 0
