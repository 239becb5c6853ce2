"""Add up files of counts: python -m mlx_gpt.merge 1.counts 2.counts -o whole.counts"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_gpt.door import Door


@click.command(cls=Door)
@click.argument("parts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="The file of counts to write.")
def main(parts: tuple[Path, ...], out: Path) -> None:
    """Add up what python -m mlx_gpt.count wrote; any order of the shards gives the same sum.

    Several texts, too, add up: their counts together are those of one text that holds them all.
    """
    from mlx_gpt.corpus import cache_folder
    from mlx_gpt.counting.columns import Shelf, sweep
    from mlx_gpt.counting.record import merge_counts

    cache_folder().mkdir(parents=True, exist_ok=True)
    sweep(cache_folder())
    with Shelf(cache_folder()) as shelf:
        whole = merge_counts(parts, out, shelf)
        rows = ", ".join(f"{len(order.tokens):,}" for order in whole.orders)
        click.echo(f"{out}: {whole.tokens:,} tokens; n-grams by order: {rows}")


if __name__ == "__main__":
    main()
