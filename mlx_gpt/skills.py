"""What every run can do, skill by skill: python -m mlx_gpt.skills"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlx_gpt.door import Door, as_json, notice, passing, shown_runs


@click.command(cls=Door)
@shown_runs
@click.option("--data", multiple=True, metavar="PATH...", help="Take passages from this text, not the held-out.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
def main(runs: tuple[Path, ...], data: tuple[str, ...], in_json: bool) -> None:
    """Ask every run in a folder what it can do: stages by skills, with 95 % intervals.

    Probes are twins of texts that differ in one word that decides, with a right and a wrong way to go on: agreement,
    copying, recall over distance, quotes. They are made of frequent words of the training text and of held-out
    passages, by a fixed seed. 0 is chance: so read what a stage cannot see, and what its text never taught.

    Runs of the built-in stories tell besides how many bits they pay above the exact floor, by what has to be
    remembered and by how far back it was said.
    """
    from mlx_gpt.device import description, pick_device
    from mlx_gpt.heldout import Shared
    from mlx_gpt.probes import Asking, legend, table
    from mlx_gpt.roster import gaps, roster

    pick_device()
    found = roster(runs, data)
    cards = found.cards
    texts, asking = Shared(data, cards.values(), notice), Asking(notice)
    told: dict[str, dict[str, Any]] = {}
    order = sorted(cards, key=lambda folder: (cards[folder].stage, folder.name))
    for folder, trained in found.loaded(
        order, lambda number, run: passing(f"asking {number} of {len(cards)}: {run.name}")
    ):
        about = {"stage": trained.stage.number, "name": trained.stage.name}
        told[folder.name] = about | asking.ask(trained, texts.of(trained), own=not data)
    passing("")
    if in_json:
        click.echo(as_json({"device": description(), "runs": told, "left_out": found.left_out}))
        return
    click.echo("\n".join([*table(told), "", *legend(told)]))
    for said in gaps(found.left_out):
        notice(said)


if __name__ == "__main__":
    main()
