"""Write text with a trained stage: python -m mlx_gpt.generate --stage 11"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from mlx_gpt.door import Door, mixed_runs, setting_options, which_run


class GenerateDoor(Door):
    """The door's own options and those of sampling.Taste."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from mlx_gpt.sampling import Taste

        *own, help_option = super().get_params(ctx)
        return [*own, *setting_options(Taste()), help_option]


@click.command(cls=GenerateDoor)
@which_run
@mixed_runs
@click.option("--prompt", default="", help="The text to go on from; - reads it from standard input.")
@click.option("--tokens", type=click.IntRange(1), default=256, show_default=True, help="The most tokens to write.")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="How many texts to write.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="The same seed, the same text.",
)
def main(
    stage: int | None,
    run: Path | None,
    mix: tuple[Path, ...],
    prompt: str,
    tokens: int,
    samples: int,
    seed: int,
    **taste: float,
) -> None:
    """Write text with a trained stage, token by token, until it ends its text or --tokens are written.

    Without --prompt it begins a new text.

    \b
    python -m mlx_gpt.generate --stage 11 --prompt "Once upon a time" --temperature 0.7
    python -m mlx_gpt.generate --run runs/04-ngram-backoff --samples 3 --top-p 0.9
    """
    from mlx_gpt.device import pick_device
    from mlx_gpt.mixture import chosen
    from mlx_gpt.sampling import Taste, generate, stream

    wanted = dataclasses.replace(Taste(), **taste)  # type: ignore[arg-type]
    pick_device()
    trained = chosen(stage, run, mix)
    text = sys.stdin.read() if prompt == "-" else prompt
    ids = [trained.tokenizer.eot, *trained.tokenizer.encode(text)]
    for sample in range(samples):
        if samples > 1:
            click.secho(f"--- sample {sample + 1} of {samples}, seed {seed + sample}", dim=True)
        click.echo(text, nl=False)
        for piece in stream(generate(trained.model, ids, wanted, seed + sample), trained.tokenizer, tokens):
            click.echo(piece, nl=False)
            sys.stdout.flush()
        click.echo()


if __name__ == "__main__":
    main()
