"""One training: what it would take, carried out in a run folder, and gone on with where it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_gpt import stages
from mlx_gpt.checkpoint import MODEL, Card, Last, read_card, read_last
from mlx_gpt.corpus import Source, open_corpus
from mlx_gpt.descent.plan import MEASURING, plan, require
from mlx_gpt.descent.planned import lines
from mlx_gpt.device import description, memory_of_machine
from mlx_gpt.errors import CheckpointError, SettingError
from mlx_gpt.model import Kept, Stage
from mlx_gpt.recipe import Counting, Descent, Recipe, Settings, size_in_bytes
from mlx_gpt.run import Run
from mlx_gpt.tokenizer import Tokenizer

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """A stage with its settings and its text; the tokenizer is None where it is learned from that text."""

    stage: Stage
    preset: str
    config: Settings
    recipe: Recipe
    source: Source
    tokenizer: Tokenizer | None

    def carry_out(self, folder: Path, notice: Notice, last: Last | None = None) -> None:
        """Train in a folder, from the beginning or from the last save.

        Raises SettingError where text or tokenizer are no longer those of that save, or the run cannot fit.
        """
        corpus = open_corpus(self.source, notice, self.tokenizer)
        if last is not None and (corpus.digest, corpus.tokenizer.model) != (last.card.corpus, last.tokenizer.model):
            what = "the text" if corpus.digest != last.card.corpus else "the tokenizer"
            raise SettingError(f"--resume: {what} of {self.source} is no longer that of this run; start a new run")
        build = functools.partial(self.stage.model, self.config, corpus.tokenizer.vocab_size)
        if isinstance(self.recipe, Descent) and last is None:  # what was begun fitted then
            require(build, corpus, self.recipe, notice)
        mx.random.seed(self.recipe.seed)
        model = build()
        resume = last is not None
        with Run(folder, self.stage, self.preset, self.config, self.recipe, corpus, model, resume) as report:
            model.fit(corpus, self.recipe, report)
            report.finish()

    def planned(self, notice: Notice) -> list[str]:
        """What it would take, in words."""
        corpus = open_corpus(self.source, notice, self.tokenizer)
        told = list[str]()
        if isinstance(self.recipe, Descent):
            build = functools.partial(self.stage.model, self.config, corpus.tokenizer.vocab_size)
            notice(MEASURING)
            told = lines(plan(build, corpus, self.recipe))
        if isinstance(self.recipe, Counting):
            limit = size_in_bytes(self.recipe.memory) or memory_of_machine() // 2
            told = [
                "parameters  not known before counting: one or two numbers for each n-gram that the text has",
                f"tokens      {corpus.train.tokens:,}, each counted once",
                f"memory      at most {limit / 1e9:,.2f} GB (--memory, half of the machine's without it): a text that "
                "needs more is counted in shards",
            ]
        notice(description())
        return told


def begun(folder: Path, number: int | None, notice: Notice) -> Last:
    """Where the run in a folder was stopped, without its arrays: they would keep the file mapped that the next save
    replaces.

    Raises CheckpointError where there is nothing to go on from, SettingError where the run is not of stage `number`.
    """
    last = dataclasses.replace(read_last(folder, notice), kept=Kept({}, {}))
    if number is not None and number != last.card.stage:
        raise SettingError(f"--stage {number}: the run in {folder} is of stage {last.card.stage}")
    return last


def settings_of(card: Card) -> dict[str, object]:
    """The settings that a run was started with, by the names of the options that set them."""
    return {
        **vars(card.config),
        **vars(card.recipe),
        "preset": card.preset,
        "data": card.source.paths,
        "tokenizer": card.source.tokenizer,
        "tokenizer_of": "a tokenizer that its own files hold",
        "vocab_size": card.source.vocab_size,
        "split_seed": card.source.split_seed,
    }


def finished(folder: Path) -> int | None:
    """The step at which the run in a folder was finished; None for one that was not."""
    with contextlib.suppress(CheckpointError):  # a damaged model is no finished one: the end is made again
        card = read_card(folder / MODEL)
        return card.step if card.finished else None
    return None


def go_on(folder: Path, last: Last, notice: Notice) -> None:
    """Carry out the rest of a run. Raises SettingError where its text cannot be read again, or is another one."""
    card = last.card
    if "-" in card.source.paths:
        raise SettingError("--resume: this run was trained on standard input, which cannot be read again")
    stage = stages.stage(card.stage)
    training = Training(stage, card.preset, card.config, card.recipe, card.source, last.tokenizer)
    training.carry_out(folder, notice, last)
