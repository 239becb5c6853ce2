"""The ablations compare models that differ in one thing, by a test whose numbers are Student's."""

import dataclasses
import importlib
import itertools
import math
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import stages
from mlx_gpt.corpus import Source

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def test_students_quantiles_are_those_of_the_tables(load) -> None:
    verdicts: ModuleType = load("bench_verdicts")
    # Abramowitz & Stegun 1964, table 26.10, two-sided 5 % and 1 %
    for dof, five, one in (
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (4, 2.776, 4.604),
        (9, 2.262, 3.250),
        (30, 2.042, 2.750),
    ):
        assert verdicts.student_reach(0.05, dof) == pytest.approx(five, abs=6e-4)
        assert verdicts.student_reach(0.01, dof) == pytest.approx(one, abs=6e-4)


def test_a_paired_difference_is_what_the_hand_gets(load) -> None:
    found = load("bench_verdicts").paired([1.0, 2.0, 3.0])
    # standard error 1 / sqrt(3), t = 2 sqrt(3); with two degrees of freedom p = 1 - t / sqrt(2 + t^2)
    t = 2 * math.sqrt(3)
    assert found.mean == 2 and found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert found.margin == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.detectable > found.margin


def test_verdicts_are_pays_costs_or_none_found(load) -> None:
    verdicts: ModuleType = load("bench_verdicts")
    noise = np.array([-1.0, 0.5, 0.0, 0.5, 0.2]) * 1e-3
    told = verdicts.verdicts([verdicts.paired([*(shift + noise)]) for shift in (0.1, -0.1, 0.0)])
    assert [each[0] for each in told] == [verdicts.PAYS, verdicts.COSTS, verdicts.NONE_FOUND]


def test_a_model_with_all_of_stage_10s_parts_is_stage_10(load) -> None:
    models: ModuleType = load("bench_ablation_models")
    config = dataclasses.replace(stages.stage(10).tiny.config, window=0)
    ten = stages.stage(10).model(config, 50)
    ours = models.Between(models.parts_of(config), 50)
    ours.restore(ten.arrays())
    ids = mx.random.randint(0, 50, (2, 20))
    assert mx.allclose(ours.score(ids), ten.score(ids), atol=1e-5)


def test_a_model_with_none_of_them_is_stage_9(load) -> None:
    models: ModuleType = load("bench_ablation_models")
    config = stages.stage(9).tiny.config
    nine = stages.stage(9).model(config, 50)
    theirs = {name: array + 0.1 * mx.random.normal(array.shape) for name, array in nine.arrays().items()}
    nine.restore(theirs)
    shape = {name: getattr(config, name) for name in ("context", "width", "layers", "heads")}
    ours = models.Between(models.Parts(**shape, kv_heads=config.heads, inner=4 * config.width), 50)

    def own(name: str) -> mx.array:
        for part, place in (("query", 0), ("key", 1), ("value", 2)):
            if f"attention.{part}." in name:
                return mx.split(theirs[name.replace(f"attention.{part}.", "qkv.")], 3)[place]
        return theirs[name.replace("attention.output", "output")]

    ours.restore({name: own(name) for name in ours.arrays()})
    ids = mx.random.randint(0, 50, (2, 20))
    assert mx.allclose(ours.score(ids), nine.score(ids), atol=1e-4)


def test_stage_11_begun_as_stage_10_differs_in_its_first_weights_alone(load) -> None:
    """As it begins, the default looks at one token alone: its hidden vectors are normed embeddings."""
    models: ModuleType = load("bench_ablation_models")
    config = stages.stage(11).tiny.config
    ids = mx.random.randint(0, 50, (1, 10))
    default, ours = stages.stage(11).model(config, 50), models.begun_as_ten(config, 50)
    assert mx.allclose(default.hidden(ids), default.norm(default.embed(ids)), atol=1e-6)
    assert not mx.allclose(ours.hidden(ids), ours.norm(ours.embed(ids)), atol=1e-3)


def test_the_walk_goes_from_stage_9_to_stage_10_without_a_gap(load) -> None:
    changes: ModuleType = load("bench_ablation_changes")
    *steps, whole = changes.walk(changes.QUICK)
    assert whole.without.name == steps[0].without.name == "09" and whole.having.name == steps[-1].having.name == "10"
    assert all(a.having.name == b.without.name for a, b in itertools.pairwise(steps))


def test_each_change_is_taken_back_alone(load) -> None:
    """At most two settings differ (AdamW needs a rate of its own), or the making of the model, or both for GELU."""
    changes: ModuleType = load("bench_ablation_changes")
    for make in (changes.taken_from_ten, changes.taken_from_eleven):
        for change in (each for each in make(changes.QUICK) if each.recipe):
            a, b = ({**vars(one.recipe), **vars(one.config)} for one in (change.without, change.having))
            apart = [name for name in a.keys() & b.keys() if a[name] != b[name]]
            assert len(apart) <= 2 and (apart or change.without.made is not None), change.name


def test_a_cell_that_is_done_is_not_trained_again(load, story_file: Path, tmp_path: Path) -> None:
    cells: ModuleType = load("bench_cells")
    stage = stages.stage(2)
    cell = cells.Cell("part", 2, stage.config, stage.recipe, Source((str(story_file),), "byte", 259, 0), part=2_000)
    [first] = cells.sweep([cell], tmp_path)
    file = tmp_path / "part-0.json"
    before = file.stat().st_mtime_ns
    assert cells.sweep([cell], tmp_path) == [first] and file.stat().st_mtime_ns == before
    assert first["train_tokens"] <= 2_000
    [other] = cells.sweep([dataclasses.replace(cell, part=1_000)], tmp_path)
    assert other["bits_per_byte"] > first["bits_per_byte"]


def test_settings_are_written_as_the_door_reads_them(load) -> None:
    cells: ModuleType = load("bench_cells")
    config = dataclasses.replace(stages.stage(4).config, order=0)
    words = cells.written(config)
    assert words[:2] == ["--order", "auto"] and "--no-quantised" in words and "--prune" not in words


@pytest.mark.slow
def test_a_table_comes_of_it(load, story_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ablation: ModuleType = load("bench_ablation")
    asked = ["--data", str(story_file), "--out", str(tmp_path / "out"), "--quick", "--seeds", "2", "--steps", "4"]
    ablation.main([*asked, "--width", "16", "--only", "eleven", "--rounds", "1"], standalone_mode=False)
    told = capsys.readouterr().out
    assert (
        "averaged weights" in told and "would leave the recipe" in told and (tmp_path / "out/ablation.json").is_file()
    )
