"""One step of descent: the same however it is computed, in little memory, in any precision, and never with a NaN."""

import dataclasses
import gc
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import stages
from mlx_gpt.corpus import Ahead, Corpus, Running, Shuffled
from mlx_gpt.descent import loop, precision
from mlx_gpt.descent.step import WEIGHT, Step
from mlx_gpt.errors import TrainingError
from mlx_gpt.model import Silent
from tests.conftest import Keeper, with_slow

NEURAL = [number for number in stages.numbers() if number >= 5]
LAYERED = [8, 9, 10, 11]
V = 61


@contextmanager
def compilation() -> Iterator[None]:
    mx.enable_compile()
    try:
        yield
    finally:
        mx.disable_compile()


def tiny(number: int, **changes: Any):
    """A step of a tiny stage over a vocabulary of V, and its batches; settings of config and recipe alike."""
    stage = stages.stage(number)
    config, recipe = stage.tiny.config, stage.tiny.recipe
    own = {name for name in vars(config)}
    config = dataclasses.replace(config, **{k: v for k, v in changes.items() if k in own})
    usual = {"length": 8, "batch_size": 8, "compiled": False}
    recipe = dataclasses.replace(recipe, **{**usual, **{k: v for k, v in changes.items() if k not in own}})
    mx.random.seed(0)
    model = stage.model(config, V)
    ids = np.random.default_rng(3).integers(0, V, 4_001).astype(np.int32)
    ids[1::2] = ids[:-1:2] // 2  # something to learn
    batches = Running(ids, 8, 8) if recipe.running else Shuffled(ids, 8, 8, 0)
    return Step(model, recipe, recipe.precision, 8), batches


def losses(number: int, count: int = 4, **changes: Any) -> list[float]:
    step, batches = tiny(number, **changes)
    state, found = step.begin(), []
    for at in range(count):
        state, figures = step.take(state, batches.at(at), 3e-3, at)
        mx.eval(state)
        found.append(figures.loss.item())
    return found


@pytest.mark.parametrize("number", NEURAL)
def test_a_batch_in_parts_is_the_same_step(number: int) -> None:
    assert losses(number, accumulate=1) == pytest.approx(losses(number, accumulate=8), rel=1e-5)


@pytest.mark.parametrize("number", LAYERED)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_blocks_computed_again_give_the_same_step_dropout_included(number: int, dropout: float) -> None:
    if dropout and number >= 10:
        pytest.skip("no dropout in this stage")
    more = {"dropout": dropout} if dropout else {}
    plain, again = losses(number, **more), losses(number, recompute=True, **more)
    assert plain == pytest.approx(again, rel=1e-5)
    if dropout:
        assert plain != pytest.approx(losses(number), rel=1e-3)  # the masks are at work


@pytest.mark.parametrize("number", NEURAL)
@pytest.mark.parametrize("chunk", [5, 0])
def test_the_loss_in_chunks_is_the_same_step(number: int, chunk: int) -> None:
    assert losses(number, loss_chunk=chunk) == pytest.approx(losses(number, loss_chunk=64), rel=1e-5)


@pytest.mark.parametrize("number", [7, 9, 11])
@pytest.mark.compiled
def test_compiled_and_plain_steps_lose_the_same_and_are_traced_once(number: int) -> None:
    more = {"dropout": 0.2} if number < 10 else {"recompute": True}
    plain = losses(number, **more)
    with compilation():
        step, batches = tiny(number, compiled=True, **more)
        state, found = step.begin(), []
        for at in range(4):
            state, figures = step.take(state, batches.at(at), 3e-3, at)
            mx.eval(state)
            found.append(figures.loss.item())
            weights = step.evaluated(state)
            step.score(weights, mx.array(batches.at(at)), None if not step.empty() else step.model.memory(8))
    assert step.traces == {"training": 1, "evaluation": 1}
    assert plain == pytest.approx(found, rel=1e-5)


@pytest.mark.compiled
def test_a_batch_in_parts_is_traced_once_as_well() -> None:
    with compilation():
        step, batches = tiny(5, compiled=True, accumulate=4)
        state = step.begin()
        for at in range(3):
            state, _ = step.take(state, batches.at(at), 1e-3 * at, at)
            mx.eval(state)
    assert step.traces["training"] == 1


MANY = [(5, 120), (7, 120), (9, 120), (11, 300), *((number, 1_000) for number in NEURAL)]


@pytest.mark.parametrize(("number", "steps"), with_slow(MANY, MANY[:4]))
def test_memory_is_flat(number: int, steps: int) -> None:
    """Active memory after many steps is that after a few, but for buffers used again that are a little larger."""
    gc.collect()  # what earlier tests left behind
    mx.clear_cache()
    step, batches = tiny(number)
    state, active = step.begin(), []
    for at in range(steps):
        state, figures = step.take(state, batches.at(at), 1e-3, at)
        mx.eval(state)
        del figures
        active.append(mx.get_active_memory())
    early, late = min(active[11:31]), min(active[-20:])  # of several steps: a buffer may be larger than was asked for
    assert abs(late - early) < 0.03 * early, active


@pytest.mark.parametrize("number", NEURAL)
def test_a_poisoned_batch_moves_no_weight(number: int) -> None:
    step, batches = tiny(number)
    state, _ = step.take(step.begin(), batches.at(0), 1e-3, 0)
    poisoned = dict(state)
    name = next(name for name in state if name.startswith(WEIGHT + "embed"))
    poisoned[name] = state[name] * math.nan
    after, figures = step.take(poisoned, batches.at(1), 1e-3, 1)
    assert figures.bad.item() == 1
    for each in poisoned:
        if each not in (name, "bad") and not each.startswith("carried"):
            assert np.array_equal(np.array(poisoned[each]), np.array(after[each])), each


def test_float16_survives_an_overflow_and_finds_its_scale_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "PATIENCE", 3)
    step, batches = tiny(11, precision="fp16")
    state = step.begin()
    state["scale"] = mx.array(2.0**40)  # every gradient overflows
    before, scales = np.array(state[WEIGHT + "embed.weight"]), []
    for at in range(40):
        state, figures = step.take(state, batches.at(at), 1e-3, at)
        mx.eval(state)
        scales.append(figures.scale.item())
        after = np.array(state[WEIGHT + "embed.weight"])
        assert np.array_equal(before, after) == bool(figures.bad.item())
        before = after
    assert figures.bad.item() == 0 and math.isfinite(figures.loss.item())
    assert min(scales) < scales[0] and any(b > a for a, b in pairwise(scales))  # down, and up again


@pytest.mark.parametrize("number", with_slow(NEURAL, [5, 7, 9, 11]))
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_low_precision_ends_where_float32_does(number: int, kind: str) -> None:
    full, low = losses(number, 25), losses(number, 25, precision=kind)
    assert np.mean(low[-5:]) == pytest.approx(np.mean(full[-5:]), rel=0.01)


def test_the_scale_doubles_after_a_calm_and_halves_at_once() -> None:
    scale, calm = mx.array(8.0), mx.array(precision.PATIENCE - 1.0)
    up, calm_after = precision.next_scale("fp16", scale, calm, mx.array(True))
    assert (up.item(), calm_after.item()) == (16.0, 0.0)
    down, calm_after = precision.next_scale("fp16", scale, calm, mx.array(False))
    assert (down.item(), calm_after.item()) == (4.0, 0.0)
    assert precision.next_scale("fp16", mx.array(1.0), calm, mx.array(False))[0].item() == 1.0
    assert precision.next_scale("fp32", scale, calm, mx.array(False))[0].item() == 8.0


def test_the_format_is_picked_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    for times, chosen in (
        ({"fp32": 1.0, "bf16": 2.0, "fp16": 0.5}, "fp16"),
        ({"fp32": 1.0, "bf16": 0.95, "fp16": 1.1}, "fp32"),  # no gain worth it
    ):
        monkeypatch.setattr(precision, "_time", lambda name, size, seconds, times=times: times[name])
        assert precision.fastest() == (chosen, times)


def test_the_format_is_picked_within_seconds() -> None:
    started = time.perf_counter()
    chosen, times = precision.fastest(0.1)
    assert chosen in precision.TYPES and times.keys() == precision.TYPES.keys()
    assert time.perf_counter() - started < 20


def test_batches_come_ahead_in_order_and_the_thread_ends() -> None:
    batches = Shuffled(np.arange(1_000, dtype=np.int32), 4, 8, 0)
    ahead = Ahead(batches, 5)
    for at in range(5, 12):
        assert np.array_equal(ahead.next(), batches.at(at))
    ahead.close()
    assert not ahead._thread.is_alive()


def test_what_goes_wrong_with_a_batch_is_raised_where_it_is_used() -> None:
    class Broken:
        def at(self, step: int) -> np.ndarray:
            raise TrainingError(f"batch {step}")

    ahead = Ahead(Broken(), 3)
    with pytest.raises(TrainingError, match="batch 3"):
        ahead.next()
    ahead.close()


def test_repeated_poison_goes_back_halves_the_rate_and_then_gives_up(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stages.stage(5)
    recipe = dataclasses.replace(stage.tiny.recipe, steps=40, evaluate_every=10, warmup=1)
    rates: list[float] = []
    take = Step.take

    def poisoned(self, state, batch, rate, step):
        rates.append(rate)
        return take(self, {n: a * math.nan if step >= 15 else a for n, a in state.items()}, batch, rate, step)

    monkeypatch.setattr(Step, "take", poisoned)
    model, report = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size), Keeper()
    with pytest.raises(TrainingError, match=r"after 3 returns.*--learning-rate"):
        model.fit(corpus, recipe, report)
    said = [line for line in report.notices if "back to step 10 with half the learning rate" in line]
    assert len(said) == 3 and rates[-1] < rates[14] / 7
    assert all(np.isfinite(a).all() for a in report.last.arrays.values())


def test_a_save_is_never_made_in_the_midst_of_a_bad_stretch(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stages.stage(5)
    recipe = dataclasses.replace(stage.tiny.recipe, steps=24, evaluate_every=8, warmup=1, keep_every=0.0)
    take, ruined = Step.take, []

    def once(self, state, batch, rate, step):
        if step == 14 and not ruined:  # finite weights that no step can follow
            ruined.append(step)
            state = {n: mx.full(a.shape, 1e30) if n.startswith(WEIGHT) else a for n, a in state.items()}
        return take(self, state, batch, rate, step)

    monkeypatch.setattr(Step, "take", once)
    model, report = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size), Keeper()
    model.fit(corpus, recipe, report)
    said = [line for line in report.notices if "half the learning rate" in line]
    assert len(said) == 1 and "back to step 1" in said[0]
    assert report.last.facts["step"] == 24 and report.last.facts["returns"] == 1
    assert max(np.abs(a).max() for n, a in report.last.arrays.items() if n.startswith(WEIGHT)) < 100


def test_a_whole_run_holds_no_more_at_its_end_than_after_its_first_looks(corpus: Corpus) -> None:
    stage = stages.stage(11)
    recipe = dataclasses.replace(stage.tiny.recipe, steps=60, evaluate_every=10, batch_size=4, compiled=False)
    active: list[int] = []

    class Watcher(Silent):
        def progress(self, progress) -> None:
            gc.collect()
            active.append(mx.get_active_memory())

    model = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size)
    model.fit(corpus, recipe, Watcher())
    assert active[-1] <= 1.03 * max(active[2:4]), active


def test_a_budget_of_minutes_ends_on_time_with_its_rate_run_down(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by 5 ms whenever it is read, so that a busy machine changes nothing."""
    stage, clock = stages.stage(5), itertools.count()
    recipe = dataclasses.replace(stage.tiny.recipe, minutes=0.05, steps=1, decay_to=0.0, evaluate_every=50)
    rates: list[float] = []

    class Watcher(Silent):
        def progress(self, progress) -> None:
            rates.append(progress.learning_rate)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: 0.005 * next(clock)))
    stage.model(stage.tiny.config, corpus.tokenizer.vocab_size).fit(corpus, recipe, Watcher())
    assert 0.9 * 3 < 0.005 * next(clock) < 1.1 * 3
    assert len(rates) > 3 and rates[-1] < 0.5 * max(rates)


def test_more_than_ten_memories_are_carried_each_to_its_own_place(corpus: Corpus) -> None:
    """Six layers have twelve: by name the eleventh would come before the third."""
    step, batches = tiny(7, layers=6, running=True, optimizer="adamw")
    state, batch = step.begin(), batches.at(0)
    places = range(12)
    for place in places:
        state[f"carried.{place}"] = mx.full(state[f"carried.{place}"].shape, 0.05 * place)
    memory = step.model.memory(8)
    memory.arrays = [mx.array(state[f"carried.{place}"]) for place in places]
    step.fill({name.removeprefix(WEIGHT): array for name, array in state.items() if name.startswith(WEIGHT)})
    step.model.eval()
    step.model.hidden(mx.array(batch[:, :-1]), memory)
    after, _ = step.take(state, batch, 0.0, 0)
    for place in places:
        assert mx.allclose(after[f"carried.{place}"], memory.arrays[place], atol=1e-5).item(), place
