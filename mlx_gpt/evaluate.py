"""Score a trained stage on held-out text: python -m mlx_gpt.evaluate --stage 11"""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from mlx_gpt.door import Door, cache_kind, mixed_runs, notice, which_run


@click.command(cls=Door)
@which_run
@mixed_runs
@cache_kind
@click.option("--data", multiple=True, metavar="PATH...", help="Text to score instead of the run's held-out split.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    stage: int | None,
    run: Path | None,
    mix: tuple[Path, ...],
    keep_first: int | None,
    cache_bits: str | None,
    data: tuple[str, ...],
    as_json: bool,
) -> None:
    """Bits per raw UTF-8 byte of a held-out text, and token perplexity.

    Every byte is scored once, and so is the end of every document. Each document is read on its own from the
    end-of-text mark before it. A stage with a limited context reads overlapping windows: when one is full, its
    last half is read again and the next half window is scored; with --keep-first the window moves on instead.

    \b
    python -m mlx_gpt.evaluate --stage 4
    python -m mlx_gpt.evaluate --run runs/11-m2-gpt --data my_text.txt --json
    python -m mlx_gpt.evaluate --mix runs/04-ngram-backoff --mix runs/11-m2-gpt
    """
    from mlx_gpt.cached import cached
    from mlx_gpt.device import pick_device
    from mlx_gpt.heldout import held_out
    from mlx_gpt.measure import measure
    from mlx_gpt.mixture import chosen

    pick_device()
    trained = chosen(stage, run, mix, one_text=True)
    model = cached(trained.model, keep_first, int(cache_bits) if cache_bits else None)
    text = held_out(trained, data, notice)
    score = measure(model, text)
    if as_json:
        context = model.memory().room
        told = {
            "stage": trained.stage.number,
            "name": trained.stage.name,
            "bits_per_byte": score.bits_per_byte,
            "perplexity": score.perplexity,
            "tokens": score.tokens,
            "bytes": score.bytes,
            "documents": len(text),
            "seconds": score.seconds,
            "tokens_per_second": score.tokens_per_second,
            "context": context,
            "context_rule": "whole document" if context is None else "half-overlapping windows",
        }
        finite = {name: None if value in (math.inf, -math.inf) else value for name, value in told.items()}
        click.echo(json.dumps(finite))
        return
    click.echo(f"stage {trained.stage.number} {trained.stage.name}: {trained.stage.title}")
    click.echo(f"{score.bits_per_byte:.4f} bits per byte over {score.bytes:,} bytes in {len(text):,} documents")
    click.echo(
        f"{score.perplexity:.2f} perplexity over {score.tokens:,} tokens, {score.tokens_per_second:,.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
