"""The script that trains every stage asks for each run once, and for seeds only where there is chance."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from mlx_gpt import ladder


def test_seeds_are_of_stages_with_chance_and_all_have_the_first_before_any_has_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def noted(command: list[str], check: bool) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", noted)
    monkeypatch.setattr(ladder, "_of_its_text", lambda run: [str(run), "others of its text"])
    settings = ("--runs", tmp_path, "--preset", "tiny", "--stages", "4,9,11", "--seed", 5, "--seeds", 2)
    assert CliRunner().invoke(ladder.main, [str(each) for each in settings]).exit_code == 0
    *trained, compared = asked
    told = [
        (Path(each[each.index("--run") + 1]).name, each[each.index("--stage") + 1], each[each.index("--seed") + 1])
        for each in trained
    ]
    assert told == [
        ("04-ngram-backoff", "4", "5"),
        ("09-simple-gpt", "9", "5"),
        ("11-m2-gpt", "11", "5"),
        ("09-simple-gpt-6", "9", "6"),
        ("11-m2-gpt-6", "11", "6"),
    ]
    assert compared[-4:] == ["mlx_gpt.compare", "--runs", str(tmp_path / "04-ngram-backoff"), "others of its text"]
