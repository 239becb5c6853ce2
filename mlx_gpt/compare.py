"""The league table of all runs on one held-out text: python -m mlx_gpt.compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gpt.door import Door, as_json, notice, passing, shown_runs

if TYPE_CHECKING:
    from mlx_gpt.acceptance import Worth
    from mlx_gpt.checkpoint import Checkpoint


@click.command(cls=Door)
@shown_runs
@click.option("--data", multiple=True, metavar="PATH...", help="Text to score instead of the runs' held-out split.")
@click.option("--mixture", is_flag=True, help="Score the mixture of all runs, too; all of them are in memory at once.")
@click.option(
    "--drafting", is_flag=True, help="Instead: what each run is worth as the draft of each other; all are in memory."
)
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
def main(runs: tuple[Path, ...], data: tuple[str, ...], mixture: bool, drafting: bool, in_json: bool) -> None:
    """Score every run on one held-out text, beside what compressors need for it.

    Of a folder with runs of several texts, those of the text that most of them were trained on are shown: --runs names
    others, and --data one text for all. Runs that differ in their seed alone are one row. Scores have 95 % intervals,
    and so has the difference of each row to the one above it, paired on the same parts of the text; --json tells all
    figures.

    With --drafting nothing is scored: every run writes on from its held-out text, or where that is gone from beginnings
    of its own, greedily, with every run and with the text itself (prompt) as its draft. The table tells the share of
    drafted tokens that were accepted, and how many times as many tokens a second came as without a draft. The runs
    must have one tokenizer; their texts may differ.
    """
    from mlx_gpt import checkpoint, stages
    from mlx_gpt.corpus import units
    from mlx_gpt.device import description, pick_device
    from mlx_gpt.errors import SettingError
    from mlx_gpt.heldout import Shared
    from mlx_gpt.league import Entry, legend, rows, table
    from mlx_gpt.measure import measure
    from mlx_gpt.mixture import mixed
    from mlx_gpt.roster import gaps, roster

    if drafting and mixture:
        raise SettingError("--drafting: measures runs alone; drop it or --mixture")
    pick_device()
    found = roster(runs, data, any_text=drafting)
    cards = found.cards
    texts = Shared(data, cards.values(), notice)

    def entry(run: Path, trained: Checkpoint) -> Entry:
        text, context = texts.of(trained), trained.model.memory().room
        score = measure(trained.model, text, units=units(text, trained.tokenizer))
        return Entry(str(run), trained.stage.number, trained.stage.name, trained.card, context, score)

    if drafting:
        for said in gaps(found.left_out):
            notice(said)
        return _drafting([checkpoint.load(folder) for folder in cards], data, in_json)
    lines: dict[str, float] = {}
    entries: list[Entry] = []
    members: list[Checkpoint] = []  # of the mixture
    least, resampled = None, ""
    for folder, trained in found.loaded(
        cards, lambda number, run: passing(f"scoring {number} of {len(cards)}: {run.name}")
    ):
        entries.append(entry(folder, trained))
        members += [trained] if mixture else []
        if not lines:
            resampled = str(units(texts.of(trained), trained.tokenizer))
            lines, least = texts.free(trained)
    told = rows(entries, least)
    if mixture:
        told = rows([*entries, entry(found.folder, mixed(members, one_text=not data))], least)
    passing("")
    missing = [number for number in stages.numbers() if number not in {row["stage"] for row in told}]
    if in_json:
        shown = {"device": description(), "reference_lines": lines, "runs": told, "resampled": resampled}
        click.echo(as_json(shown | {"missing_stages": missing, "left_out": found.left_out}))
        return
    click.echo(f"{told[0]['bytes']:,} bytes held out; {description()}\n")
    click.echo("\n".join([*table(told, lines), "", *legend(told, resampled)]))
    for said in gaps(found.left_out):
        notice(said)
    if missing:
        click.echo(f"missing: stage {', '.join(map(str, missing))}")


def _drafting(runs: list[Checkpoint], data: tuple[str, ...], in_json: bool) -> None:
    """Measure every run as the draft of every other, and print that. Raises TokenizerError where two tokenizers are."""
    from mlx_gpt.acceptance import WRITTEN, pairs
    from mlx_gpt.device import description
    from mlx_gpt.errors import TokenizerError

    runs = sorted(runs, key=lambda run: (run.stage.number, str(run.path)))
    for run in runs[1:]:
        if not run.tokenizer.agrees(runs[0].tokenizer):
            raise TokenizerError(
                f"{runs[0].path} and {run.path}: different tokenizers; drafts need one, so put such runs apart"
            )
    prompts = _prompts(runs, data)
    found: list[tuple[str, str, Worth]] = []
    for pair in pairs({_name(run): run.model for run in runs}, prompts, WRITTEN):
        found.append(pair)
        passing(f"{len(found)} of {len(runs) * (len(runs) + 1)}: {pair[1]} for {pair[0]}")
    passing("")
    if in_json:
        rows = [{"target": target, "draft": draft, **worth.facts()} for target, draft, worth in found]
        click.echo(as_json({"device": description(), "drafting": rows}))
        return
    click.echo(f"greedy, {max(map(len, prompts.values()))} texts of {WRITTEN} tokens each; {description()}\n")
    click.echo("\n".join(drafting_table(found)))
    ties = sum(worth.ties for _, _, worth in found)
    if ties:
        click.echo(f"\n{ties} texts part where two tokens are as likely, within rounding; the others are the same")


def _prompts(runs: list[Checkpoint], data: tuple[str, ...]) -> dict[str, list[list[int]]]:
    """What each run writes on from, by its name. Raises DataError for `data` that holds no text."""
    from mlx_gpt.acceptance import beginnings, own_beginnings
    from mlx_gpt.errors import DataError
    from mlx_gpt.heldout import held_out

    if data:
        return dict.fromkeys(map(_name, runs), beginnings(held_out(runs[0], data, notice)))
    found = {}
    for run in runs:
        try:
            found[_name(run)] = beginnings(held_out(run, (), notice))
        except DataError:
            notice(f"{_name(run)}: its text is gone or not known, so it writes on from beginnings of its own")
            found[_name(run)] = own_beginnings(run.model, run.tokenizer.eot)
    return found


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


if __name__ == "__main__":
    main()
