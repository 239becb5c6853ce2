"""Train a stage: python -m mlx_gpt.train --stage 11"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mlx_gpt.door import Door, notice, setting_options
from mlx_gpt.recipe import option
from mlx_gpt.tokenizer import GIVEN, KINDS, LARGEST_VOCABULARY, VOCABULARY, WORD, Tokenizer

TIMES = {
    "tiny": "seconds, for tests",
    "small": "minutes on two Linux cores",
    "base": "ten minutes on an M2 (not yet measured on an M2)",
    "large": "a night on an M2 with 16 GB (not yet measured on an M2)",
}


class TrainDoor(Door):
    """Adds the settings of the stage and preset that the command line names, or of the run it goes on with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["stage"], ctx.meta["preset"] = _value(args, "--stage"), _value(args, "--preset")
        if "--resume" in args and ctx.meta["stage"] is None and _value(args, "--run") is not None:
            ctx.meta["stage"] = _stage_of(Path(str(_value(args, "--run"))))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        chosen = _chosen(ctx)
        if chosen is None:
            return [*own, help_option]
        return [*own, *setting_options(chosen.recipe), *setting_options(chosen.config), help_option]

    def owner(self, ctx: click.Context) -> str:
        number = ctx.meta.get("stage")
        return "train without --stage" if number is None else f"stage {number}"

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            if _chosen(ctx) is None:
                formatter.write_text("--stage N --help lists the settings of stage N with their defaults.")
                return
            from mlx_gpt import stages

            stage = stages.stage(int(ctx.meta["stage"]))
            formatter.write_text(f"Stage {stage.number}, {stage.name}: {stage.title}. Remembers {stage.remembers}.")


def _value(args: list[str], name: str) -> str | None:
    value = None  # the last one counts, as with Click
    for place, word in enumerate(args):
        if word == name and place + 1 < len(args):
            value = args[place + 1]
        if word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value


def _stage_of(folder: Path) -> str | None:
    """The stage of a run, for which settings there are; what is wrong with the folder is said later."""
    from mlx_gpt.checkpoint import BEFORE, LAST, read_card
    from mlx_gpt.errors import MlxGptError

    for name in (LAST, BEFORE):
        with contextlib.suppress(MlxGptError, OSError):
            return str(read_card(folder / name).stage)
    return None


def _chosen(ctx: click.Context) -> Any:
    """The preset that the command line names, or None where it names none that exists."""
    from mlx_gpt import stages
    from mlx_gpt.errors import SettingError

    try:
        return stages.stage(int(ctx.meta.get("stage") or "")).preset(ctx.meta.get("preset") or "small")
    except (ValueError, SettingError):
        return None


@click.command(cls=TrainDoor)
@click.option("--stage", "number", type=int, help="Which stage to train: 1 to 11.")
@click.option(
    "--data",
    multiple=True,
    metavar="PATH...",
    help="Files or folders (.txt .md .jsonl .gz), - for standard input; the built-in stories without it.",
)
@click.option(
    "--preset",
    type=click.Choice(tuple(VOCABULARY)),
    default="small",
    show_default=True,
    help="; ".join(f"{name}: {time}" for name, time in TIMES.items()) + ".",
)
@click.option("--tokenizer", type=click.Choice(KINDS), default="bpe", show_default=True, help="What a token is.")
@click.option(
    "--tokenizer-of",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take the tokenizer of this run: models of the same tokens draft for each other and mix.",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(259, LARGEST_VOCABULARY),
    help=f"Entries of a BPE vocabulary.  [default: by preset {', '.join(map(str, VOCABULARY.values()))}]",
)
@click.option(
    "--split-seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of the split into training, validation and test text.",
)
@click.option("--run", type=click.Path(path_type=Path), help="Folder to write.  [default: runs/<NN>-<name>]")
@click.option(
    "--resume", is_flag=True, help="Go on with the run of --run or --stage where it was stopped; needs nothing else."
)
@click.option(
    "--dry-run", is_flag=True, help="Print what the run would take, memory, time and work, and write no run folder."
)
@click.pass_context
def main(
    ctx: click.Context,
    /,
    number: int | None,
    data: tuple[str, ...],
    preset: str,
    tokenizer: str,
    tokenizer_of: Path | None,
    vocab_size: int | None,
    split_seed: int,
    run: Path | None,
    resume: bool,
    dry_run: bool,
    **settings: Any,
) -> None:
    """Train one stage and write its run folder: model.safetensors, log.jsonl, samples.txt, curve.png.

    \b
    python -m mlx_gpt.train --stage 11
    python -m mlx_gpt.train --stage 7 --data my_novel.txt notes/ --steps 2000
    python -m mlx_gpt.train --stage 11 --minutes 10
    python -m mlx_gpt.train --resume --stage 11
    zcat huge.txt.gz | python -m mlx_gpt.train --stage 4 --data - --order 6
    """
    from mlx_gpt import stages
    from mlx_gpt.checkpoint import RUNS
    from mlx_gpt.corpus import Source, absolute_paths
    from mlx_gpt.device import pick_device
    from mlx_gpt.errors import SettingError
    from mlx_gpt.folder import prepare
    from mlx_gpt.training import Training

    if number is None and not (resume and run):
        raise SettingError("--stage N is missing: which stage to train, 1 to 11 (with --resume, --run DIR will do)")
    if resume and dry_run:
        raise SettingError("--dry-run with --resume: a run that was begun is planned no more; drop one of them")
    pick_device()
    if resume:
        folder = Path(os.path.abspath(RUNS / stages.stage(number or 0).run if run is None else run))
        _go_on(ctx, folder, number)
        return
    stage = stages.stage(number or 0)
    chosen = stage.preset(preset)
    config, recipe = (
        dataclasses.replace(part, **{f.name: settings[f.name] for f in dataclasses.fields(part)})
        for part in (chosen.config, chosen.recipe)
    )
    given = None
    if tokenizer_of is not None:
        given = _tokenizer_of(ctx, tokenizer_of)
        tokenizer, vocab_size = GIVEN, given.vocab_size
    source = Source(absolute_paths(data), tokenizer, vocab_size or VOCABULARY[preset], split_seed)
    training = Training(stage, preset, config, recipe, source, given)
    if dry_run:
        lines = training.planned(notice)
        click.secho(f"plan of stage {stage.number} {stage.name}, preset {preset}, on {source}", bold=True)
        for line in lines:
            click.echo(line)
        return
    training.carry_out(prepare(RUNS / stage.run if run is None else run), notice)


def _tokenizer_of(ctx: click.Context, run: Path) -> Tokenizer:
    from mlx_gpt.checkpoint import read_tokenizer, run_folder
    from mlx_gpt.errors import SettingError

    for name in ("tokenizer", "vocab_size"):
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise SettingError(f"--tokenizer-of {run} with {option(name)}: the tokenizer is that of the run; drop one")
    found = read_tokenizer(run_folder(None, run))
    if found.kind == WORD:
        raise SettingError(f"--tokenizer-of {run}: an imported model's words leave blanks out; name another run")
    return found


def _go_on(ctx: click.Context, folder: Path, number: int | None) -> None:
    """Resume the run in a folder with its own settings; others on the command line are a mistake."""
    from mlx_gpt.corpus import absolute_paths
    from mlx_gpt.errors import SettingError
    from mlx_gpt.training import begun, finished, go_on, settings_of

    last = begun(folder, number, notice)
    own = settings_of(last.card)
    for name, value in ctx.params.items():
        if name in ("number", "run", "resume") or ctx.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        given = absolute_paths(value) if name == "data" else value
        if given != own[name]:
            raise SettingError(
                f"{option(name)} {value}: this run was started with {own[name]}, and a resumed run keeps its settings; "
                "drop it, or start a new run"
            )
    step = finished(folder)
    if step is not None:
        click.echo(f"{folder}: finished already, at step {step:,}")
        return
    go_on(folder, last, notice)


def train_stage(number: int) -> None:
    """The door with its stage given, for the scripts."""
    main.main(args=["--stage", str(number), *sys.argv[1:]])


if __name__ == "__main__":
    main()
