"""Score a trained stage on held-out text: python -m mlx_gpt.evaluate --stage 11"""

from __future__ import annotations

import math
from pathlib import Path

import click

from mlx_gpt.door import Door, as_json, cache_kind, counted, mixed_runs, notice, which_run


@click.command(cls=Door)
@which_run
@mixed_runs
@cache_kind
@click.option("--data", multiple=True, metavar="PATH...", help="Text to score instead of the run's held-out split.")
@click.option("--documents", "by_document", is_flag=True, help="With the nats and bytes of each document.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
def main(
    stage: int | None,
    run: Path | None,
    mix: tuple[Path, ...],
    keep_first: int | None,
    cache_bits: int | None,
    data: tuple[str, ...],
    by_document: bool,
    in_json: bool,
) -> None:
    """Bits per raw UTF-8 byte of a held-out text, and token perplexity.

    Every byte is scored once, and so is the end of every document. Each document is read on its own from the
    end-of-text mark before it. A stage with a limited context reads overlapping windows: when one is full, its
    last half is read again and the next half window is scored. Behind ± is the half width of a 95 % interval, from a
    bootstrap over documents, or over blocks of the text where documents are fewer than 20.

    \b
    python -m mlx_gpt.evaluate --stage 4
    python -m mlx_gpt.evaluate --run runs/11-m2-gpt --data my_text.txt --json
    python -m mlx_gpt.evaluate --mix runs/04-ngram-backoff --mix runs/11-m2-gpt
    """
    from mlx_gpt.cached import cached
    from mlx_gpt.corpus import units
    from mlx_gpt.device import pick_device
    from mlx_gpt.heldout import held_out
    from mlx_gpt.league import context_rule
    from mlx_gpt.measure import measure
    from mlx_gpt.mixture import chosen

    pick_device()
    trained = chosen(stage, run, mix, one_text=True)
    model = cached(trained.model, keep_first, cache_bits)
    text = held_out(trained, data, notice)
    parts, context = units(text, trained.tokenizer), model.memory().room
    score = measure(model, text, units=parts)
    found, rule = score.estimate(), context_rule(context, trained.stage.number)
    nats = parts.by_document(score.nats, text)
    if in_json:
        told = {
            "stage": trained.stage.number,
            "name": trained.stage.name,
            "bits_per_byte": score.bits_per_byte,
            "margin": found and found.margin,
            "standard_error": found and found.error,
            "resampled": str(parts),
            "perplexity": score.perplexity,
            "tokens": score.tokens,
            "bytes": score.bytes,
            "documents": len(text),
            "seconds": score.seconds,
            "tokens_per_second": score.tokens_per_second,
            "context": context,
            "context_rule": rule,
        }
        if by_document:
            told |= {"nats_by_document": nats.tolist(), "bytes_by_document": text.sizes.tolist()}
        click.echo(as_json(told))
        return
    margin, over = "", "too little text for an interval"
    if found and math.isfinite(found.margin):
        margin, over = f" ± {found.margin:.4f}", f"95 %, bootstrap over {parts}"
    click.echo(f"stage {trained.stage.number} {trained.stage.name}: {trained.stage.title}")
    click.echo(f"{score.bits_per_byte:.4f}{margin} bits per byte ({over})")
    click.echo(
        f"{score.bytes:,} bytes in {counted(len(text), 'document')}, each byte once; {rule}"
        + ("" if context is None else f" of {context:,} tokens")
    )
    click.echo(
        f"{score.perplexity:.2f} perplexity over {score.tokens:,} tokens, {score.tokens_per_second:,.0f} tokens/s"
    )
    for place, (cost, size) in enumerate(zip(nats, text.sizes, strict=True)) if by_document else ():
        click.echo(f"document {place + 1:,}: {cost:.4f} nats, {size:,} bytes")


if __name__ == "__main__":
    main()
