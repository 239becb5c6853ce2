"""Probes and what they tell: chance where nothing is seen, everything where all is; and the price of dependencies."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_gpt import checkpoint, skills, stages, stories
from mlx_gpt.checkpoint import Card
from mlx_gpt.corpus import Corpus, Text, encode_text
from mlx_gpt.measure import measure
from mlx_gpt.probes import asking
from mlx_gpt.probes.ask import answers, centred
from mlx_gpt.probes.dependencies import SAID, choices, dependencies
from mlx_gpt.probes.pairs import SKILLS, twins
from mlx_gpt.probes.words import Words, find, sample
from mlx_gpt.reporting.skills import skills_section
from mlx_gpt.tokenizer import Tokenizer

NAMES = ("Anna", "Ben", "Lily", "Max", "Mia", "Sam", "Sue", "Tim", "Tom", "Zoe")
FAR = [skill.name for skill in SKILLS if skill.bytes >= 32]  # the least distance is more than a tiny n-gram sees
BYTES = Tokenizer("byte")


def letters(at: int) -> str:
    """A word for a number, no two alike."""
    return "".join("bcdfghjklm"[int(digit)] + "aeiou"[at % 5] for digit in f"{at:03d}")


WORDS = Words(
    names=NAMES,
    following="was",
    plain=tuple(letters(at) for at in range(300)),
    things=("ball", "hat"),
    colours=("red", "blue", "green", "white"),
    nouns=(("dog", "dogs"), ("cat", "cats"), ("tree", "trees"), ("child", "children")),
    verbs=("was", "were"),
    after="very",
    sentences=tuple(f"The child went home with {letters(at)}." for at in range(40)),
    quotes={
        '""': [(f"He said {letters(at)}, ", "I " + "saw " * (5 + at) + "it.", " Then it was over") for at in range(48)],
        "()": [],
    },
)
MADE = [(skill, made[:6]) for skill, made in twins(WORDS)]


class Mind:
    """A model that pays for each token what a function of the text so far says, in nats."""

    def __init__(self, cost) -> None:
        self.cost = cost

    def scored(self, text: Text):
        for document in range(len(text)):
            ids = text.document(document)
            ids = np.append(ids, 256)[: int(text.starts[document + 1] - text.starts[document]) + 1]
            yield document, 0, -np.array(self.cost(bytes(ids[1:-1].astype(np.uint8))), np.float64)


def card(number: int, corpus: Corpus) -> Card:
    stage = stages.stage(number)
    about = (corpus.tokenizer.vocab_size, corpus.source, corpus.digest, corpus.text, 1, True, {"bits_per_byte": 2.0})
    return Card(number, "tiny", stage.tiny.config, stage.tiny.recipe, *about)


# twins


def test_right_and_wrong_have_the_same_end_and_twins_swap_them() -> None:
    assert all(made for _, made in MADE)
    for skill, made in MADE:
        for each in made:
            (right, wrong), (other_right, other_wrong) = each.first, each.second
            assert right != wrong and other_right != other_wrong, skill.name
            assert len({text.split()[-1].strip(".") for text in each.texts}) <= (2 if skill.group == "phrase" else 1)
            # from where they part, a text goes on right as its twin goes on wrong
            begin = next(at for at, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b)
            asked = max(right[:begin].rfind(" "), 0) + 1
            assert right[asked:] in other_wrong and wrong[asked:] in other_right, skill.name


def test_the_deciding_word_stands_as_far_back_as_is_said() -> None:
    for skill, made in MADE:
        for each in made if skill.bytes >= 32 and skill.group in ("copy", "recall") else ():
            right, twin = each.first[0], each.second[1]
            decides = (
                next(at for at, (a, b) in enumerate(zip(right, twin, strict=True)) if a != b)
                if len(right) == len(twin)
                else 0
            )
            assert 0.5 * skill.bytes <= len(right) - decides <= 2 * skill.bytes + 60, skill.name


def test_probes_are_the_same_for_the_same_words_and_seed() -> None:
    again = dict((skill.name, made) for skill, made in twins(WORDS))
    assert all(again[skill.name][:6] == made for skill, made in MADE)
    assert dict((skill.name, made) for skill, made in twins(WORDS, seed=1)) != again


def test_no_twins_are_asked_twice() -> None:
    # four nouns make four agreements of a verb right behind its subject, however often they are drawn
    made = dict((skill.name, {frozenset(each.texts) for each in made}) for skill, made in twins(WORDS))
    assert len(made["agreement next"]) == 4
    assert all(len(made[skill.name]) == len(each) for skill, each in twins(WORDS))


def test_what_reads_nothing_or_a_few_letters_is_at_chance_exactly() -> None:
    def last_letters(text: bytes) -> list[float]:
        return [1 + (hash(text[max(0, at - 8) : at + 1]) % 997) / 100 for at in range(len(text))] + [1.0]

    for skill, told in zip(MADE, answers(Mind(last_letters), BYTES, MADE), strict=True):
        # agreement parts nearer than eight letters, and the letters around a word differ only as far as they reach
        if skill[0].name in FAR and skill[0].group != "binding":
            assert told["value"] == 0 and told["bits"] == pytest.approx(0, abs=1e-9), told


def test_what_knows_the_right_answers_scores_one_and_their_opposites_minus_one() -> None:
    right = {text.encode() for _, made in MADE for each in made for text in (each.first[0], each.second[0])}
    for sign in (1, -1):
        mind = Mind(lambda text, sign=sign: [5.0 - sign * (text in right), *([0.0] * len(text))])
        for told in answers(mind, BYTES, MADE):
            assert told["value"] == sign and told["bits"] == pytest.approx(sign / math.log(2))
            assert told["low"] <= told["value"] <= told["high"]


def test_two_impossible_texts_are_a_tie() -> None:
    told = answers(Mind(lambda text: [math.inf] * (len(text) + 1)), BYTES, MADE)
    assert all(each["value"] == 0 and each["bits"] == 0 for each in told)


def test_whether_a_text_ends_is_not_asked() -> None:
    def only_the_end(text: bytes) -> list[float]:
        return [0.0] * len(text) + [float(hash(text) % 7)]

    assert {told["value"] for told in answers(Mind(only_the_end), BYTES, MADE)} == {0.0}


def test_an_interval_is_that_of_a_difference_of_matched_proportions() -> None:
    # Agresti & Min: 10 of 10 right: 10/12 -+ 1.96 sqrt(11 - 100/12) / 12 = 0.8333 -+ 0.2667
    assert centred(10, 0, 10) == (1.0, pytest.approx(0.5666, abs=1e-4), 1.0)
    # none either way of 48: 0 -+ 1.96 sqrt(1) / 50
    assert centred(0, 0, 48) == (0.0, pytest.approx(-0.0392, abs=1e-4), pytest.approx(0.0392, abs=1e-4))
    assert centred(0, 0, 0) is None


# words


def test_words_are_found_by_counting() -> None:
    learned = (
        "Once Tom saw, with Lily, a red dog. The dogs were very big and the dog was very red. She met Lily here. " * 5
    )
    found = find(learned, 'He ran home to bed. And Tom was there. "Stay with me here." Then she went to the sea. ' * 3)
    assert found.names == ("Lily", "Tom")  # She only begins sentences
    assert found.nouns == (("dog", "dogs"),) and found.verbs == ("was", "were") and found.after == "very"
    assert found.colours == ("red",) and found.sentences == ("He ran home to bed.",)


def test_a_sample_is_the_same_whatever_the_tokenizer(corpus: Corpus) -> None:
    texts = [corpus.tokenizer.decode(corpus.test.document(at)[1:]) for at in range(len(corpus.test))]
    samples = {sample(encode_text(texts, each), each, 2_000) for each in (corpus.tokenizer, BYTES)}
    assert len(samples) == 1 and 1_500 < len(samples.pop()) < 8_000


def test_a_text_without_the_words_is_not_asked() -> None:
    told = answers(Mind(lambda text: [1.0] * (len(text) + 1)), BYTES, list(twins(find("xyz " * 9, "xyz " * 9))))
    assert all(each["twins"] == 0 and each["value"] is None for each in told)


# dependencies


@pytest.fixture(scope="module")
def tales() -> list[str]:
    return list(stories.stories(3, 40))


def test_who_pays_the_floor_pays_nothing_above_it_of_any_kind(tales: list[str]) -> None:
    def exact(text: bytes) -> list[float]:
        paid = [0.0] * (len(text) + 1)
        at = 0
        for span in stories.spans(text.decode()):
            paid[at] += span.nats
            at += len(span.text.encode())
        return paid

    told = dependencies(Mind(exact), BYTES, tales)
    assert {row["name"] for row in told["kinds"]} == set(stories.TAGS)
    for row in [*told["kinds"], *told["distances"]]:
        assert row["value"] == pytest.approx(0, abs=1e-9) and row["per_byte"] == pytest.approx(0, abs=1e-9)


def test_all_kinds_add_up_to_the_whole_excess(trained, corpus: Corpus, tales: list[str]) -> None:
    model, tokenizer = trained(4), corpus.tokenizer
    found = choices(model, tokenizer, tales)
    whole = float(measure(model, encode_text(tales, tokenizer)).bits.sum())
    floor = math.fsum(map(stories.nats, tales)) / math.log(2)
    assert found.bits.sum() == pytest.approx(whole, rel=1e-6) and found.floor.sum() == pytest.approx(floor)
    told = dependencies(model, tokenizer, tales)
    assert sum(row["choices"] for row in told["kinds"]) == len(found.kind)
    size = sum(map(len, tales))
    assert sum(row["per_byte"] for row in told["kinds"]) == pytest.approx((whole - floor) / size, rel=1e-6)
    assert told["per_byte"] == pytest.approx((whole - floor) / size, rel=1e-6) and told["per_byte"] > 0
    assert all(row["value"] > 0 for row in [*told["kinds"], *told["distances"]])  # the floor is not beaten
    # those at a distance are the kinds that were said before, but for the first mention of each, which there is none of
    far = sum(row["per_byte"] for row in told["distances"])
    assert far == pytest.approx(sum(row["per_byte"] for row in told["kinds"] if row["name"] in SAID), abs=0.01)


def test_a_blank_before_a_word_is_no_choice(corpus: Corpus, tales: list[str]) -> None:
    tokenizer = corpus.tokenizer
    assert any(
        piece.startswith(b" ") and piece.strip() for piece in map(lambda t: tokenizer.decode_bytes([t]), range(300))
    )

    class Flat:
        def scored(self, text: Text):
            for document in range(len(text)):
                count = int(text.starts[document + 1] - text.starts[document])
                yield document, 0, np.full(count, -math.log(2))

    found = choices(Flat(), tokenizer, tales)
    names = found.kind == list(stories.TAGS).index("newname")
    assert (found.bits[names] >= 1).all()  # every name begins in a token of its own


# the doors


@pytest.fixture(scope="module")
def runs(rough, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    for number in (1, 3):
        run = folder / stages.stage(number).run
        run.mkdir()
        checkpoint.save(run / "model.safetensors", rough(number), corpus.tokenizer, card(number, corpus))
    return folder


@pytest.fixture(scope="module")
def fewer():
    """Four twins of each skill."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "twins", lambda words: [(skill, made[:4]) for skill, made in twins(words)])
        yield


def walk(*args: object) -> Result:
    return CliRunner().invoke(skills.main, [str(arg) for arg in args], prog_name="skills")


def test_the_door_tells_every_run(runs: Path, tmp_path: Path, fewer: None) -> None:
    told = json.loads(walk("--runs", runs, "--json").stdout)["runs"]
    assert [each["stage"] for each in told.values()] == [1, 3]
    for each in told.values():
        assert [row["name"] for row in each["probes"]] == [skill.name for skill in SKILLS]
        # both n-grams see less than 32 bytes of tokens
        assert all(row["value"] in (0, None) for row in each["probes"] if row["name"].startswith(("copy", "recall")))
    shown = walk("--runs", runs).stdout
    assert "0 is chance" in shown and "1: 01-unigram" in shown and "copy 32 B" in shown
    assert max(map(len, shown.splitlines())) <= 100
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "runs" / "begun" / "log.jsonl").write_text("")
    assert "left out: begun" in walk("--runs", tmp_path / "runs").stderr


def test_runs_of_another_text_are_not_asked_and_named(runs: Path, rough, corpus: Corpus, tmp_path: Path, fewer) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    run = tmp_path / "runs" / "02-bigram"
    run.mkdir()
    other = replace(card(2, corpus), text="another", source=replace(corpus.source, paths=("other.txt",)))
    checkpoint.save(run / "model.safetensors", rough(2), corpus.tokenizer, other)
    result = walk("--runs", tmp_path / "runs")
    assert result.exit_code == 0 and "1: 01-unigram, 3: 03-ngram" in result.stdout
    assert result.stderr.count("left out: 02-bigram (trained on other.txt, not on stories.txt; ") == 1
    result = walk("--runs", run, tmp_path / "runs" / "01-unigram")
    assert result.exit_code == 2 and "2 corpora" in result.stderr


def test_built_in_runs_tell_their_dependencies(trained, corpus: Corpus, tales: list[str], monkeypatch) -> None:
    monkeypatch.setattr(asking, "twins", lambda words: MADE[:1])
    told = {}
    for number in (1, 4):
        model = trained(number)
        probes = answers(model, corpus.tokenizer, MADE[:1])
        told[f"run {number}"] = {
            "stage": number,
            "probes": probes,
            "dependencies": dependencies(model, corpus.tokenizer, tales),
        }
    from mlx_gpt.probes import legend, table

    lines = table(told)
    assert any(line.startswith("over the floor") for line in lines) and any(line.startswith("holder") for line in lines)
    assert max(map(len, lines)) <= 100 and any(line.startswith("holder:") for line in legend(told))
    many = {f"{at:02d}-a-run-of-a-long-name{'-and-longer' * (at % 6)}": dict(told["run 4"]) for at in range(30)}
    assert max(map(len, table(many) + legend(many))) <= 100
    assert all(name in " ".join(legend(many)) for name in many)
    shown = skills_section([{"stage": each["stage"], "name": "s", "skills": each} for each in told.values()])
    assert shown.count("<table") == 3 and shown.count('scope="row"') == 6
