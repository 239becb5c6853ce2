"""A cell of a sweep: one configuration, trained on one text from one seed, unless that is done already."""

from __future__ import annotations

import mlx_gpt  # noqa: F401 - before MLX, so that it finds the tuned BLAS

# isort: split
import contextlib
import dataclasses
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import mlx.core as mx

from mlx_gpt.checkpoint import LAST, MODEL, Card, read_card
from mlx_gpt.corpus import Corpus, Source, absolute_paths, open_corpus
from mlx_gpt.door import notice
from mlx_gpt.errors import CheckpointError, SettingError, TrainingError
from mlx_gpt.measure import measure
from mlx_gpt.model import LanguageModel, Silent
from mlx_gpt.recipe import Descent, Recipe, Settings, option
from mlx_gpt.replacing import replacing
from mlx_gpt.run import parameter_count

Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is trained; the seed is the recipe's.

    made  builds a model that is no stage of the ladder. Of such a cell, and of one that reads a part of the text,
          figures alone are kept; every other cell is an ordinary run folder.
    part  tokens of the training text that are read, from its beginning; 0 means all
    """

    name: str
    stage: int
    config: Settings
    recipe: Recipe
    source: Source
    made: Callable[[Any, int], LanguageModel] | None = None
    part: int = 0

    @property
    def ordinary(self) -> bool:
        """Whether it becomes a run folder."""
        return self.made is None and not self.part


@functools.cache
def corpus_of(source: Source) -> Corpus:
    """The text of some cells, opened once."""
    return open_corpus(source, notice)


def source_of(data: Sequence[str], tokenizer: str, vocab_size: int) -> Source:
    """Where a cell's text comes from; paths as a checkpoint keeps them."""
    if "-" in data:
        raise SettingError("--data -: standard input can be read only once, and here it is needed often; name a file")
    return Source(absolute_paths(data), tokenizer, vocab_size, 0)


def sweep(cells: Sequence[Cell], folder: Path) -> list[Scores]:
    """The figures of every cell, in their order: bits per byte on the whole test text, parameters, seconds of training
    and of its saves and looks, training tokens. What is finished in `folder` is read there, what was interrupted goes
    on. Raises SettingError for a folder that cannot be written, TrainingError for a cell that fails."""
    names = [(cell.name, cell.recipe.seed) for cell in cells]
    assert len(set(names)) == len(names), "two cells of one name"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"--out {folder}: cannot be written ({error.strerror}); name another folder") from error
    found, started, trained = [], time.perf_counter(), 0
    for number, cell in enumerate(cells, 1):
        place = folder / f"{cell.name}-{cell.recipe.seed}"
        known = _known(cell, place)
        scores = known or _trained(cell, place)
        found.append(scores)
        trained += known is None
        if known is None:
            left = (time.perf_counter() - started) / trained * (len(cells) - number)
            notice(
                f"{number} of {len(cells)}: {place.name} {scores['bits_per_byte']:.4f} bits per byte, "
                f"{scores['seconds']:.1f} s; at most {left / 60:.0f} min left"
            )
    return found


def _trained(cell: Cell, place: Path) -> Scores:
    return _as_run(cell, place) if cell.ordinary else _here(cell, place)


def _known(cell: Cell, place: Path) -> Scores | None:
    """What an earlier sweep found for this very cell."""
    if cell.ordinary:
        card = _card(cell, place / MODEL)
        return card.scores if card is not None and card.finished else None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(place.with_name(place.name + ".json").read_text())
        if told["asked"] == _asked(cell):
            return told["scores"]
    return None


def _card(cell: Cell, path: Path) -> Card | None:
    """The card of a file of this very cell, or None."""
    with contextlib.suppress(CheckpointError):
        card = read_card(path)
        if (card.stage, card.config, card.recipe) == (cell.stage, cell.config, cell.recipe):
            return card if card.corpus == corpus_of(cell.source).digest else None
    return None


def _as_run(cell: Cell, place: Path) -> Scores:
    """Train by the door, in a process of its own, so that its memory is measured alone."""
    command = [sys.executable, "-m", "mlx_gpt.train", "--run", str(place)]
    if _card(cell, place / LAST) is None:
        source = cell.source
        command += [
            "--stage",
            str(cell.stage),
            "--preset",
            "tiny",
            *(["--data", *source.paths] if source.paths else []),
        ]
        command += ["--tokenizer", source.tokenizer, "--vocab-size", str(source.vocab_size)]
        command += [*written(cell.recipe), *written(cell.config)]
    else:
        command.append("--resume")
    log = place.with_name(place.name + ".log")
    with log.open("a") as told:
        status = subprocess.run(command, stdout=told, stderr=told, check=False).returncode
    if status in (130, 143):
        sys.exit(status)
    card = _card(cell, place / MODEL)
    if status or card is None:
        raise TrainingError(f"{place.name}: ended with exit code {status}; {log} tells why")
    return card.scores


def written(settings: Settings) -> list[str]:
    """Settings as the command line spells them."""
    words = []
    for field in dataclasses.fields(settings):
        name, value = option(field.name), getattr(settings, field.name)
        if isinstance(value, bool):
            words.append(name if value else f"--no-{name[2:]}")
        elif value != "":
            words += [name, "auto" if field.metadata["auto"] and value == 0 else str(value)]
    return words


def _here(cell: Cell, place: Path) -> Scores:
    """Train in this process, for what no checkpoint can describe."""
    corpus = corpus_of(cell.source)
    text = corpus.train.head(cell.part, corpus.tokenizer) if cell.part else corpus.train
    from mlx_gpt import stages

    mx.random.seed(cell.recipe.seed)
    model = (cell.made or stages.stage(cell.stage).model)(cell.config, corpus.tokenizer.vocab_size)
    started = time.perf_counter()
    model.fit(dataclasses.replace(corpus, train=text), cell.recipe, Silent())
    seconds = time.perf_counter() - started
    score = measure(model, corpus.test)
    scores = {
        "bits_per_byte": score.bits_per_byte,
        "parameters": float(parameter_count(model)),
        "seconds": seconds,
        "train_tokens": float(trained_on(cell.recipe, cell.config) or text.tokens),
    }
    with replacing(place.with_name(place.name + ".json")) as file:
        file.write(json.dumps({"asked": _asked(cell), "scores": scores}, indent=1).encode() + b"\n")
    return scores


def _asked(cell: Cell) -> dict[str, Any]:
    """A cell as JSON gives it back."""
    made = None if cell.made is None else cell.made.__name__
    told = {"stage": cell.stage, "made": made, "part": cell.part, "corpus": corpus_of(cell.source).digest}
    return told | {"config": dataclasses.asdict(cell.config), "recipe": dataclasses.asdict(cell.recipe)}


def trained_on(recipe: Recipe, config: Any) -> int:
    """Tokens that a descent by steps reads; 0 for counting."""
    return recipe.steps * tokens_a_step(recipe, config) if isinstance(recipe, Descent) else 0


def tokens_a_step(recipe: Descent, config: Any) -> int:
    """Targets of one step."""
    return recipe.batch_size * (recipe.length or config.context)


def steps_for(tokens: float, recipe: Descent, config: Any) -> Descent:
    """The recipe for about so many tokens, with one look, at the end."""
    steps = max(1, round(tokens / tokens_a_step(recipe, config)))
    return dataclasses.replace(recipe, steps=steps, evaluate_every=steps)


def numbers_in(text: str, name: str, low: int) -> list[int]:
    """Whole numbers with commas between. Raises SettingError, naming the option."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) >= low for part in parts) or len(set(parts)) < len(parts):
        raise SettingError(f"{name} {text}: expected different whole numbers from {low} with commas between")
    return [int(part) for part in parts]


data_option = click.option(
    "--data", multiple=True, metavar="PATH...", help="Files or folders; the built-in stories without it."
)
