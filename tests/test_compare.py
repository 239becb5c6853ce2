"""The league table: paired differences, seeds apart, the floor, what is missing and what is refused."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_gpt import acceptance, checkpoint, compare, evaluate, stages, train
from mlx_gpt import corpus as corpora
from mlx_gpt.bootstrap import estimate
from mlx_gpt.checkpoint import Card
from mlx_gpt.corpus import Source
from mlx_gpt.heldout import reference_lines
from mlx_gpt.league import Entry, legend, rows, table
from mlx_gpt.measure import Score
from mlx_gpt.roster import roster

SIZES = np.random.default_rng(5).integers(200, 900, 60)


def card(number: int, seed: int = 0, **changes: object) -> Card:
    tiny = stages.stage(number).tiny
    source = Source((), "bpe", 512, 0)
    scores = {"parameters": 1e6, "seconds": 10.0 + seed, "train_tokens_per_second": 5e5, "peak_memory": 9e7}
    whole = Card(number, "tiny", tiny.config, replace(tiny.recipe, seed=seed), 512, source, "c", "t", 1, True, scores)
    return replace(whole, **changes)


def entry(number: int, run: str, level: float, seed: int = 0, noise: int = 0, **changes: object) -> Entry:
    """A run that costs about `level` bits a byte: documents are hard for all alike, and a little for each alone."""
    hard = np.random.default_rng(1).normal(0, 0.2, len(SIZES))
    alone = np.random.default_rng(noise or number).normal(0, 0.02, len(SIZES))
    score = Score((level + hard + alone) * SIZES * math.log(2), SIZES, 9_999, 1.0)
    return Entry(run, number, stages.stage(number).name, card(number, seed, **changes), None, score)


def test_differences_are_paired_and_corrected_by_holm() -> None:
    told = rows([entry(11, "c", 0.9), entry(4, "a", 1.0), entry(9, "b", 1.002)])
    assert [row["run"] for row in told] == ["a", "b", "c"] and told[0]["difference"] is None
    for above, row in ((told[0], told[1]), (told[1], told[2])):
        difference = row["difference"]
        assert difference["to"] == above["run"]
        assert difference["value"] == pytest.approx(row["bits_per_byte"] - above["bits_per_byte"])
        assert difference["margin"] < row["margin"] / 3  # what is hard for both is no noise of the difference
    p = [row["difference"]["p"] for row in told[1:]]
    assert p[1] < 0.025 < 0.05 < p[0]
    assert [row["difference"]["p_holm"] for row in told[1:]] == pytest.approx([p[0], 2 * p[1]])
    lines = table(told, {"uniform bytes": 8.0, "gzip -9": 2.0})
    assert [line.endswith("*") or " * " in line for line in lines[4:]] == [False, False, True]
    said = "\n".join(legend(told, "60 documents"))
    assert "correction over 2" in said and "80 % of such cases, without the correction: 0." in said


def test_runs_that_differ_in_their_seed_alone_are_one_row() -> None:
    """Three of stage 11 with seeds; a fourth has another rate, a fifth repeats a seed: rows of their own."""
    levels = [0.90, 0.91, 0.95]
    seeds = [entry(11, f"s{k}", level, seed=k, noise=20 + k) for k, level in enumerate(levels)]
    recipe = replace(stages.stage(11).tiny.recipe, learning_rate=0.5)
    others = [entry(11, "rate", 1.2, recipe=recipe), entry(11, "twin", 1.3, seed=2)]
    told = rows([entry(4, "a", 1.0), entry(4, "b", 1.0, seed=1, noise=30), *seeds, *others])
    assert [row["runs"] for row in told] == [["a", "b"], ["rate"], ["s0", "s1", "s2"], ["twin"]]
    row, each = told[2], [one.score.bits_per_byte for one in seeds]
    assert row["bits_per_byte"] == pytest.approx(np.mean(each)) and row["bits_per_byte_by_seed"] == each
    assert row["seed_spread"] == pytest.approx(np.std(each, ddof=1)) and told[1]["seed_spread"] is None
    assert row["seconds"] == pytest.approx(11) and row["seeds"] == [0, 1, 2]
    noise = estimate(np.mean([one.score.bits for one in seeds], axis=0), SIZES)
    assert noise is not None and row["margin"] == noise.margin  # the spread of seeds is no part of it
    assert row["difference"]["seed_standard_error"] is None  # one seed alone tells nothing of training
    pair = rows([entry(4, "a", 1.0), entry(4, "b", 1.1, seed=1, noise=30), *seeds])[1]
    variances = np.var([1.0, 1.1], ddof=1) / 2 + np.var(levels, ddof=1) / 3
    assert pair["difference"]["seed_standard_error"] == pytest.approx(math.sqrt(variances), rel=0.15)
    text = "\n".join(table(told, {}))
    assert f"3 ± {row['seed_spread']:.4f}" in text and "rate" in text and "twin" in text


def test_a_difference_that_other_seeds_might_not_show_is_not_marked() -> None:
    """Means 0.95 and 1.00, sure by the text alone; between seeds 0.06 and 0.005 a run: t = 0.05 / 0.035 at about two
    degrees of freedom has p near 0.3, t = 0.05 / 0.004 at about four is far beyond chance."""

    def found(spread: float) -> dict:
        groups = {9: (1.0, spread), 11: (0.95, spread)}
        seeds = [
            entry(number, f"{number}-{k}", mean + (k - 1) * wide, seed=k, noise=number * 10 + k)
            for number, (mean, wide) in groups.items()
            for k in range(3)
        ]
        return rows(seeds)[1]

    sure, chance = found(0.005), found(0.06)
    for each in (sure, chance):
        difference = each["difference"]
        assert difference["value"] == pytest.approx(-0.05, abs=0.01) and difference["margin"] < 0.02
    assert sure["difference"]["p_holm"] < 0.01 and 0.2 < chance["difference"]["p_holm"] < 0.5
    # what is not found is less than what would be: at two degrees of freedom t reaches 4.3 and 1.1, by 0.035
    assert 0.1 < chance["difference"]["detectable"] < 0.3
    assert "counts in the noise of training" in "\n".join(legend([sure], "60 documents"))


def test_what_is_known_of_the_noise_of_training_is_counted_and_what_is_not_is_said() -> None:
    seeds = [entry(11, f"s{k}", 0.9 + 0.1 * k, seed=k, noise=20 + k) for k in range(3)]
    counted = rows([entry(4, "a", 1.05), *seeds])[1]["difference"]
    assert counted["seed_standard_error"] == pytest.approx(0.1 / math.sqrt(3), rel=0.1)  # counting has no chance in it
    half = rows([entry(9, "a", 1.05), *seeds])
    assert half[1]["difference"]["seed_standard_error"] is None
    assert half[1]["difference"]["p"] > 0.2 and counted["p"] > 0.2  # one seed above grants no star
    single = rows([entry(9, "a", 1.0), entry(11, "b", 0.9)])
    assert single[1]["difference"]["p"] < 0.01
    for told in (half, single):
        assert "the noise of training is not known of 1 of them" in "\n".join(legend(told, "60 documents"))
    mixed = rows([*seeds, replace(entry(4, "all", 0.95), stage=0)])
    assert [row["stage"] for row in mixed] == [11, 0]
    assert mixed[1]["difference"]["seed_standard_error"] is None  # its card is that of its first member


def test_runs_of_other_text_or_tokenizer_are_no_seeds() -> None:
    """Scored on one text with --data, and alike in all else: two tokenizers that were given have the same kind."""
    given = Source((), "given", 512, 0)
    entries = [entry(4, name, 1.0, seed, noise=30 + seed, corpus=name, source=given) for seed, name in enumerate("ab")]
    assert [row["runs"] for row in rows(entries)] == [["a"], ["b"]]


def test_the_floor_is_taken_from_each_document() -> None:
    least = SIZES * 0.3
    told = rows([entry(4, "a", 1.0), entry(11, "b", 0.9)], least)
    for row in told:
        assert row["excess"]["value"] == pytest.approx(row["bits_per_byte"] - 0.3)
    assert "over floor" in table(told, {"exact entropy": 0.3})[0]
    assert table(told, {"exact entropy": 0.3})[-1].split() == ["exact", "entropy", "0.3000"]


def test_how_a_document_is_read_is_said() -> None:
    entries = [entry(4, "a", 1.0), *(replace(entry(n, f"{n}", 0.9), context=256) for n in (9, 11))]
    assert legend(rows(entries), "60 documents")[-1] == "read in half-overlapping windows of 256 tokens: stage 9, 11"
    assert legend(rows(entries[:1]), "60 documents")[-1] == "every document is read whole"


def test_no_line_is_wider_than_a_hundred_columns() -> None:
    long = [entry(n, f"runs/a-very-long-name-of-run-{n}-{s}", 10.0 + n, seed=s) for n in (4, 9, 10, 11) for s in (0, 1)]
    big = {"parameters": 123_456_789_012.0, "seconds": 98_765.4, "peak_memory": 9e10, "train_tokens_per_second": 1e9}
    entries = [replace(each, card=replace(each.card, scores=big, finished=False)) for each in long]
    told = rows(entries, SIZES * 0.1)
    for line in table(told, {"exact entropy": 0.1}) + legend(told, "blocks of 1,234,567,890 bytes"):
        assert len(line) <= 100, line


def test_a_score_without_end_has_no_interval_and_spoils_no_other() -> None:
    bad = entry(3, "zero", 1.0)
    endless = replace(bad, score=replace(bad.score, nats=np.append(bad.score.nats[:-1], math.inf)))
    told = rows([entry(2, "a", 1.1), endless, entry(4, "b", 1.0), entry(9, "c", 0.9)])
    assert math.isinf(told[1]["bits_per_byte"]) and told[1]["margin"] is None
    assert [row["difference"] is None for row in told] == [True, True, True, False]
    assert "inf" in "\n".join(table(told, {}))


def test_the_reference_lines_are_what_compressors_make_of_the_whole() -> None:
    """However the text comes in parts: the tools' own answers in one go, and the entropy of 0, 0, 1, 2 is 1.5 bits."""
    import bz2
    import gzip
    import lzma

    parts = [bytes([n % 251]) * n for n in range(1, 300)]
    whole, lines = b"".join(parts), reference_lines(iter(parts))
    for name, packed in {
        "gzip": gzip.compress(whole),
        "bzip2": bz2.compress(whole),
        "xz": lzma.compress(whole, preset=9),
    }.items():
        assert lines[f"{name} -9"] == pytest.approx(8 * len(packed) / len(whole), rel=0.02)
    assert reference_lines([b"\0\0", b"\1\2"])["byte entropy"] == pytest.approx(1.5)


def walk(door, *words: object) -> Result:
    return CliRunner().invoke(door.main, [str(word) for word in words], prog_name="door")


def train_run(folder: Path, number: int, *words: object) -> Path:
    result = walk(train, "--stage", number, "--preset", "tiny", "--run", folder, *words)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def ladder(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    train_run(folder / "01-unigram", 1, "--data", story_file)
    train_run(folder / "04-ngram-backoff", 4, "--data", story_file)
    train_run(folder / "byte", 4, "--data", story_file, "--tokenizer", "byte")
    return folder


def test_a_partial_ladder_says_what_is_missing_and_leaves_out_what_is_damaged(ladder: Path, tmp_path: Path) -> None:
    shutil.copytree(ladder, tmp_path, dirs_exist_ok=True)
    whole = (ladder / "01-unigram" / "model.safetensors").read_bytes()
    for name, content in {"02-bigram": whole[: len(whole) // 2], "03-ngram": whole[:-1] + b"?", "06-rnn": b""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    (tmp_path / "07-lstm").mkdir()
    (tmp_path / "07-lstm" / "log.jsonl").write_text("{}\n")
    (tmp_path / "notes").mkdir()
    result = walk(compare, "--runs", tmp_path)
    assert result.exit_code == 0, result.output
    left_out = [line for line in result.stderr.splitlines() if line.startswith("left out: ")]
    assert [line.split()[2] for line in left_out] == ["02-bigram", "06-rnn", "07-lstm", "03-ngram"]
    assert "no model yet" in left_out[2]
    assert "missing: stage 2, 3, 5, 6, 7, 8, 9, 10, 11" in result.stdout
    told = json.loads(walk(compare, "--runs", tmp_path, "--json").stdout)
    assert told["missing_stages"] == [2, 3, 5, 6, 7, 8, 9, 10, 11] and len(told["left_out"]) == 4


def test_tokenizers_are_compared_on_the_same_bytes(ladder: Path) -> None:
    """The byte model and the BPE models are scored on the same documents, so their differences are paired."""
    told = json.loads(walk(compare, "--runs", ladder, "--json").stdout)
    assert [row["stage"] for row in told["runs"]] == [1, 4, 4] and len({row["bytes"] for row in told["runs"]}) == 1
    assert told["resampled"].startswith("blocks of ") and all(row["margin"] > 0 for row in told["runs"])
    shown = walk(compare, "--runs", ladder).stdout
    assert "byte" in shown and "04-ngram-backoff" in shown  # two rows of one stage bear the names of their runs


def test_evaluate_and_compare_agree_and_tell_each_document(ladder: Path) -> None:
    row = json.loads(walk(compare, "--runs", ladder, "--json").stdout)["runs"][0]
    one = json.loads(walk(evaluate, "--run", ladder / "01-unigram", "--json", "--documents").stdout)
    for name in ("bits_per_byte", "margin", "standard_error", "context_rule"):
        assert one[name] == row[name]
    nats, sizes = one["nats_by_document"], one["bytes_by_document"]
    assert len(nats) == len(sizes) == one["documents"] and sum(sizes) == one["bytes"]
    assert sum(nats) / math.log(2) / sum(sizes) == pytest.approx(one["bits_per_byte"])
    shown = walk(evaluate, "--run", ladder / "01-unigram", "--documents").stdout
    assert f"± {one['margin']:.4f} bits per byte (95 %, bootstrap over {one['resampled']})" in shown
    assert shown.count("document ") == one["documents"] and "whole document" in shown


@pytest.mark.parametrize("text", ["x", "one line"])
def test_a_text_too_short_for_an_interval_says_so(text: str, ladder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text(text)
    data = ("--data", tmp_path / "short.txt")
    result = walk(evaluate, "--run", ladder / "01-unigram", *data)
    assert result.exit_code == 0 and "too little text for an interval" in result.stdout
    assert json.loads(walk(evaluate, "--run", ladder / "01-unigram", "--json", *data).stdout)["margin"] is None
    result = walk(compare, "--runs", ladder, *data)
    assert result.exit_code == 0 and "±" not in result.stdout.split("\n\n")[1]


def test_what_is_known_from_training_is_told_once_for_each_training_text(
    ladder: Path, story_file: Path, tmp_path: Path
) -> None:
    """Runs of two corpora on one text that the second was trained on."""
    (tmp_path / "other.txt").write_text(
        "".join(f"{n} bottles of beer on the wall, number {n * n}\n" for n in range(900))
    )
    shutil.copytree(ladder, tmp_path / "runs")
    train_run(tmp_path / "runs" / "02-bigram", 2, "--data", tmp_path / "other.txt")
    result = walk(compare, "--runs", tmp_path / "runs", "--data", tmp_path / "other.txt")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if "also stand" in line]
    assert len(said) == 1 and said[0].startswith(f"{tmp_path}/other.txt: LEAK: 100 % of the documents and ")
    result = walk(compare, "--runs", ladder, "--data", story_file)  # two tokenizers, one training text
    assert result.stderr.count("LEAK") == 1 and result.exit_code == 0
    some = story_file.read_text().split("\n<|endoftext|>\n")
    (tmp_path / "mixed.txt").write_text("An unheard of beginning. " + " ".join(some[:20]))
    result = walk(evaluate, "--run", ladder / "01-unigram", "--data", tmp_path / "mixed.txt")
    assert "overlap: 0 % of the documents and " in result.stderr and "of the 50-byte windows" in result.stderr


@pytest.fixture(scope="module")
def two_texts(ladder: Path, story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 and 4 (and 4 in bytes) of the stories, and 2 of another text, the newest of all."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(ladder, folder, dirs_exist_ok=True)
    (folder / "other.txt").write_text("".join(f"{n} bottles of beer, number {n * n}\n" for n in range(900)))
    train_run(folder / "02-bigram", 2, "--data", folder / "other.txt")
    return folder


def test_of_runs_of_several_texts_those_of_the_commonest_are_shown(two_texts: Path, tmp_path: Path) -> None:
    result = walk(compare, "--runs", two_texts)
    assert result.exit_code == 0 and "ngram-backoff" in result.stdout and "bigram " not in result.stdout
    why = "trained on other.txt, not on stories.txt; to see such runs, name them: --runs DIR..."
    assert [line for line in result.stderr.splitlines() if "left out" in line] == [f"left out: 02-bigram ({why})"]
    told = json.loads(walk(compare, "--runs", two_texts, "--json").stdout)
    assert [row["stage"] for row in told["runs"]] == [1, 4, 4] and told["left_out"] == {"02-bigram": why}
    named = json.loads(walk(compare, "--json", "--runs", two_texts / "02-bigram").stdout)
    assert [row["stage"] for row in named["runs"]] == [2] and named["left_out"] == {}
    both = ("--runs", two_texts / "02-bigram", two_texts / "01-unigram", two_texts / "02-bigram")
    result = walk(compare, *both)
    assert result.exit_code == 2 and "2 corpora" in result.stderr and len(result.stderr.splitlines()) == 1
    told = json.loads(walk(compare, *both, "--json", "--data", two_texts / "other.txt").stdout)
    assert [row["stage"] for row in told["runs"]] == [1, 2]
    for name in ("01-unigram", "02-bigram"):
        shutil.copytree(two_texts / name, tmp_path / name)
    for newest in ("01-unigram", "02-bigram"):  # one run of each text: the newest decides
        seconds = time.time() + (1_000 if newest == "02-bigram" else 500)
        os.utime(tmp_path / newest / "model.safetensors", (seconds, seconds))
        assert [run.name for run in roster([tmp_path]).cards] == [newest]


def test_drafting_needs_no_text_of_all(story_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts, one tokenizer, and then the second text is gone."""
    monkeypatch.setattr(acceptance, "WRITTEN", 4)
    runs, other = tmp_path / "runs", tmp_path / "other.txt"
    other.write_text("\n<|endoftext|>\n".join(f"{n} bottles of beer, number {n * n}" for n in range(300)))
    train_run(runs / "01-unigram", 1, "--data", story_file)
    train_run(runs / "02-bigram", 2, "--data", other, "--tokenizer-of", runs / "01-unigram")
    result = walk(compare, "--runs", runs, "--drafting", "--json")
    assert result.exit_code == 0 and "of its own" not in result.stderr, result.output
    assert len(json.loads(result.stdout)["drafting"]) == 6
    other.unlink()
    result = walk(compare, "--runs", runs, "--drafting")
    assert result.exit_code == 0 and result.stdout.count("%") == 6
    said = [line for line in result.stderr.splitlines() if "of its own" in line]
    assert len(said) == 1 and said[0].startswith("02-bigram: its text is gone")
    assert walk(compare, "--runs", runs, "--drafting", "--data", other).exit_code == 2
    assert walk(compare, "--runs", runs, "--drafting", "--data", story_file).exit_code == 0


def test_runs_are_named_that_are_there_and_have_names_of_their_own(ladder: Path, tmp_path: Path) -> None:
    shutil.copytree(ladder / "byte", tmp_path / "byte")
    for named, said in (("nowhere", "nowhere: no such folder"), (tmp_path / "byte", "2 runs called byte")):
        result = walk(compare, "--runs", ladder / "byte", named)
        assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1


def test_the_ladder_ends_in_the_table_of_its_own_text(two_texts: Path, tmp_path: Path) -> None:
    """All is trained already; the folder holds more runs of another text, and a damaged one."""
    shutil.copytree(two_texts, tmp_path / "runs")
    (tmp_path / "runs" / "05-damaged").mkdir()
    (tmp_path / "runs" / "05-damaged" / "model.safetensors").write_bytes(b"?")
    command = [sys.executable, "-m", "mlx_gpt.ladder", "--preset", "tiny", "--stages", "2"]
    command += ["--runs", str(tmp_path / "runs"), "--data", str(two_texts / "other.txt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "finished already" in done.stderr and " 2 bigram" in done.stdout and "ngram-backoff" not in done.stdout


def test_no_run_that_can_be_read_is_one_clear_line(ladder: Path, tmp_path: Path) -> None:
    whole = (ladder / "01-unigram" / "model.safetensors").read_bytes()
    (tmp_path / "01-unigram").mkdir()
    for content in (whole[:100], whole[:-1] + b"?"):
        (tmp_path / "01-unigram" / "model.safetensors").write_bytes(content)
        result = walk(compare, "--runs", tmp_path)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output
        assert result.stderr.startswith("Error: ") and "01-unigram" in result.stderr


def test_a_run_is_never_below_the_floor_of_the_built_in_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora.corpus, "STORIES", 500)
    train_run(tmp_path / "04", 4)
    told = json.loads(walk(compare, "--runs", tmp_path, "--json").stdout)
    (row,) = told["runs"]
    assert row["excess"]["value"] == pytest.approx(row["bits_per_byte"] - told["reference_lines"]["exact entropy"])
    assert row["excess"]["value"] > row["excess"]["margin"] > 0
    assert checkpoint.read_card(tmp_path / "04").source.builtin
