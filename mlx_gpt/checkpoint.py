"""One model = one .safetensors file: arrays, tokenizer, and a card that says what it is. No pickle anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gpt import stages
from mlx_gpt.corpus import Source
from mlx_gpt.descent.packed import Packing
from mlx_gpt.descent.packing import make_room
from mlx_gpt.errors import CheckpointError, MlxGptError, SettingError
from mlx_gpt.model import Kept, LanguageModel, Stage
from mlx_gpt.recipe import Recipe, Settings
from mlx_gpt.safetensors import Array, check_header, read, write
from mlx_gpt.tokenizer import LARGEST_VOCABULARY, Tokenizer

FORMAT = 2
MODEL, LAST, BEFORE = "model.safetensors", "last.safetensors", "last.previous.safetensors"
MODEL_ARRAYS, RUN_ARRAYS = "model.", "run."  # what the names of arrays begin with, by the kind of file
HASHED = 2**30  # bytes: larger files are mapped, not read, so their SHA-256 is left to `--resume` and to `verify`
RUNS = Path("runs")


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself. `corpus` is its corpus's digest, `text` that of the text and split alone,
    whatever the tokenizer. `scores` are figures by name, on the held-out text of `source`; `packings` say how the
    packed matrices of a quantised model are packed, by name."""

    stage: int
    preset: str
    config: Settings
    recipe: Recipe
    vocab_size: int
    source: Source
    corpus: str
    text: str
    step: int
    finished: bool
    scores: dict[str, float]
    packings: dict[str, Packing] = field(default_factory=dict)

    def json(self) -> str:
        """The card as text, for the file's metadata."""
        told = {"format": FORMAT, **asdict(self)}
        if not self.packings:
            del told["packings"]  # as in files from before there were any
        return json.dumps(told)


@dataclass(frozen=True)
class Checkpoint:
    """A model ready for use, with what belongs to it."""

    model: LanguageModel
    tokenizer: Tokenizer
    card: Card
    stage: Stage
    path: Path


def save(path: Path, model: LanguageModel, tokenizer: Tokenizer, card: Card) -> None:
    """Write a checkpoint whole or not at all. Raises CheckpointError where the disk refuses."""
    _write(path, MODEL_ARRAYS, model.arrays(), tokenizer, card)


def keep(folder: Path, kept: Kept, tokenizer: Tokenizer, card: Card, notes: Mapping[str, int]) -> None:
    """Write all that a run needs to go on, with the sizes of its growing files, and leave the save before beside it.

    Raises CheckpointError where the disk refuses.
    """
    told = {"facts": json.dumps(dict(kept.facts)), "notes": json.dumps(dict(notes))}
    _write(folder / LAST, RUN_ARRAYS, kept.arrays, tokenizer, card, folder / BEFORE, **told)


def _write(
    path: Path,
    kind: str,
    arrays: Mapping[str, Array],
    tokenizer: Tokenizer,
    card: Card,
    previous: Path | None = None,
    **told: str,
) -> None:
    """Write arrays under names that begin with their kind, and what belongs to every checkpoint."""
    named: dict[str, Array] = {kind + name: array for name, array in arrays.items()}
    named["tokenizer"] = np.frombuffer(tokenizer.model, np.uint8)
    metadata = {"format": "mlx", "mlx_gpt": card.json(), "tokenizer": tokenizer.kind, **told}
    write(path, named, metadata, previous)


def _parted(
    kind: str, arrays: dict[str, np.ndarray], metadata: Mapping[str, str]
) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    """What `_write` put together: the tokenizer, and the arrays by their own names."""
    tokenizer = Tokenizer(metadata["tokenizer"], arrays.pop("tokenizer").tobytes())
    return tokenizer, {name.removeprefix(kind): array for name, array in arrays.items()}


@dataclass(frozen=True)
class Last:
    """What `keep` wrote: a run as it stood."""

    kept: Kept
    tokenizer: Tokenizer
    card: Card
    notes: dict[str, int]


def read_last(folder: Path, notice: Callable[[str], None]) -> Last:
    """The last whole save of a run; where the newest is damaged or missing, the one before it, and a notice says so.

    Raises CheckpointError where there is neither.
    """
    if not any((folder / name).exists() for name in (LAST, BEFORE)):
        if (folder / MODEL).exists() and read_card(folder).packings:
            raise CheckpointError(
                f"--run {folder}: a quantised model cannot be trained on; resume the run it was made of"
            )
        raise CheckpointError(f"--run {folder}: nothing to go on from; train it without --resume")
    try:
        return _read_last(folder / LAST)
    except CheckpointError as error:
        if not (folder / BEFORE).exists():
            raise
        last = _read_last(folder / BEFORE)
        notice(f"{error}: going on from the save before it")
        return last


def _read_last(path: Path) -> Last:
    card = read_card(path)
    arrays, metadata = read(path, verify=True)
    try:
        facts, notes = json.loads(metadata["facts"]), json.loads(metadata["notes"])
        if not all(type(value) in (str, int, float) and value == value for value in facts.values()):
            raise ValueError("facts that are none")
        if type(facts.get("step", 0)) is not int or type(facts.get("best", 0.0)) is not float:
            raise ValueError("a standing that is none")
        if notes.keys() != {"log", "samples"} or not all(type(n) is int and n >= 0 for n in notes.values()):
            raise ValueError("notes that are none")
        tokenizer, parts = _parted(RUN_ARRAYS, arrays, metadata)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, RuntimeError, MlxGptError) as error:
        raise CheckpointError(f"{path}: damaged ({shown(error)})") from error
    return Last(Kept(parts, facts), tokenizer, card, notes)


def run_folder(number: int | None, run: Path | None) -> Path:
    """The folder that --stage or --run names. Raises SettingError for both or neither, CheckpointError for none."""
    if (number is None) == (run is None):
        raise SettingError("give either --stage N (its default run) or --run DIR")
    folder = run if run is not None else RUNS / stages.stage(int(number or 0)).run
    if not (folder / MODEL).is_file() and not folder.is_file():
        remedy = f"python -m mlx_gpt.train --stage {number}" if number else "name the folder a training run wrote"
        what = "no trained model here" if number or folder.exists() else "no such folder"
        raise CheckpointError(f"{folder}: {what}; {remedy}")
    return folder


def runs(folder: Path) -> list[Path]:
    """The run folders in a folder, by name."""
    found = sorted(path.parent for path in folder.glob(f"*/{MODEL}")) if folder.is_dir() else []
    return [run for run in found if not run.name.endswith(".previous")]


def read_card(folder: Path) -> Card:
    """What the checkpoint of a run (or a model file) says of itself, without loading the model."""
    path = folder if folder.is_file() else folder / MODEL
    metadata = check_header(path)
    if "mlx_gpt" not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not one of mlx_gpt's")
    try:
        told = json.loads(metadata["mlx_gpt"])
        if told.pop("format") != FORMAT:
            raise CheckpointError(f"{path}: written by another version of mlx_gpt; train again")
        if type(told["stage"]) is not int:
            raise ValueError(f"stage {told['stage']!r:.40}")
        stage = stages.stage(told["stage"])
        told["config"] = _settings(type(stage.config), told["config"])
        told["recipe"] = _settings(type(stage.recipe), told["recipe"])
        if type(told["source"]["paths"]) is not list:
            raise ValueError("paths that are no list")
        told["source"] = Source(**{**told["source"], "paths": tuple(told["source"]["paths"])})
        told["packings"] = {name: Packing(**how) for name, how in told.get("packings", {}).items()}
        card = Card(**told)
        _check(card)
        return card
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SettingError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({shown(error)}); train again") from error


def load(folder: Path, number: int | None = None) -> Checkpoint:
    """The model of a run folder (or a model file), of stage `number` if given.

    Raises CheckpointError for a file that is missing, damaged, of another stage, or no checkpoint.
    """
    path = folder if folder.is_file() else folder / MODEL
    card = read_card(folder)
    if number is not None and card.stage != number:
        raise CheckpointError(f"{path}: a checkpoint of stage {card.stage}, not of stage {number}")
    tokenizer, parts = _opened(path, card)
    stage = stages.stage(card.stage)
    try:
        model = stage.model(card.config, card.vocab_size)
        make_room(model, card.packings)
        model.restore(parts)
    except (RuntimeError, ValueError, KeyError, MlxGptError) as error:
        raise CheckpointError(f"{path}: {shown(error)}") from error
    return Checkpoint(model, tokenizer, card, stage, path)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a run folder (or a model file). The model is not made, but the SHA-256 compared as in `load`.

    Raises CheckpointError as `load`, but for what only the model would find.
    """
    return _opened(folder if folder.is_file() else folder / MODEL, read_card(folder))[0]


def _opened(path: Path, card: Card) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    """The tokenizer and the model's arrays, by their own names, of a file with this card."""
    arrays, metadata = read(path, verify=_size(path) <= HASHED)
    try:
        tokenizer, parts = _parted(MODEL_ARRAYS, arrays, metadata)
    except (RuntimeError, ValueError, KeyError, MlxGptError) as error:
        raise CheckpointError(f"{path}: {shown(error)}") from error
    if tokenizer.vocab_size != card.vocab_size:
        raise CheckpointError(f"{path}: its tokenizer and its model disagree on the vocabulary")
    return tokenizer, parts


def _check(card: Card) -> None:
    """Raise ValueError where a card's own fields are not what their names promise: JSON has no types."""
    source = card.source
    kinds: list[tuple[object, type]] = [
        (card.preset, str),
        (card.corpus, str),
        (card.text, str),
        (source.tokenizer, str),
    ]
    kinds += [
        (number, int) for number in (card.stage, card.vocab_size, card.step, source.vocab_size, source.split_seed)
    ]
    kinds += [(card.finished, bool), (card.scores, dict), *((path, str) for path in source.paths)]
    for value, kind in kinds:
        if type(value) is not kind:
            raise ValueError(f"{value!r:.40} where {kind.__name__} was expected")
    if card.step < 0 or not 0 < card.vocab_size <= LARGEST_VOCABULARY:
        raise ValueError(f"step {card.step}, vocabulary {card.vocab_size}")
    if not all(type(score) in (int, float) for score in card.scores.values()):
        raise ValueError("scores that are no numbers")


def shown(error: Exception) -> str:
    """What an error says, short and without what could steer a terminal: it may quote a hostile file."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(error))
    return text if len(text) <= 200 else text[:199] + "…"


def _size(path: Path) -> int:
    """Raises CheckpointError for a file that is gone."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _settings(kind: type[Settings], told: dict[str, Any]) -> Settings:
    """Settings from JSON. An unknown name is an error, for a dropped setting is another model; one that is missing
    was not there yet when the file was written."""
    assert is_dataclass(kind)
    strange = sorted(told.keys() - {field.name for field in fields(kind)})
    if strange:
        raise SettingError(f"setting {strange[0]} is unknown")
    return kind(**{field.name: field.metadata["before"] for field in fields(kind)} | told)
