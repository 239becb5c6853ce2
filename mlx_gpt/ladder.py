"""Train the whole ladder, stage after stage, and end with the league table: scripts/train_all.py"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import click

from mlx_gpt.door import Door, runs_folder
from mlx_gpt.tokenizer import KINDS, VOCABULARY


@click.command(cls=Door)
@click.option("--data", multiple=True, metavar="PATH...", help="Files or folders; the built-in stories without it.")
@click.option(
    "--preset",
    type=click.Choice(tuple(VOCABULARY)),
    default="small",
    show_default=True,
    help="Size of every stage.",
)
@click.option("--tokenizer", type=click.Choice(KINDS), default="bpe", show_default=True, help="What a token is.")
@click.option("--vocab-size", type=click.IntRange(259), help="Entries of a BPE vocabulary.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of every stage.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1_000),
    default=1,
    show_default=True,
    help="Runs of every stage that has chance in its training, with this many seeds from --seed on; counting has none.",
)
@runs_folder
@click.option("--stages", default="", help="Only these, e.g. 1,4,11.  [default: all]")
def main(
    data: tuple[str, ...],
    preset: str,
    tokenizer: str,
    vocab_size: int | None,
    seed: int,
    seeds: int,
    runs: Path,
    stages: str,
) -> None:
    """Train all stages on one text and print the league table.

    Stages that are finished already, with these very settings, are left as they are: run it again after an
    interruption and it goes on where it stopped. Each stage trains in a process of its own, so that its memory is
    measured alone. Of several seeds all stages have the first before any has the second, and the table tells their
    mean; the folder of a later one ends in its number: runs/11-m2-gpt-1.
    """
    from mlx_gpt import stages as ladder
    from mlx_gpt.errors import SettingError, TrainingError
    from mlx_gpt.recipe import Counting

    if "-" in data:
        raise SettingError("--data -: standard input can be read only once, and here it is needed often; name a file")
    shared = ["--preset", preset, "--tokenizer", tokenizer]
    shared += ["--vocab-size", str(vocab_size)] if vocab_size else []
    shared += ["--data", *data] if data else []
    chosen = [ladder.stage(number) for number in _numbers(stages, ladder.numbers())]
    asked = [(stage, at) for at in range(seeds) for stage in chosen if not at or not isinstance(stage.recipe, Counting)]
    for stage, at in asked:
        name = f"stage {stage.number} {stage.name}" + (f", seed {seed + at}" if seeds > 1 else "")
        folder = runs / (f"{stage.run}-{seed + at}" if at else stage.run)
        begun = _begun(folder, data, preset, tokenizer, vocab_size, seed + at)
        if begun == "finished":
            click.secho(f"{name}: finished already", err=True, dim=True)
            continue
        command = [
            sys.executable,
            "-m",
            "mlx_gpt.train",
            "--stage",
            str(stage.number),
            "--run",
            str(folder),
            *(["--resume"] if begun == "interrupted" else [*shared, "--seed", str(seed + at)]),
        ]
        status = subprocess.run(command, check=False).returncode
        if status in (130, 143):
            sys.exit(status)
        if status:
            raise TrainingError(f"{name} ended with exit code {status}; mend the cause and run this again")
    click.echo()
    shown = _of_its_text(runs / asked[0][0].run)
    sys.exit(subprocess.run([sys.executable, "-m", "mlx_gpt.compare", "--runs", *shown], check=False).returncode)


def _of_its_text(run: Path) -> list[str]:
    """This run and those beside it that were trained on the same text: the folder may hold more of another one."""
    from mlx_gpt.checkpoint import read_card, runs
    from mlx_gpt.errors import CheckpointError

    text, found = read_card(run).text, list[str]()
    for other in runs(run.parent):
        with contextlib.suppress(CheckpointError):
            found += [str(other)] * (read_card(other).text == text)
    return found


def _numbers(wanted: str, known: list[int]) -> list[int]:
    if not wanted:
        return known
    from mlx_gpt.errors import SettingError

    chosen = wanted.split(",")
    if not all(each.strip().isdigit() and int(each) in known for each in chosen):
        raise SettingError(f"--stages {wanted}: expected numbers from {known[0]} to {known[-1]} with commas between")
    return [int(each) for each in chosen]


def _begun(folder: Path, data: tuple[str, ...], preset: str, tokenizer: str, vocab_size: int | None, seed: int) -> str:
    """How far a run with these very settings has come: "finished", "interrupted", or "" for none."""
    from mlx_gpt.checkpoint import BEFORE, LAST, MODEL, read_card
    from mlx_gpt.corpus import absolute_paths
    from mlx_gpt.errors import CheckpointError

    asked = (absolute_paths(data), tokenizer, vocab_size or VOCABULARY[preset], preset, seed)
    for name in (MODEL, LAST, BEFORE):
        try:
            card = read_card(folder / name)
        except CheckpointError:
            continue
        source = card.source
        if asked != (source.paths, source.tokenizer, source.vocab_size, card.preset, card.recipe.seed):
            return ""
        if card.finished:
            return "finished"
        if name != MODEL:
            return "interrupted"
    return ""


if __name__ == "__main__":
    main()
