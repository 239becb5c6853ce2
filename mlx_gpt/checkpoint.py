"""One model = one .safetensors file: arrays, tokenizer, and a card that says what it is. No pickle anywhere."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gpt import stages
from mlx_gpt.corpus import Source
from mlx_gpt.errors import CheckpointError, MlxGptError, SettingError
from mlx_gpt.model import LanguageModel, Stage
from mlx_gpt.recipe import Recipe, Settings
from mlx_gpt.safetensors import Array, check_header, read, write
from mlx_gpt.tokenizer import Tokenizer

FORMAT = 2
MODEL = "model.safetensors"
RUNS = Path("runs")


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself. `corpus` is its corpus's digest, `text` that of the text and split alone,
    whatever the tokenizer. `scores` are figures by name, on the held-out text of `source`."""

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

    def json(self) -> str:
        """The card as text, for the file's metadata."""
        return json.dumps({"format": FORMAT, **asdict(self)})


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
    arrays: dict[str, Array] = {f"model.{name}": array for name, array in model.arrays().items()}
    arrays["tokenizer"] = np.frombuffer(tokenizer.model, np.uint8)
    write(path, arrays, {"format": "mlx", "mlx_gpt": card.json(), "tokenizer": tokenizer.kind})


def run_folder(number: int | None, run: Path | None) -> Path:
    """The folder that --stage or --run names. Raises SettingError for both, neither, or no such folder."""
    if (number is None) == (run is None):
        raise SettingError("give either --stage N (its default run) or --run DIR")
    folder = run if run is not None else RUNS / stages.stage(int(number or 0)).run
    if not (folder / MODEL).is_file() and not folder.is_file():
        remedy = f"python -m mlx_gpt.train --stage {number}" if number else "name the folder a training run wrote"
        raise CheckpointError(f"{folder}: no trained model here; {remedy}")
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
        stage = stages.stage(told["stage"])
        told["config"] = _settings(type(stage.config), told["config"])
        told["recipe"] = _settings(type(stage.recipe), told["recipe"])
        told["source"] = Source(**{**told["source"], "paths": tuple(told["source"]["paths"])})
        return Card(**told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SettingError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({error}); train again") from error


def load(folder: Path, number: int | None = None) -> Checkpoint:
    """The model of a run folder (or a model file), of stage `number` if given.

    Raises CheckpointError for a file that is missing, damaged, of another stage, or no checkpoint.
    """
    path = folder if folder.is_file() else folder / MODEL
    card = read_card(folder)
    if number is not None and card.stage != number:
        raise CheckpointError(f"{path}: a checkpoint of stage {card.stage}, not of stage {number}")
    stage = stages.stage(card.stage)
    arrays, metadata = read(path)
    try:
        tokenizer = Tokenizer(metadata["tokenizer"], arrays.pop("tokenizer").tobytes())
        if tokenizer.vocab_size != card.vocab_size:
            raise CheckpointError("its tokenizer and its model disagree on the vocabulary")
        model = stage.model(card.config, card.vocab_size)
        model.restore({name.removeprefix("model."): array for name, array in arrays.items()})
    except (RuntimeError, ValueError, KeyError, MlxGptError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(model, tokenizer, card, stage, path)


def _settings(kind: type[Settings], told: dict[str, Any]) -> Settings:
    """Settings from JSON; unknown and missing names are errors, for a dropped setting is another model."""
    assert is_dataclass(kind)
    names = {field.name for field in fields(kind)}
    strange = sorted(names ^ told.keys())
    if strange:
        raise SettingError(f"setting {strange[0]} is {'missing' if strange[0] in names else 'unknown'}")
    return kind(**told)
