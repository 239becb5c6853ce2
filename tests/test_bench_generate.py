"""The benchmark of generation runs and says what it promises; how fast is not a test's business."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_generate.py"


def bench(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True)


def measured(tmp_path: Path, part: str) -> dict:
    out = tmp_path / "bench.json"
    ended = bench("--quick", "--json", out, "--rounds", 1, "--only", part)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    assert found["version"] == 1 and found["machine"].startswith("MLX")
    return found[part]


def test_every_stage_is_measured_at_every_size(tmp_path: Path) -> None:
    found = measured(tmp_path, "stages")
    assert list(found["of"]) == [str(number) for number in range(1, 12)]
    for number, sizes in found["of"].items():
        assert [(each["prompt"], each["texts"]) for each in sizes] == [(4, 1), (4, 2), (16, 1), (16, 2)]
        assert all(each["tokens_per_second"] > 0 and each["first_token_ms"] > 0 for each in sizes)
        assert all(("share_of_limit" in each) == (int(number) > 4) for each in sizes)
    assert found["of"]["11"][1]["memory_bytes"] == 2 * found["of"]["11"][0]["memory_bytes"]


def test_stage_11_is_held_against_mlx_lm_where_there_is_one(tmp_path: Path) -> None:
    found = measured(tmp_path, "mlx-lm")
    if importlib.util.find_spec("mlx_lm") is None:
        assert "left out" in found["skipped"]
        return
    assert found["logits_differ_by"] < 1e-4
    for each in found["prompts"]:
        assert each["rest"]["ratio"]["low"] <= each["rest"]["ratio"]["median"] <= each["rest"]["ratio"]["high"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    ended = bench("--json", tmp_path / "no" / "x.json")
    assert ended.returncode == 2 and "--json" in ended.stderr and len(ended.stderr.splitlines()) == 1
