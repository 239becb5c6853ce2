"""Compress any file with a trained model: python -m mlx_gpt.compress notes.txt -o notes.mgz --stage 4"""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gpt.door import Countdown, Door, counted, mixed_runs, one_to_another, read_whole, which_run, write_whole

if TYPE_CHECKING:
    from mlx_gpt.compression import Compressed

STREAMS = 32
EXPLAINED = 0.01  # share by which a file may differ from what the model says without a word


@click.command(cls=Door)
@one_to_another
@which_run
@mixed_runs
@click.option(
    "--streams",
    type=click.IntRange(1, 255),
    default=STREAMS,
    show_default=True,
    help="Documents coded side by side: more are sooner and take more memory, now and when decompressed.",
)
def main(file: str, out: str, stage: int | None, run: Path | None, mix: tuple[Path, ...], streams: int) -> None:
    """Write FILE (- is standard input) in as many bits as a model says it holds, and say so.

    Any file comes back to the byte, from python -m mlx_gpt.decompress with the same model, on the same machine with
    the same MLX: elsewhere probabilities may differ in their last bits, and then it is refused, not wrong. A document
    is what stands between lines of <|endoftext|>, as when texts are scored.

    \b
    python -m mlx_gpt.compress notes.txt -o notes.mgz --stage 4
    python -m mlx_gpt.compress notes.txt -o notes.mgz --mix runs/04-ngram-backoff --mix runs/11-m2-gpt
    """
    from mlx_gpt.compression import compress, opened
    from mlx_gpt.device import pick_device

    raw = read_whole(file, out)
    pick_device()
    codec = opened(stage, run, mix)
    started = time.perf_counter()
    with Countdown(len(raw)) as countdown:
        made = compress(codec, raw, streams, countdown)
    seconds = time.perf_counter() - started
    write_whole(out, made.data)
    to_stderr = out == "-"
    click.echo("\n".join(_told(raw, made, seconds)), err=to_stderr)
    if not to_stderr:
        named = f"--stage {stage}" if stage is not None else f"--run {shlex.quote(str(run))}"
        named = " ".join(f"--mix {shlex.quote(str(folder))}" for folder in mix) or named
        click.echo(f"\npython -m mlx_gpt.decompress {shlex.quote(out)} {named} -o FILE")


def _told(raw: bytes, made: Compressed, seconds: float) -> list[str]:
    from mlx_gpt.heldout import reference_lines

    size, documents, tokens = len(made.data), counted(made.documents, "document"), f"{made.tokens:,} tokens"
    lines = [f"{len(raw):,} bytes in {documents}, {tokens} -> {size:,} bytes, {made.tokens / seconds:,.0f} tokens/s"]
    if not made.document_bytes:
        return lines
    table = {"on disk": 8 * size / len(raw)}
    known = reference_lines([raw])
    table |= {name: known[name] for name in ("gzip -9", "xz -9")}
    lines += [f"{name:<12}{bits:>9.4f} bits per byte" for name, bits in table.items()]
    spent, said = 8 * size / made.document_bytes, made.model_bits / made.document_bytes
    lines.append(
        f"by the bytes of the documents alone {spent:.4f}, where the model says {said:.4f}: "
        f"{100 * (spent / said - 1):+.2f} %, with a header of {made.header} bytes"
    )
    return lines + _why(size, made.header, made.model_bits / 8)


def _why(size: int, header: int, said: float) -> list[str]:
    """A line on what makes a file of `size` bytes differ from the bytes that the model says, or none."""
    if abs(size / said - 1) <= EXPLAINED:
        return []
    if size < said:
        what = "smaller: where text is foreign to the model, a byte is coded by how often it came before, too"
    elif abs((size - header) / said - 1) <= EXPLAINED:
        what = "larger: by the header, which weighs little in a larger file"
    else:
        what = "larger: by the header, and by the room that every token leaves for bytes foreign to the model"
    return [what]


if __name__ == "__main__":
    main()
