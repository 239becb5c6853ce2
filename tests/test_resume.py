"""Nothing is lost: a run cut anywhere and resumed is the run that was never cut, to the bit."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import checkpoint, stages, stories
from mlx_gpt.corpus import Corpus, Source, open_corpus
from mlx_gpt.errors import CheckpointError, SettingError, Stopped
from mlx_gpt.model import Kept
from mlx_gpt.run import Run
from tests.conftest import Keeper
from tests.test_doors import walk

NEURAL = [number for number in stages.numbers() if number >= 5]


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A text whose epoch ends within 20 steps."""
    path = tmp_path_factory.mktemp("brief") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(stories.stories(1, 5)) + "\n")
    return open_corpus(Source((str(path),), "bpe", 320, 0), lambda message: None)


def fitted(number: int, corpus: Corpus, report: Keeper, **changes: object) -> dict[str, np.ndarray]:
    """A tiny run of 20 steps with all that has a state; its weights at the end."""
    stage = stages.stage(number)
    config, own = stage.tiny.config, {**changes}
    if hasattr(config, "dropout"):
        config = dataclasses.replace(config, dropout=0.2)
    own = {"steps": 20, "evaluate_every": 8, "batch_size": 8, "averaging": 0.9, "warmup": 4, "compiled": False, **own}
    mx.random.seed(0)
    model = stage.model(config, corpus.tokenizer.vocab_size)
    model.fit(corpus, dataclasses.replace(stage.tiny.recipe, **own), report)
    return {name: np.array(array) for name, array in model.arrays().items()}


@pytest.mark.parametrize("number", NEURAL)
def test_a_run_that_was_cut_ends_as_one_that_was_not(number: int, brief: Corpus) -> None:
    """Cut in the middle, at a look, and after the first epoch's end; dropout, averaging and carried memory included."""
    assert 8 * 32 * 8 < brief.train.tokens < 8 * 24 * 19  # an epoch is 8 to 19 steps
    whole = Keeper()
    wanted = fitted(number, brief, whole)
    for cut in (5, 8, 19):
        first = Keeper(stop_after=cut)
        with pytest.raises(Stopped):
            fitted(number, brief, first)
        mx.random.seed(99)  # whatever else happened to MLX's own stream
        second = Keeper(found=first.last)
        found = fitted(number, brief, second)
        assert all(np.array_equal(wanted[name], found[name]) for name in wanted), cut
        assert first.bits + second.bits == whole.bits and first.losses + second.losses == whole.losses
        assert whole.last.arrays.keys() == second.last.arrays.keys()
        for name, array in whole.last.arrays.items():
            assert np.array_equal(array, second.last.arrays[name]), (cut, name)


@pytest.mark.parametrize("number", [7, 11])
def test_a_loss_scale_is_resumed_to_the_bit(number: int, corpus: Corpus) -> None:
    small = {"precision": "fp16", "steps": 8, "evaluate_every": 4, "batch_size": 2, "length": 8}
    wanted = fitted(number, corpus, Keeper(), **small)
    first = Keeper(stop_after=3)
    with pytest.raises(Stopped):
        fitted(number, corpus, first, **small)
    assert first.last.arrays["scale"] > 1
    found = fitted(number, corpus, Keeper(found=first.last), **small)
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)


def test_what_was_kept_of_another_model_is_refused(corpus: Corpus) -> None:
    first = Keeper(stop_after=3)
    with pytest.raises(Stopped):
        fitted(5, corpus, first)
    with pytest.raises(CheckpointError, match="does not fit its settings"):
        fitted(6, corpus, Keeper(found=first.last))
    for facts in ({}, {**first.last.facts, "step": "three"}):
        with pytest.raises(CheckpointError, match="damaged"):
            fitted(5, corpus, Keeper(found=Kept(first.last.arrays, facts)))


# the doors

TINY = ("--preset", "tiny", "--keep-every", "0", "--evaluate-every", "15")


def arguments(number: int, story_file: Path, run: Path, *more: str) -> list[str]:
    own = TINY if number >= 5 else TINY[:2]
    return [*map(str, ("--stage", number, "--data", story_file, "--run", run)), *own, *more]


def process(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mlx_gpt.train", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def lines(run: Path) -> list[dict[str, object]]:
    """The log without what a clock told."""
    told = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    timed = ("seconds", "tokens_per_second", "train_tokens_per_second", "peak_memory")
    return [{name: value for name, value in line.items() if name not in timed} for line in told]


@pytest.fixture(scope="module")
def whole(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 11 run that was never cut."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert walk("train", *arguments(11, story_file, run, "--steps", "45")).exit_code == 0
    return run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    number: int, code: int, whole: Path, story_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    child = process(*arguments(11, story_file, run, "--steps", "45"))
    wait_for(run / "samples.txt", child)
    child.send_signal(number)
    _, said = child.communicate(timeout=120)
    assert child.returncode == code, said
    assert f"--resume --run {os.path.relpath(run)}" in said and "Traceback" not in said
    assert not list(run.glob(".*.part"))
    resumed = walk("train", "--resume", "--run", run)
    assert resumed.exit_code == 0, resumed.output
    assert lines(run) == lines(whole)
    assert (run / "samples.txt").read_text() == (whole / "samples.txt").read_text()
    one, two = (checkpoint.load(folder).model.arrays() for folder in (run, whole))
    assert all(mx.array_equal(one[name], two[name]).item() for name in two)


def wait_for(path: Path, child: subprocess.Popen) -> None:
    """Until a file has something in it, or the child has ended."""
    until = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < until and not (path.is_file() and path.stat().st_size):
        time.sleep(0.01)


def test_a_resume_needs_no_more_and_takes_no_other_settings(whole: Path, story_file: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    mistakes = [
        (("--resume", "--run", whole, "--steps", 90), "--steps 90: this run was started with 45"),
        (("--resume", "--run", whole, "--stage", 10), "is of stage 11"),
        (("--resume", "--run", whole, "--width", 64), "--width 64"),
        (("--resume", "--run", whole, "--data", tmp_path), "--data"),
        (("--resume", "--run", whole, "--tokenizer", "char"), "--tokenizer"),
        (("--resume", "--run", tmp_path / "nowhere"), "nothing to go on from"),
        (("--resume",), "--stage N is missing"),
    ]
    for words, said in mistakes:
        result = walk("train", *words)
        assert result.exit_code == 2 and said in result.stderr, result.output
        assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
    done = walk("train", "--resume", "--run", whole)
    assert done.exit_code == 0 and "finished already" in done.output
    assert {path: path.read_bytes() for path in whole.iterdir() if path.is_file()} == before


def test_a_run_that_was_resumed_is_stopped_as_well_as_a_fresh_one(story_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    seldom = ("--preset", "tiny", "--steps", "100000", "--keep-every", "3600", "--evaluate-every", "50000")
    words = ["--stage", "5", "--data", str(story_file), "--run", str(run), *seldom]
    reached = []
    for _ in range(2):
        child = process(*words)
        before = (run / "log.jsonl").stat().st_size if (run / "log.jsonl").exists() else 0
        until = time.monotonic() + 60
        while time.monotonic() < until and not (run / "log.jsonl").exists():
            time.sleep(0.01)
        while time.monotonic() < until and (run / "log.jsonl").stat().st_size <= before + 2_000:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 130 and "Traceback" not in said, said
        reached.append(checkpoint.read_last(run, print).card.step)
        assert f"saved at step {reached[-1]:,}" in said
        words = ["--resume", "--run", str(run)]
    assert 0 < reached[0] < reached[1]


def test_a_folder_that_is_no_run_is_never_cleared_away(story_file: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "run.previous"
    other.mkdir()
    (other / "letter.txt").write_text("precious")
    for _ in range(3):
        assert walk("train", *arguments(1, story_file, run)).exit_code == 0
    assert (other / "letter.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.previous", "run.previous2"]


def test_what_a_kill_left_in_an_empty_folder_is_no_obstacle(story_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").write_text("1")
    (run / ".log.jsonl.1.part").write_text("")
    assert walk("train", *arguments(1, story_file, run)).exit_code == 0


def test_a_damaged_model_is_made_again_from_the_last_save(story_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert walk("train", *arguments(11, story_file, run, "--steps", "10")).exit_code == 0
    wanted = checkpoint.load(run).model.arrays()
    (run / "model.safetensors").write_bytes(b"nonsense")
    result = walk("train", "--resume", "--run", run)
    assert result.exit_code == 0, result.output
    found = checkpoint.load(run).model.arrays()
    assert all(mx.array_equal(wanted[name], found[name]).item() for name in wanted)


@pytest.mark.parametrize("number", [4, 11])
def test_a_resume_on_another_text_is_refused(number: int, story_file: Path, tmp_path: Path) -> None:
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(story_file.read_text())
    assert walk("train", *arguments(number, text, run, *(["--steps", "5"] if number == 11 else []))).exit_code == 0
    (run / "model.safetensors").unlink()  # as if it had never got so far
    before = (run / "last.safetensors").read_bytes()
    text.write_text(story_file.read_text().replace("a", "e"))
    result = walk("train", "--resume", "--run", run)
    assert result.exit_code == 2 and "is no longer that of this run" in result.stderr, result.output
    assert (run / "last.safetensors").read_bytes() == before


def test_a_damaged_save_gives_way_to_the_one_before(story_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = process(*arguments(11, story_file, run, "--steps", "45"))
    wait_for(run / "samples.txt", child)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=120)
    last = run / checkpoint.LAST
    content = bytearray(last.read_bytes())
    content[-100] ^= 1
    last.write_bytes(content)
    result = walk("train", "--resume", "--run", run)
    assert result.exit_code == 0 and "going on from the save before it" in result.stderr, result.output


def test_two_trainers_never_share_a_folder(story_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = process(*arguments(11, story_file, run, "--steps", "100000"))
    wait_for(run / "log.jsonl", child)
    for words in (arguments(5, story_file, run), ["--resume", "--run", str(run)]):
        result = walk("train", *words)
        assert result.exit_code == 2 and "another training writes here" in result.stderr, result.output
    assert child.poll() is None
    child.kill()
    child.communicate()
    assert checkpoint.read_last(run, print).card.stage == 11  # still the first one's


def kills(count: int, seed: int, numbers: list[int], story_file: Path, folder: Path) -> None:
    """`count` times kill -9 at a random moment, over some stages; each time the run is whole and goes on."""
    chance = random.Random(seed)
    begun: dict[int, bool] = {}
    for kill in range(count):
        number = numbers[kill % len(numbers)]
        run = folder / str(number)
        steps = ("--steps", str(min(400, 8 * count))) if number >= 5 else ()
        saved = (run / checkpoint.LAST).exists() or (run / checkpoint.BEFORE).exists()
        begun[number] = begun.get(number, False) or saved
        child = process(*(("--resume", "--run", str(run)) if saved else arguments(number, story_file, run, *steps)))
        # half of them soon after the start, half once it saves at every step
        if kill % 2:
            wait_for(run / checkpoint.LAST, child)
        time.sleep(chance.uniform(0.0, 2.0))
        child.kill()
        _, said = child.communicate()
        assert child.returncode in (-signal.SIGKILL, 0), said
        if (run / checkpoint.MODEL).exists():
            checkpoint.load(run)
        if begun[number]:
            checkpoint.read_last(run, print)
    assert sum(begun.values()) >= min(count, len(numbers)) // 2


@pytest.mark.parametrize(
    ("count", "numbers"), [(9, [4, 6, 11]), pytest.param(25, stages.numbers(), marks=pytest.mark.slow)], ids=str
)
def test_kill_9_at_any_moment_loses_nothing(count: int, numbers: list[int], story_file: Path, tmp_path: Path) -> None:
    kills(count, 1, numbers, story_file, tmp_path)
    for number in (1, 4, 6, 11):  # and what was killed so often still comes to its end
        run = tmp_path / str(number)
        if (run / checkpoint.LAST).exists():
            result = walk("train", "--resume", "--run", run)
            assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_kill_9_two_hundred_times(story_file: Path, tmp_path: Path) -> None:
    kills(200, 2, stages.numbers(), story_file, tmp_path)


def test_a_resume_sees_that_another_training_began_meanwhile(story_file: Path, tmp_path: Path) -> None:
    """Its settings were read before it had the lock; nothing is overwritten."""
    assert walk("train", *arguments(11, story_file, tmp_path, "--steps", "5", "--warmup", "1")).exit_code == 0
    card = checkpoint.read_last(tmp_path, print).card
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    stage, text = stages.stage(11), open_corpus(card.source, print)
    model = stage.model(card.config, text.tokenizer.vocab_size)
    other = dataclasses.replace(card.recipe, learning_rate=0.5)
    with pytest.raises(SettingError, match="meanwhile"):
        Run(tmp_path, stage, card.preset, card.config, other, text, model, True).__enter__()
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before
    with Run(tmp_path, stage, card.preset, card.config, card.recipe, text, model, True) as run:
        assert run.saved == card.step


def test_the_ladder_goes_on_where_it_stopped(story_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "11-m2-gpt"
    child = process(*arguments(11, story_file, run, "--steps", "45"))
    wait_for(run / "samples.txt", child)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=120)
    ladder = ["--preset", "tiny", "--stages", "11", "--data", str(story_file), "--runs", str(tmp_path)]
    command = [sys.executable, "-m", "mlx_gpt.ladder", *ladder]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "going on after step" in result.stderr, result.stderr
