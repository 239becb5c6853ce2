"""The sweep of tokenizers scores the same bytes with each, marks the best, and goes on where it stopped."""

import importlib
import json
from pathlib import Path

import click
import pytest

from mlx_gpt.checkpoint import read_card

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def test_cells_are_ordinary_runs_and_are_trained_once(
    load, story_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load("bench_tokenizers")
    asked = ["--data", str(story_file), "--out", str(tmp_path), "--stages", "2", "--tokenizers", "byte,320"]
    sweep.main(asked, standalone_mode=False)
    first = capsys.readouterr().out
    cards = {name: read_card(tmp_path / f"02-bigram-{name}-0") for name in ("byte", "320")}
    assert cards["byte"].text == cards["320"].text and cards["byte"].vocab_size == 257
    rows = json.loads((tmp_path / "tokenizers.json").read_text())["counted"]["rows"]
    scores = {row["tokenizer"]: row["seeds"][0]["bits_per_byte"] for row in rows}
    assert scores == {name: card.scores["bits_per_byte"] for name, card in cards.items()}
    best = min(scores, key=scores.__getitem__)
    assert f"{scores[best]:.4f}*" in first and first.count("*") == 2  # the heading explains it
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.glob("*/*"))]
    sweep.main(asked, standalone_mode=False)
    assert [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.glob("*/*"))] == before


def test_equal_bytes_are_more_steps_where_a_token_is_short(
    load, story_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load("bench_tokenizers")
    seen = []
    figures = {"bits_per_byte": 1.0, "seconds": 1.0}
    monkeypatch.setattr(sweep, "sweep", lambda cells, out: seen.extend(cells) or [figures] * len(cells))
    sources = {name: sweep._source((str(story_file),), name) for name in ("byte", "320", "400")}
    for same in sweep.SAME:
        sweep._neural([sweep.Way(9)], sources, same, "tiny", 100_000, 1, Path())
    tokens, read = seen[:3], seen[3:]
    assert len({cell.recipe.steps for cell in tokens}) == 1
    bytes_read = [cell.recipe.steps * sweep._bytes_a_token(cell.source) for cell in read]
    assert max(bytes_read) / min(bytes_read) < 1.02 and read[0].recipe.steps > read[2].recipe.steps


def test_a_tokenizer_that_is_none_is_refused_by_name(load, story_file: Path, tmp_path: Path) -> None:
    asked = ["--data", str(story_file), "--out", str(tmp_path), "--tokenizers", "byte,syllables"]
    with pytest.raises(click.ClickException, match="syllables") as told:
        load("bench_tokenizers").main(asked, standalone_mode=False)
    assert told.value.exit_code == 2
