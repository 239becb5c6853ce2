"""Write text with a trained stage: python -m mlx_gpt.generate --stage 11"""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gpt.door import Door, mixed_runs, setting_options, which_run
from mlx_gpt.errors import DataError, SettingError

if TYPE_CHECKING:
    from mlx_gpt.checkpoint import Checkpoint
    from mlx_gpt.drafting import Draft
    from mlx_gpt.sampling import Taste

TOGETHER = 16  # samples written side by side
PROMPT = "prompt"  # the draft that is no model


class GenerateDoor(Door):
    """The door's own options and those of sampling.Taste."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from mlx_gpt.sampling import Taste

        *own, help_option = super().get_params(ctx)
        return [*own, *setting_options(Taste()), help_option]


@click.command(cls=GenerateDoor)
@which_run
@mixed_runs
@click.option("--interactive", is_flag=True, help="Take prompts line by line; /help in it tells what else it takes.")
@click.option("--prompt", default="", help="The text to go on from; - reads it from standard input.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Keep what is remembered of the prompt in this file, or go on from what it holds.",
)
@click.option(
    "--draft",
    "drafts",
    multiple=True,
    metavar="DIR|prompt",
    help="A cheaper run of the same tokenizer, or the text itself, guesses ahead: same law, same greedy text. Of "
    "several, the strongest first and the cheapest last, each drafts for the one before it.",
)
@click.option("--show-probabilities", is_flag=True, help="Colour the text by its surprise once it is written.")
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
    interactive: bool,
    prompt: str,
    cache: Path | None,
    drafts: tuple[str, ...],
    show_probabilities: bool,
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
    python -m mlx_gpt.generate --stage 11 --draft runs/04-ngram-backoff --temperature 0
    python -m mlx_gpt.generate --stage 6 --prompt - --cache long.safetensors < long.txt
    """
    from mlx_gpt import safetensors
    from mlx_gpt.decoding import Batch, read, stream, streams
    from mlx_gpt.device import pick_device
    from mlx_gpt.interactive import Session
    from mlx_gpt.mixture import chosen
    from mlx_gpt.prompt_cache import remembered
    from mlx_gpt.sampling import Taste

    if "" in stops:
        raise SettingError("--stop '': every text holds it; name the letters that end the text")
    if cache is not None and (mix or drafts):
        raise SettingError(f"--cache {cache}: keeps the memory of one model alone; drop it, or --mix and --draft")
    if show_probabilities and stops:
        raise SettingError("--show-probabilities with --stop: the text is coloured token by token; drop one of them")
    if interactive and (prompt == "-" or cache or drafts or show_probabilities or samples > 1):
        raise SettingError(
            "--interactive: writes text by text; drop --cache, --draft, --samples, --show-probabilities and --prompt -"
        )
    wanted = dataclasses.replace(Taste(), **taste)  # type: ignore[arg-type]
    pick_device()
    trained = chosen(stage, run, mix)
    if interactive:
        return Session(trained, wanted, seed, tokens, stops).run(prompt)
    text = _standard_input() if prompt == "-" else prompt
    ids = [trained.tokenizer.eot, *trained.tokenizer.encode(text)]
    unknown = trained.tokenizer.unknown_in(ids)
    if unknown:
        _notice(f"{unknown:,} words of the prompt are not in this model's vocabulary")
    if drafts or show_probabilities:
        propose = _proposer(trained, drafts, wanted) if drafts else None
        for sample in range(samples):
            _heading(sample, samples, seed)
            source = _tokens(trained, propose, ids, wanted, seed + sample)
            if show_probabilities:
                _coloured(trained, ids, list(_until(source, trained.tokenizer.eot, tokens)))
            else:
                _echo(text, stream(source, trained.tokenizer, tokens, stops))
        return
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
            _heading(sample, samples, seed)
            _echo(text, pieces)


def _heading(sample: int, samples: int, seed: int) -> None:
    if samples > 1:
        click.secho(f"--- sample {sample + 1} of {samples}, seed {seed + sample}", dim=True)


def _echo(text: str, pieces: Iterator[str]) -> None:
    click.echo(text, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
        sys.stdout.flush()
    click.echo()


def _proposer(trained: Checkpoint, drafts: Sequence[str], taste: Taste) -> Callable[[], Draft]:
    """What makes the drafts of a text, each for the one before it, loaded once for all texts."""
    from mlx_gpt.checkpoint import load, run_folder
    from mlx_gpt.drafting import Lookup, Model
    from mlx_gpt.errors import TokenizerError

    if PROMPT in drafts[:-1]:
        raise SettingError(f"--draft {PROMPT}: nothing drafts for the text itself; name it last")
    others = [load(run_folder(None, Path(draft))) for draft in drafts if draft != PROMPT]
    for other in others:
        if not other.tokenizer.agrees(trained.tokenizer):
            raise TokenizerError(f"--draft {other.path}: another tokenizer than {trained.path}; a draft needs the same")

    def propose() -> Draft:
        draft: Draft | None = Lookup(trained.model.vocab_size) if drafts[-1] == PROMPT else None
        for other in reversed(others):
            draft = Model(other.model, taste, draft)
        assert draft is not None
        return draft

    return propose


def _tokens(
    trained: Checkpoint, propose: Callable[[], Draft] | None, ids: Sequence[int], taste: Taste, seed: int
) -> Iterator[int]:
    """What follows ids, drafted where that is asked for."""
    from mlx_gpt.decoding import generate
    from mlx_gpt.drafting import Tally, drafted

    if propose is None:
        yield from generate(trained.model, ids, taste, seed)
        return
    tally = Tally()
    try:
        yield from drafted(trained.model, propose(), ids, taste, seed, tally)
    finally:
        _notice(
            f"drafted: {tally.accepted:,} of {tally.proposed:,} tokens accepted, "
            f"{tally.tokens_per_round:.2f} tokens a pass"
        )


def _until(tokens: Iterator[int], end: int, most: int) -> Iterator[int]:
    for token in itertools.islice(tokens, most):
        if token == end:
            return
        yield token


def _coloured(trained: Checkpoint, ids: Sequence[int], written: Sequence[int]) -> None:
    """Prompt and text, each token in the colour of what the model itself gave it, whatever the taste made of that."""
    import mlx.core as mx

    from mlx_gpt.endless import Endless
    from mlx_gpt.surprise import coloured, legend, wants_colour

    decoder, colour = codecs.getincrementaldecoder("utf-8")(errors="replace"), wants_colour(sys.stdout)
    shown = [*ids[1:], *written]
    pieces = [decoder.decode(trained.tokenizer.decode_bytes([token])) for token in shown]
    scores: list[list[float]] = Endless(trained.model).score(mx.array([[*ids, *written]])).tolist()  # type: ignore[assignment]
    bits = [-score / math.log(2) for score in scores[0]]
    if colour:
        _notice(legend(colour))
    click.echo(coloured(pieces, bits, colour) + decoder.decode(b"", final=True))
    mean = sum(bits[len(ids) - 1 :]) / max(1, len(written))
    _notice(f"{mean:.2f} bits a token of what was written")


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
