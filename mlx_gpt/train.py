"""Train a stage: python -m mlx_gpt.train --stage 11"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mlx_gpt.device import description
from mlx_gpt.door import Door, notice, setting_options
from mlx_gpt.recipe import option
from mlx_gpt.tokenizer import GIVEN, KINDS, LARGEST_VOCABULARY, WORD, Tokenizer

if TYPE_CHECKING:
    from mlx_gpt.checkpoint import Last
    from mlx_gpt.corpus import Source
    from mlx_gpt.model import Stage
    from mlx_gpt.recipe import Recipe, Settings

VOCABULARY = {"tiny": 512, "small": 2_048, "base": 4_096, "large": 8_192}
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
    from mlx_gpt.corpus import Source
    from mlx_gpt.device import pick_device
    from mlx_gpt.errors import SettingError
    from mlx_gpt.folder import prepare

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
    source = Source(absolute(data), tokenizer, vocab_size or VOCABULARY[preset], split_seed)
    if dry_run:
        _plan(stage, preset, config, recipe, source, given)
        return
    folder = prepare(RUNS / stage.run if run is None else run)
    _train(folder, stage, preset, config, recipe, source, given, None)


def _tokenizer_of(ctx: click.Context, run: Path) -> Tokenizer:
    from mlx_gpt.checkpoint import load, run_folder
    from mlx_gpt.errors import SettingError

    for name in ("tokenizer", "vocab_size"):
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise SettingError(f"--tokenizer-of {run} with {option(name)}: the tokenizer is that of the run; drop one")
    found = load(run_folder(None, run)).tokenizer
    if found.kind == WORD:
        raise SettingError(f"--tokenizer-of {run}: an imported model's words leave blanks out; name another run")
    return found


def _train(
    folder: Path,
    stage: Stage,
    preset: str,
    config: Settings,
    recipe: Recipe,
    source: Source,
    given: Tokenizer | None,
    last: Last | None,
) -> None:
    """Train in a folder, from the beginning or from the last save."""
    import mlx.core as mx

    from mlx_gpt.corpus import open_corpus
    from mlx_gpt.descent.plan import require
    from mlx_gpt.errors import SettingError
    from mlx_gpt.recipe import Descent
    from mlx_gpt.run import Run

    corpus = open_corpus(source, notice, given)
    if last is not None and (corpus.digest, corpus.tokenizer.model) != (last.card.corpus, last.tokenizer.model):
        what = "the text" if corpus.digest != last.card.corpus else "the tokenizer"
        raise SettingError(f"--resume: {what} of {source} is no longer that of this run; start a new run")
    if isinstance(recipe, Descent) and last is None:  # what was begun fitted then
        require(functools.partial(stage.model, config, corpus.tokenizer.vocab_size), corpus, recipe, notice)
    mx.random.seed(recipe.seed)
    model = stage.model(config, corpus.tokenizer.vocab_size)
    with Run(folder, stage, preset, config, recipe, corpus, model, last is not None) as report:
        model.fit(corpus, recipe, report)
        report.finish()


def _plan(stage: Stage, preset: str, config: Settings, recipe: Recipe, source: Source, given: Tokenizer | None) -> None:
    """Print what a run would take."""
    from mlx_gpt.corpus import open_corpus
    from mlx_gpt.descent.plan import MEASURING, plan
    from mlx_gpt.descent.planned import lines
    from mlx_gpt.device import memory_of_machine
    from mlx_gpt.recipe import Counting, Descent, size_in_bytes

    corpus = open_corpus(source, notice, given)
    told = list[str]()
    if isinstance(recipe, Descent):
        build = functools.partial(stage.model, config, corpus.tokenizer.vocab_size)
        notice(MEASURING)
        told = lines(plan(build, corpus, recipe))
    notice(description())
    click.secho(f"plan of stage {stage.number} {stage.name}, preset {preset}, on {source}", bold=True)
    for line in told:
        click.echo(line)
    if isinstance(recipe, Counting):
        limit = size_in_bytes(recipe.memory) or memory_of_machine() // 2
        click.echo("parameters  not known before counting: one or two numbers for each n-gram that the text has")
        click.echo(f"tokens      {corpus.train.tokens:,}, each counted once")
        click.echo(
            f"memory      at most {limit / 1e9:,.2f} GB (--memory, half of the machine's without it): a text that "
            "needs more is counted in shards"
        )


def _go_on(ctx: click.Context, folder: Path, number: int | None) -> None:
    """Resume the run in a folder with its own settings; others on the command line are a mistake."""
    from mlx_gpt import stages
    from mlx_gpt.checkpoint import MODEL, read_card, read_last
    from mlx_gpt.errors import CheckpointError, SettingError
    from mlx_gpt.model import Kept

    # without its arrays, which would keep the file mapped that the next save replaces
    last = dataclasses.replace(read_last(folder, notice), kept=Kept({}, {}))
    card = last.card
    if number is not None and number != card.stage:
        raise SettingError(f"--stage {number}: the run in {folder} is of stage {card.stage}")
    own = {**vars(card.config), **vars(card.recipe), "preset": card.preset, "data": card.source.paths}
    own |= {
        "tokenizer": card.source.tokenizer,
        "tokenizer_of": "a tokenizer that its own files hold",
        "vocab_size": card.source.vocab_size,
        "split_seed": card.source.split_seed,
    }
    for name, value in ctx.params.items():
        if name in ("number", "run", "resume") or ctx.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        given = absolute(value) if name == "data" else value
        if given != own[name]:
            raise SettingError(
                f"{option(name)} {value}: this run was started with {own[name]}, and a resumed run keeps its settings; "
                "drop it, or start a new run"
            )
    with contextlib.suppress(CheckpointError):  # a damaged model is no finished one: the end is made again
        done = read_card(folder / MODEL)
        if done.finished:
            click.echo(f"{folder}: finished already, at step {done.step:,}")
            return
    if "-" in card.source.paths:
        raise SettingError("--resume: this run was trained on standard input, which cannot be read again")
    _train(folder, stages.stage(card.stage), card.preset, card.config, card.recipe, card.source, last.tokenizer, last)


def absolute(data: tuple[str, ...]) -> tuple[str, ...]:
    """Paths as a checkpoint keeps them: still true when read from another folder."""
    return tuple(path if path == "-" else os.path.abspath(path) for path in data)


def train_stage(number: int) -> None:
    """The door with its stage given, for the scripts."""
    main.main(args=["--stage", str(number), *sys.argv[1:]])


if __name__ == "__main__":
    main()
