"""The same text, however it is cut into files, batches, windows and chunks, has the same score."""

import gzip
import io
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from click.testing import CliRunner

from mlx_gpt import checkpoint, measure, train
from mlx_gpt.checkpoint import Checkpoint
from mlx_gpt.endless import Endless
from mlx_gpt.heldout import held_out
from mlx_gpt.memory import Memory
from tests.conftest import with_slow

STAGES = (4, 7, 11)  # counts, a state without an end, a window
Write = Callable[[list[str], Path], list[str]]


@pytest.fixture(scope="module")
def runs(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Checkpoint]:
    folder, found = tmp_path_factory.mktemp("cuttings"), {}
    for number in STAGES:
        words = ["--stage", str(number), "--preset", "tiny", "--data", str(story_file), "--run", str(folder / "r")]
        words += ["--steps", "8", "--warmup", "2"] if number > 4 else []
        assert CliRunner().invoke(train.main, words, prog_name="train").exit_code == 0
        found[number] = checkpoint.load(folder / "r")
    return found


@pytest.fixture(scope="module")
def documents(story_file: Path) -> list[str]:
    """Of very unlike lengths, the first over 1,024 tokens, with what files and JSON might spoil in them."""
    stories = story_file.read_text().split("\n<|endoftext|>\n")[:12]
    odd = ["x", " two  spaces ", "日本語 und Größe 😀", "line\n\nline\n", '"quoted" \\n \ttab']
    return ["\n".join(stories[:5]), *stories[5:], *odd]


def marked(texts: list[str], path: Path, opened: Callable = open) -> str:
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        file.writelines(f"{text}\n<|endoftext|>\n" for text in texts)
    return str(path)


def json_lines(texts: list[str], path: Path, opened: Callable = open) -> str:
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": place, "text": text}) + "\n" for place, text in enumerate(texts))
    return str(path)


def a_file_each(texts: list[str], folder: Path) -> str:
    for place, text in enumerate(texts):
        (folder / f"{place:03}.txt").write_bytes(text.encode())
    return str(folder)


FILES: dict[str, Write] = {
    "one file": lambda texts, folder: [marked(texts, folder / "all.txt")],
    "a file each": lambda texts, folder: [a_file_each(texts, folder)],
    "two files": lambda texts, folder: [marked(texts[:9], folder / "b.md"), marked(texts[9:], folder / "a.txt")],
    "json lines": lambda texts, folder: [json_lines(texts, folder / "all.jsonl")],
    "gzip": lambda texts, folder: [marked(texts, folder / "all.txt.gz", gzip.open)],
    "json lines in gzip": lambda texts, folder: [json_lines(texts, folder / "all.jsonl.gz", gzip.open)],
    "standard input": lambda texts, folder: [marked(texts, folder / "piped"), "-"][1:],
    "the other way round": lambda texts, folder: [marked(texts[::-1], folder / "all.txt")],
}


def score(trained: Checkpoint, data: list[str], alike: measure.Scorer | None = None) -> measure.Score:
    return measure.measure(trained.model, held_out(trained, data, lambda message: None), alike)


def same(found: measure.Score, expected: measure.Score) -> bool:
    assert (found.bytes, found.tokens) == (expected.bytes, expected.tokens)
    return abs(found.bits_per_byte - expected.bits_per_byte) < 1e-6


@pytest.fixture(scope="module")
def whole(runs: dict[int, Checkpoint], documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The scores of one file in one piece, and that file."""
    data = [marked(documents, tmp_path_factory.mktemp("whole") / "all.txt")]
    return {number: (score(trained, data), data) for number, trained in runs.items()}


CUT = list(itertools.product(FILES, STAGES))  # the files are read alike for all: only what changes batches is not


@pytest.mark.parametrize(
    ("name", "number"), with_slow(CUT, [pair for pair in CUT if pair[1] == 4 or pair[0] in ("two files", [*FILES][-1])])
)
def test_files(
    name: str,
    number: int,
    runs: dict[int, Checkpoint],
    whole: dict,
    documents: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = FILES[name](documents, tmp_path)
    if data == ["-"]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "piped").read_bytes())))
    assert whole[number][0].bytes == sum(len(text.encode()) for text in documents)
    assert same(score(runs[number], data), whole[number][0])


@pytest.mark.parametrize("number", STAGES)
@pytest.mark.parametrize(
    ("tokens", "chunk"), [pytest.param(1, 1_024, marks=pytest.mark.slow), (300, 60), (100_000, 4_096)]
)
def test_batches_and_chunks(
    tokens: int, chunk: int, number: int, runs: dict[int, Checkpoint], whole: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row in a batch or all; a memory handed on after 60 tokens or never."""
    monkeypatch.setattr(measure, "BATCH_TOKENS", tokens)
    monkeypatch.setattr(measure, "UNENDING", chunk)
    assert same(score(runs[number], whole[number][1]), whole[number][0])


@pytest.mark.parametrize("number", STAGES)
def test_batches_of_one_shape_only(number: int, runs: dict[int, Checkpoint], whole: dict) -> None:
    """As a compiled scorer wants them, filled up with rows and columns that are none."""
    shapes = set()

    def alike(ids: mx.array, memory: Memory | None) -> mx.array:
        shapes.add(ids.shape)
        return runs[number].model.score(ids, memory)

    assert same(score(runs[number], whole[number][1], alike), whole[number][0]) and len(shapes) == 1


@pytest.mark.parametrize("number", STAGES)
def test_a_window_that_renews_itself(number: int, runs: dict[int, Checkpoint], whole: dict) -> None:
    """By the rule that generation and mixtures follow: token after token, and half a window is read again."""
    trained, (expected, data) = runs[number], whole[number]
    text = held_out(trained, data, lambda message: None)
    assert same(measure.measure(Endless(trained.model), text), expected)
