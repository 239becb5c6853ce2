"""The benchmark of the counting stages runs and says what it promises; how fast is not a test's business."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_counting.py"
DERIVED = ("tokens_per_second", "cpu_us_per_token", "bytes_per_token")


def bench(*args: object, path: str = "") -> subprocess.CompletedProcess[str]:
    drawing = os.environ["PYTHONPATH"].partition(os.pathsep)[2]  # after conftest's folder without matplotlib
    told = {**os.environ, "PATH": path or os.environ["PATH"], "PYTHONPATH": drawing}
    return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True, env=told)


def lmplz(folder: Path, script: str) -> str:
    """A PATH on which lmplz is found first, and does this."""
    folder.mkdir()
    (folder / "lmplz").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "lmplz").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_a_quick_run_writes_figures_and_a_picture(story_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    path = lmplz(tmp_path / "bin", 'test -s "$7"')  # the text that --text names
    ended = bench("--data", story_file, "--quick", "--out", out, "--memory", "1G", path=path)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    assert found["version"] == 1 and found["machine"]["numpy"] and found["text"]["vocab_size"] > 0
    for point in [*found["growth"], *found["orders"], found["out_of_core"]]:
        assert min(point[name] for name in ("tokens", "seconds", "cpu_seconds", "peak_bytes", *DERIVED)) > 0
        assert len(point["ngrams"]) == point["order"]
    assert [point["order"] for point in found["orders"]] == [2, 3]
    assert min(found["queries"]["rates"].values()) > 0
    assert {"score_1_thread", "distributions_one_by_one", "sample_batched"} <= found["queries"]["rates"].keys()
    storage = found["queries"]["storage"]
    assert storage["quantised"]["bytes_per_ngram"] < storage["plain"]["bytes_per_ngram"]
    assert 0 < found["baseline_bytes"] <= min(point["peak_bytes"] for point in found["growth"]) * 1.1
    assert found["id_text_to_arpa"]["cpu_us_per_token"] > 0
    assert found["lmplz"]["peak_bytes"] > 0 and "lmplz / ours" in ended.stdout
    assert "score 1 thread" in ended.stdout and "bytes/n-gram" in ended.stdout
    assert out.with_suffix(".png").is_file() == (importlib.util.find_spec("matplotlib") is not None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--sizes 1,x", "--sizes"),
        ("--orders 0,2", "--orders"),
        ("--sizes 1000 --tokens 3000000", "3,000,000,000 tokens"),
        ("--memory lots", "--memory"),
        ("--memory 10M --quick --data {story} --out {tmp}/x.json", "too little"),
        ("--data -", "standard input"),
        ("--out {tmp}/x.png", "--out"),
        ("--out {tmp}/no/folder.json", "--out"),
        ("--data {tmp}/missing.txt --out {tmp}/x.json", "no such file"),
    ],
)
def test_a_mistake_is_one_line(line: str, said: str, tmp_path: Path, story_file: Path) -> None:
    ended = bench(*line.format(tmp=tmp_path, story=story_file).split())
    errors = [each for each in ended.stderr.splitlines() if each.startswith("Error: ")]
    assert ended.returncode == 2 and len(errors) == 1 and said in errors[0], ended.stderr
    assert "Traceback" not in ended.stderr and not list(tmp_path.iterdir())


def test_an_lmplz_that_fails_is_left_out_and_says_why(story_file: Path, tmp_path: Path) -> None:
    path = lmplz(tmp_path / "bin", "echo no discounts here >&2; exit 3")
    ended = bench("--data", story_file, "--quick", "--sizes", 1, "--orders", 2, "--out", tmp_path / "b.json", path=path)
    assert ended.returncode == 0 and "exit code 3" in ended.stderr and "no discounts here" in ended.stderr
    assert json.loads((tmp_path / "b.json").read_text())["lmplz"] == {} and "lmplz, the same" not in ended.stdout
