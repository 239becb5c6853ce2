"""N-gram models as ARPA text, for KenLM and from it: python -m mlx_gpt.arpa export --stage 4 model.arpa.gz"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mlx_gpt.door import Door, notice, which_run


class Group(Door, click.Group):
    """Commands whose mistakes are one line, an unknown command among them."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(" ".join(error.format_message().split())) from error


class Command(Door):
    """A command of this door, named by both its words."""

    def owner(self, ctx: click.Context) -> str:
        return f"mlx_gpt.arpa {ctx.info_name}"


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def main(ctx: click.Context) -> None:
    """ARPA files: write a counted model as one, read one as a run, or make one as KenLM's lmplz does."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@main.command(cls=Command)
@which_run
@click.option("--ids", is_flag=True, help="Write ids in decimal instead of pieces.")
@click.argument("out", type=click.Path(path_type=Path))
def export(stage: int | None, run: Path | None, ids: bool, out: Path) -> None:
    """Write the n-grams of a counting stage to OUT, gzipped where it ends in .gz.

    A word is a piece of the run's tokenizer, U+2581 its space; a sentence is a document.

    \b
    python -m mlx_gpt.arpa export --stage 4 model.arpa.gz
    """
    from mlx_gpt.checkpoint import load, run_folder
    from mlx_gpt.counting import Table
    from mlx_gpt.counting.arpa import seen_ids, words_of, write_arpa
    from mlx_gpt.errors import SettingError
    from mlx_gpt.tokenizer import WORD

    trained = load(run_folder(stage, run), stage)
    table, tokenizer = getattr(trained.model, "table", None), trained.tokenizer
    if not isinstance(table, Table):
        number, name = trained.stage.number, trained.stage.name
        raise SettingError(f"stage {number} ({name}) has no n-grams; only the counting stages, 1 to 4, can be exported")
    words = [str(each) for each in range(tokenizer.vocab_size)] if ids else words_of(tokenizer)
    seen = None if tokenizer.kind == WORD else seen_ids(table, tokenizer.unknown)
    _say(out, write_arpa(table, words, tokenizer.eot, tokenizer.unknown, seen, out))


@main.command("import", cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--run", required=True, type=click.Path(path_type=Path), help="The folder to write; must not be a run.")
@click.option(
    "--tokenizer", "other", type=click.Path(path_type=Path), help="A run whose pieces the words of MODEL are."
)
@click.option("--ids", is_flag=True, help="With --tokenizer: the words are ids in decimal.")
def import_(model: Path, run: Path, other: Path | None, ids: bool) -> None:
    """Read an ARPA file as a run of stage 4, to generate with, to score texts with, and to compare.

    Its tokenizer is a list of words: a text is cut at blanks, and a line break is a blank. With --tokenizer the
    model predicts the pieces of another run.

    \b
    python -m mlx_gpt.arpa import model.arpa.gz --run runs/imported
    """
    import dataclasses

    from mlx_gpt import stages
    from mlx_gpt.checkpoint import MODEL, Card, read_tokenizer, run_folder, save
    from mlx_gpt.corpus import Source
    from mlx_gpt.corpus.documents import digest
    from mlx_gpt.counting.arpa import Vocabulary, read_arpa, words_of
    from mlx_gpt.errors import SettingError
    from mlx_gpt.folder import prepare
    from mlx_gpt.tokenizer import WORD, Tokenizer

    if (run / MODEL).exists():
        raise SettingError(f"--run {run}: holds a run already; name another folder")
    if ids and other is None:
        raise SettingError("--ids: goes with --tokenizer RUN, whose ids they are")
    vocabulary, tokenizer = None, None
    if other is not None:
        tokenizer = read_tokenizer(run_folder(None, other))
        words = [str(each) for each in range(tokenizer.vocab_size)] if ids else words_of(tokenizer)
        vocabulary = Vocabulary(words, tokenizer.eot, tokenizer.unknown)
    live = sys.stderr.isatty()
    found = read_arpa(model, notice, vocabulary, _lines_read if live else None)
    if live:
        click.echo("\r" + " " * 30 + "\r", err=True, nl=False)
    if tokenizer is None:
        tokenizer = Tokenizer(WORD, "\n".join(found.words).encode())
    stage = stages.stage(4)
    config = dataclasses.replace(stage.config, order=found.table.order)  # type: ignore[call-arg]
    counted: Any = stage.model(config, tokenizer.vocab_size)
    counted.table = found.table
    # no path of a text that could be opened again: the text is not known
    source = Source((f"{model.absolute()} (imported)",), tokenizer.kind, tokenizer.vocab_size, 0)
    file, size = digest([model]), tokenizer.vocab_size
    card = Card(stage.number, "imported", config, stage.recipe, size, source, file, file, 1, True, {})
    folder = prepare(run)
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / MODEL, counted, tokenizer, card)
    _say(run / MODEL, found.table.rows)


@main.command(cls=Command)
@click.argument("text", nargs=-1, required=True)
@click.option("--order", type=click.IntRange(1, 10), default=5, show_default=True, help="Words in an n-gram.")
@click.option("-o", "out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--prune", default="", help='By order, drop n-grams seen so many times or less, e.g. "0 0 1".')
@click.option(
    "--vocab-pad", type=click.IntRange(0, 2**24), default=0, help="Words to share the unknown mass, as lmplz."
)
@click.option("--skip-symbols", is_flag=True, help="Read <s>, </s> and <unk> in a text as blanks.")
def build(text: tuple[str, ...], order: int, out: Path, prune: str, vocab_pad: int, skip_symbols: bool) -> None:
    """Make the model that KenLM's lmplz makes of texts: words between blanks, a sentence a line.

    \b
    python -m mlx_gpt.arpa build text.txt --order 5 -o model.arpa
    """
    import numpy as np

    from mlx_gpt.corpus import files, named_paths
    from mlx_gpt.counting import count, estimate, thresholds
    from mlx_gpt.counting.arpa import END_ID, UNKNOWN_ID, read_sentences, write_arpa
    from mlx_gpt.counting.smoothing import Discounting
    from mlx_gpt.counting.statistics import statistics_lines, three_discounts
    from mlx_gpt.errors import SettingError

    limits = thresholds(prune)
    if len(limits) > order:
        raise SettingError(f"--prune {prune!r}: more numbers than orders; --order is {order}")
    with named_paths(text) as paths:
        ids, words = read_sentences(files(paths), skip_symbols)
    size = max(len(words), vocab_pad)
    counts = count(ids, order, size, END_ID)
    table, found = estimate(counts, Discounting(three_discounts, continuation=True), notice, limits)
    seen = np.arange(size) < len(words)
    words += [""] * (size - len(words))
    click.echo("\n".join(("Statistics:", *statistics_lines(found))), err=True)
    _say(out, write_arpa(table, words, END_ID, UNKNOWN_ID, seen, out))


def _lines_read(lines: int) -> None:
    click.echo(f"\r{lines:,} lines", err=True, nl=False)


def _say(path: Path, rows: list[int]) -> None:
    """On standard error, for the file may be standard output."""
    click.echo(f"{path}: {sum(rows):,} n-grams ({' + '.join(f'{count:,}' for count in rows)})", err=True)


if __name__ == "__main__":
    main()
