"""The ladders of several texts in one table and one picture: python -m mlx_gpt.across"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import click

from mlx_gpt.door import Door, notice


@click.command(cls=Door)
@click.argument("ladders", type=click.Path(path_type=Path))
@click.option(
    "--add", multiple=True, nargs=2, metavar="NAME FOLDER", help="A text and where its report is; may be repeated."
)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw them there, too (.svg or .png; matplotlib).")
def main(ladders: Path, add: tuple[tuple[str, str], ...], picture: Path | None) -> None:
    """Print the bits per byte of every stage on several texts as a Markdown table.

    LADDERS is a small JSON file that keeps what the table is made of. With --add the league table of a report
    (results.json, as python -m mlx_gpt.report writes it) goes into it, in the place of an earlier one of that name.

    \b
    python -m mlx_gpt.across ladders.json --add "Tiny Shakespeare" runs/shakespeare --picture ladders.svg
    """
    from mlx_gpt.errors import SettingError
    from mlx_gpt.replacing import replacing
    from mlx_gpt.reporting import RESULTS
    from mlx_gpt.reporting.across import KINDS, draw, league, read, table

    if picture is not None and picture.suffix not in KINDS:
        raise SettingError(f"--picture {picture}: name a file that ends in {' or '.join(KINDS)}")
    if picture is not None and importlib.util.find_spec("matplotlib") is None:
        raise SettingError(f"--picture {picture}: needs matplotlib; pip install 'mlx-gpt[plots]', or leave it out")
    told = read(ladders)
    for name, folder in add:
        told["texts"][name] = league(Path(folder) / RESULTS)
    if not told["texts"]:
        raise SettingError(f"{ladders}: no ladder in it yet; --add NAME FOLDER puts one there")
    if add:
        with replacing(ladders) as file:
            file.write((json.dumps(told, indent=1) + "\n").encode())
    click.echo(table(told["texts"]))
    if picture is not None:
        draw(told["texts"], picture)
        notice(f"drawn: {picture}")


if __name__ == "__main__":
    main()
