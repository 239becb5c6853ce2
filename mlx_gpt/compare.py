"""The league table of all runs on one held-out text: python -m mlx_gpt.compare"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gpt.door import Door, as_json, notice

if TYPE_CHECKING:
    from mlx_gpt.checkpoint import Checkpoint


@click.command(cls=Door)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of the runs.",
)
@click.option("--data", multiple=True, metavar="PATH...", help="Text to score instead of the runs' held-out split.")
@click.option("--mixture", is_flag=True, help="Score the mixture of all runs, too; all of them are in memory at once.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
def main(runs: Path, data: tuple[str, ...], mixture: bool, in_json: bool) -> None:
    """Score every run on one held-out text, beside what compressors need for it.

    The runs must come from the same corpus, or --data names a text for all of them. Runs that differ in their seed
    alone are one row. Scores have 95 % intervals, and so has the difference of each row to the one above it, paired on
    the same parts of the text; --json tells all figures.
    """
    from mlx_gpt import checkpoint, stages
    from mlx_gpt.corpus import units
    from mlx_gpt.device import description, pick_device
    from mlx_gpt.errors import CheckpointError, SettingError
    from mlx_gpt.heldout import Shared, floor, raw_bytes, reference_lines
    from mlx_gpt.league import Entry, cards_in, legend, rows, table
    from mlx_gpt.measure import measure
    from mlx_gpt.mixture import mixed
    from mlx_gpt.tokenizer import WORD

    if "-" in data:
        raise SettingError("--data -: standard input can be read only once; name a file")
    pick_device()
    cards, left_out = cards_in(runs)
    if not cards:
        said = "".join(f"; {name}: {why}" for name, why in left_out.items())
        raise CheckpointError(
            f"{runs}: no trained runs here{said}; python -m mlx_gpt.train --stage 1, or scripts/train_all.py"
        )
    corpora = {card.text: str(card.source) for card in cards.values()}
    if len(corpora) > 1 and not data:
        raise SettingError(
            f"{runs}: trained on {len(corpora)} corpora or splits ({', '.join(corpora.values())}); "
            "name one text for all with --data FILE"
        )
    texts = Shared(data, notice, name=len(corpora) > 1)

    def entry(run: Path, trained: Checkpoint) -> Entry:
        text, context = texts.of(trained), trained.model.memory().room
        score = measure(trained.model, text, units=units(text, trained.tokenizer))
        return Entry(str(run), trained.stage.number, trained.stage.name, trained.card, context, score)

    lines: dict[str, float] = {}
    entries: list[Entry] = []
    least, resampled = None, ""
    for number, folder in enumerate(cards, 1):
        if sys.stderr.isatty():
            click.secho(f"\rscoring {number} of {len(cards)}: {folder.name:<30}", err=True, nl=False, dim=True)
        try:
            trained = checkpoint.load(folder)
        except CheckpointError as error:
            left_out[folder.name] = str(error)
            continue
        entries.append(entry(folder, trained))
        if not lines and trained.tokenizer.kind != WORD:  # words do not spell the text's bytes
            text = texts.of(trained)
            resampled = str(units(text, trained.tokenizer))
            lines = reference_lines(raw_bytes(text, trained.tokenizer))
            if trained.card.source.builtin and not data:
                least = floor(raw_bytes(text, trained.tokenizer))
                lines["exact entropy"] = float(least.sum()) / text.bytes
    if not entries:
        raise CheckpointError(f"{runs}: no run can be read; {'; '.join(left_out.values())}")
    told = rows(entries, least)
    if mixture:
        members = [checkpoint.load(Path(each.run)) for each in entries]
        told = rows([*entries, entry(runs, mixed(members, one_text=not data))], least)
    if sys.stderr.isatty():
        click.echo("\r" + " " * 60 + "\r", err=True, nl=False)
    missing = [number for number in stages.numbers() if number not in {row["stage"] for row in told}]
    if in_json:
        shown = {"device": description(), "reference_lines": lines, "runs": told, "resampled": resampled}
        click.echo(as_json(shown | {"missing_stages": missing, "left_out": left_out}))
        return
    click.echo(f"{told[0]['bytes']:,} bytes held out; {description()}\n")
    click.echo("\n".join([*table(told, lines), "", *legend(told, resampled)]))
    for name, why in left_out.items():
        click.echo(f"left out: {name} ({why})")
    if missing:
        click.echo(f"missing: stage {', '.join(map(str, missing))}")


if __name__ == "__main__":
    main()
