"""Get back what python -m mlx_gpt.compress was given: python -m mlx_gpt.decompress notes.mgz -o notes.txt --stage 4"""

from __future__ import annotations

import time
from pathlib import Path

import click

from mlx_gpt.door import Countdown, Door, mixed_runs, notice, one_to_another, read_whole, which_run, write_whole


@click.command(cls=Door)
@one_to_another
@which_run
@mixed_runs
def main(file: str, out: str, stage: int | None, run: Path | None, mix: tuple[Path, ...]) -> None:
    """Write what was compressed to FILE (- is standard input), to the byte, with the model that compressed it.

    Another model or tokenizer is refused, and nothing is written that the checksum does not prove.

    \b
    python -m mlx_gpt.decompress notes.mgz -o notes.txt --stage 4
    python -m mlx_gpt.decompress notes.mgz -o notes.txt --mix runs/04-ngram-backoff --mix runs/11-m2-gpt
    """
    from mlx_gpt.compression import decompress, elsewhere, opened, read_header
    from mlx_gpt.device import pick_device
    from mlx_gpt.errors import MlxGptError

    data = read_whole(file, out)
    pick_device()
    codec = opened(stage, run, mix)
    started = time.perf_counter()
    try:
        header = read_header(data)
        if other := elsewhere(header):
            notice(f"{file}: {other}")
        with Countdown(header.length) as countdown:
            raw = decompress(codec, data, countdown)
    except MlxGptError as error:
        raise type(error)(f"{file}: {error}") from error
    seconds = time.perf_counter() - started
    write_whole(out, raw)
    click.echo(f"{len(data):,} -> {len(raw):,} bytes, its SHA-256 as it was, {seconds:,.1f} s", err=out == "-")


if __name__ == "__main__":
    main()
