"""The league table of all runs on one held-out text: python -m mlx_gpt.compare"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gpt.door import Door, notice

if TYPE_CHECKING:
    from mlx_gpt.acceptance import Worth
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
@click.option(
    "--drafting", is_flag=True, help="Instead: what each run is worth as the draft of each other; all are in memory."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(runs: Path, data: tuple[str, ...], mixture: bool, drafting: bool, as_json: bool) -> None:
    """Score every run on one held-out text, beside what compressors need for it.

    The runs must come from the same corpus, or --data names a text for all of them.

    With --drafting nothing is scored: every run writes on from held-out text, greedily, with every run and with the
    text itself (prompt) as its draft. The table tells the share of drafted tokens that were accepted, and how many
    times as many tokens a second came as without a draft. The runs must have one tokenizer.
    """
    from mlx_gpt import checkpoint
    from mlx_gpt.device import description, pick_device
    from mlx_gpt.errors import CheckpointError, SettingError
    from mlx_gpt.heldout import held_out, raw_bytes, reference_lines
    from mlx_gpt.measure import measure
    from mlx_gpt.mixture import mixed

    if "-" in data:
        raise SettingError("--data -: standard input can be read only once; name a file")
    if drafting and mixture:
        raise SettingError("--drafting: measures runs alone; drop it or --mixture")
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
    if drafting:
        _drafting([checkpoint.load(folder) for folder in folders], data, as_json)
        return
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


def _drafting(runs: list[Checkpoint], data: tuple[str, ...], as_json: bool) -> None:
    """Measure every run as the draft of every other, and print that. Raises TokenizerError where two tokenizers are."""
    from mlx_gpt.acceptance import WRITTEN, beginnings, pairs
    from mlx_gpt.device import description
    from mlx_gpt.errors import TokenizerError
    from mlx_gpt.heldout import held_out

    runs = sorted(runs, key=lambda run: (run.stage.number, str(run.path)))
    for run in runs[1:]:
        if not run.tokenizer.agrees(runs[0].tokenizer):
            raise TokenizerError(
                f"{runs[0].path} and {run.path}: different tokenizers; drafts need one, so put such runs apart"
            )
    prompts = beginnings(held_out(runs[0], data, notice))
    found: list[tuple[str, str, Worth]] = []
    for pair in pairs({_name(run): run.model for run in runs}, prompts, WRITTEN):
        found.append(pair)
        if sys.stderr.isatty():
            told = f"{len(found)} of {len(runs) * (len(runs) + 1)}: {pair[1]} for {pair[0]}"
            click.secho(f"\r{told:<70}", err=True, nl=False, dim=True)
    if sys.stderr.isatty():
        click.echo("\r" + " " * 70 + "\r", err=True, nl=False)
    if as_json:
        rows = [{"target": target, "draft": draft, **worth.facts()} for target, draft, worth in found]
        click.echo(json.dumps({"device": description(), "drafting": rows}))
        return
    click.echo(f"greedy, {len(prompts)} texts of {WRITTEN} tokens each; {description()}\n")
    click.echo("\n".join(drafting_table(found)))
    ties = sum(worth.ties for _, _, worth in found)
    if ties:
        click.echo(f"\n{ties} texts part where two tokens are as likely, within rounding; the others are the same")


def _name(run: Checkpoint) -> str:
    """Stage and, where the folder is called otherwise, the folder: no two are the same."""
    folder = run.path.parent.name
    return folder if folder == run.stage.run else f"{run.stage.number} {folder}"


def drafting_table(found: list[tuple[str, str, Worth]]) -> list[str]:
    """Lines of text: a target a row, a draft a column; share accepted, and tokens a second by those without."""
    drafts = list(dict.fromkeys(draft for _, draft, _ in found))
    short = [draft if len(draft) < 12 else draft[:11] for draft in drafts]
    head = f"{'target, draft:':<22}" + "".join(f"{draft:>13}" for draft in short)
    table = [head, "-" * len(head)]
    for target in dict.fromkeys(target for target, _, _ in found):
        cells = [f"{worth.share:>6.0%} x{worth.speedup:<5.2f}" for name, _, worth in found if name == target]
        table.append(f"{target[:21]:<22}" + "".join(cells))
    return table


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
