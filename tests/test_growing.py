"""Counting that grows with the text: shards, files of counts from several machines, and texts beyond memory."""

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_gpt import count, merge, stories, train
from mlx_gpt.counting import columns, counted
from mlx_gpt.safetensors import read
from tests.conftest import SHARED

DOORS = {"count": count, "merge": merge, "train": train}


def walk(door: str, *args: object) -> Result:
    return CliRunner().invoke(DOORS[door].main, [str(arg) for arg in args], prog_name=door)


def done(door: str, *args: object) -> Result:
    result = walk(door, *args)
    assert result.exit_code == 0, result.output
    return result


def refused(said: str, door: str, *args: object) -> None:
    """Exit code 2 and one line that says it."""
    result = walk(door, *args)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.exit_code == 2 and len(errors) == 1 and said in errors[0], result.output
    assert "Traceback" not in result.output


def same_model(one: Path, other: Path) -> None:
    """Every array of two runs equal to the bit."""
    a, b = (read(run / "model.safetensors")[0] for run in (one, other))
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert np.array_equal(array, b[name]), name


@pytest.fixture(scope="module")
def small(story_file: Path) -> list[object]:
    """Options that train quickly."""
    return ["--data", story_file, "--preset", "tiny"]


@pytest.fixture(scope="module")
def run(small: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    done("train", "--stage", 4, *small, "--run", folder)
    return folder


@pytest.fixture(scope="module")
def parts(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The training text in three files of counts."""
    folder = tmp_path_factory.mktemp("parts")
    files = [folder / f"{n}.counts" for n in (1, 2, 3)]
    for n, file in enumerate(files, 1):
        done("count", "--data", story_file, "--vocab-size", 512, "--order", 4, "--shard", f"{n}/3", "-o", file)
    return files


@pytest.mark.parametrize("shards", [2, 7])
def test_a_run_in_shards_is_the_same_run(small: list[object], run: Path, shards: int, tmp_path: Path) -> None:
    done("train", "--stage", 4, *small, "--run", tmp_path / "run", "--shards", shards)
    same_model(run, tmp_path / "run")


def test_shards_counted_apart_and_merged_are_the_same_run(
    small: list[object], run: Path, parts: list[Path], tmp_path: Path
) -> None:
    done("merge", parts[2], parts[0], "-o", tmp_path / "some.counts")
    said = done("merge", tmp_path / "some.counts", parts[1], "-o", tmp_path / "all.counts").stdout
    assert "tokens" in said
    done("train", "--stage", 4, *small, "--run", tmp_path / "run", "--counted", tmp_path / "all.counts")
    same_model(run, tmp_path / "run")
    # counts of order 4 hold those of every lower order: they serve the other counting stages, too
    for extra in ([], ["--counted", tmp_path / "all.counts"]):
        done("train", "--stage", 2, *small, "--run", tmp_path / f"bigram{len(extra)}", *extra)
    same_model(tmp_path / "bigram0", tmp_path / "bigram2")


def test_a_text_on_another_machine_is_counted_like_a_run(run: Path, small: list[object], tmp_path: Path) -> None:
    """Documents counted apart with one tokenizer add up to those counted together."""
    texts = [list(stories.stories(seed, 20)) for seed in (11, 12)]
    for name, held in (("a", texts[0]), ("b", texts[1]), ("ab", texts[0] + texts[1])):
        (tmp_path / f"{name}.txt").write_text("\n<|endoftext|>\n".join(held) + "\n")
        done(
            "count", "--data", tmp_path / f"{name}.txt", "--like", run, "--order", 4, "-o", tmp_path / f"{name}.counts"
        )
    done("merge", tmp_path / "a.counts", tmp_path / "b.counts", "-o", tmp_path / "sum.counts")
    together, added = (read(tmp_path / f"{name}.counts")[0] for name in ("ab", "sum"))
    for name in together:
        if not name.startswith("first"):
            assert np.array_equal(together[name], added[name]), name
    done("merge", tmp_path / "b.counts", tmp_path / "a.counts", "-o", tmp_path / "other.counts")
    other = read(tmp_path / "other.counts")[0]
    assert other.keys() == added.keys()
    for name in added:
        assert np.array_equal(other[name], added[name]), name  # in any order the same sum
    told = done("train", "--stage", 4, *small, "--run", tmp_path / "r", "--counted", tmp_path / "sum.counts").stderr
    assert "held-out text may be among them" in told


def test_counts_that_do_not_go_together_are_refused(
    small: list[object], run: Path, parts: list[Path], story_file: Path, tmp_path: Path
) -> None:
    refused(
        "mlx_gpt.merge adds the other parts",
        "train",
        "--stage",
        4,
        *small,
        "--run",
        tmp_path / "r",
        "--counted",
        parts[0],
    )
    assert not (tmp_path / "r" / "model.safetensors").exists()
    refused("has counted already", "merge", parts[0], parts[1], parts[0], "-o", tmp_path / "x")
    done("count", "--data", story_file, "--vocab-size", 600, "--order", 4, "-o", tmp_path / "other.counts")
    refused("another tokenizer", "merge", parts[0], tmp_path / "other.counts", "-o", tmp_path / "x")
    refused(
        "another tokenizer",
        "train",
        "--stage",
        4,
        *small,
        "--run",
        tmp_path / "r",
        "--counted",
        tmp_path / "other.counts",
    )
    done("count", "--data", story_file, "--vocab-size", 512, "--order", 3, "-o", tmp_path / "three.counts")
    refused("of order 3", "merge", parts[0], tmp_path / "three.counts", "-o", tmp_path / "x")
    refused(
        "of order 3", "train", "--stage", 4, *small, "--run", tmp_path / "r", "--counted", tmp_path / "three.counts"
    )
    refused("not a file of counts", "merge", run / "model.safetensors", "-o", tmp_path / "x")
    refused("no such file", "merge", tmp_path / "missing.counts", "-o", tmp_path / "x")
    refused("--shard 4/3", "count", "--data", story_file, "--shard", "4/3", "-o", tmp_path / "x")
    refused("--shard half", "count", "--data", story_file, "--shard", "half", "-o", tmp_path / "x")
    refused("cannot be written", "count", "--data", story_file, "-o", tmp_path / "no" / "x")
    refused("--memory lots", "train", "--stage", 4, *small, "--run", tmp_path / "r", "--memory", "lots")
    refused("--memory 0.1", "train", "--stage", 4, *small, "--run", tmp_path / "r", "--memory", "0.1")
    refused("needs --data", "count", "--like", run, "-o", tmp_path / "x")
    refused(
        "leave out --tokenizer",
        "count",
        "--like",
        run,
        "--data",
        story_file,
        "--tokenizer",
        "char",
        "-o",
        tmp_path / "x",
    )
    refused("--memory 1M", "train", "--stage", 4, *small, "--run", tmp_path / "r", "--memory", "1M")
    refused("--prune", "train", "--stage", 4, *small, "--run", tmp_path / "r", "--prune", "0 2 1")
    refused("more numbers than orders", "train", "--stage", 4, *small, "--run", tmp_path / "r", "--prune", "0 0 1 1 1")
    assert not (tmp_path / "x").exists()


def test_a_text_beyond_memory_is_counted_through_files(
    small: list[object], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    writing = columns.InFile.append
    monkeypatch.setattr(columns.InFile, "append", lambda self, values: (made.append(1), writing(self, values))[1])
    monkeypatch.setattr(counted, "bytes_per_token", lambda order: 2**20)  # a megabyte a token
    done("train", "--stage", 4, *small, "--run", tmp_path / "run", "--memory", "4G")
    assert made
    same_model(run, tmp_path / "run")


def test_a_full_disk_is_one_line_and_leaves_nothing(
    small: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(os.environ["MLX_GPT_CACHE"])
    for writes in (0, 1, 10, 60):
        left = [writes]
        writing = columns.InFile.append

        def append(self: columns.InFile, values: np.ndarray, left: list[int] = left, writing=writing) -> None:  # type: ignore[no-untyped-def]
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            writing(self, values)

        with monkeypatch.context() as patch:
            patch.setattr(columns.InFile, "append", append)
            patch.setattr(counted, "bytes_per_token", lambda order: 2**20)
            refused("No space left", "train", "--stage", 4, *small, "--run", tmp_path / "run", "--memory", "4G")
        assert not (tmp_path / "run" / "model.safetensors").exists()
        assert not list(cache.glob("counting-*"))


def test_order_auto_takes_the_best_on_the_validation_text(small: list[object], run: Path, tmp_path: Path) -> None:
    told = done("train", "--stage", 4, *small, "--run", tmp_path / "auto", "--order", "auto", "--counts").stderr
    tried = [float(line.split()[2]) for line in told.splitlines() if line.startswith("order ") and "bits" in line]
    assert len(tried) >= 3 and tried[-1] >= tried[-2] == min(tried)  # it stopped at the first that was no better
    lines = [json.loads(line) for line in (tmp_path / "auto" / "log.jsonl").read_text().splitlines()]
    assert min(line["valid_bits_per_byte"] for line in lines if "valid_bits_per_byte" in line) == pytest.approx(
        min(tried), abs=1e-4
    )
    table = [line for line in told.splitlines() if "D3+=" in line]
    assert len(table) == len(tried) - 1  # --counts: a line for each order of the model that was kept


def test_order_auto_ends_where_a_file_of_counts_does(small: list[object], story_file: Path, tmp_path: Path) -> None:
    done("count", "--data", story_file, "--vocab-size", 512, "--order", 2, "-o", tmp_path / "two.counts")
    told = done(
        "train", "--stage", 4, *small, "--run", tmp_path / "r", "--order", "auto", "--counted", tmp_path / "two.counts"
    )
    assert "order 2: " in told.stderr and "order 3: " not in told.stderr


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = platform.node()
    dead, alive = tmp_path / f"counting-{here}-{ended.pid}-x", tmp_path / f"counting-{here}-{os.getpid()}-y"
    elsewhere = tmp_path / f"counting-other{here}-{ended.pid}-x"  # another machine's process may live
    for folder in (dead, alive, elsewhere):
        folder.mkdir()
    columns.sweep(tmp_path)
    assert not dead.exists() and alive.exists() and elsewhere.exists()


@pytest.mark.slow
def test_counting_stays_within_the_memory_it_was_given(tmp_path: Path) -> None:
    """A process that counts and smooths 9.9 million tokens in 250 MB, Python and MLX included."""
    if not (SHARED / "standardebooks").is_dir():
        pytest.skip("Standard Ebooks are not here")
    code = f"""
import dataclasses, pathlib, resource, sys
import mlx_gpt
from mlx_gpt import stages
from mlx_gpt.corpus import Source, open_corpus
from mlx_gpt.counting import counted
from mlx_gpt.model import Silent
def peak():  # on Linux ru_maxrss begins with what the parent held
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
corpus = open_corpus(Source(({str(SHARED / "standardebooks")!r},), "bpe", 8000, 0), lambda message: None)
if len(sys.argv) > 1:
    stage = stages.stage(4)
    counted.measure = lambda model, text: (print(peak()), sys.exit())
    stage.model(stage.config, 8000).fit(corpus, dataclasses.replace(stage.recipe, memory="250M"), Silent())
"""
    environment = {**os.environ, "MLX_GPT_CACHE": str(tmp_path)}
    command, root = [sys.executable, "-c", code], Path(__file__).parents[1]
    subprocess.run(command, env=environment, check=True, cwd=root)  # tokenises, which takes more
    told = subprocess.run([*command, "count"], env=environment, check=True, cwd=root, capture_output=True, text=True)
    assert int(told.stdout) <= 250 * 2**20
