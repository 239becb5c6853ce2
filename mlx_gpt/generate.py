"""Write text with a trained stage: python -m mlx_gpt.generate --stage 11"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from mlx_gpt.door import Door, mixed_runs, setting_options, which_run
from mlx_gpt.errors import DataError, SettingError

TOGETHER = 16  # samples written side by side


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
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Keep what is remembered of the prompt in this file, or go on from what it holds.",
)
@click.option("--stop", "stops", multiple=True, help="End the text before this string; may be given more than once.")
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
    cache: Path | None,
    stops: tuple[str, ...],
    tokens: int,
    samples: int,
    seed: int,
    **taste: float | str,
) -> None:
    """Write text with a trained stage, token by token, until it ends its text, --tokens are written or a --stop comes.

    Without --prompt it begins a new text.

    \b
    python -m mlx_gpt.generate --stage 11 --prompt "Once upon a time" --temperature 0.7
    python -m mlx_gpt.generate --run runs/04-ngram-backoff --samples 3 --top-p 0.9
    python -m mlx_gpt.generate --stage 6 --prompt - --cache long.safetensors < long.txt
    """
    from mlx_gpt import safetensors
    from mlx_gpt.decoding import Batch, read, streams
    from mlx_gpt.device import pick_device
    from mlx_gpt.mixture import chosen
    from mlx_gpt.prompt_cache import remembered
    from mlx_gpt.sampling import Taste

    if "" in stops:
        raise SettingError("--stop '': every text holds it; name the letters that end the text")
    if mix and cache is not None:
        raise SettingError(f"--cache {cache}: keeps the memory of one model, not of a mixture; drop it")
    wanted = dataclasses.replace(Taste(), **taste)  # type: ignore[arg-type]
    pick_device()
    trained = chosen(stage, run, mix)
    text = _standard_input() if prompt == "-" else prompt
    ids = [trained.tokenizer.eot, *trained.tokenizer.encode(text)]
    unknown = 0 if trained.tokenizer.unknown is None else ids.count(trained.tokenizer.unknown)
    if unknown:
        _notice(f"{unknown:,} words of the prompt are not in this model's vocabulary")
    if cache is None:
        reading = read(trained.model, ids)
    else:
        reading = remembered(cache, trained.model, safetensors.digest(trained.path), ids, _notice)
    together = 1 if mix else TOGETHER
    for first in range(0, samples, together):
        batch = Batch(trained.model, wanted)
        for sample in range(first, min(first + together, samples)):
            batch.add(ids, seed + sample, reading)
        for sample, pieces in enumerate(streams(batch, trained.tokenizer, tokens, stops), first):
            if samples > 1:
                click.secho(f"--- sample {sample + 1} of {samples}, seed {seed + sample}", dim=True)
            click.echo(text, nl=False)
            for piece in pieces:
                click.echo(piece, nl=False)
                sys.stdout.flush()
            click.echo()


def _standard_input() -> str:
    """All of standard input. Raises DataError where it is no UTF-8."""
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"--prompt -: standard input is not UTF-8 text (at byte {error.start:,})") from error


def _notice(message: str) -> None:
    click.echo(message, err=True)


if __name__ == "__main__":
    main()
