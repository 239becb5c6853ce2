"""The benchmark of the training step runs and says what it promises; how fast is not a test's business."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_train.py"


def bench(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True)


def measured(tmp_path: Path, *parts: str) -> dict:
    out = tmp_path / "bench.json"
    ended = bench("--quick", "--json", out, "--rounds", 1, *(word for part in parts for word in ("--only", part)))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    assert found["version"] == 1 and found["machine"].startswith("MLX")
    return found


def test_plain_and_operations_tell_ratios_and_counts(tmp_path: Path) -> None:
    found = measured(tmp_path, "plain", "operations", "ceiling")
    plain = found["plain"]
    assert plain["ratio"]["low"] <= plain["ratio"]["median"] <= plain["ratio"]["high"]
    assert plain["peak_ratio"] == plain["peak_bytes"][0] / plain["peak_bytes"][1] > 0
    eleven = found["operations"]["11"]
    # of the quick shape: 7 linear layers a block make 3 products each, in 2 blocks
    assert eleven["by_name"]["Matmul"] >= 2 * 7 * 3 and eleven["operations"] == sum(eleven["by_name"].values())
    assert found["ceiling"]["flop"] > 0


def test_without_a_text_the_time_to_a_loss_is_left_out_in_a_line(tmp_path: Path) -> None:
    assert "left out" in measured(tmp_path, "time")["time"]["skipped"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_every_neural_stage_is_held_against_torch(tmp_path: Path) -> None:
    found = measured(tmp_path, "stages")["stages"]
    assert list(found) == [str(number) for number in range(5, 12)]
    assert all(each["ratio"]["of_minima"] > 0 for each in found.values())


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    ended = bench("--json", tmp_path / "no" / "x.json")
    assert ended.returncode == 2 and "--json" in ended.stderr and len(ended.stderr.splitlines()) == 1
