"""Text that a model writes for another to learn."""

import dataclasses
import itertools
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gpt import checkpoint, decoding, distill, generate, train
from mlx_gpt.corpus import Corpus, Text
from mlx_gpt.distillation import LONGEST, beginnings, written
from mlx_gpt.sampling import Taste

GREEDY = Taste(temperature=0)


@pytest.fixture(scope="module")
def run(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "04"
    tiny = ["--stage", "4", "--preset", "tiny", "--data", str(story_file), "--run", str(folder)]
    assert CliRunner().invoke(train.main, tiny).exit_code == 0
    return folder


def test_a_draft_of_what_a_model_writes_foretells_it(run: Path, tmp_path: Path) -> None:
    own, greedy = tmp_path / "own.jsonl", ("--run", str(run), "--temperature", "0")
    result = CliRunner().invoke(distill.main, ["--run", str(run), "-o", str(own), "--texts", "60", "--tokens", "40"])
    assert result.exit_code == 0 and len(own.read_text().splitlines()) == 60
    line = next(line for line in result.output.splitlines() if line.startswith("python -m mlx_gpt.train"))
    arguments = shlex.split(line.replace("drafts/04", str(tmp_path / "draft")))[3:]
    assert CliRunner().invoke(train.main, arguments).exit_code == 0
    texts = [
        CliRunner().invoke(generate.main, [*greedy, *more]).stdout
        for more in ((), ("--draft", str(tmp_path / "draft")))
    ]
    assert texts[0] == texts[1] != ""


def test_texts_begin_as_training_documents_do_each_once_before_any_again() -> None:
    ids = np.array([0] + [each for document in range(1, 51) for each in (*[document] * 60, 0)])
    text = Text(ids, np.arange(51) * 61, np.full(50, 60))
    begun = list(beginnings(text, 120, seed=3))
    assert all(each == [0, *[each[-1]] * (len(each) - 1)] and len(each) <= LONGEST for each in begun)
    for part in (begun[:50], begun[50:100], begun[100:]):
        known = [each[1] for each in part if len(each) > 1]
        assert len(known) == len(set(known)) > len(part) // 2
    assert len({len(each) for each in begun}) > 20
    assert begun == list(beginnings(text, 120, seed=3)) != list(beginnings(text, 120, seed=4))


def test_every_text_is_what_the_model_writes_alone_to_its_end(trained, corpus: Corpus) -> None:
    model, eot = trained(4), corpus.tokenizer.eot
    begun = list(beginnings(corpus.train, 70, seed=0))  # more than are written together
    found = {tuple(ids) for ids in written(model, iter(begun), GREEDY, 12, eot, seed=0)}
    for start in begun[::10]:
        alone = list(itertools.islice(decoding.generate(model, start, GREEDY, 0), 12))
        end = alone.index(eot) + 1 if eot in alone else 12
        assert (*start, *alone[:end]) in found
    assert len(found) <= 70 and all(len(ids) <= LONGEST + 12 for ids in found)


def test_drawn_texts_differ_by_seed_and_not_by_chance(trained, corpus: Corpus) -> None:
    def texts(seed: int) -> list[list[int]]:
        return sorted(written(trained(2), [[corpus.tokenizer.eot]] * 5, Taste(), 9, corpus.tokenizer.eot, seed))

    assert texts(1) == texts(1) != texts(2)
    assert len(np.unique([len(each) + sum(each) for each in texts(1)])) > 1


def test_a_file_that_cannot_be_the_one_to_write_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "kept.jsonl").write_text("kept")
    for out, said in (("no/own.jsonl", "no folder"), ("own.txt", ".jsonl"), ("kept.jsonl", "exists already")):
        result = CliRunner().invoke(distill.main, ["--run", str(tmp_path), "-o", str(tmp_path / out)])
        assert result.exit_code == 2 and said in result.output and len(result.output.splitlines()) == 1
    assert (tmp_path / "kept.jsonl").read_text() == "kept"


def test_an_interrupt_before_anything_is_written_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Path
) -> None:
    def none(*_: object) -> object:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("mlx_gpt.distillation.written", none)
    out = tmp_path / "own.jsonl"
    out.write_text("earlier\n")
    assert CliRunner().invoke(distill.main, ["--run", str(run), "-o", str(out)]).exit_code != 0
    assert out.read_text() == "earlier\n"


def test_an_imported_model_is_refused_with_a_remedy_that_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Path
) -> None:
    whole = checkpoint.load(run)
    imported = dataclasses.replace(whole, card=dataclasses.replace(whole.card, preset="imported"))
    monkeypatch.setattr(checkpoint, "load", lambda *_: imported)
    result = CliRunner().invoke(distill.main, ["--run", str(run), "-o", str(tmp_path / "own.jsonl")])
    assert result.exit_code == 2 and "name a run" in result.output and "--data" not in result.output
    assert not (tmp_path / "own.jsonl").exists()


def test_what_was_written_before_an_interrupt_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Path
) -> None:
    def two(*_: object) -> object:
        yield [1, 5, 6]
        yield [1, 7]
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_gpt.distillation.written", two)
    out = tmp_path / "own.jsonl"
    result = CliRunner().invoke(distill.main, ["--run", str(run), "-o", str(out)])
    assert result.exit_code == 0 and len(out.read_text().splitlines()) == 2
    assert all(json.loads(line)["text"] for line in out.read_text().splitlines())
    assert f"--data {out} --tokenizer-of {run}" in result.output
