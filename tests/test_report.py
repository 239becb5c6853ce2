"""The report: what is counted of written text, what is asked of runs only once, and the page as a browser shows it."""

import dataclasses
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from click.testing import CliRunner, Result

from mlx_gpt import arpa, checkpoint, stages
from mlx_gpt import report as door
from mlx_gpt.checkpoint import Card
from mlx_gpt.corpus import Corpus, Source
from mlx_gpt.probes import asking
from mlx_gpt.probes.pairs import twins
from mlx_gpt.reporting import collect, figures
from mlx_gpt.reporting.asked import beginning, curve
from mlx_gpt.reporting.kept import Earlier
from mlx_gpt.reporting.markdown import markdown
from mlx_gpt.reporting.page import page
from mlx_gpt.reporting.textless import without_text
from mlx_gpt.reporting.where import where
from mlx_gpt.reporting.written import WORD, Copies, distinct, measures, repetition, training_pieces

TOKENS = 12
OTHER = Source(("/elsewhere/other.txt",), "bpe", 512, 0)


def save(number: int, model: object, corpus: Corpus, folder: Path) -> Path:
    """A run folder as a finished training leaves it, but for the pictures."""
    stage = stages.stage(number)
    run = folder / stage.run
    run.mkdir(parents=True)
    scores = {"bits_per_byte": 2.0, "parameters": 10.0**number, "seconds": 1.5 * number, "train_tokens": 1e5}
    about = (corpus.tokenizer.vocab_size, corpus.source, corpus.digest, corpus.text, 1, True, scores)
    card = Card(number, "tiny", stage.tiny.config, stage.tiny.recipe, *about)
    checkpoint.save(run / "model.safetensors", model, corpus.tokenizer, card)
    lines = [{"step": 0, "tokens": 0, "seconds": 0.0}]
    if number > 4:
        steps = range(1, 300)
        lines = [{"step": s, "bits_per_byte": 4 - s / 200, "tokens": 64 * s, "seconds": s / 10} for s in steps]
    lines.append({"step": 299 if number > 4 else 1, "valid_bits_per_byte": 2.0 + 1 / number})
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture(scope="module")
def runs(rough, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    for number in stages.numbers():
        save(number, rough(number), corpus, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_probes():
    """Two kinds of probes of two twins each; the others have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "twins", lambda words: [(skill, made[:2]) for skill, made in twins(words)][:4:3])
        yield


def walk(*args: object) -> Result:
    return CliRunner().invoke(door.main, [str(arg) for arg in args], prog_name="report")


@pytest.fixture(scope="module")
def told(runs: Path, few_probes: None) -> dict:
    result = walk("--runs", runs, "--tokens", TOKENS)
    assert result.exit_code == 0, result.output
    return json.loads((runs / "results.json").read_text())


# what is counted of written text


def test_distinct_n_is_the_share_of_different_ngrams_over_all_texts() -> None:
    # words: the cat the cat | the dog; pairs: the-cat cat-the the-cat | the-dog, of which three differ
    assert distinct(["the cat the cat", "the dog"], 1) == 3 / 6
    assert distinct(["the cat the cat", "the dog"], 2) == 3 / 4
    assert distinct(["one"], 2) is None


def test_repetition_counts_within_a_text_only() -> None:
    # a b c d a b c d a has six 4-grams: abcd bcda cdab dabc abcd bcda, two of them again
    assert repetition(["a b c d a b c d a"]) == pytest.approx(2 / 6)
    assert repetition(["a b c d", "a b c d"]) == 0
    assert repetition(["a b c"]) is None


def test_copies_are_found_word_by_word_whatever_the_spacing() -> None:
    text = "New: one two three four five six seven eight nine! And done."
    copies = Copies([text])
    copies.look(["zero one two three four\nfive  six seven eight nine. Other words follow it here"])
    # words of text: New : one … nine ! And done . = 2 + 9 + 4 = 15, so 8 8-grams; copied are one…eight and two…nine
    assert copies.share([text]) == 2 / 8
    assert copies.spans(text) == [[text.index("one"), text.index("!")]]
    assert copies.share(["too short"]) is None
    assert copies.longest([text, "too short"]) == 9 and Copies([text]).longest([text]) == 0
    assert measures([text], copies)["words"] == 15 and measures([text], None)["longest"] is None


def test_unknown_words_and_ends_of_documents_are_no_copies() -> None:
    copies = Copies(["a b c d e f g h"])
    copies.look(["a b c d x e f g h", "a b c d\0e f g h"])
    assert copies.share(["a b c d e f g h"]) == 0


def test_all_of_the_training_text_is_looked_at(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_gpt.reporting.written.CHUNK", 1_000)
    documents = [corpus.tokenizer.decode(corpus.train.document(at)) for at in range(0, len(corpus.train), 7)]
    copies = Copies(documents)
    copies.look(training_pieces(corpus.train, corpus.tokenizer))
    assert copies.share(documents) == 1
    held_out = [corpus.tokenizer.decode(corpus.test.document(at)) for at in range(len(corpus.test))]
    others = Copies(held_out)
    others.look(training_pieces(corpus.train, corpus.tokenizer))
    assert others.share(held_out) < 0.9


def test_a_beginning_ends_with_a_word() -> None:
    assert beginning("short", 30) == "short"
    assert beginning("one two three", 9) == "one two"
    assert beginning("a line\nb", 7) == "a line"
    assert beginning("é" * 10, 5) == "éé"


# what is collected


def test_a_report_tells_every_stage(told: dict) -> None:
    assert [row["stage"] for row in told["league"]] == stages.numbers() == [run["stage"] for run in told["runs"]]
    assert told["missing_stages"] == [] and told["left_out"] == {}
    assert [run["counted"] for run in told["runs"]] == [number <= 4 for number in stages.numbers()]
    for run in told["runs"]:
        assert "".join(run["surprise"]["pieces"]) == told["text"]["passage"]
        assert {(each["prompt"], each["seed"]) for each in run["samples"]} == {
            (p, s) for p in range(3) for s in range(4)
        }
        assert [each["tokens"] for each in run["written"]] == [2, 3, 6, 12]
        assert run["written"][-1]["words"] == sum(len(WORD.findall(each["text"])) for each in run["samples"])
        assert all(each["tokens"] <= TOKENS for each in run["samples"])
    # a unigram forgets: a token costs the same wherever it stands
    unigram = told["runs"][0]["surprise"]
    cost = dict(zip(unigram["pieces"], unigram["bits"], strict=True))
    assert unigram["bits"] == [cost[piece] for piece in unigram["pieces"]]


def test_sizes_on_disk_are_those_of_the_files(told: dict, runs: Path) -> None:
    for run in told["runs"]:
        assert run["bytes_on_disk"] == len((runs / run["run"] / "model.safetensors").read_bytes())
    assert [each["run"] for each in told["frontiers"]["points"]["parameters"]] == [run["run"] for run in told["runs"]]


def test_skills_stand_in_every_page(told: dict) -> None:
    for run in told["runs"]:
        assert [row["name"] for row in run["skills"]["probes"]] == ["agreement next", "copy 32 B"]
        assert run["skills"]["dependencies"] is None  # the stories of a file, not the built-in corpus
    shown, text = page(told), markdown(told)
    assert shown.count('class="matrix"') == 1 and "<small> ± " in shown
    assert "| copy 32 B |" in text and "0 is chance" in shown and "0 is chance" in text


def test_a_report_from_before_there_were_skills_asks_for_them_alone(
    told: dict, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads(json.dumps(told))
    for run in before["runs"]:
        del run["skills"]
    (tmp_path / "results.json").write_text(json.dumps(before))
    monkeypatch.setattr(collect, "measure", None)
    assert walk("--runs", runs, "--tokens", TOKENS, "--output", tmp_path).exit_code == 0
    again = json.loads((tmp_path / "results.json").read_text())
    assert [run["skills"] for run in again["runs"]] == [run["skills"] for run in told["runs"]]


def test_scores_are_those_of_compare(told: dict, runs: Path) -> None:
    from mlx_gpt import compare

    result = CliRunner().invoke(compare.main, ["--runs", str(runs), "--json"])
    theirs = json.loads(result.stdout)
    for mine, row in zip(told["league"], theirs["runs"], strict=True):
        assert mine["bits_per_byte"] == pytest.approx(row["bits_per_byte"], rel=1e-9)
        assert mine["margin"] == pytest.approx(row["margin"], rel=1e-9)
    assert told["text"]["reference_lines"] == theirs["reference_lines"]


def test_the_bits_of_all_causes_and_their_differences_are_those_of_the_table(told: dict) -> None:
    found, alone = told["where"], {row["run"]: row for row in told["league"]}
    assert found["alike"] and [row["run"] for row in found["rows"]] == list(alone)
    for share in ("tokens", "bytes"):
        assert sum(each[share] for each in found["causes"]) == pytest.approx(1)
    for row in found["rows"]:
        whole = alone[row["run"]]
        assert sum(row["bits_per_byte"]) == pytest.approx(whole["bits_per_byte"], abs=1e-6)
        if whole["difference"]:
            less = [each["value"] for each in row["differences"]]
            assert sum(less) == pytest.approx(whole["difference"]["value"], abs=1e-6)
    for again in found["rows"][0]["again"]:  # a unigram forgets: a word that is written alike costs the same again
        assert again["first"] > 1 and again["saved"]["value"] == pytest.approx(0, abs=1e-3)


def test_between_tokenizers_what_is_inside_a_word_is_the_words(told: dict) -> None:
    runs = json.loads(json.dumps(told["runs"]))
    runs[3]["where"]["tokenizer"] = "another"
    found, before = where(told["league"], runs, told["text"]), told["where"]
    assert [each["cause"] for each in found["causes"]] == [
        each["cause"] for each in before["causes"] if each["cause"] != "inside"
    ]
    for row, alike in zip(found["rows"], before["rows"], strict=True):
        assert sum(row["bits_per_byte"]) == pytest.approx(sum(alike["bits_per_byte"]))
    assert "different tokenizers" in markdown({**told, "where": found}) and "inside a word" in page(told)


def test_causes_that_do_not_fit_the_text_are_damage(told: dict) -> None:
    damaged = json.loads(json.dumps(told))
    assert Earlier(damaged, told["text"]["key"], told["asked"]).runs.keys() == {run["sha256"] for run in told["runs"]}
    damaged["runs"][3]["where"]["nats"][2].pop()
    with pytest.raises(ValueError):
        Earlier(damaged, told["text"]["key"], told["asked"])


def test_the_first_run_stands_for_the_seeds_of_a_row(told: dict) -> None:
    last, again = told["league"][-1], {**told["runs"][-1], "run": "another seed"}
    league = [*told["league"][:-1], {**last, "runs": [*last["runs"], again["run"]]}]
    assert markdown({**told, "league": league, "runs": [*told["runs"], again]}) == markdown(told)


def test_later_seeds_are_asked_for_what_has_a_mean_alone(runs: Path, tmp_path: Path) -> None:
    first, second = tmp_path / stages.stage(9).run, tmp_path / f"{stages.stage(9).run}-1"
    for folder in (first, second):
        shutil.copytree(runs / first.name, folder)
    trained = checkpoint.load(first)
    card = replace(trained.card, recipe=replace(trained.card.recipe, seed=1))
    checkpoint.save(second / "model.safetensors", trained.model, trained.tokenizer, card)
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(2):  # once more, and nothing is asked
            assert walk("--runs", tmp_path, "--tokens", 4).exit_code == 0
            patch.setattr(checkpoint, "load", None)
    told = json.loads((tmp_path / "results.json").read_text())
    (row,), names = told["league"], ("surprise", "samples", "skills", "written")
    assert row["runs"] == [first.name, second.name] and row["seed_spread"] == 0
    assert [[run[name] is None for name in names] for run in told["runs"]] == [[False] * 4, [True] * 4]
    assert all(run["score"] and run["where"] for run in told["runs"])
    assert "of several seeds" in (tmp_path / "report.html").read_text()
    shutil.rmtree(first)  # now the other is the first
    assert walk("--runs", tmp_path, "--tokens", 4).exit_code == 0
    (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert run["run"] == second.name and None not in [run[name] for name in names]


def test_nothing_is_asked_twice(told: dict, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(checkpoint, "load", never)
    assert walk("--runs", runs, "--tokens", TOKENS).exit_code == 0
    again = json.loads((runs / "results.json").read_text())
    assert {**again, "made": ""} == {**told, "made": ""}


def test_a_run_that_changed_is_asked_alone(
    told: dict, runs: Path, rough, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(runs, folder)
    shutil.rmtree(folder / stages.stage(9).run)
    model = rough(9)
    changed = {name: np.array(array) for name, array in model.arrays().items()}
    first = next(iter(changed))
    changed[first] = changed[first] + 1
    monkeypatch.setattr(type(model), "arrays", lambda self: changed)
    save(9, model, corpus, folder)
    monkeypatch.undo()
    loaded, load = [], checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda run: loaded.append(run.name) or load(run))
    assert walk("--runs", folder, "--tokens", TOKENS).exit_code == 0
    again = json.loads((folder / "results.json").read_text())
    assert loaded == [stages.stage(9).run]
    same = [mine == theirs for mine, theirs in zip(again["runs"], told["runs"], strict=True)]
    assert same == [number != 9 for number in stages.numbers()]


def test_what_was_computed_before_an_interruption_is_kept(runs: Path, tmp_path: Path, told: dict, monkeypatch) -> None:
    bare, output = tmp_path / "runs", tmp_path / "report"
    shutil.copytree(runs, bare, ignore=shutil.ignore_patterns("results.json"))
    load, loaded = checkpoint.load, []

    def third_is_interrupted(run: Path) -> object:
        loaded.append(run.name)
        if len(loaded) == 3:
            raise KeyboardInterrupt
        return load(run)

    monkeypatch.setattr(checkpoint, "load", third_is_interrupted)
    assert walk("--runs", bare, "--tokens", TOKENS, "--output", output).exit_code == 130
    kept = json.loads((output / "results.json").read_text())
    assert [run["stage"] for run in kept["runs"]] == [1, 2] and not (output / "report.html").exists()
    scored = []
    monkeypatch.setattr(checkpoint, "load", load)
    measure = collect.measure
    monkeypatch.setattr(collect, "measure", lambda *args, **more: scored.append(1) or measure(*args, **more))
    assert walk("--runs", bare, "--tokens", TOKENS, "--output", output).exit_code == 0
    whole = json.loads((output / "results.json").read_text())
    assert len(scored) == 9
    assert [row["bits_per_byte"] for row in whole["league"]] == [row["bits_per_byte"] for row in told["league"]]
    assert whole["written"] == told["written"]


def test_what_is_missing_or_damaged_is_said(runs: Path, tmp_path: Path, told: dict) -> None:
    folder = tmp_path / "partial"
    for number in (1, 4):
        shutil.copytree(runs / stages.stage(number).run, folder / stages.stage(number).run)
    shutil.copy(runs / "results.json", folder)
    whole = (folder / stages.stage(4).run / "model.safetensors").read_bytes()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "begun").mkdir()
    (folder / "begun" / "log.jsonl").write_text('{"step": 0}\n{"ste')
    result = walk("--runs", folder, "--tokens", TOKENS)
    assert result.exit_code == 0, result.output
    partial = json.loads((folder / "results.json").read_text())
    assert partial["missing_stages"] == [2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert partial["left_out"].keys() == {"damaged", "begun"}
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "Missing: stage 2, 3, 5, 6, 7, 8, 9, 10, 11" in text
        assert "truncated" in text and "no model yet" in text and str(tmp_path) not in text


def test_runs_of_another_text_are_left_out_in_one_line_and_shown_by_name(
    runs: Path, rough, corpus: Corpus, tmp_path: Path, told: dict
) -> None:
    folder = tmp_path / "runs"
    for number in (1, 3, 4):
        shutil.copytree(runs / stages.stage(number).run, folder / stages.stage(number).run)
    for number in (2, 5):
        run = save(number, rough(number), corpus, folder)
        card = dataclasses.replace(checkpoint.read_card(run), text="of another text", source=OTHER)
        checkpoint.save(run / "model.safetensors", rough(number), corpus.tokenizer, card)
    shutil.copy(runs / "results.json", folder)
    result = walk("--runs", folder, "--tokens", TOKENS)
    assert result.exit_code == 0, result.output
    said = "02-bigram, 05-feed-forward (trained on other.txt, not on stories.txt; to see such runs, name them: --runs"
    for text in (result.stderr, (folder / "report.md").read_text(), (folder / "report.html").read_text()):
        assert text.count(said) == text.casefold().count("left out: ") == 1 and "/other.txt" not in text
    assert [run["stage"] for run in json.loads((folder / "results.json").read_text())["runs"]] == [1, 3, 4]
    named = ("--runs", folder / "01-unigram", folder / "04-ngram-backoff", "--tokens", TOKENS)
    result = walk(*named)
    assert result.exit_code == 2 and "--output DIR is missing" in result.stderr
    assert walk(*named, "--output", folder).exit_code == 0
    assert [run["stage"] for run in json.loads((folder / "results.json").read_text())["runs"]] == [1, 4]


def test_other_files_are_not_replaced(runs: Path, tmp_path: Path) -> None:
    for content in ("{}", "[1]", "half of a {"):
        (tmp_path / "results.json").write_text(content)
        result = walk("--runs", runs, "--output", tmp_path)
        assert result.exit_code == 2 and "in the way" in result.output and result.output.count("\n") == 1
        assert (tmp_path / "results.json").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_each_training_text_is_named_where_runs_are_judged_on_one(
    runs: Path, corpus: Corpus, rough, tmp_path: Path
) -> None:
    folder, other = tmp_path / "mixed", tmp_path / "other.txt"
    shutil.copytree(runs / stages.stage(1).run, folder / stages.stage(1).run)
    (own,) = corpus.source.paths
    source = replace(corpus.source, paths=(str(tmp_path / "deep" / "novel.txt"),))
    save(2, rough(2), replace(corpus, text="another", source=source), folder)
    save(3, rough(3), replace(corpus, text="0123456789"), folder)  # of the same name as the first
    other.write_text("A text that nobody was trained on. It has two lines.\nThis is the second one of them.\n")
    assert walk("--runs", folder, "--data", other, "--tokens", 4).exit_code == 0
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        for said in (f"{Path(own).name} ({corpus.text[:8]}): 1 ", "novel.txt: 2 ", f"{Path(own).name} (01234567): 3 "):
            assert f"Trained on {said}" in text
    assert not any("Trained on" in (runs / name).read_text() for name in ("report.md", "report.html"))


def test_a_report_that_is_refused_leaves_no_folder(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    result = walk("--runs", runs, "--data", tmp_path / "empty.txt", "--output", tmp_path / "new" / "report")
    assert result.exit_code == 2 and "empty.txt" in result.output
    assert not (tmp_path / "new").exists()


def test_runs_of_different_texts_are_refused(runs: Path, corpus: Corpus, rough, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    first = save(1, rough(1), corpus, folder)
    second = save(2, rough(2), dataclasses.replace(corpus, text="another"), folder)
    result = walk("--runs", first, second, "--output", folder)
    assert result.exit_code == 2 and "--data FILE" in result.output and result.output.count("\n") == 1


def test_another_text_is_scored_and_remembered(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = tmp_path / "some", tmp_path / "other.txt"
    for number in (1, 2):
        shutil.copytree(runs / stages.stage(number).run, folder / stages.stage(number).run)
    other.write_text("A text that nobody was trained on. It has two lines.\nThis is the second one of them.\n")
    asked = ("--runs", folder, "--data", other, "--tokens", 4, "--prompt", "Once", "--prompt", "It")
    assert walk(*asked).exit_code == 0
    told = json.loads((folder / "results.json").read_text())
    assert told["text"]["bytes"] == len(other.read_bytes()) and told["text"]["source"] == "other.txt"
    assert told["text"]["passage"] == other.read_text()
    assert told["asked"]["prompts"] == ["Once", "It"]
    scored = []
    measure = collect.measure
    monkeypatch.setattr(collect, "measure", lambda *args, **more: scored.append(1) or measure(*args, **more))
    assert walk(*asked, "--prompt", "A third").exit_code == 0
    assert scored == []  # other samples, the same scores
    other.write_text(other.read_text() + "It has changed.\n")
    assert walk(*asked).exit_code == 0
    assert len(scored) == 2


def test_a_text_that_was_trained_on_is_called_a_leak_on_the_pages_too(
    told: dict, runs: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, leaked = tmp_path / "some", tmp_path / "leaked.txt"
    for number in (1, 2):
        shutil.copytree(runs / stages.stage(number).run, folder / stages.stage(number).run)
    leaked.write_text(corpus.tokenizer.decode(corpus.train.document(0)))
    for _ in range(2):  # from what results.json knows, too
        assert walk("--runs", folder, "--data", leaked, "--tokens", 4).exit_code == 0
        for name in ("report.md", "report.html"):
            text = (folder / name).read_text()
            assert text.count("LEAK: 100 % of the documents") == 1 and "trained on (1 unigram, 2 bigram)." in text
            assert "no stage was trained on" not in text
        monkeypatch.setattr(checkpoint, "load", None)
    assert not any("LEAK" in (runs / name).read_text() for name in ("report.md", "report.html"))


def test_a_model_of_words_describes_no_text_and_is_no_match(runs: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "some", tmp_path / "other.txt"
    shutil.copytree(runs / stages.stage(1).run, folder / "b")
    other.write_text("A text, of words and signs. " * 40)
    built = CliRunner().invoke(arpa.main, ["build", str(other), "--order", "2", "-o", str(tmp_path / "it.arpa")])
    assert built.exit_code == 0, built.output
    imported = CliRunner().invoke(arpa.main, ["import", str(tmp_path / "it.arpa"), "--run", str(folder / "a")])
    assert imported.exit_code == 0, imported.output
    assert walk("--runs", folder, "--data", other, "--tokens", 4).exit_code == 0
    told = json.loads((folder / "results.json").read_text())
    assert other.read_text().startswith(told["text"]["passage"]) and told["text"]["reference_lines"]
    assert [each["cause"] for each in told["where"]["causes"]][:2] == ["end", "sign"]
    assert told["legend"][-1].startswith("a: of words")


def test_without_the_training_text_nothing_is_called_a_copy(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(collect, "training_text", gone)
    shutil.copytree(runs / stages.stage(4).run, tmp_path / "4")
    result = walk("--runs", tmp_path, "--tokens", 30)
    assert result.exit_code == 0 and "copies of it were not looked for" in result.output
    told = json.loads((tmp_path / "results.json").read_text())
    assert {each["copied"] for each in told["runs"][0]["written"]} == {None}
    assert (tmp_path / "report.html").exists() and (tmp_path / "report.md").exists()


def test_a_counting_stage_is_one_point_of_the_curves() -> None:
    from mlx_gpt.plot import Line

    assert curve([Line(0, tokens=0.0), Line(1, valid_bits_per_byte=2.5)], {"train_tokens": 9.0, "seconds": 3.0}) == {
        "train": [],
        "valid": [[9.0, 3.0, 2.5]],
    }
    assert curve([], {}) == {"train": [], "valid": []}


def test_a_report_elsewhere_computes_nothing_again(told: dict, runs: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "load", None)
        result = walk("--runs", runs, "--tokens", TOKENS, "--output", tmp_path / "other")
    assert result.exit_code == 0, result.output
    other = json.loads((tmp_path / "other" / "results.json").read_text())
    assert [run["score"] for run in other["runs"]] == [run["score"] for run in told["runs"]]


# without the text


def fives(text: str) -> set[str]:
    """All 5-grams of words."""
    words = re.findall(r"[^\W\d_]+", text.replace("\\n", " ").lower())
    return {" ".join(words[at : at + 5]) for at in range(len(words) - 4)}


@pytest.fixture(scope="module")
def published(told: dict, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "load", None)  # all figures are those of the report with text
        result = walk("--runs", runs, "--tokens", TOKENS, "--no-text", "--output", folder)
    assert result.exit_code == 0, result.output
    return folder


def test_figures_alone_hold_nothing_of_the_text(told: dict, runs: Path, published: Path, corpus: Corpus) -> None:
    theirs = set[str]()
    for text in (corpus.train, corpus.valid, corpus.test):
        theirs |= set().union(*(fives(corpus.tokenizer.decode(text.document(at))) for at in range(len(text))))
    written = set().union(*(fives(each["text"]) for run in told["runs"] for each in run["samples"]))
    for name in ("results.json", "report.md", "report.html"):
        assert fives((runs / name).read_text()) & theirs and fives((runs / name).read_text()) & written
        assert not fives((published / name).read_text()) & (theirs | written)
    assert (
        "Frequent: " in (runs / "report.md").read_text() and "Frequent: " not in (published / "report.md").read_text()
    )


def test_figures_alone_are_those_of_the_whole_report(told: dict, published: Path) -> None:
    bare = json.loads((published / "results.json").read_text())
    assert bare.keys() == told.keys() and bare["asked"]["prompts"] == [None] * 3
    for name in ("league", "where", "frontiers", "written", "legend"):
        assert bare[name] == told[name]
    for mine, theirs in zip(bare["runs"], told["runs"], strict=True):
        assert mine == {**theirs, "surprise": None, "samples": None}
    assert bare["text"]["words"] == {"frequent": None, "rare": None, "total": told["text"]["words"]["total"]}
    for name in ("report.md", "report.html"):
        assert (published / name).read_text().count("Left out on wish") == 2


def test_figures_alone_tell_a_later_report_of_skills_only(told: dict) -> None:
    known = Earlier(without_text(told), told["text"]["key"], told["asked"])
    assert known.text is None and known.written is None
    assert known.runs == {run["sha256"]: {"skills": run["skills"]} for run in told["runs"]}


def test_figures_alone_replace_no_report_with_text(told: dict, runs: Path) -> None:
    before = (runs / "results.json").read_bytes()
    result = walk("--runs", runs, "--no-text")
    assert result.exit_code == 2 and "name another folder, --output" in result.output
    assert (runs / "results.json").read_bytes() == before


def test_figures_alone_replace_none_of_an_older_version_nor_are_they_replaced(
    told: dict, runs: Path, published: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(told | {"version": told["version"] - 1}))
    for folder, more, said in ((tmp_path, ["--no-text"], "holds the text"), (published, [], "say --no-text")):
        before = (folder / "results.json").read_bytes()
        result = walk("--runs", runs, "--output", folder, *more)
        assert result.exit_code == 2 and said in result.output and "name another" in result.output
        assert (folder / "results.json").read_bytes() == before


def test_figures_alone_open_without_an_error(published: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with Browser() as opened:
        opened.open((published / "report.html").as_uri())
        assert opened.value("document.querySelectorAll('#tracks button').length") == 11
        assert opened.value("document.getElementById('passage')") is None and opened.errors == []


# what is shown


def test_hostile_text_stays_text(told: dict) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>$data"
    hostile = json.loads(json.dumps(told))
    hostile["runs"][0]["name"] = hostile["league"][0]["name"] = hostile["text"]["source"] = evil
    hostile["runs"][0]["samples"][0]["text"] = hostile["text"]["passage"] = evil
    hostile["left_out"] = {evil: evil}
    hostile["text"]["words"]["frequent"][0] = evil
    hostile["frontiers"]["labels"] = dict.fromkeys(hostile["frontiers"]["labels"], f"1 {evil}")
    shown = page(hostile)
    assert shown.count("<script") == 2 and "<img" not in shown
    assert "<img" not in markdown(hostile) and "<script" not in markdown(hostile)


def test_an_infinite_cost_leaves_all_files_readable(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = {"pieces": ["a", "b"], "bits": [1.0, np.inf]}
    monkeypatch.setattr(collect, "passage_bits", lambda *_: never)
    shutil.copytree(runs / stages.stage(1).run, tmp_path / "1")
    assert walk("--runs", tmp_path, "--tokens", 4).exit_code == 0
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "report.html").read_text(), re.DOTALL)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(data[1], parse_constant=refuse)["runs"][0]["surprise"]["bits"] == [1.0, None]


def test_what_is_impossible_is_shown_as_such(told: dict) -> None:
    changed = json.loads(json.dumps(told))
    changed["league"][3] |= {"bits_per_byte": None, "margin": None, "difference": None}
    changed["runs"][3]["surprise"]["bits"][2] = None
    row = changed["where"]["rows"][3]
    row["bits_per_byte"][2] = row["differences"][2] = row["again"][0]["first"] = row["again"][0]["saved"] = None
    row["places"] = [{"value": None, "margin": None}] * len(row["places"])
    assert "∞" in page(changed) and "∞" in markdown(changed)


def test_tables_and_axes_are_drawn_in_one_place() -> None:
    sources = {path.name: path.read_text() for path in Path(figures.__file__).parent.glob("*.py")}
    for part, home in (("<table", "elements.py"), ('class="grid"', "figures.py")):
        assert [name for name, source in sources.items() if part in source] == [home]


def test_curves_above_a_picture_are_cut_off_not_drawn_along_its_edge() -> None:
    frame = figures.Frame(760, (1.0, 100.0), (1.0, 2.0), 10, logarithmic=True)
    assert frame.y(9.0) == frame.y(frame.high) == figures.TOP and frame.beyond(9.0) < 0
    assert figures.LEFT < frame.x(1.0) < frame.x(100.0) < frame.right and list(frame.costs()) == [1.0, 10.0, 100.0]


def test_labels_do_not_lie_upon_each_other() -> None:
    places = figures.apart([50.0, 51.0, 52.0, 10.0, 99.0], 13, 0, 100)
    assert np.diff(sorted(places)).min() >= 13 and max(places) <= 100
    assert sorted(range(5), key=places.__getitem__) == [3, 0, 1, 2, 4]


def test_the_page_asks_for_nothing(told: dict) -> None:
    shown = page(told)
    assert len(shown) < 5e6
    assert not re.search(r"""(?:src|href)=["'](?!#)|url\((?!#)|@import|fetch\(|https?://""", shown)


# in a browser


@pytest.fixture(scope="module")
def browser(told: dict, runs: Path):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with Browser() as opened:
        opened.open((runs / "report.html").as_uri())
        yield opened


def test_it_opens_without_a_request_or_an_error(browser: Browser, runs: Path) -> None:
    assert browser.requests == [(runs / "report.html").as_uri()]
    assert browser.errors == []
    assert browser.value("document.querySelectorAll('#sample-cards article').length") == 11
    assert browser.value("getComputedStyle(document.querySelector('.h7, .h6, .h5')).backgroundColor").startswith(
        "rgba("
    )


def test_the_policy_stops_a_request(browser: Browser, told: dict) -> None:
    before = len(browser.requests)
    refused = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    assert browser.value(refused) == "refused"
    assert len(browser.requests) == before
    browser.errors.clear()


def test_the_slider_goes_from_stage_to_stage_by_arrow_keys(browser: Browser, told: dict) -> None:
    name = "document.getElementById('stage-name').textContent"
    colours = "[...document.querySelectorAll('#passage span')].map(span => span.className).join()"
    browser.value("document.getElementById('stage').focus()")
    browser.key("Home")
    seen = []
    for run in told["runs"]:
        bits = sum(run["surprise"]["bits"])
        assert browser.value(name).startswith(f"{run['stage']} {run['name']}: {bits:.0f} bits")
        assert browser.value("document.getElementById('passage').textContent") == told["text"]["passage"]
        seen.append(browser.value(colours))
        browser.key("ArrowRight")
    assert len(set(seen)) == 11


def test_tokens_are_told_by_arrow_keys(browser: Browser, told: dict) -> None:
    browser.value("document.getElementById('passage').focus()")
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    bits = told["runs"][-1]["surprise"]["bits"][1]
    assert f"{bits:.2f} bits" in browser.value("document.getElementById('token').textContent")


def test_columns_sort_by_click_and_by_key(browser: Browser, told: dict) -> None:
    column = "[...document.querySelectorAll('#league tbody tr')].map(row => row.cells[1].dataset.value)"
    button = "document.querySelectorAll('#league thead button')[1]"
    browser.value(f"{button}.click()")
    up = [float(value) for value in browser.value(column)]
    assert up == sorted(up) and len(up) == 11 + len(told["text"]["reference_lines"])
    browser.value(f"{button}.focus()")
    browser.key("Enter")
    assert [float(value) for value in browser.value(column)] == up[::-1]
    assert browser.value(f"{button}.parentElement.getAttribute('aria-sort')") == "descending"
    browser.value("document.querySelectorAll('#league thead button')[0].click()")
    stage = "[...document.querySelectorAll('#league tbody tr')].map(row => row.cells[0].dataset.value)"
    assert browser.value(stage)[:11] == [str(number) for number in stages.numbers()]


def test_frontiers_change_axis_by_arrow_keys_and_their_tables_sort(browser: Browser, told: dict) -> None:
    open_parts = "[...document.querySelectorAll('[data-frontier]')].filter(part => !part.hidden)"
    browser.value("document.querySelector('input[name=frontier]').focus()")
    seen = []
    for _ in range(5):
        seen += browser.value(f"{open_parts}.map(part => part.dataset.frontier)")
        assert browser.value(f"{open_parts}[0].querySelectorAll('.wide .on').length") > 0
        browser.key("ArrowRight")
    assert seen == ["seconds", "tokens", "parameters", "bytes_on_disk", "scoring"]
    table = "document.querySelector('[aria-label=\"At equal size and speed\"]')"
    browser.value(f"{table}.querySelectorAll('button')[4].click()")
    sizes = browser.value(f"[...{table}.querySelectorAll('tbody tr')].map(row => Number(row.cells[4].dataset.value))")
    assert sizes == sorted(run["bytes_on_disk"] for run in told["runs"])


def test_written_text_is_measured_at_one_length_at_a_time(browser: Browser, told: dict) -> None:
    shown = "[...document.querySelectorAll('#written tbody tr')].filter(row => !row.hidden)"
    for length in (TOKENS, TOKENS // 4):
        browser.value(f"document.querySelector('input[name=length][value=\"{length}\"]').click()")
        assert browser.value(f"{shown}.map(row => row.cells[1].textContent)") == [str(length)] * (1 + len(told["runs"]))


def test_causes_change_to_differences_by_arrow_key_and_sort(browser: Browser, told: dict) -> None:
    table = "[...document.querySelectorAll('[data-where]')].find(part => !part.hidden)"
    row = f"{table}.querySelector('tbody tr:last-child').textContent"
    spent = told["where"]["rows"][-1]["bits_per_byte"]
    assert all(f"{value:.4f}" in browser.value(row) for value in spent)
    browser.value("document.querySelector('input[name=where]').focus()")
    browser.key("ArrowRight")
    less = [each["value"] for each in told["where"]["rows"][-1]["differences"]]
    assert all(f"{value:+.4f}".replace("-", "−") in browser.value(row) for value in less)
    browser.value(f"{table}.querySelectorAll('button')[1].click()")
    sorted_by = browser.value(
        f"[...{table}.querySelectorAll('tbody tr')].map(row => Number(row.cells[1].dataset.value))"
    )
    assert len(sorted_by) == 10 and sorted_by == sorted(sorted_by)


def test_samples_change_with_prompt_and_seed(browser: Browser, told: dict) -> None:
    browser.value("document.getElementById('prompt').value = '1'")
    browser.value("const s = document.getElementById('seed'); s.value = '2'; s.dispatchEvent(new Event('change'))")
    texts = browser.value("[...document.querySelectorAll('#sample-cards .text')].map(text => text.textContent)")
    prompt = told["asked"]["prompts"][1]
    for run, text in zip(told["runs"], texts, strict=True):
        sample = next(each for each in run["samples"] if (each["prompt"], each["seed"]) == (1, 2))
        assert text == prompt + sample["text"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_both_schemes(browser: Browser, scheme: str) -> None:
    browser.show(360, 740, scheme)
    assert browser.value("document.documentElement.scrollWidth") == 360
    assert browser.value("getComputedStyle(document.querySelector('.wide')).display") == "none"
    ink, paper = browser.value(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    assert (luminance(ink) < luminance(paper)) == (scheme == "light")
    lighter, darker = sorted((luminance(ink), luminance(paper)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) > 7  # WCAG 2.2, 1.4.6
    browser.show(1000, 800, "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_can_be_read_on_the_colours_of_skills(browser: Browser, scheme: str) -> None:
    browser.show(360, 740, scheme)
    for shade in ("good s1", "good s6", "bad s6", "h1", "h6"):
        ink, card, over = browser.value(
            "((cell, kind) => {cell.className = kind; const of = each => getComputedStyle(each);"
            "return [of(cell).color, of(cell.closest('.scroll')).backgroundColor, of(cell).backgroundColor]})"
            f"(document.querySelector('.matrix td'), '{shade}')"
        )
        alpha = float(over.rstrip(")").split(",")[-1].split("/")[-1])
        parts = [[int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in (card, over)]
        mixed = ", ".join(str(round((1 - alpha) * below + alpha * above)) for below, above in zip(*parts, strict=True))
        lighter, darker = sorted((luminance(ink), luminance(f"rgb({mixed})")), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) > 4.5, shade  # WCAG 2.2, 1.4.3
    browser.show(1000, 800, "light")


def luminance(colour: str) -> float:
    """Relative luminance of rgb(r, g, b), WCAG 2.2."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_nothing_went_wrong_in_the_browser(browser: Browser) -> None:
    assert browser.errors == [] and len(browser.requests) == 1
