"""From stage 9 to 10 to 11, one change at a time: python scripts/bench_ablation.py --data ../tinystories"""

from __future__ import annotations

from mlx_gpt.device import pick_device  # before MLX, so that it finds the tuned BLAS

# isort: split
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from bench_ablation_changes import HOUR, MAKERS, QUICK, Change, Variant, machinery
from bench_cells import Cell, Scores, corpus_of, data_option, source_of, sweep
from bench_figures import Figures, in_turns, measured, ratio
from bench_train_models import Ours
from bench_verdicts import NONE_FOUND, PAYS, Paired, paired, verdicts

from mlx_gpt import stages
from mlx_gpt.door import Door
from mlx_gpt.errors import SettingError

VERSION = 1  # of the JSON
PARTS = tuple(MAKERS)
TITLES = {
    "walk": "Stage 9 to 10: each change on top of those before it",
    "ten": "Stage 10: each change taken back alone",
    "eleven": "Stage 11: each change of its recipe taken back alone",
}


@click.command(cls=Door)
@data_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench_ablation"), show_default=True)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Measure this part alone; may be repeated.")
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True, help="Runs of each model.")
@click.option("--steps", type=click.IntRange(4), help="Of each run.")
@click.option("--width", type=click.IntRange(8), help="Of each model; a multiple of 8.")
@click.option("--layers", type=click.IntRange(1), help="Of each model.")
@click.option("--context", type=click.IntRange(8), help="Tokens of a training sequence.")
@click.option("--vocab-size", type=click.IntRange(259, 2**20), help="Of BPE.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Steps that are timed, by turns.")
@click.option("--quick", is_flag=True, help="A quarter of an hour: smaller models, fewer steps.")
def main(
    data: tuple[str, ...], out: Path, only: tuple[str, ...], seeds: int, rounds: int, quick: bool, **of: Any
) -> None:
    """What each change from stage 9 to 10 to 11 is worth, in bits per byte and in time, with a verdict.

    \b
    walk     stage 9 becomes stage 10 change by change, each compared to the model before it
    ten      stage 10 without each of its changes, compared to stage 10
    eleven   stage 11 without each change of its recipe and its model, compared to stage 11

    All models read as many training tokens, the same ones in the same order for one seed, and are scored on the whole
    test text. The difference is paired by seed, its interval is Student's t over the seeds, and the p-values of one
    part are raised by Holm's method; a change pays or costs where that stays under 0.05, and where nothing was found,
    the least difference that would have been (in 80 % of such trials) is told. The seeds vary, the test text does not:
    a verdict holds for this text and this size. The time of a step, with the change by without it, is measured apart,
    all models by turns. A change of a default recipe that does not pay would leave it, unless no difference was found
    and a step is sooner with it, or it is made for something else, which is said.

    --out keeps a run folder for every model that is a stage, figures for those between, and ablation.json. Run it
    again after an interruption, or with more seeds: what is finished is not trained again.
    """
    pick_device()
    asked = {name: value for name, value in of.items() if value is not None}
    shape = dataclasses.replace(QUICK if quick else HOUR, **asked)
    if shape.width % (4 * shape.heads):
        raise SettingError(f"--width {shape.width}: must be a multiple of {4 * shape.heads}")
    source = source_of(data, "bpe", shape.vocab_size)
    chosen = [part for part in PARTS if part in (only or PARTS)]
    parts: dict[str, Callable[[], Any]] = {}
    cost: dict[str, list[float]] = {}

    def timed() -> Figures:
        changes = [change for part in chosen for change in MAKERS[part](shape)] + machinery(shape)
        cost.update(_seconds(changes, corpus_of(source).tokenizer.vocab_size, rounds))
        for change in machinery(shape):
            by = ratio(cost[change.having.name], cost[change.without.name])
            told = f" (for {change.sake})" if change.sake else ""
            click.echo(f"  {change.name + told:<34} time of a step x {by['median']:.2f}, the same numbers")
        return {name: {"seconds": seconds} for name, seconds in cost.items()}

    parts["time of a step"] = timed
    for part in chosen:

        def compared(part: str = part) -> Figures:
            click.echo(f"  {TITLES[part]}\n")
            changes = MAKERS[part](shape)
            return _table(changes, _scores(changes, seeds, source, out), cost)

        parts[part] = compared
    out.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.asdict(shape) | {"seeds": seeds, "tokens": shape.steps * shape.batch * shape.context}
    measured(parts, VERSION, settings, out / "ablation.json")


def _variants(changes: Iterable[Change]) -> dict[str, Variant]:
    return {each.name: each for change in changes for each in (change.without, change.having)}


def _seconds(changes: list[Change], vocab_size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each variant, all by turns."""
    ways: dict[str, Callable[[], object]] = {}
    for name, each in _variants(changes).items():
        config: Any = each.config
        stage = stages.stage(each.stage)
        stage = dataclasses.replace(stage, model=each.made or stage.model)
        ours = Ours(stage, config, each.recipe, vocab_size, config.context)
        shape = each.recipe.batch_size, config.context + 1
        batch = np.random.default_rng(0).integers(0, vocab_size, shape).astype(np.int32)
        ways[name] = functools.partial(ours.take, batch, each.recipe.learning_rate)
    return in_turns(ways, rounds)


def _scores(changes: list[Change], seeds: int, source: Any, out: Path) -> dict[str, list[Scores]]:
    """Of every variant, seed by seed; a seed of all before the next, so that an early end leaves whole pairs."""
    variants = _variants(changes)
    cells = [
        Cell(each.name, each.stage, each.config, dataclasses.replace(each.recipe, seed=seed), source, each.made)
        for seed in range(seeds)
        for each in variants.values()
    ]
    found = sweep(cells, out)
    return {name: found[place :: len(variants)] for place, name in enumerate(variants)}


def _table(changes: list[Change], scores: dict[str, list[Scores]], cost: dict[str, list[float]]) -> Figures:
    """A row a change, printed and as figures."""
    saved: list[Paired] = []
    for change in changes:
        pairs = zip(scores[change.without.name], scores[change.having.name], strict=True)
        saved.append(paired([a["bits_per_byte"] - b["bits_per_byte"] for a, b in pairs]))
    head = (
        f"  {'change':<27}{'parameters':>19}{'without':>9}{'with':>8}  {'saves, bits/byte':<19}{'p Holm':>7}{'time':>7}"
    )
    click.echo(f"{head}  verdict\n  {'-' * (len(head) + 8)}")
    rows, leaving = [], []
    for change, each, (verdict, p) in zip(changes, saved, verdicts(saved), strict=True):
        without, having = scores[change.without.name], scores[change.having.name]
        sizes = [group[0]["parameters"] for group in (without, having)]
        means = [statistics.mean(one["bits_per_byte"] for one in group) for group in (without, having)]
        by = ratio(cost[change.having.name], cost[change.without.name])
        told = verdict if p < 0.05 else f"{verdict}; least detectable {each.detectable:.4f}"
        told += f" (made for {change.sake})" if change.sake else ""
        size = f"{sizes[0] / 1e3:,.0f} -> {sizes[1] / 1e3:,.0f} k"
        click.echo(
            f"  {change.name:<27}{size:>19}{means[0]:>9.4f}{means[1]:>8.4f}  {each.mean:+.4f} ± {each.margin:<9.4f}"
            f"{p:>7.4f} x{by['median']:>5.2f}  {told}"
        )
        row = {"change": change.name, "without": change.without.name, "with": change.having.name}
        rows.append(
            row
            | {"bits_per_byte": means, "parameters": sizes, "saves": dataclasses.asdict(each), "p_holm": p}
            | {"verdict": verdict, "time": by, "sake": change.sake, "seeds": len(without)}
        )
        sooner = verdict == NONE_FOUND and by["high"] < 1
        if change.recipe and not (verdict == PAYS or change.sake or sooner):
            leaving.append(f"{change.name} ({verdict}, time x{by['median']:.2f})")
    if any(change.recipe for change in changes):
        click.echo(f"\n  would leave the recipe on this evidence: {'; '.join(leaving) or 'nothing'}")
    return {"rows": rows, "would_leave": leaving}


if __name__ == "__main__":
    main()
