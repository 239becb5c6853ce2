"""Models in few bits: the numbers against NumPy, every gradient stage, files, the choice of bits, the door, refusals."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_gpt import checkpoint, compare, evaluate, generate, quantize, stages, train
from mlx_gpt.checkpoint import MODEL
from mlx_gpt.corpus import Corpus
from mlx_gpt.descent import Neural, sensitivity
from mlx_gpt.descent.packed import AFFINE, BITS, GROUPS, MXFP4, Packing, packed
from mlx_gpt.descent.packing import make_room, matrices, pack, packing_for, packings
from mlx_gpt.descent.sensitivity import choose
from mlx_gpt.errors import CheckpointError, SettingError
from mlx_gpt.measure import measure
from mlx_gpt.model import LanguageModel, Silent
from tests.test_hostile import Arrays, card_of, parts, put, refit, refused, sets, survived, with_card

WIDER = {5: {"width": 32, "hidden": 32}, 6: {"width": 64}, 7: {"width": 64, "layers": 2}}  # rows that a group divides
neural_stages = pytest.mark.parametrize("number", [n for n in stages.numbers() if n >= 5])
WAYS = [Packing(AFFINE, bits, 32) for bits in BITS] + [Packing(MXFP4, 4, 32)]
every_way = pytest.mark.parametrize("how", WAYS, ids=lambda how: f"{how.mode}-{how.bits}")
VOCABULARY = 512


def config_of(number: int) -> Any:
    return dataclasses.replace(stages.stage(number).tiny.config, **WIDER.get(number, {}))


def model_of(number: int, vocab_size: int = VOCABULARY, **settings: float) -> Neural:
    """A model of random weights, none of them zero: untrained, some would do nothing."""
    mx.random.seed(number)
    model = stages.stage(number).model(dataclasses.replace(config_of(number), **settings), vocab_size)
    assert isinstance(model, Neural)
    model.restore({name: array + 0.1 * mx.random.normal(array.shape) for name, array in model.arrays().items()})
    return model


def all_in(model: Neural, how: Packing) -> dict[str, Packing]:
    """Every matrix of a model in this way, in groups that fit."""
    plans = {n: packing_for(m, how.mode, how.bits, how.group) for n, m in matrices(model).items()}
    assert None not in plans.values()
    return {name: plan for name, plan in plans.items() if plan is not None}


def ids_of(batch: int, tokens: int) -> mx.array:
    return mx.array(np.random.default_rng(0).integers(0, VOCABULARY, (batch, tokens)).astype(np.int32))


# the numbers


def codes(words: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of `bits` bits in rows of uint32: one stream of bits, the lowest of each number first."""
    stream = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    numbers: np.ndarray = stream.reshape(len(words), -1, bits) @ (1 << np.arange(bits))
    return numbers


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", BITS)
def test_affine_packing_is_what_numpy_makes_of_its_definition(bits: int, group: int) -> None:
    w = np.random.default_rng(bits * group).normal(size=(24, 256)).astype(np.float32) * 0.1
    w[3] = 0.0
    w[4] = 0.25
    made = packed(mx.array(w), Packing(AFFINE, bits, group))
    # the edge farther from zero is hit exactly, and the step is such that zero is, too
    grouped, top = w.reshape(24, -1, group), 2**bits - 1
    low, high = grouped.min(-1), grouped.max(-1)
    down = np.abs(low) > np.abs(high)
    step = np.maximum((high - low) / np.float32(top), np.float32(1e-7)) * np.where(down, 1, -1).astype(np.float32)
    edge = np.where(down, low, high)
    nearest = np.rint(edge / step)
    scale = np.where(nearest != 0, edge / np.where(nearest, nearest, 1), step)
    bias = np.where(nearest != 0, edge, 0)
    q = np.clip(np.rint((grouped - bias[..., None]) / scale[..., None]), 0, top)
    found = codes(np.array(made.packed), bits).reshape(q.shape)
    assert np.abs(found - q).max() <= 1 and (found != q).mean() < 1e-3  # ties
    assert np.allclose(np.array(made.scales), scale, rtol=1e-3, atol=1e-7)
    assert np.allclose(np.array(made.biases), bias, rtol=1e-3)
    wide = [np.array(part, np.float32)[..., None] for part in (made.scales, made.biases)]
    exact = (wide[0] * found.astype(np.float32) + wide[1]).reshape(w.shape)
    assert np.abs(np.array(made.whole()) - exact).max() < 1e-7
    assert np.array_equal(np.array(made.at(mx.array([[5, 3]]))), np.array(made.whole())[None, [5, 3]])
    assert np.abs(exact - w).max() <= np.abs(wide[0]).max()  # half a step, or a whole one at the nearer edge


def test_mxfp4_packing_is_what_numpy_makes_of_its_definition() -> None:
    w = np.random.default_rng(0).normal(size=(24, 256)).astype(np.float32) * 0.1
    made = packed(mx.array(w), Packing(MXFP4, 4, 32))
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    scale = 2.0 ** (np.array(made.scales).astype(np.float32) - 127)
    found = values[codes(np.array(made.packed), 4)].reshape(24, -1, 32)
    exact = (found * scale[..., None]).reshape(w.shape)
    assert np.array_equal(np.array(made.whole()), exact)
    grouped = w.reshape(24, -1, 32)
    assert np.abs(np.log2(np.abs(grouped).max(-1) / 6) - np.log2(scale)).max() <= 1  # the largest is about 6 scales
    nearest = np.abs(grouped[..., None] / scale[..., None, None] - values).min(-1)
    assert np.allclose(np.abs(grouped / scale[..., None] - found), nearest, atol=1e-6)


@every_way
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_product_with_a_packed_matrix_is_that_with_the_matrix_written_out(how: Packing, rows: int) -> None:
    mx.random.seed(0)
    made, x = packed(mx.random.normal((48, 96)), how), mx.random.normal((2, rows, 96))
    assert mx.abs(made.times(x) - x @ made.whole().T).max().item() < 1e-4


@pytest.mark.parametrize(
    "how", [(AFFINE, 5, 32), (AFFINE, 4, 16), (MXFP4, 4, 64), ("nvfp4", 4, 32), (AFFINE, 4.0, 32), ([], 4, 32)]
)
def test_a_packing_that_is_none_is_refused(how: Any) -> None:
    with pytest.raises(SettingError, match=r"no such packing|whole numbers"):
        Packing(*how)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_numbers_beyond_float16_are_refused(value: float) -> None:
    with pytest.raises(SettingError, match="float16"):
        packed(mx.full((2, 32), value), Packing(AFFINE, 4, 32))


# the stages


@neural_stages
def test_every_matrix_but_the_convolutions_is_packed(number: int) -> None:
    model = model_of(number)
    expected = {name for name, array in model.arrays().items() if array.ndim == 2 and not name.endswith("taps")}
    assert set(matrices(model)) == expected
    how = all_in(model, Packing(AFFINE, 4, 32))
    pack(model, how)
    assert matrices(model) == {} and packings(model) == how
    left = {name for name, array in model.arrays().items() if array.ndim == 2 and array.dtype == mx.float32}
    assert all(name.endswith("taps") for name in left)


@neural_stages
@every_way
def test_a_packed_model_is_the_model_of_its_matrices_written_out(number: int, how: Packing) -> None:
    model, plain = model_of(number), model_of(number)
    held = plain.arrays()
    plain.restore(held | {name: packed(m, how).whole() for name, m in matrices(plain).items()})
    pack(model, all_in(model, how))
    ids, memory, other = ids_of(3, 24), model.memory(3), plain.memory(3)
    assert mx.abs(model.logprobs(ids) - plain.logprobs(ids)).max().item() < 1e-4
    assert mx.abs(model.score(ids) - plain.score(ids)).max().item() < 1e-4
    for at in range(4):  # few rows: by the packed numbers themselves
        now = ids[:, at : at + 1]
        assert mx.abs(model.logprobs(now, memory) - plain.logprobs(now, other)).max().item() < 1e-4


@neural_stages
def test_a_packed_model_remembers_what_it_would_read_again(number: int) -> None:
    model = model_of(number)
    pack(model, all_in(model, Packing(AFFINE, 4, 32)))
    ids, memory = ids_of(2, 20), model.memory(2)
    parts_of = [model.logprobs(ids[:, a:b], memory) for a, b in ((0, 9), (9, 10), (10, 20))]
    assert mx.abs(mx.concatenate(parts_of, axis=1) - model.logprobs(ids)).max().item() < 1e-4


@pytest.mark.parametrize("number", [7, 8, 9])
def test_nothing_is_dropped_in_a_packed_model(number: int) -> None:
    model = model_of(number, dropout=0.5)
    pack(model, all_in(model, Packing(AFFINE, 8, 32)))
    assert mx.array_equal(model.logprobs(ids_of(2, 9)), model.logprobs(ids_of(2, 9)))


def test_a_matrix_whose_rows_no_group_divides_stays_whole() -> None:
    model = model_of(7, width=48)
    assert all(packing_for(matrix, AFFINE, 4, 128) is None for matrix in matrices(model).values())
    assert packing_for(mx.zeros((2, 352)), AFFINE, 4, 128) == Packing(AFFINE, 4, 32)
    assert packing_for(mx.zeros((2, 384)), AFFINE, 4, 128) == Packing(AFFINE, 4, 128)
    assert packing_for(mx.zeros((2, 384)), AFFINE, 4, 64) == Packing(AFFINE, 4, 64)


def test_a_packed_model_cannot_be_trained_on(corpus: Corpus) -> None:
    model = model_of(11)
    pack(model, all_in(model, Packing(AFFINE, 4, 32)))
    with pytest.raises(SettingError, match="cannot be trained on"):
        model.fit(corpus, stages.stage(11).tiny.recipe, Silent())


# files


def card_for(number: int, model: Neural, corpus: Corpus) -> checkpoint.Card:
    return dataclasses.replace(card_of(number, corpus), config=config_of(number), packings=packings(model))


@neural_stages
@every_way
def test_saving_and_loading_a_packed_model_changes_nothing_to_the_bit(
    number: int, how: Packing, corpus: Corpus, tmp_path: Path
) -> None:
    model = model_of(number)
    pack(model, all_in(model, how))
    card = card_for(number, model, corpus)
    checkpoint.save(tmp_path / MODEL, model, corpus.tokenizer, card)
    loaded = checkpoint.load(tmp_path, number)
    assert loaded.card == card and isinstance(loaded.model, Neural)
    assert loaded.model.arrays().keys() == model.arrays().keys()
    for name, array in model.arrays().items():
        again = loaded.model.arrays()[name]
        assert again.dtype == array.dtype and mx.array_equal(again, array), name
    assert mx.array_equal(loaded.model.logprobs(ids_of(3, 24)), model.logprobs(ids_of(3, 24)))


def test_the_card_of_a_whole_model_is_as_it_was_before_there_were_packed_ones(corpus: Corpus) -> None:
    assert "packings" not in json.loads(card_of(6, corpus).json())


@pytest.fixture(scope="module")
def content(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a packed checkpoint of stage 6: affine, but the embedding in mxfp4."""
    model = model_of(6)
    pack(model, all_in(model, Packing(AFFINE, 4, 32)) | {"embed.weight": Packing(MXFP4, 4, 32)})
    path = tmp_path_factory.mktemp("packed") / MODEL
    checkpoint.save(path, model, corpus.tokenizer, card_for(6, model, corpus))
    return path.read_bytes()


PACKED = "packings"
HOW = {"mode": AFFINE, "bits": 4, "group": 32}
CARDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "packings that are a list": (sets(PACKED, to=[]), "damaged"),
    "packings that are null": (sets(PACKED, to=None), "damaged"),
    "a packing that is a text": (sets(PACKED, "recurrent", to="affine"), "damaged"),
    "a packing of five bits": (sets(PACKED, "recurrent", "bits", to=5), "no such packing"),
    "bits that are a truth": (sets(PACKED, "recurrent", "bits", to=True), "whole numbers"),
    "bits that are a text": (sets(PACKED, "recurrent", "bits", to="4"), "whole numbers"),
    "groups of 0": (sets(PACKED, "recurrent", "group", to=0), "no such packing"),
    "a mode nobody knows": (sets(PACKED, "recurrent", "mode", to="\x1b[31m" * 99), "no such packing"),
    "a mode that is a list": (sets(PACKED, "recurrent", "mode", to=[]), "no such packing"),
    "a packing with more": (sets(PACKED, "recurrent", "shape", to=[1]), "damaged"),
    "a packing with less": (lambda card: card[PACKED]["recurrent"].pop("bits"), "damaged"),
    "other bits": (sets(PACKED, "recurrent", "bits", to=8), "has shape"),
    "other groups": (sets(PACKED, "recurrent", "group", to=64), "has shape"),
    "groups wider than a row": (sets(PACKED, "recurrent", "group", to=128), "do not fit its rows"),
    "another mode": (sets(PACKED, "recurrent", "mode", to=MXFP4), "unknown recurrent.biases"),
    "mxfp4 that is affine": (sets(PACKED, "embed.weight", to=HOW), "without embed.weight.biases"),
    "a matrix there is none of": (sets(PACKED, "layers.9.input", to=HOW), "no matrix of this model"),
    "a bias": (sets(PACKED, "bias", to=HOW), "no matrix of this model"),
    "a matrix without a name": (sets(PACKED, "", to=HOW), "no matrix of this model"),
    "a name that steers the terminal": (sets(PACKED, "\x1b[31m\n", to=HOW), "no matrix of this model"),
    "a packed matrix told as whole": (lambda card: card[PACKED].pop("recurrent"), "without recurrent"),
    "all told as whole": (lambda card: card.pop(PACKED), "without"),
    "a stage of tables": (lambda card: card.update(stage=1, config={}), "damaged|no matrix"),
}


@pytest.mark.parametrize(("change", "said"), CARDS.values(), ids=CARDS)
def test_a_packed_checkpoint_whose_card_cannot_be_is_one_clear_line(
    change: Callable[[dict[str, Any]], object], said: str, content: bytes, tmp_path: Path
) -> None:
    refused(put(tmp_path, with_card(content, change)), said)


CODES, SCALES = "model.recurrent.packed", "model.recurrent.scales"
ARRAYS: dict[str, tuple[Callable[[Arrays, dict[str, str]], object], str]] = {
    "codes missing": (lambda a, m: a.pop(CODES), "without recurrent.packed"),
    "codes of another shape": (lambda a, m: a.update({CODES: a[CODES].T}), "has shape"),
    "codes in int32": (lambda a, m: a.update({CODES: a[CODES].view(np.int32)}), "holds int32"),
    "scales missing": (lambda a, m: a.pop(SCALES), "without recurrent.scales"),
    "scales in float32": (lambda a, m: a.update({SCALES: a[SCALES].astype("f4")}), "wants float16"),
    "scales of nothing": (lambda a, m: a.update({SCALES: a[SCALES][:0]}), "has shape"),
    "exponents in int8": (
        lambda a, m: a.update({"model.embed.weight.scales": a["model.embed.weight.scales"].view(np.int8)}),
        "wants uint8",
    ),
    "the matrix itself as well": (
        lambda a, m: a.update({"model.recurrent": np.ones((64, 64), "f4")}),
        "unknown recurr",
    ),
}


@pytest.mark.parametrize(("change", "said"), ARRAYS.values(), ids=ARRAYS)
def test_a_packed_checkpoint_whose_arrays_do_not_fit_is_one_clear_line(
    change: Callable[[Arrays, dict[str, str]], object], said: str, content: bytes, tmp_path: Path
) -> None:
    refused(refit(content, tmp_path, change), said)


def test_any_codes_and_scales_are_loaded_and_do_no_harm(content: bytes, tmp_path: Path) -> None:
    def noise(arrays: Arrays, metadata: dict[str, str]) -> None:
        for name, array in arrays.items():
            if name.endswith((".packed", ".scales", ".biases")):
                raw = np.random.default_rng(0).integers(0, 256, array.nbytes, np.uint8)
                arrays[name] = raw.view(array.dtype).reshape(array.shape)

    score = checkpoint.load(refit(content, tmp_path, noise)).model.score(ids_of(2, 5))
    assert np.array(score).shape == (2, 4)


def test_75_damaged_packed_checkpoints_are_refused_or_usable(content: bytes, tmp_path: Path) -> None:
    assert parts(content)[0]
    survived(content, tmp_path, 1, 75)


def test_room_is_made_in_no_model_of_tables() -> None:
    with pytest.raises(CheckpointError, match="no matrix of this model"):
        make_room(stages.stage(1).model(stages.stage(1).tiny.config, 300), {"embed.weight": Packing(AFFINE, 4, 32)})


# the choice of bits


def test_bits_are_chosen_within_what_may_be_lost(trained: Callable[[int], LanguageModel], corpus: Corpus) -> None:
    model, said = trained(11), list[str]()
    assert isinstance(model, Neural)
    text = corpus.valid.head(400, corpus.tokenizer)
    before = {name: np.array(array) for name, array in model.arrays().items()}
    whole = measure(model, text).bits_per_byte
    sizes = []
    for share in (0.005, 0.1):
        choice = choose(model, text, share, 32, said.append)
        assert choice.whole == whole and choice.packed <= whole * (1 + share)
        assert all(np.array_equal(np.array(array), before[name]) for name, array in model.arrays().items())
        rounded = {name: packed(m, choice.packings[name]).whole() for name, m in matrices(model).items()}
        other = stages.stage(11).model(stages.stage(11).tiny.config, corpus.tokenizer.vocab_size)
        other.restore(before | {name: np.array(array) for name, array in rounded.items()})
        assert measure(other, text).bits_per_byte == pytest.approx(choice.packed, rel=1e-6)
        pack(other, choice.packings)
        taken = sum(choice.found[name].bytes[how.bits] for name, how in choice.packings.items())
        held = [a for n, a in other.arrays().items() if n.endswith((".packed", ".scales", ".biases"))]
        assert taken == sum(array.nbytes for array in held)
        sizes.append(taken)
    assert sizes[0] > sizes[1]
    assert any("measuring" in line for line in said)
    with pytest.raises(SettingError, match="8 bits everywhere already lose"):
        choose(model, text, -0.5, 32, said.append)


# the door


def walk(door: Any, *args: object) -> Result:
    return CliRunner().invoke(door.main, [str(arg) for arg in args], prog_name=door.__name__)


@pytest.fixture(scope="module")
def runs(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for number, settings in ((1, ()), (7, ("--steps", 4, "--warmup", 1)), (11, ("--steps", 10, "--warmup", 2))):
        given = ("--stage", number, "--preset", "tiny", "--data", story_file, "--run", folder / str(number))
        assert walk(train, *given, *settings).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def small(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "q"
    result = walk(quantize, "--run", runs / "11", "--bits", 4, "-o", out)
    assert result.exit_code == 0, result.output
    assert "4 bits, groups of 32" in result.stdout and "saved" in result.stdout and "tokens/s" in result.stdout
    return out


def test_every_door_loads_a_quantised_run_without_an_option(small: Path, runs: Path) -> None:
    told = json.loads(walk(evaluate, "--run", small, "--json").stdout)
    assert told["stage"] == 11 and told["bits_per_byte"] > 0
    assert told["bits_per_byte"] == pytest.approx(checkpoint.read_card(small).scores["bits_per_byte"], rel=1e-6)
    assert walk(generate, "--run", small, "--prompt", "Once", "--tokens", 5).output.startswith("Once")
    table = json.loads(walk(compare, "--runs", small.parent, "--json").stdout)
    assert [row["stage"] for row in table["runs"]] == [11] and table["runs"][0]["parameters"] > 0
    assert (small / MODEL).stat().st_size < (runs / "11" / MODEL).stat().st_size


def test_the_table_says_why_a_matrix_stays_whole(runs: Path, tmp_path: Path) -> None:
    result = walk(quantize, "--run", runs / "7", "-o", tmp_path / "q")  # rows of 48
    assert result.exit_code == 2 and "no group of 32 to 32 divides rows of 48" in result.stderr
    assert not (tmp_path / "q").exists()
    lines = quantize._by_kind({"a.0.b": mx.zeros((2, 48)), "a.1.b": mx.zeros((2, 48))}, {}, 64)
    assert len(lines) == 1 and "no group of 32 to 64 divides rows of 48" in lines[0]


def test_bits_by_sensitivity_are_printed(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "LOOKED_AT", 400)
    result = walk(quantize, "--run", runs / "11", "--keep-within", 5, "-o", tmp_path / "q")
    assert result.exit_code == 0, result.output
    assert "lost alone at 4 bits" in result.stdout and "blocks.1.contract.weight" in result.stdout
    assert {how.bits for how in checkpoint.read_card(tmp_path / "q").packings.values()} <= set(BITS)


def test_a_quantised_run_cannot_be_resumed(small: Path) -> None:
    result = walk(train, "--resume", "--run", small)
    assert result.exit_code == 2
    assert re.search(r"^Error: .*a quantised model cannot be trained on", result.stderr, re.MULTILINE)


MISTAKES = [
    ("--run {runs}/1 -o {tmp}/q", "stage 1 (unigram) counts"),
    ("--run {small} -o {tmp}/q", "quantised already"),
    ("--run {runs}/11 -o {small}", "holds a run already"),
    ("--run {runs}/11 -o {runs}/11", "holds a run already"),
    ("--run {runs}/11 -o {runs}", "holds other files"),
    ("--run {runs}/11", "--out"),
    ("--run {runs}/11 --bits 5 -o {tmp}/q", "--bits"),
    ("--run {runs}/11 --bits 4 --keep-within 1 -o {tmp}/q", "chooses the bits itself"),
    ("--run {runs}/11 --keep-within 0 -o {tmp}/q", "--keep-within"),
    ("--run {runs}/11 --bits mxfp4 --group 64 -o {tmp}/q", "groups of 32"),
    ("--run {runs}/11 --group 48 -o {tmp}/q", "--group"),
    ("--run {runs}/11 --bist 4 -o {tmp}/q", "the nearest is --bits"),
    ("--stage 9 -o {tmp}/q", "no trained model"),
]


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=lambda part: str(part)[:60])
def test_a_mistake_is_one_clear_line(
    line: str, said: str, runs: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = walk(quantize, *line.format(runs=runs, small=small, tmp=tmp_path).split())
    errors = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    assert result.exit_code == 2 and len(errors) == 1 and said in errors[0], result.output
    assert not list(tmp_path.iterdir())
