"""Files from strangers: whatever stands in a checkpoint, it is loaded or refused in one line, soon, and in little memory."""

import copy
import dataclasses
import functools
import hashlib
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import checkpoint, safetensors, stages
from mlx_gpt.checkpoint import MODEL, Card
from mlx_gpt.corpus import Corpus
from mlx_gpt.errors import CheckpointError, MlxGptError
from mlx_gpt.model import LanguageModel
from tests.test_safetensors import BAD, GOOD

ROOT = Path(__file__).parents[1]
BEFORE = b'{"__metadata__": {"sha256": "'  # how a header begins, 8 bytes into the file

# damage: the generator knows nothing of checkpoints and is good for any file of bytes, JSON or safetensors


def mutants(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Damaged copies of a file: bytes turned, put in, taken out or repeated, the end cut off, and JSON values changed.

    Of a safetensors file most of the damage is in the header, whose length is mostly made right again, or hardly any
    copy would come as far as the JSON. In text, the values of a line of JSON are changed.
    """
    chance = random.Random(seed)
    for _ in range(count):
        damaged = _changed_json(content, chance) if chance.random() < 0.4 else None
        yield _changed_bytes(content, chance) if damaged is None else damaged


def sealed(content: bytes) -> bytes:
    """A file with its SHA-256 made right again, where there is a place for one: worked out here from the format."""
    at = 8 + len(BEFORE)
    if content[8:at] != BEFORE or len(content) < at + 64:
        return content
    digest = hashlib.sha256(content[:at] + b"0" * 64 + content[at + 64 :]).hexdigest()
    return content[:at] + digest.encode() + content[at + 64 :]


def parts(content: bytes) -> tuple[bytes, bytes]:
    """The header and the arrays of a safetensors file; of any other, nothing and the whole."""
    end = 8 + int.from_bytes(content[:8], "little")
    return (content[8:end], content[end:]) if content[8:9] == b"{" and end <= len(content) else (b"", content)


def joined(header: bytes, data: bytes) -> bytes:
    """A file of these parts."""
    return len(header).to_bytes(8, "little") + header + data


def _changed_bytes(content: bytes, chance: random.Random) -> bytes:
    header, data = parts(content)
    start = 8 + len(header) if header else len(content)
    damaged = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(max(1, min(start, len(damaged)) if chance.random() < 0.9 else len(damaged)))
        match chance.randrange(6):
            case 0 if at < len(damaged):
                damaged[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(damaged):
                damaged[at] = chance.choice(b'0123456789-.eE"[]{},: \\unltrfa')
            case 2:
                damaged.insert(at, chance.choice(b'0123456789-."[]{},: \\'))
            case 3:
                del damaged[at : at + 1]
            case 4:
                damaged[at:at] = damaged[at : at + chance.randrange(40)]
            case 5 if chance.random() < 0.2:
                del damaged[at:]
    if header and chance.random() < 0.7:
        damaged[:8] = max(0, len(damaged) - len(data) - 8).to_bytes(8, "little")
    return bytes(damaged)


VALUES: list[object] = [None, True, -1, 0, 1, 2, 12, 300, 65_536, 2**31, 2**63, 2**64, -0.5, 1e308, float("nan")]
VALUES += [float("inf"), "", "11", "x" * 5_000, "\n\x1b[31m", "\0", "../../etc/passwd", [], [0], {}, {"a": 1}, [[[]]]]


def _changed_json(content: bytes, chance: random.Random) -> bytes | None:
    """A copy in which one to three values, keys or places of a JSON text are others; None where there is none."""
    header, data = parts(content)
    lines = [header] if header else content.split(b"\n")
    at = chance.randrange(len(lines))
    try:
        told = json.loads(lines[at])
    except (ValueError, RecursionError):
        return None
    for _ in range(chance.choice([1, 1, 2, 3])):
        told = _swapped(told, chance)
    text = json.dumps(told).encode("utf-8", "surrogatepass")
    if not header:
        return b"\n".join([*lines[:at], text, *lines[at + 1 :]])
    if header.endswith(b"\t\n"):
        text += b" " * (-len(text) % 8) + b"\t\n"
    return joined(text, data)


def _swapped(told: Any, chance: random.Random) -> Any:
    """A value with a change somewhere in it; also in JSON that stands in a string, as a checkpoint's card does."""
    if isinstance(told, str) and told[:1] in ("{", "[") and chance.random() < 0.95:
        return json.dumps(_swapped(json.loads(told), chance))
    if isinstance(told, dict | list) and told and chance.random() < 0.9:
        keys = list(told) if isinstance(told, dict) else list(range(len(told)))
        if "__metadata__" in keys and chance.random() < 0.6:
            keys = ["__metadata__"]  # beside which the arrays' entries are many
        elif "mlx_gpt" in keys and chance.random() < 0.6:
            keys = ["mlx_gpt"]
        key, other = chance.choice(keys), chance.choice(keys)
        match chance.randrange(12):
            case 0:
                told.pop(key)
            case 1 if isinstance(told, dict):
                told[chance.choice(["", "\n", "extra", "\x1b[31m", "a" * 3_000])] = copy.deepcopy(told[key])
            case 2:
                told[key], told[other] = told[other], told[key]
            case _:
                told[key] = _swapped(told[key], chance)
        return told
    if type(told) is int and chance.random() < 0.3:
        return told + chance.choice([-1, 1, 8, told])
    return copy.deepcopy(chance.choice(VALUES))  # it may be changed in its turn


# a small checkpoint of a stage, as bytes

Saved = Callable[[int], bytes]


def card_of(number: int, corpus: Corpus) -> Card:
    stage = stages.stage(number)
    return Card(
        stage=number,
        preset="tiny",
        config=stage.tiny.config,
        recipe=stage.tiny.recipe,
        vocab_size=corpus.tokenizer.vocab_size,
        source=corpus.source,
        corpus=corpus.digest,
        text=corpus.text,
        step=1,
        finished=True,
        scores={"bits_per_byte": 1.5},
    )


@pytest.fixture(scope="session")
def saved(corpus: Corpus, trained: Callable[[int], LanguageModel], tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The bytes of a trained checkpoint, made once a stage."""
    folder = tmp_path_factory.mktemp("saved")

    @functools.cache
    def bytes_of(number: int) -> bytes:
        checkpoint.save(folder / f"{number}", trained(number), corpus.tokenizer, card_of(number, corpus))
        return (folder / f"{number}").read_bytes()

    return bytes_of


def test_a_file_from_before_there_was_a_setting_is_read_as_what_it_is(
    corpus: Corpus, saved: Saved, tmp_path: Path
) -> None:
    """Stage 11 without its convolutions did not know `taps`, whose default is another."""
    stage = stages.stage(11)
    config = dataclasses.replace(stage.tiny.config, **{"taps": 0})
    model = stage.model(config, corpus.tokenizer.vocab_size)
    file = tmp_path / "old"
    checkpoint.save(file, model, corpus.tokenizer, dataclasses.replace(card_of(11, corpus), config=config))
    put(tmp_path, with_card(file.read_bytes(), drops("config", "taps")))
    found = checkpoint.load(tmp_path)
    assert found.card.config == config and found.model.arrays().keys() == model.arrays().keys()


def put(folder: Path, content: bytes) -> Path:
    """A run folder whose model is these bytes."""
    (folder / MODEL).write_bytes(content)
    return folder


def refused(folder: Path, said: str = "") -> str:
    """That `load` refuses in one printable line that names the file and says `said`; returns it."""
    with pytest.raises(MlxGptError) as caught:
        checkpoint.load(folder)
    line = str(caught.value)
    assert re.search(said, line), line
    assert line.isprintable() and str(folder) in line and len(line) < len(str(folder)) + 400, line
    return line


# cards: what the JSON within the JSON may not say

Change = Callable[[dict[str, Any]], object]


def with_card(content: bytes, change: Change) -> bytes:
    """A checkpoint with another card and a digest that is right."""
    header, data = parts(content)
    told = json.loads(header)
    card = json.loads(told["__metadata__"]["mlx_gpt"])
    change(card)
    told["__metadata__"]["mlx_gpt"] = json.dumps(card)
    return sealed(joined(json.dumps(told).encode() + b"\t\n", data))


def with_text(text: str) -> Callable[[bytes], bytes]:
    """A checkpoint whose card is this text."""

    def change(content: bytes) -> bytes:
        header, data = parts(content)
        told = json.loads(header)
        told["__metadata__"]["mlx_gpt"] = text
        return sealed(joined(json.dumps(told).encode() + b"\t\n", data))

    return change


def sets(*keys: str, to: object) -> Change:
    """Give a value of the card, or of what is in it, another value."""

    def change(card: dict[str, Any]) -> None:
        for key in keys[:-1]:
            card = card[key]
        card[keys[-1]] = to

    return change


def drops(*keys: str) -> Change:
    def change(card: dict[str, Any]) -> None:
        for key in keys[:-1]:
            card = card[key]
        del card[keys[-1]]

    return change


CARDS: dict[str, Change] = {
    "stage 0": sets("stage", to=0),
    "stage 12": sets("stage", to=12),
    "stage '11'": sets("stage", to="11"),
    "a negative stage": sets("stage", to=-6),
    "a stage that is a list": sets("stage", to=[6]),
    "a stage that is null": sets("stage", to=None),
    "a huge stage": sets("stage", to=2**70),
    "a stage and a half": sets("stage", to=6.5),
    "another stage's settings": sets("stage", to=7),
    "no stage": drops("stage"),
    "format 1": sets("format", to=1),
    "a format of tomorrow": sets("format", to=99),
    "a format that is a text": sets("format", to="2"),
    "no format": drops("format"),
    "a width of 0": sets("config", "width", to=0),
    "a negative width": sets("config", "width", to=-48),
    "a width out of range": sets("config", "width", to=2**40),
    "a width that overflows": sets("config", "width", to=2**70),
    "a width that is a text": sets("config", "width", to="48"),
    "a width that is a truth": sets("config", "width", to=True),
    "a width with a point": sets("config", "width", to=48.0),
    "a width that is a list": sets("config", "width", to=[48]),
    "a width that is not a number": sets("config", "width", to=float("nan")),
    "a width without end": sets("config", "width", to=float("inf")),
    "another width than the weights": sets("config", "width", to=47),
    "the largest width": sets("config", "width", to=65_536),
    "a setting that is unknown": sets("config", "rope", to=True),
    "a setting that is missing": drops("config", "width"),
    "no config": drops("config"),
    "a config that is a list": sets("config", to=[]),
    "a config that is null": sets("config", to=None),
    "a config that is a text": sets("config", to="width"),
    "a recipe out of range": sets("recipe", "batch_size", to=0),
    "a learning rate that is none": sets("recipe", "learning_rate", to=float("nan")),
    "an optimiser nobody knows": sets("recipe", "optimizer", to="os.system"),
    "a recipe that does not divide": sets("recipe", "accumulate", to=7),
    "a recipe with more": sets("recipe", "hook", to="x"),
    "no recipe": drops("recipe"),
    "a source that is none": sets("source", to=3),
    "a source without paths": drops("source", "paths"),
    "a source with more": sets("source", "url", to="http://localhost"),
    "paths that are a number": sets("source", "paths", to=5),
    "no source": drops("source"),
    "a vocabulary of none": sets("vocab_size", to=0),
    "a vocabulary of one more": lambda card: card.update(vocab_size=card["vocab_size"] + 1),
    "a negative vocabulary": sets("vocab_size", to=-512),
    "a vocabulary of 2^40": sets("vocab_size", to=2**40),
    "a vocabulary that is a text": sets("vocab_size", to="512"),
    "a vocabulary that is null": sets("vocab_size", to=None),
    "no step": drops("step"),
    "no scores": drops("scores"),
    "a key of its own": sets("__class__", to="x"),
    "settings by another name": lambda card: card.update(Config=card.pop("config")),
}
# what `read_card` lets through or says badly as long as it does not look at the types of a card's fields
LET_THROUGH: dict[str, Change] = {
    "a vocabulary with a point": lambda card: card.update(vocab_size=float(card["vocab_size"])),
    "a stage with a point": sets("stage", to=6.0),
    "a step that is a text": sets("step", to="x"),
    "a step before the first": sets("step", to=-1),
    "finished that is no truth": sets("finished", to="no"),
    "scores that are a list": sets("scores", to=[]),
    "scores that are texts": sets("scores", to={"bits_per_byte": "x"}),
    "a preset that is a number": sets("preset", to=7),
    "a corpus that is null": sets("corpus", to=None),
    "a text that is a list": sets("text", to=[]),
    "paths that are numbers": sets("source", "paths", to=[1]),
    "paths that are one text": sets("source", "paths", to="abc"),
    "a seed that is a text": sets("source", "split_seed", to="x"),
    "a key that steers the terminal": sets("\x1b[31m\n", to=1),
    "a setting that steers the terminal": sets("config", "\x1b[31m\n", to=1),
    "a stage that steers the terminal": sets("stage", to="\x1b[31m\n"),
    "a key of 100,000 letters": sets("a" * 100_000, to=1),
}
TEXTS = {
    "an empty card": "",
    "half a card": '{"format": 2, "stage": 6',
    "a card that is a list": "[]",
    "a card that is a number": "7",
    "a card that is null": "null",
    "a card that is a text": '"{}"',
    "a card of nothing": "{}",
    "a card with only a format": '{"format": 2}',
    "a card that is NaN": "NaN",
    "a card a hundred thousand deep": '{"format":' * 100_000 + "1" + "}" * 100_000,
    "a list a hundred thousand deep": "[" * 100_000 + "]" * 100_000,
    "a number of 100,000 digits": '{"format": ' + "9" * 100_000 + "}",
    "a card that is Python": "__import__('os').abort()",
    "a card of NULs": "\0" * 100,
}


@pytest.mark.parametrize("change", CARDS.values(), ids=CARDS)
def test_a_card_that_cannot_be_is_one_clear_line(change: Change, saved: Saved, tmp_path: Path) -> None:
    refused(put(tmp_path, with_card(saved(6), change)))


@pytest.mark.parametrize("change", LET_THROUGH.values(), ids=LET_THROUGH)
def test_a_card_of_other_types_is_one_clear_line(change: Change, saved: Saved, tmp_path: Path) -> None:
    refused(put(tmp_path, with_card(saved(6), change)))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_card_that_is_none_is_one_clear_line(text: str, saved: Saved, tmp_path: Path) -> None:
    folder = put(tmp_path, with_text(text)(saved(6)))
    refused(folder, "description is damaged|another version")
    with pytest.raises(CheckpointError):
        checkpoint.read_card(folder)


# arrays: a header that is sound, and not this model's

Arrays = dict[str, np.ndarray]
WEIGHT = "model.output_head.weight"


def refit(content: bytes, folder: Path, change: Callable[[Arrays, dict[str, str]], object]) -> Path:
    """A run folder with a checkpoint written again by `safetensors.write`, with other arrays or metadata."""
    arrays, metadata = safetensors.read(put(folder, content) / MODEL)
    held = {name: array.copy() for name, array in arrays.items()}
    change(held, metadata)
    safetensors.write(folder / MODEL, held, metadata)
    return folder


ARRAYS: dict[str, tuple[int, Callable[[Arrays, dict[str, str]], object], str]] = {
    "a weight missing": (6, lambda a, m: a.pop(WEIGHT), "without output_head.weight"),
    "a weight too many": (6, lambda a, m: a.update({"model.extra": a[WEIGHT]}), "unknown extra"),
    "a weight by another name": (6, lambda a, m: a.update({"output_head.w": a.pop(WEIGHT)}), "of another model"),
    "a weight of another shape": (6, lambda a, m: a.update({WEIGHT: a[WEIGHT].T}), "has shape"),
    "a weight of one number": (6, lambda a, m: a.update({WEIGHT: np.array(1, np.float32)}), "has shape"),
    "a weight of nothing": (6, lambda a, m: a.update({WEIGHT: a[WEIGHT][:0]}), "has shape"),
    "a weight in float64": (6, lambda a, m: a.update({WEIGHT: a[WEIGHT].astype("f8")}), "holds float64"),
    "a weight in bytes": (6, lambda a, m: a.update({WEIGHT: a[WEIGHT].astype("u1")}), "holds uint8"),
    "weights of no model": (6, lambda a, m: [a.pop(k) for k in list(a) if k != "tokenizer"], "without"),
    "a layer less": (11, lambda a, m: [a.pop(k) for k in list(a) if ".blocks.1." in k], "without blocks.1"),
    "no tokenizer": (6, lambda a, m: a.pop("tokenizer"), "tokenizer"),
    "no kind of tokenizer": (6, lambda a, m: m.pop("tokenizer"), "tokenizer"),
    "an unknown kind of tokenizer": (6, lambda a, m: m.update(tokenizer="pickle"), "choose one of"),
    "another kind of tokenizer": (6, lambda a, m: m.update(tokenizer="byte"), "disagree on the vocabulary"),
    "a tokenizer that is empty": (6, lambda a, m: a.update(tokenizer=a["tokenizer"][:0]), "SentencePiece|vocabulary"),
    "a tokenizer cut off": (6, lambda a, m: a.update(tokenizer=a["tokenizer"][:-9]), "SentencePiece|vocabulary"),
    "a tokenizer of zeros": (6, lambda a, m: a.update(tokenizer=np.zeros(999, np.uint8)), "SentencePiece"),
    "a tokenizer of text": (6, lambda a, m: a.update(tokenizer=np.frombuffer(b"words", np.uint8)), "SentencePiece"),
    "a tokenizer over 16 MB": (6, lambda a, m: a.update(tokenizer=np.zeros(2**24 + 1, np.uint8)), "is refused"),
    "no card": (6, lambda a, m: m.pop("mlx_gpt"), "not one of mlx_gpt's"),
    "a table of another vocabulary": (1, lambda a, m: a.update({"model.1.tokens": a["model.1.tokens"][:-1]}), "table"),
    "a table without an order": (4, lambda a, m: [a.pop(k) for k in list(a) if "model.2." in k], "table"),
    "a table with ids that are none": (4, lambda a, m: a["model.2.tokens"].fill(60_000), "damaged table"),
    "a table whose rows lie beyond": (4, lambda a, m: a["model.2.starts"].__iadd__(10_000_000), "damaged table"),
    "a table of truths": (4, lambda a, m: a.update({"model.1.tokens": a["model.1.tokens"] > 3}), "table"),
    "a table in two dimensions": (4, lambda a, m: a.update({"model.2.tokens": a["model.2.tokens"][None]}), "table"),
}


@pytest.mark.parametrize(("number", "change", "said"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_another_model_are_one_clear_line(
    number: int, change: Callable[[Arrays, dict[str, str]], object], said: str, saved: Saved, tmp_path: Path
) -> None:
    refused(refit(saved(number), tmp_path, change), said)


def test_a_tokenizer_is_read_without_its_model_and_refused_as_with_it(saved: Saved, tmp_path: Path) -> None:
    folder = put(tmp_path, saved(6))
    whole = checkpoint.load(folder).tokenizer
    refit(saved(6), folder, lambda a, m: a.pop(WEIGHT))  # which only a model needs
    for place in (folder, folder / MODEL):
        found = checkpoint.read_tokenizer(place)
        assert (found.kind, found.model) == (whole.kind, whole.model)
    changes = [change for name, (_, change, _) in ARRAYS.items() if "tokenizer" in name or name == "no card"]
    for change in (*changes, None):
        if change is None:  # a byte of a weight, which its SHA-256 tells
            put(folder, saved(6)[:-1] + bytes([saved(6)[-1] ^ 1]))
        else:
            refit(saved(6), folder, change)
        with pytest.raises(CheckpointError) as of_all:
            checkpoint.load(folder)
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(of_all.value))}$"):
            checkpoint.read_tokenizer(folder)


def test_numbers_that_are_none_are_loaded_and_do_no_harm(saved: Saved, tmp_path: Path) -> None:
    for value in (np.nan, np.inf, -np.inf):
        refit(saved(6), tmp_path, lambda a, m, value=value: a[WEIGHT].fill(value))
        score = checkpoint.load(tmp_path).model.score(mx.array([[1, 2, 3]]))
        assert score.shape == (1, 2) and not np.isfinite(np.array(score)).any()


# bytes: nothing that is not whole is believed


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_file_that_is_no_safetensors_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    refused(put(tmp_path, content), "not a checkpoint, or a ")
    with pytest.raises(CheckpointError):
        checkpoint.read_card(tmp_path)


def test_a_file_cut_off_or_grown_anywhere_is_no_checkpoint(saved: Saved, tmp_path: Path) -> None:
    whole = saved(1)
    header = 8 + len(parts(whole)[0])
    edges = {0, 1, 7, 8, 9, len(BEFORE), len(BEFORE) + 72, header - 2, header - 1, header, header + 1, len(whole) - 1}
    for at in edges | set(range(0, len(whole), len(whole) // 40)):
        refused(put(tmp_path, whole[:at]))
        refused(put(tmp_path, whole[:at] + b"\0" + whole[at:]))
    refused(put(tmp_path, whole + b"\0"))
    refused(put(tmp_path, whole * 2))


def test_every_turned_bit_of_a_checkpoint_is_found(saved: Saved, tmp_path: Path) -> None:
    whole, path = saved(1), tmp_path / MODEL
    header, chance = 8 + len(parts(whole)[0]), random.Random(0)
    path.write_bytes(whole)
    safetensors.verify(path)
    bits = {*range(8 * header), *(chance.randrange(8 * len(whole)) for _ in range(2_000))}
    for bit in sorted(bits):
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(bytes([whole[bit // 8] ^ 1 << bit % 8]))
        with pytest.raises(CheckpointError, match=r"not a checkpoint|SHA-256"):
            safetensors.verify(path)
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(whole[bit // 8 : bit // 8 + 1])
    safetensors.verify(path)


def test_what_is_no_file_is_one_clear_line_at_once(saved: Saved, tmp_path: Path) -> None:
    began, path = time.monotonic(), tmp_path / MODEL
    refused(tmp_path, "cannot be read .No such file")
    path.symlink_to(path)
    refused(tmp_path, "cannot be read .Too many levels")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "cannot be read .No such file")
    path.unlink()
    path.mkdir()
    refused(tmp_path, "cannot be read .Is a directory")
    path.rmdir()
    os.mkfifo(path)  # would keep a reader waiting for a writer
    refused(tmp_path, "cannot be read .not a file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(tmp_path, "cannot be read .not a file")
    path.unlink()
    put(tmp_path, saved(1)).joinpath(MODEL).chmod(0)
    if os.geteuid():  # root reads everything
        refused(tmp_path, "cannot be read .Permission denied")
    assert time.monotonic() - began < 10


def test_no_damage_is_believed_that_the_safetensors_library_refuses(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors")
    path = tmp_path / "m"
    arrays: dict[str, safetensors.Array] = {"a": np.arange(4), "b": np.ones((2, 3), np.float16), "c": np.array(True)}
    arrays |= {"none": np.ones((0, 2)), "d": mx.ones((3,), mx.bfloat16)}
    safetensors.write(path, arrays, {"format": "mlx", "note": "ü"})
    believed = 0
    for content in (*BAD.values(), *GOOD.values(), *mutants(path.read_bytes(), 0, 3_000)):
        path.write_bytes(content)
        try:
            found, _ = safetensors.read(path)
        except CheckpointError as error:
            assert str(error).isprintable()
            continue
        theirs = dict(library.deserialize(content))  # raises what it refuses
        believed += 1
        assert theirs.keys() == found.keys()
        for name, array in found.items():
            assert tuple(theirs[name]["shape"]) == array.shape
            assert theirs[name]["dtype"] == "BF16" or bytes(theirs[name]["data"]) == array.tobytes()
    assert 50 < believed < 2_500  # neither all nor nothing, or the mutants are no test


# mutants: in a process of their own, with a limit on time and memory

BYTES_OVER = 200 * 2**20  # that loading may take besides twice the file
SECONDS = 1.0


def peak() -> int:
    """The most bytes this process ever held; on Linux ru_maxrss begins with what the parent held."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def use(folder: Path) -> bool:
    """Whether the model of a folder can be loaded; one that can has to score ids without a crash."""
    try:
        loaded = checkpoint.load(folder)
    except MlxGptError:
        return False
    score = np.array(loaded.model.score(mx.array([[1, 2, 3, 4, 5]])))
    assert score.shape == (1, 4)
    return True


def attack(folder: Path, seed: int, count: int) -> None:
    """Load `count` mutants of a folder's model, every second as damage leaves it, the others sealed; print figures.

    Whatever else than MlxGptError is raised ends the process, and the mutant that did it is in the folder.
    """
    whole = (folder / MODEL).read_bytes()
    before, slowest = peak(), 0.0
    assert use(folder)
    told = {"refused": 0, "loaded": 0, "same": 0}
    for number, damaged in enumerate(mutants(whole, seed, count)):
        content = sealed(damaged) if number % 2 else damaged
        put(folder, content)
        began = time.process_time()  # not of the clock, which other programs hold up
        loaded = use(folder)
        slowest = max(slowest, time.process_time() - began)
        assert loaded <= (content == sealed(content)), "damage that the digest did not tell"
        told["same" if content == whole else "loaded" if loaded else "refused"] += 1
        assert slowest <= SECONDS, f"{slowest:.1f} s"
    print(json.dumps({**told, "grown": peak() - before}))


def inflate(folder: Path) -> None:
    """Load a folder's model with each setting of its config at its highest, and with all of them; print figures."""
    whole = (folder / MODEL).read_bytes()
    before, slowest = peak(), 0.0
    assert use(folder)
    config = checkpoint.read_card(folder).config
    highest = {each.name: each.metadata["high"] for each in dataclasses.fields(config) if each.metadata["high"]}
    for names in (*([name] for name in highest), list(highest)):
        put(folder, with_card(whole, lambda card, names=names: card["config"].update({n: highest[n] for n in names})))
        began = time.process_time()
        use(folder)
        slowest = max(slowest, time.process_time() - began)
    print(json.dumps({"grown": peak() - before, "milliseconds": int(1_000 * slowest)}))


def apart(call: Callable[..., None], limit: float, folder: Path, *given: int) -> dict[str, int]:
    """The figures that a function of this module prints in a process of its own."""
    code = f"import sys, pathlib, tests.conftest\nfrom tests.test_hostile import {call.__name__}\n"
    code += f"tests.conftest.pick_device()\n{call.__name__}(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    command = [sys.executable, "-c", code, str(folder), *map(str, given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, f"{folder / MODEL}: {done.stderr[-2_000:]}"
    told: dict[str, int] = json.loads(done.stdout)
    return told


def survived(content: bytes, folder: Path, seed: int, count: int) -> None:
    """That a process which loads mutants comes to its end, in little memory."""
    told = apart(attack, 60 + count * SECONDS, put(folder, content), seed, count)
    assert sum(told.values()) - told["grown"] == count
    assert told["loaded"] > count // 100 and told["refused"] > count // 2  # or the mutants are no test
    assert told["grown"] <= 2 * len(content) + BYTES_OVER


@pytest.mark.parametrize("number", [1, 4, 6, 11])
def test_75_damaged_checkpoints_of_a_stage_are_refused_or_usable(number: int, saved: Saved, tmp_path: Path) -> None:
    survived(saved(number), tmp_path, number, 75)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 12))
def test_500_damaged_checkpoints_of_a_stage_are_refused_or_usable(number: int, saved: Saved, tmp_path: Path) -> None:
    survived(saved(number), tmp_path, 100 + number, 500)


OTHERS = [3, 4, 5, 7, 9, 10]


@pytest.mark.parametrize(
    "number",
    [6, 11, 8, *(pytest.param(number, marks=pytest.mark.slow) for number in OTHERS)],
)
def test_a_card_that_promises_a_giant_costs_no_memory(number: int, saved: Saved, tmp_path: Path) -> None:
    told = apart(inflate, 120, put(tmp_path, saved(number)))
    assert told["grown"] <= 2 * len(saved(number)) + BYTES_OVER and told["milliseconds"] <= 1_000 * SECONDS, told


def test_mutants_are_the_same_for_a_seed_and_of_any_bytes() -> None:
    lines = b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": null}\n'
    for content in (lines, b"", b"x", b"\0" * 20, joined(b'{"a": {}}', b"data")):
        made = list(mutants(content, 1, 200))
        assert made == list(mutants(content, 1, 200)) and len(made) == 200
        assert sum(damaged != content for damaged in made) > 100 or len(content) < 2
    assert list(mutants(lines, 1, 20)) != list(mutants(lines, 2, 20))
    assert any(b"NaN" in damaged for damaged in mutants(lines, 1, 500))
