"""How each stage's loss falls with size and text: python scripts/bench_scaling.py --data ../tinystories"""

from __future__ import annotations

from mlx_gpt.device import pick_device  # before MLX, so that it finds the tuned BLAS

# isort: split
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from bench_cells import Cell, Scores, corpus_of, data_option, numbers_in, source_of, steps_for, sweep
from bench_figures import Figures, measured, missing
from bench_scaling_fit import Fitted, fitted

from mlx_gpt import stages
from mlx_gpt.corpus import Source
from mlx_gpt.door import Door
from mlx_gpt.errors import SettingError

VERSION = 1  # of the JSON
COUNTED = 4  # the last stage that counts
PARTS = 8  # of the text, each twice the one before, for the counting stages
WIDENED = ("width", "hidden", "inner")  # settings of a config that grow together


@click.command(cls=Door)
@data_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench_scaling"), show_default=True)
@click.option("--stages", "wanted", default="", help="Only these, e.g. 1,4,11.  [default: all]")
@click.option("--vocab-size", type=click.IntRange(259, 2**20), default=512, show_default=True, help="Of BPE.")
@click.option("--widths", default="16,32,64,96", show_default=True, help="Widths of the neural models: sizes.")
@click.option(
    "--tokens",
    default="65536,131072,262144,524288",
    show_default=True,
    help="Training tokens of the neural models.",
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each neural cell.")
@click.option("--resamples", type=click.IntRange(20), default=400, show_default=True, help="For the intervals.")
@click.option("--quick", is_flag=True, help="Minutes: three widths of 16 to 64, three counts of tokens up to 65,536.")
def main(
    data: tuple[str, ...],
    out: Path,
    wanted: str,
    vocab_size: int,
    widths: str,
    tokens: str,
    seeds: int,
    resamples: int,
    quick: bool,
) -> None:
    """The law L(N, D) = E + A / N^a + B / D^b of each stage: bits per byte by parameters N and training tokens D.

    Neural stages: the tiny preset at several widths (its other widths in proportion, AdamW's rate against it, as from
    preset to preset), each trained to the end of its own schedule for several counts of tokens. N is all parameters,
    the embedding included. Counting stages: eight parts of the training text, each twice as long as the one before,
    in one tokenizer, learned from the whole; their size follows from the text, so their law is L(D) = E + B / D^b.

    Fitted as Hoffmann et al. 2022 (eq. 2, Huber loss of the logarithms, many starts); the 95 % intervals are
    percentiles over resampled sizes. Small runs tell a law for small runs: where an interval is wide, the exponents
    are not known, and E is what the fit extrapolates to, not a measurement.

    --out keeps a run folder for each neural cell, figures for the counted ones, and scaling.json. Run it again after
    an interruption: what is finished is not trained again.
    """
    pick_device()
    chosen = numbers_in(wanted, "--stages", 1) if wanted else stages.numbers()
    for number in chosen:
        stages.stage(number)
    source = source_of(data, "bpe", vocab_size)
    wide = [16, 32, 64] if quick else numbers_in(widths, "--widths", 8)
    read = [16_384, 32_768, 65_536] if quick else numbers_in(tokens, "--tokens", 1_000)
    if any(width % 8 for width in wide):
        raise SettingError(f"--widths {widths}: expected multiples of 8")
    parts: dict[str, Callable[[], Figures]] = {}
    for number in chosen:
        cells = _parts(number, source) if number <= COUNTED else _grid(number, source, wide, read, seeds)
        parts[stages.stage(number).run] = functools.partial(_law, number, cells, out, resamples)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"vocab_size": vocab_size, "widths": wide, "tokens": read, "seeds": seeds, "resamples": resamples}
    measured(parts, VERSION, settings, out / "scaling.json")


def _parts(number: int, source: Source) -> list[Cell]:
    """A counting stage on 1, 1/2, 1/4, ... of the text."""
    known: Any = stages.stage(number)
    whole = corpus_of(source).train.tokens
    sizes = [whole >> power for power in range(PARTS - 1, -1, -1)]
    return [
        Cell(f"{known.run}-{size}", number, known.config, known.recipe, source, part=size)
        for size in sizes
        if size >= 1_000
    ]


def _grid(number: int, source: Source, widths: list[int], tokens: list[int], seeds: int) -> list[Cell]:
    """A neural stage at several widths and lengths of training."""
    cells = []
    for width in widths:
        config, recipe = widened(number, width)
        for count in tokens:
            ready = steps_for(count, recipe, config)
            cells += [
                Cell(
                    f"{stages.stage(number).run}-{width}-{count}",
                    number,
                    config,
                    dataclasses.replace(ready, seed=seed),
                    source,
                )
                for seed in range(seeds)
            ]
    return cells


def widened(number: int, width: int) -> tuple[Any, Any]:
    """The tiny preset of a stage at another width, everything wide in proportion; Muon's rate serves all widths."""
    tiny: Any = stages.stage(number).tiny
    times = width / tiny.config.width
    wide = {name: max(1, round(getattr(tiny.config, name) * times)) for name in WIDENED if name in vars(tiny.config)}
    rate = tiny.recipe.learning_rate / (times if tiny.recipe.optimizer == "adamw" else 1)
    return dataclasses.replace(tiny.config, **wide), dataclasses.replace(tiny.recipe, learning_rate=rate)


def _law(number: int, cells: list[Cell], out: Path, resamples: int) -> Figures:
    """Train, fit, and tell a stage's law."""
    found = sweep(cells, out)
    click.echo(f"  {'parameters':>14}{'tokens':>14}{'bits per byte':>15}{'seconds':>10}")
    for scores in found:
        click.echo(
            f"  {scores['parameters']:>14,.0f}{scores['train_tokens']:>14,.0f}{scores['bits_per_byte']:>15.4f}"
            f"{scores['seconds']:>10.1f}"
        )
    sizes = _sizes(found, alone=number <= COUNTED or len({each["parameters"] for each in found}) < 3)
    if len(found) < 2 * sizes.shape[1] + 2:
        return missing(f"{len(found)} runs are too few for a law") | {"runs": found}
    if number > COUNTED and sizes.shape[1] == 1 and len({each["parameters"] for each in found}) > 1:
        return missing("two sizes are too few for N and too many for D alone; give one width, or three") | {
            "runs": found
        }
    law = fitted(sizes, np.array([each["bits_per_byte"] for each in found]), resamples)
    _tell(law)
    return {"runs": found, **dataclasses.asdict(law)}


def _sizes(found: list[Scores], alone: bool) -> np.ndarray:
    """(R, 2) of N and D, or (R, 1) of D."""
    names = ("train_tokens",) if alone else ("parameters", "train_tokens")
    return np.array([[each[name] for name in names] for each in found])


def _tell(found: Fitted) -> None:
    law = found.law
    names = [("B", "D", "b")] if len(law.scales) == 1 else [("A", "N", "a"), ("B", "D", "b")]
    terms = " + ".join(
        f"{scale:.4g} / {size}^{power:.3f}"
        for scale, power, (_, size, _) in zip(law.scales, law.exponents, names, strict=True)
    )
    click.echo(f"\n  L = {law.floor:.3f} + {terms}   (the runs stray by {100 * law.left:.2f} %)")
    click.echo(f"  E {law.floor:.3f} [{found.floor[0]:.3f} … {found.floor[1]:.3f}]{_open(found, 'E')}")
    for power, (low, high), (_, _, name) in zip(law.exponents, found.exponents, names, strict=True):
        click.echo(f"  {name} {power:.3f} [{low:.3f} … {high:.3f}]{_open(found, name)}")
    if len(law.exponents) == 2 and max(law.exponents) > 0 and not {"a", "b"} & set(found.bound):
        a, b = law.exponents
        click.echo(f"  with C = 6 N D to spend: N as C^{b / (a + b):.2f}, D as C^{a / (a + b):.2f}")


def _open(found: Fitted, name: str) -> str:
    return "  not known: the interval ends where the search does" if name in found.bound else ""


if __name__ == "__main__":
    main()
