"""Everything known of a ladder of runs as a page to open and to pass on: python -m mlx_gpt.report"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click

from mlx_gpt.door import Door, as_json, notice, passing, shown_runs

SEEDS = 4


@click.command(cls=Door)
@shown_runs
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder to write to.  [default: that of --runs]")
@click.option("--data", multiple=True, metavar="PATH...", help="Text to score instead of the runs' held-out split.")
@click.option("--prompt", "prompts", multiple=True, help="A beginning of samples; may be given more than once.")
@click.option("--tokens", type=click.IntRange(1), default=256, show_default=True, help="The most tokens of a sample.")
@click.option("--no-text", is_flag=True, help="Figures alone, to be published where the text is not yours.")
def main(
    runs: tuple[Path, ...],
    output: Path | None,
    data: tuple[str, ...],
    prompts: tuple[str, ...],
    tokens: int,
    no_text: bool,
) -> None:
    """Write report.html, report.md and results.json of all runs in a folder.

    The page shows the league table, the ladder, learning curves, the best stage for a given time, size or speed and
    where one passes another, where the bits went, by what makes a token dear and by place in the document, what each
    stage can do, one passage in the colours of its surprise, samples of the same prompts and seeds, and what of them is
    copied from the training text. It is one file that asks no network for anything. Stages that are missing and runs
    that are left out are named: those that cannot be read, and those of another text than most have, unless --runs
    names them. What the results.json there, or beside the runs, already knows of a model is not computed again.

    With --no-text nothing in the three files is of the held-out or training text, or was written by a model: no
    passage, prompt, sample or word; the names of the text's files stay.

    \b
    python -m mlx_gpt.report
    python -m mlx_gpt.report --no-text --output published
    python -m mlx_gpt.report --runs runs --data other.txt --output other --prompt "Once upon a time"
    """
    from mlx_gpt.device import pick_device
    from mlx_gpt.errors import CheckpointError, SettingError
    from mlx_gpt.folder import made
    from mlx_gpt.reporting import MARKDOWN, PAGE, RESULTS, kept
    from mlx_gpt.reporting.asked import Asked
    from mlx_gpt.reporting.collect import Collector
    from mlx_gpt.reporting.markdown import markdown
    from mlx_gpt.reporting.page import page
    from mlx_gpt.reporting.textless import without_text
    from mlx_gpt.roster import are_runs, gaps
    from mlx_gpt.sampling import Taste

    if output is None and are_runs(runs):
        raise SettingError("--output DIR is missing: where to write the report of runs that are named")
    folder = runs[0] if output is None else output
    earlier = kept.read(folder / RESULTS, notice, no_text)
    pick_device()
    collector = Collector(runs, data, Asked(prompts, tuple(range(SEEDS)), tokens, Taste()), notice)
    if no_text or not earlier:  # then what stands beside the runs themselves, wherever this report goes
        earlier = kept.known(collector.folder / RESULTS) or earlier
    shown = without_text if no_text else dict
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made(folder))
        except OSError as error:
            raise CheckpointError(f"--output {folder}: cannot be written ({error.strerror}); name another") from error
        told = collector.collect(earlier, passing, lambda told: kept.write(folder / RESULTS, as_json(shown(told))))
        passing("")
        text = as_json(shown(told))
        told = json.loads(text)  # the pages show what the file says, where what is infinite is null
        kept.write(folder / RESULTS, text)
        kept.write(folder / MARKDOWN, markdown(told))
        kept.write(folder / PAGE, page(told))
    if told["missing_stages"]:
        notice(f"missing: stage {', '.join(map(str, told['missing_stages']))}")
    for said in gaps(told["left_out"]):
        notice(said)
    for name in (PAGE, MARKDOWN, RESULTS):
        click.echo(folder / name)


if __name__ == "__main__":
    main()
