"""Seconds to a loss on characters: stage 11 against nanoGPT's small recipe, in PyTorch and in plain MLX."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from typing import Any

import click
import numpy as np
from bench_figures import Figures, compared, in_turns, missing, ratio
from bench_tokens import SMALL
from bench_train_models import NO_TORCH, TORCH, Asked, Ours, Plain, Trainer, ours_of

from mlx_gpt import stages
from mlx_gpt.descent.schedule import learning_rate

SLICE = 25  # steps between two looks at the validation text
NANOGPT = {"context": 64, "width": 128, "layers": 4, "heads": 4}  # of config/train_shakespeare_char.py for a CPU
NANOGPT_RECIPE: dict[str, Any] = {
    "steps": 2_000, "batch_size": 12, "learning_rate": 1e-3, "decay_to": 0.1, "warmup": 100, "beta2": 0.99,
    "weight_decay": 0.1, "clip": 1.0,
}  # fmt: skip


@dataclasses.dataclass
class Run:
    """One contender on its way to the target."""

    name: str
    trainer: Trainer
    recipe: Any  # Descent
    chance: np.random.Generator
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    reached: Figures | None = None


def seconds_to_a_loss(asked: Asked) -> Figures:
    """Seconds of training, looks at the validation text not counted, until its loss is low enough."""
    if not TORCH:
        return missing(NO_TORCH)
    if asked.data is None or not asked.data.is_file():
        return missing("left out: --data names no text; Tiny Shakespeare's input.txt is what the target is set for")
    from bench_train_torch import settle, trainer

    text = asked.data.read_text(encoding="utf-8")
    known = {character: number for number, character in enumerate(sorted(set(text)))}
    ids = np.array([known[character] for character in text], np.int32)
    train, valid = np.split(ids, [int(0.9 * len(ids))])
    length = NANOGPT["context"]
    eleven: Any = stages.stage(11)
    nine: Any = stages.stage(9)
    config = dataclasses.replace(eleven.config, **SMALL)
    usual = eleven.recipe
    recipe = dataclasses.replace(
        usual, batch_size=NANOGPT_RECIPE["batch_size"], steps=asked.steps or usual.steps,
        learning_rate=asked.rate or usual.learning_rate, compiled=not asked.quick,
    )  # fmt: skip
    theirs = dataclasses.replace(nine.recipe, **NANOGPT_RECIPE)
    if asked.quick:
        recipe, theirs = dataclasses.replace(recipe, steps=SLICE), dataclasses.replace(theirs, steps=SLICE)
    starts = np.arange(0, min(len(valid), 65_536) - length, length)
    looked_at = np.stack([valid[start : start + length + 1] for start in starts])  # (R, T + 1)
    nano = dataclasses.replace(nine.config, **NANOGPT)
    ours = ours_of(11, config, recipe, len(known), length)
    runs = [
        Run("stage 11", ours, recipe, np.random.default_rng(0)),
        Run("nanoGPT in PyTorch", trainer(9, nano, theirs, len(known), bias=False), theirs, np.random.default_rng(0)),
    ]

    def batch(chance: np.random.Generator) -> np.ndarray:
        places = chance.integers(0, len(train) - length, recipe.batch_size)
        return np.stack([train[place : place + length + 1] for place in places])

    plain = Plain(nine, nano, theirs, len(known))
    drawn = batch(np.random.default_rng(1))
    settle(trainer(9, nano, theirs, len(known), bias=False), drawn, asked.quick)
    compile_it(ours, drawn, looked_at)
    while any(run.reached is None and run.step < run.recipe.steps for run in runs):
        for run in runs:
            if run.reached is not None or run.step >= run.recipe.steps:
                continue
            started = time.perf_counter()
            for _ in range(min(SLICE, run.recipe.steps - run.step)):
                run.trainer.take(batch(run.chance), learning_rate(run.recipe, run.step))
                run.step += 1
            run.seconds += time.perf_counter() - started
            nats = run.trainer.nats(looked_at)
            run.best = min(run.best, nats)
            if nats <= asked.target:
                run.reached = {"step": run.step, "seconds": run.seconds, "nats": nats}
            if run.reached or run.step >= run.recipe.steps:  # told at once: the others may take long
                told = f"{nats:.3f} nats" if run.reached else f"not reached, best {run.best:.3f} nats,"
                click.echo(f"  {run.name:<26}{run.seconds:>9.1f} s, {told} after {run.step} steps")
    found: Figures = {"target": asked.target, "characters": int(looked_at[:, 1:].size)}
    for run in runs:
        found[run.name] = {"reached": run.reached, "steps": run.step, "seconds": run.seconds, "best_nats": run.best}
    ways = {"stage 11": runs[0].trainer, "torch": runs[1].trainer, "plain": plain}
    took = in_turns({name: functools.partial(way.take, drawn, 0.0) for name, way in ways.items()}, 3 * asked.rounds)
    found["plain_by_torch_step"] = ratio(took["plain"], took["torch"])
    compared("a step, 11 / PyTorch", took["stage 11"], took["torch"])
    compared("a step, 11 / plain MLX", took["stage 11"], took["plain"])
    eleven_run, torch_run = runs
    if eleven_run.reached or torch_run.reached:
        extrapolated = torch_run.seconds * found["plain_by_torch_step"]["median"]
        found["ratio_to_torch"] = eleven_run.seconds / torch_run.seconds
        found["ratio_to_plain_extrapolated"] = eleven_run.seconds / extrapolated
        # all the steps of one of them did not bring it there
        most = "" if eleven_run.reached and torch_run.reached else "at least " if torch_run.reached else "at most "
        click.echo(f"  {'the same in plain MLX':<26}{extrapolated:>9.1f} s, extrapolated: its step x PyTorch's steps")
        click.echo(
            f"  stage 11 / PyTorch {most}{found['ratio_to_torch']:.2f}, "
            f"stage 11 / plain MLX {most}{found['ratio_to_plain_extrapolated']:.2f}; one seed each, "
            f"a look every {SLICE} steps"
        )
    return found


def compile_it(ours: Ours, batch: np.ndarray, rows: np.ndarray) -> None:
    """A step and a look, undone: compiling is not training."""
    begun = ours.state
    ours.take(batch, 0.0)
    ours.nats(rows)
    ours.state, ours.at = begun, 0
