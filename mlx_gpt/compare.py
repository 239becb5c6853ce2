"""The league table of all runs on one held-out text: python -m mlx_gpt.compare"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gpt.door import Door, notice

if TYPE_CHECKING:
    from mlx_gpt.checkpoint import Checkpoint
    from mlx_gpt.measure import Score


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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(runs: Path, data: tuple[str, ...], mixture: bool, as_json: bool) -> None:
    """Score every run on one held-out text, beside what compressors need for it.

    The runs must come from the same corpus, or --data names a text for all of them.
    """
    from mlx_gpt import checkpoint
    from mlx_gpt.device import description, pick_device
    from mlx_gpt.errors import CheckpointError, SettingError
    from mlx_gpt.heldout import held_out, raw_bytes, reference_lines
    from mlx_gpt.measure import measure
    from mlx_gpt.mixture import mixed

    if "-" in data:
        raise SettingError("--data -: standard input can be read only once; name a file")
    pick_device()
    folders = checkpoint.runs(runs)
    if not folders:
        raise CheckpointError(
            f"{runs}: no trained runs here; python -m mlx_gpt.train --stage 1, or scripts/train_all.py"
        )
    cards = {folder: checkpoint.read_card(folder) for folder in folders}
    corpora = {card.text: str(card.source) for card in cards.values()}
    if len(corpora) > 1 and not data:
        raise SettingError(
            f"{runs}: trained on {len(corpora)} corpora or splits ({', '.join(corpora.values())}); "
            "name one text for all with --data FILE"
        )
    lines: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for number, folder in enumerate(folders, 1):
        if sys.stderr.isatty():
            click.secho(f"\rscoring {number} of {len(folders)}: {folder.name:<30}", err=True, nl=False, dim=True)
        trained = checkpoint.load(folder)
        text = held_out(trained, data, (lambda message: None) if rows else notice)  # said once is enough
        if not lines:
            builtin = trained.card.source.builtin and not data
            lines = reference_lines(raw_bytes(text, trained.tokenizer), builtin)
        rows.append(_row(folder, trained, measure(trained.model, text)))
    rows.sort(key=lambda row: (row["stage"], row["run"]))
    if mixture:
        together = mixed([checkpoint.load(folder) for folder in folders], one_text=not data)
        text = held_out(together, data, lambda message: None)
        rows.append(_row(runs, together, measure(together.model, text)))
    if sys.stderr.isatty():
        click.echo("\r" + " " * 60 + "\r", err=True, nl=False)
    if as_json:
        click.echo(json.dumps({"device": description(), "reference_lines": lines, "runs": rows}))
        return
    click.echo(f"{rows[0]['bytes']:,} bytes held out; {description()}\n")
    click.echo("\n".join(league_table(rows, lines)))


def _row(run: Path, trained: Checkpoint, score: Score) -> dict[str, Any]:
    told = trained.card.scores
    return {
        "run": str(run),
        "stage": trained.stage.number,
        "name": trained.stage.name,
        "finished": trained.card.finished,
        "bits_per_byte": score.bits_per_byte,
        "perplexity": score.perplexity,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "tokens_per_second": score.tokens_per_second,
        **{name: told.get(name) for name in ("parameters", "seconds", "train_tokens_per_second", "peak_memory")},
    }


def league_table(rows: list[dict[str, Any]], lines: dict[str, float]) -> list[str]:
    """The table as lines of text: references first, then the stages in order, * marking an unfinished run."""
    columns = {"bits/byte": 10, "parameters": 12, "trained in": 12, "tokens/s": 12, "memory": 9, "scores/s": 11}
    head = f"{'stage':<22}" + "".join(f"{name:>{width}}" for name, width in columns.items())
    table = [head, "-" * len(head)]
    for name, bits in sorted(lines.items(), key=lambda line: -line[1]):
        if name != "exact entropy":
            table.append(f"{name:<22}{bits:>10.4f}")
    for row in rows:
        name = f"{row['stage']:>2} {row['name']}{'' if row['finished'] else ' *'}"
        table.append(
            f"{name:<22}{row['bits_per_byte']:>10.4f}{_number(row['parameters']):>12}{_seconds(row['seconds']):>12}"
            f"{_number(row['train_tokens_per_second']):>12}{_bytes(row['peak_memory']):>9}"
            f"{_number(row['tokens_per_second']):>11}"
        )
    if "exact entropy" in lines:
        table.append(f"{'exact entropy':<22}{lines['exact entropy']:>10.4f}")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} s"


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
