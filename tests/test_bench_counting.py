"""The benchmark of the counting stages runs and says what it promises; how fast is not a test's business."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_counting.py"


def bench(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True)


def test_a_quick_run_writes_figures_and_a_picture(story_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    ended = bench("--data", story_file, "--quick", "--out", out, "--memory", "1G")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    assert found["version"] == 1 and found["machine"]["numpy"] and found["text"]["vocab_size"] > 0
    for point in [*found["growth"], *found["orders"], found["out_of_core"]]:
        assert min(point[name] for name in ("tokens", "seconds", "cpu_seconds", "peak_bytes")) > 0
        assert len(point["ngrams"]) == point["order"]
    assert [point["order"] for point in found["orders"]] == [2, 3]
    assert min(found["queries"]["rates"].values()) > 0
    assert {"score_1_thread", "distributions_one_by_one", "sample_batched"} <= found["queries"]["rates"].keys()
    storage = found["queries"]["storage"]
    assert storage["quantised"]["bytes_per_ngram"] < storage["plain"]["bytes_per_ngram"]
    assert found["id_text_to_arpa"]["cpu_us_per_token"] > 0
    assert "score 1 thread" in ended.stdout and "bytes/n-gram" in ended.stdout
    assert out.with_suffix(".png").is_file() == (importlib.util.find_spec("matplotlib") is not None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--sizes 1,x", "--sizes"),
        ("--orders 0,2", "--orders"),
        ("--memory lots", "--memory"),
        ("--out {tmp}/no/folder.json", "--out"),
        ("--data {tmp}/missing.txt --out {tmp}/x.json", "no such file"),
    ],
)
def test_a_mistake_is_one_line(line: str, said: str, tmp_path: Path) -> None:
    ended = bench(*line.format(tmp=tmp_path).split())
    errors = [each for each in ended.stderr.splitlines() if each.startswith("Error: ")]
    assert ended.returncode == 2 and len(errors) == 1 and said in errors[0], ended.stderr
    assert "Traceback" not in ended.stderr and not list(tmp_path.iterdir())
