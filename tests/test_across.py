"""Ladders of several texts in one table: python -m mlx_gpt.across."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gpt import across
from mlx_gpt.reporting import FORMAT, RESULTS, VERSION
from mlx_gpt.reporting.across import FORMAT as FORMAT_OF_LADDERS
from mlx_gpt.reporting.across import table

ROOT = Path(__file__).parents[1]


def row(stage, bits, spread=None, finished=True):
    seeds = [0] if spread is None else [0, 1, 2]
    return {
        "stage": stage,
        "name": f"name-{stage}",
        "finished": finished,
        "bits_per_byte": bits,
        "margin": 0.25,
        "seeds": seeds,
        "seed_spread": spread,
        "bits_per_byte_by_seed": [bits] * len(seeds),
        "run": "what a table of several texts does not need",
    }


def report(folder, league, **lines):
    folder.mkdir()
    text = {"source": folder.name, "bytes": 1_000, "documents": 7, "resampled": "7 documents", "reference_lines": lines}
    machine = {"processor": "a processor", "device": "a device"}
    told = {"format": FORMAT, "version": VERSION, "made": "2026-01-02T03:04:05", "machine": machine}
    (folder / RESULTS).write_text(json.dumps(told | {"text": text | {"passage": "secret"}, "league": league}))
    return str(folder)


def run(*words):
    return CliRunner().invoke(across.main, [str(word) for word in words])


def test_a_column_a_text_and_both_kinds_of_noise_and_what_is_missing_is_blank(tmp_path):
    plays = report(tmp_path / "plays", [row(1, 3.5), row(7, 2.0, 0.125)], **{"xz -9": 2.5})
    tales = report(tmp_path / "tales", [row(7, 1.0, finished=False)], **{"xz -9": 1.5, "exact entropy": 0.5})
    kept = tmp_path / "ladders.json"
    found = run(kept, "--add", "Plays", plays, "--add", "Tales", tales)
    assert not found.exit_code, found.output
    lines = found.output.splitlines()
    assert lines[0] == "|  | Plays | Tales |"
    assert "| 1 name-1 | 3.5000 ± 0.2500 |  |" in lines
    assert "| 7 name-7 | 2.0000 ± 0.2500 ± 0.1250 (3) | 1.0000 ± 0.2500 … |" in lines
    places = [lines.index(line) for line in ("| *xz -9* | 2.5000 | 1.5000 |", "| *exact entropy* |  | 0.5000 |")]
    assert (
        places[0] < lines.index("| 1 name-1 | 3.5000 ± 0.2500 |  |") and places[1] == 5
    )  # after two lines of head, one above, two stages
    about = "- Plays: 1,000 bytes held out of plays, 7 documents; a processor, a device, "
    assert about + "2026-01-02" in lines
    assert run(kept).output == found.output  # from what was kept
    assert "secret" not in kept.read_text() and "does not need" not in kept.read_text()


def test_a_newer_report_takes_the_place_of_its_name_and_leaves_the_others(tmp_path):
    kept = tmp_path / "ladders.json"
    for name, bits in (("old", 3.5), ("other", 3.0), ("new", 2.5)):
        report(tmp_path / name, [row(1, bits)])
    assert not run(kept, "--add", "A", tmp_path / "old", "--add", "B", tmp_path / "other").exit_code
    assert "| 1 name-1 | 2.5000 ± 0.2500 | 3.0000 ± 0.2500 |" in run(kept, "--add", "A", tmp_path / "new").output


def test_of_several_rows_of_a_stage_the_best_is_shown(tmp_path):
    folder = report(tmp_path / "two", [row(4, 2.0), row(4, 1.5), row(4, None), row(0, 1.0)])  # 0 is the mixture of all
    lines = run(tmp_path / "ladders.json", "--add", "A", folder).output.splitlines()
    assert [line for line in lines if line[:3] == "| 4"] == ["| 4 name-4 | 1.5000 ± 0.2500 |"]
    assert not [line for line in lines if line[:3] == "| 0"]


def test_the_picture_is_drawn_and_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    folder = report(tmp_path / "one", [row(1, 3.5), row(2, 2.0, 0.125)], **{"exact entropy": 0.5})
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for picture in pictures:
        assert not run(tmp_path / "ladders.json", "--add", "Tales", folder, "--picture", picture).exit_code
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert "Tales" in pictures[0].read_text() and "exact entropy" in pictures[0].read_text()


def said(**told):
    return json.dumps({"format": FORMAT, "version": VERSION} | told).encode()


@pytest.mark.parametrize(
    "content",
    [
        *(b"{}", b"not json", b"[]", b'{"format": "other"}', None),
        *(said(), said(version=VERSION - 1), said(text={}, league=[]), said(text=[], league={}, made=1, machine=None)),
    ],
)
def test_what_is_no_report_is_refused_in_one_line_and_nothing_is_lost(tmp_path, content):
    kept = tmp_path / "ladders.json"
    assert not run(kept, "--add", "A", report(tmp_path / "good", [row(1, 3.5)])).exit_code
    before = kept.read_bytes()
    (tmp_path / "bad").mkdir()
    if content is not None:
        (tmp_path / "bad" / RESULTS).write_bytes(content)
    found = run(kept, "--add", "A", tmp_path / "bad")
    assert found.exit_code == 2 and len(found.output.splitlines()) == 1 and RESULTS in found.output
    assert kept.read_bytes() == before


def test_a_file_that_keeps_something_else_is_not_replaced(tmp_path):
    kept = tmp_path / "ladders.json"
    kept.write_text("my thoughts")
    found = run(kept, "--add", "A", report(tmp_path / "good", [row(1, 3.5)]))
    assert found.exit_code == 2 and "move it" in found.output and kept.read_text() == "my thoughts"
    for content in ({}, {"texts": 1}, {"texts": {"A": {"text": {}}}}, {"version": 99, "texts": {}}):
        kept.write_text(json.dumps({"format": FORMAT_OF_LADDERS, "version": 1} | content))
        before, found = kept.read_bytes(), run(kept)
        assert found.exit_code == 2 and len(found.output.splitlines()) == 1 and kept.read_bytes() == before
    found = run(tmp_path / "none.json")
    assert found.exit_code == 2 and "--add" in found.output


def test_a_picture_of_no_known_kind_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    folder = report(tmp_path / "one", [row(1, 3.5)])
    for name in ("picture.xyz", "picture"):
        found = run(tmp_path / "ladders.json", "--add", "A", folder, "--picture", tmp_path / name)
        assert found.exit_code == 2 and name in found.output
        assert not (tmp_path / "ladders.json").exists()  # nothing is done by halves


@pytest.mark.skipif(not (ROOT / "docs" / "ladders.json").is_file(), reason="no measured ladders beside the project")
def test_the_table_in_the_documents_is_that_of_the_kept_figures():
    kept = json.loads((ROOT / "docs" / "ladders.json").read_text())
    assert table(kept["texts"]) in (ROOT / "docs" / "README.md").read_text()
