"""Where the bits went: causes part the tokens of a text, and their bits are the score's, whatever the tokenizer."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mlx_gpt.corpus import Corpus, units
from mlx_gpt.door import as_json
from mlx_gpt.measure import measure
from mlx_gpt.reporting import causes
from mlx_gpt.reporting.causes import Labels, Sums, Words, pieces
from mlx_gpt.reporting.where import Witness, _again, _at_place
from mlx_gpt.reporting.where_section import changed
from mlx_gpt.tokenizer import Tokenizer
from tests.test_bootstrap import encoded

BYTE = Tokenizer("byte")


def letters(labels: Labels) -> str:
    """One a token: E end, - sign; the beginning of a word F, B, R, O by its kind, and in small letters its inside."""
    return "".join("E-FBROfbro"[cause] for cause in labels.causes)


def test_causes_of_a_sentence_by_hand() -> None:
    words = Words(("the",), frozenset({"ran"}), 100)
    text = encoded(["The cat's in; the  cat's\nran.", "cat's"], BYTE)
    # the blanks before a word are its beginning, a line's end is a sign
    one = "Fff" + "OOoooo" + "OOo" + "-" + "FFff" + "BBBbbbb" + "-" + "Rrr" + "-" + "E"
    assert letters(Labels.of(text, BYTE, words)) == one + "Ooooo" + "E"  # in another document nothing stood before


def test_letters_of_several_bytes_are_in_their_words() -> None:
    text = encoded(["Été 日本!"], BYTE)  # 2 + 1 + 2 bytes, a space, 3 + 3 bytes, a sign
    labels = Labels.of(text, BYTE, Words((), frozenset({"日本"}), 9))
    assert letters(labels) == "Ooooo" + "RRrrrrr" + "-E"
    assert labels.places.tolist() == [0] * 4 + [1] * 4 + [2] * 5 + [causes.PLACES]


def test_frequent_words_make_half_of_the_training_text() -> None:
    # a stands 4 times, b 3, c 2, d 1: a alone is 4 of 10, a and b are 7
    words = Words.counted(["A b a c", "b a c d", "a b"], ["a d. D! new c"])
    assert words.frequent == ("a", "b") and words.total == 10 and words.rare == {"c", "d", "new"}
    assert Words.kept(words.json()) == words
    assert Words.counted(["x y"] * causes.RARE, ["y"]).rare == frozenset()


def test_a_text_in_pieces_has_the_same_words(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_gpt.reporting.written.CHUNK", 50)
    documents = [corpus.tokenizer.decode(corpus.test.document(at)) for at in range(len(corpus.test))]
    found = [word for piece in pieces(corpus.test, corpus.tokenizer) for word in causes.WORD.findall(piece)]
    assert found == [word for document in documents for word in causes.WORD.findall(document)]


@pytest.mark.parametrize("number", [1, 7, 9])
@pytest.mark.parametrize("blocks", [False, True])
def test_the_bits_of_all_causes_are_the_score(number: int, blocks: bool, rough, corpus: Corpus) -> None:
    """Unit by unit, for documents and for blocks of one, whole documents and windows."""
    model, tokenizer, text = rough(number), corpus.tokenizer, corpus.test
    if blocks:
        text = encoded([tokenizer.decode(text.ids[:3_000])], tokenizer)
    parts = units(text, tokenizer)
    words = Words.counted(pieces(corpus.train, tokenizer), pieces(text, tokenizer))
    witness = Witness(words)
    told = witness.tokens(text)
    score = measure(model, text, units=parts, told=told)
    sums = Sums.of(Labels.of(text, tokenizer, words), told, text, tokenizer.lengths(), parts.starts)
    assert np.allclose(sums.nats.sum(axis=0), score.nats, rtol=1e-12)
    assert (sums.tokens.sum(), sums.bytes.sum()) == (score.tokens, score.bytes)
    assert sums.places.sum() + sums.nats[causes.END].sum() == pytest.approx(score.nats.sum(), rel=1e-12)
    assert np.array_equal(Sums.kept(json.loads(as_json(sums.json()))).place_bytes, sums.place_bytes)
    assert sums.place_bytes.sum() == score.bytes and sums.tokens[causes.END] == len(text)
    assert all(sums.tokens[: causes.BEGIN + 2]) and sums.words.sum() > 0
    kept = Sums.kept(witness.told(told, text, tokenizer, parts))
    assert kept.nats.sum() / score.nats.sum() == pytest.approx(1, abs=1e-5)
    assert np.array_equal(kept.tokens, sums.tokens) and np.array_equal(kept.words, sums.words)


def test_chunks_change_nothing(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    text, tokenizer = corpus.test, corpus.tokenizer
    labels = Labels.of(text, tokenizer, Words((), frozenset(), 0))
    costs = -np.random.default_rng(0).random(text.tokens).astype(np.float32)
    whole = Sums.of(labels, costs, text, tokenizer.lengths(), text.starts)
    monkeypatch.setattr(causes, "CHUNK", 17)
    parts = Sums.of(labels, costs, text, tokenizer.lengths(), text.starts)
    for one, other in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert np.allclose(one, other, rtol=1e-9)


def test_words_are_the_same_for_every_tokenizer(story_file: Path) -> None:
    """Bytes of whole words by their kind, and how many stand again; bytes and BPE cut them otherwise."""
    story = story_file.read_text().split("<|endoftext|>")
    texts, found = [each.strip() for each in story[:40]], []
    words = Words.counted(story[40:], texts)
    for tokenizer in (
        BYTE,
        *(Tokenizer.train("bpe", story_file.read_text().splitlines(), size) for size in (320, 600)),
    ):
        text = encoded(texts, tokenizer)
        costs = np.zeros(text.tokens, np.float32)
        sums = Sums.of(Labels.of(text, tokenizer, words), costs, text, tokenizer.lengths(), text.starts)
        kinds = sums.bytes[causes.BEGIN : causes.INSIDE] + sums.bytes[causes.INSIDE :]
        found.append([sums.tokens[causes.END], sums.bytes[causes.SIGN], *kinds, *sums.words.ravel()])
        assert min(kinds[[0, 1, 3]]) > 0
    assert found[0] == found[1] == found[2]


def test_what_a_word_costs_less_again_by_hand() -> None:
    """dog costs 1 + 3 + 2 + 1 nats first, 1 a byte later; cat stands once, the is frequent; two parts of the text."""
    text = encoded([" dog cat dog the the Dog", " dog dog"], BYTE)
    costs = np.full(text.tokens, 1.0, np.float32)
    costs[:4] = [1, 3, 2, 1]
    labels = Labels.of(text, BYTE, Words(("the",), frozenset(), 10))
    sums = Sums.of(labels, -costs, text, BYTE.lengths(), text.starts)
    # a dog has 4 tokens, its space with it; one with a capital is written otherwise
    assert sums.words.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert sums.saved.tolist() == [[7 - 4, 4 - 4], [0, 0], [0, 0]] and sums.first.tolist() == [11, 0, 0]
    cut = Sums.of(labels, -costs, text, BYTE.lengths(), np.array([0, 7, text.tokens]))  # before the end of the cat
    assert cut.words[0].tolist() == [0, 2] and cut.saved[0].tolist() == [0, 3]  # counted where it stands again


def test_words_that_stand_again_in_few_parts_have_no_interval_and_no_warning() -> None:
    text = encoded([" dog dog"] * 3 + ["..."] * 40, BYTE)
    labels = Labels.of(text, BYTE, Words((), frozenset(), 10))
    costs = np.random.default_rng(0).random(text.tokens).astype(np.float32)
    with np.errstate(all="raise"):
        told = _again([Sums.of(labels, -costs, text, BYTE.lengths(), text.starts)])
    assert told[0] is not None and math.isinf(told[0]["saved"]["margin"]) and told[1:] == [None, None]


def test_places_have_the_interval_of_the_parts_of_the_text_not_of_its_tokens() -> None:
    """Documents of 40 bytes, all tokens of one alike: 40 times as many tokens tell no more than one of each."""
    costs = np.random.default_rng(2).normal(2.0, 0.3, 60)
    text = encoded(["." * 39 + "!"] * 60, BYTE)
    logprobs = -np.repeat(costs, 41).astype(np.float32)
    sums = Sums.of(Labels.of(text, BYTE, Words((), frozenset(), 0)), logprobs, text, BYTE.lengths(), text.starts)
    assert [int(each) for each in sums.place_bytes.sum(axis=1)[:5]] == [240, 240, 480, 960, 480]  # 4, 4, 8, 16, 8 each
    bits = sums.places[3] / math.log(2)
    told = _at_place(bits, sums.place_bytes[3])
    error = costs.std(ddof=1) / math.sqrt(60) / math.log(2)
    assert told["value"] == pytest.approx(costs.mean() / math.log(2), rel=1e-6)
    assert 1.8 * error < told["margin"] < 2.3 * error
    few = np.where(np.arange(60) < 5, sums.place_bytes[3], 0)  # in five parts alone: nothing is told of others
    assert math.isinf(_at_place(np.where(few, bits, 0), few)["margin"])


def test_colour_is_for_differences_that_are_not_by_chance() -> None:
    less = {"value": -0.06, "margin": 0.05, "p": 0.02}
    assert changed({**less, "p_holm": 0.04}).kind == "good s4"  # 0.001, 0.005, 0.02 and 0.05 are reached
    assert changed({**less, "p_holm": 0.06}).kind == ""


def test_what_is_impossible_stays_infinite_in_its_cause() -> None:
    text = encoded(["dog cat dog"], BYTE)
    costs = np.full(text.tokens, -1.0, np.float32)
    costs[5] = -math.inf
    sums = Sums.of(Labels.of(text, BYTE, Words((), frozenset(), 0)), costs, text, BYTE.lengths(), text.starts)
    kept = Sums.kept(json.loads(as_json(sums.json())))
    assert np.isinf(kept.nats).sum() == 1 and np.isfinite(kept.nats[causes.END]).all()


def test_a_text_without_words_has_signs_alone() -> None:
    text = encoded(["...", "?!"], BYTE)
    labels = Labels.of(text, BYTE, Words((), frozenset(), 0))
    assert letters(labels) == "---E--E" and len(labels.pairs) == 0
    sums = Sums.of(labels, np.zeros(text.tokens, np.float32), text, BYTE.lengths(), text.starts)
    assert sums.words.sum() == 0
