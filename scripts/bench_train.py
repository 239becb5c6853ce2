"""Measure the training step: python scripts/bench_train.py --data TEXT, for ratios against PyTorch and plain MLX."""

from __future__ import annotations

from mlx_gpt.device import pick_device  # before MLX, so that it finds the tuned BLAS

# isort: split
import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import numpy as np
from bench_figures import Figures, compared, in_turns, measured, missing, peak_bytes, writable
from bench_train_models import NO_TORCH, TORCH, Asked, Plain, operations, ours_of, products
from bench_train_time import seconds_to_a_loss

from mlx_gpt import stages
from mlx_gpt.door import Door

VERSION = 1  # of the JSON
PARTS = ("stages", "plain", "ceiling", "operations", "growth", "time")
RATE = 1e-3


@click.command(cls=Door)
@click.option("--data", type=click.Path(path_type=Path), help="Text for --only time: Tiny Shakespeare's input.txt.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Measure this part alone; may be repeated.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Steps of each, by turns.")
@click.option("--vocab-size", type=click.IntRange(2), default=8_192, show_default=True, help="Of plain to operations.")
@click.option("--tokens", type=click.IntRange(2), default=512, show_default=True, help="T, of plain to operations.")
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Rows, of plain to operations.")
@click.option("--steps", type=click.IntRange(0), default=0, help="time: stage 11's steps; 0 means its recipe's.")
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="time: its learning rate; 0 means its recipe's.")
@click.option("--target", type=float, default=1.88, show_default=True, help="time: validation nats a character.")
@click.option("--quick", is_flag=True, help="Seconds: to see that it works, not to believe.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here, too.")
def main(only: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """How long a training step takes beside the same step in PyTorch and in plain, uncompiled MLX.

    \b
    stages      stages 5 to 11 against PyTorch: forward, backward, clip, optimiser; small shapes, V = 2,048
    plain       stage 11 against stage 10 as a first MLX program trains it: time and peak memory
    ceiling     what the matrix products of stage 11's step take alone, as a share of the whole step
    operations  what a step asks of the device, how often it is traced, peak memory
    growth      time and peak memory of stage 11 over T, width, depth and batch; blocks kept or computed again
    time        seconds to a loss on characters: stage 11, nanoGPT's recipe in PyTorch, the same in plain MLX

    What is compared takes turns in one process, and a ratio is told as the fastest by the fastest and as the median
    [middle half] of the pairs: on a busy machine the milliseconds jump, the ratios much less. Below 1 ours is ahead.
    """
    writable(out)
    pick_device()
    asked = Asked(**options)
    if asked.quick:
        asked = dataclasses.replace(asked, rounds=min(asked.rounds, 2), vocab_size=256, tokens=64, batch=2)
    parts: dict[str, Callable[[Asked], Any]] = {"stages": _stages, "plain": _plain, "ceiling": _ceiling}
    parts |= {"operations": _operations, "growth": _growth, "time": seconds_to_a_loss}
    settings = dataclasses.asdict(asked) | {"data": None if asked.data is None else str(asked.data)}
    measured({name: functools.partial(parts[name], asked) for name in only or parts}, VERSION, settings, out)


def _batch(rows: int, tokens: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab_size, (rows, tokens + 1)).astype(np.int32)


def _small(number: int, asked: Asked, context: int = 0, **changes: Any) -> tuple[Any, Any]:
    """Config and recipe of a stage's small preset (tiny where it must be quick), with another context."""
    stage: Any = stages.stage(number)
    config, recipe = (stage.tiny.config, stage.tiny.recipe) if asked.quick else (stage.config, stage.recipe)
    if context:
        config = dataclasses.replace(config, context=context)
    return config, dataclasses.replace(recipe, compiled=recipe.compiled and not asked.quick, **changes)


def _stages(asked: Asked) -> Figures:
    """Each neural stage against PyTorch, at the shapes of its recipe."""

    if not TORCH:
        return missing(NO_TORCH)
    from bench_train_torch import settle, trainer

    found, vocab_size = Figures(), 128 if asked.quick else 2_048
    for number in (number for number in stages.numbers() if number >= 5):
        config, recipe = _small(number, asked)
        recipe = dataclasses.replace(recipe, length=recipe.length or getattr(config, "context", 0))
        ours = ours_of(number, config, recipe, vocab_size, recipe.length)
        theirs = trainer(number, config, recipe, vocab_size)
        batch = _batch(recipe.batch_size, recipe.length, vocab_size)
        settle(theirs, batch, asked.quick)
        ways = {"ours": ours.take, "theirs": theirs.take}
        took = in_turns({name: functools.partial(way, batch, RATE) for name, way in ways.items()}, asked.rounds)
        name = stages.stage(number).model.__name__
        found[str(number)] = compared(
            f"{number} {name} {batch.shape[0]} x {recipe.length}", took["ours"], took["theirs"]
        )
    return found


def _two(asked: Asked) -> tuple[Callable[[], Any], Callable[[], Any], np.ndarray]:
    """Makers of stage 11 with its step and of stage 10 written plainly, at the same shapes, and a batch."""

    config, recipe = _small(11, asked, asked.tokens, batch_size=asked.batch)
    plain, _ = _small(10, asked, asked.tokens)
    batch = _batch(asked.batch, asked.tokens, asked.vocab_size)
    return (
        functools.partial(ours_of, 11, config, recipe, asked.vocab_size, asked.tokens),
        functools.partial(Plain, stages.stage(10), plain, recipe, asked.vocab_size),
        batch,
    )


def _plain(asked: Asked) -> Figures:
    """Stage 11 against stage 10 in plain MLX."""

    ours, plain, batch = _two(asked)

    def way(make: Callable[[], Any]) -> Callable[[], object]:
        return functools.partial(make().take, batch, RATE)

    peaks = [peak_bytes(functools.partial(way, make)) for make in (ours, plain)]
    took = in_turns({"ours": way(ours), "plain": way(plain)}, asked.rounds)
    name = f"{asked.batch} x {asked.tokens}, V {asked.vocab_size:,}"
    found = compared(name, took["ours"], took["plain"])
    click.echo(
        f"  {'peak memory':<26}{peaks[0] / 2**20:>9.1f} MB  / {peaks[1] / 2**20:>9.1f} MB  = {peaks[0] / peaks[1]:.2f}"
    )
    return {**found, "peak_bytes": peaks, "peak_ratio": peaks[0] / peaks[1]}


def _ceiling(asked: Asked) -> Figures:
    """The products of a step alone, against the step."""

    config, recipe = _small(11, asked, asked.tokens, batch_size=asked.batch)
    step, batch = ours_of(11, config, recipe, asked.vocab_size, asked.tokens), _batch(asked.batch, asked.tokens, 2)
    shapes = products(config, recipe, asked.vocab_size, asked.tokens)
    held = {shape: mx.random.normal(shape) for pair in shapes for shape in pair}
    mx.eval(held)

    def alone() -> None:
        for a, b in shapes:
            mx.async_eval(held[a] @ held[b])  # type: ignore[no-untyped-call]
        mx.synchronize()

    took = in_turns({"alone": alone, "step": functools.partial(step.take, batch, RATE)}, asked.rounds)
    work = sum(2 * math.prod(a) * b[-1] for a, b in shapes)
    found = compared(f"{len(shapes)} products / step", took["alone"], took["step"])
    alone_rate, step_rate = (work / min(took[name]) / 1e9 for name in ("alone", "step"))
    click.echo(f"  {work / 1e9:.1f} GFLOP: {alone_rate:.0f} GFLOP/s alone, {step_rate:.0f} in the step")
    return {**found, "flop": work, "products": len(shapes)}


def _operations(asked: Asked) -> Figures:
    """Primitives of the graph of one step."""

    ours, plain, batch = _two(asked)
    config, recipe = _small(11, asked, asked.tokens, batch_size=asked.batch)
    eager = dataclasses.replace(recipe, compiled=False)
    makers: dict[str, Callable[[], Any]] = {
        "10 plain": plain,
        "11": functools.partial(ours_of, 11, config, eager, asked.vocab_size, asked.tokens),
    }
    if recipe.compiled:
        makers["11 compiled"] = ours
    found = Figures()
    for name, make in makers.items():
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            trainer = make()
            trainer.take(batch, RATE)
            counts = operations(trainer.lazy(batch, RATE), Path(folder))
        traces = trainer.step.traces["training"] if name != "10 plain" else None
        peak = peak_bytes(lambda make=make: functools.partial(make().take, batch, RATE))  # type: ignore[misc]
        found[name] = {"operations": sum(counts.values()), "by_name": counts, "traces": traces, "peak_bytes": peak}
        most = ", ".join(f"{kind} {count}" for kind, count in list(counts.items())[:6])
        told = "" if traces is None else f", traces {traces}"
        click.echo(f"  {name:<14}{sum(counts.values()):>6} operations{told}, peak {peak / 2**20:.1f} MB: {most}, …")
    return found


def _growth(asked: Asked) -> list[Figures]:
    """Stage 11 along one axis at a time, its blocks kept and computed again."""

    if asked.quick:
        points = [{"context": 16}, {"context": 32}]
    else:
        points = [{"context": tokens} for tokens in (256, 512, 1_024, 2_048, 4_096)]
        points += [{"width": width, "inner": width * 11 // 4} for width in (256, 512)]
        points += [{"layers": layers} for layers in (2, 8)] + [{"batch_size": rows} for rows in (2, 4)]
    found = []
    vocab_size = 256 if asked.quick else 2_048
    for point in points:
        rows = point.get("batch_size", 1)
        config, recipe = _small(11, asked, point.get("context", 0) or (16 if asked.quick else 512), batch_size=rows)
        config = dataclasses.replace(config, **{name: n for name, n in point.items() if name != "batch_size"})
        tokens = vars(config)["context"]
        told: Figures = {"point": point, "tokens": rows * tokens}
        for kept in (True, False):
            again = dataclasses.replace(recipe, recompute=not kept)
            batch = _batch(rows, tokens, vocab_size)
            trainer = ours_of(11, config, again, vocab_size, tokens)
            way = functools.partial(trainer.take, batch, RATE)
            seconds = min(in_turns({"step": way}, 2)["step"])
            del trainer, way
            peak = peak_bytes(
                lambda c=config, r=again, t=tokens, b=batch: functools.partial(  # type: ignore[misc]
                    ours_of(11, c, r, vocab_size, t).take, b, RATE
                )
            )
            told["kept" if kept else "again"] = {"ms": seconds * 1e3, "peak_bytes": peak}
            mx.clear_cache()
        name = ", ".join(f"{key} {n}" for key, n in point.items())
        kinds = (
            f"{kind} {told[kind]['ms']:>8.1f} ms {told[kind]['peak_bytes'] / 2**20:>7.1f} MB"
            for kind in ("kept", "again")
        )
        click.echo(f"  {name:<26}{'   '.join(kinds)}")
        found.append(told)
    return found


if __name__ == "__main__":
    main()
