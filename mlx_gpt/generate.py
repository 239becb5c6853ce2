"""Write text with a trained stage: python -m mlx_gpt.generate --stage 11"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mlx_gpt.door import TasteDoor, as_json, cache_kind, mixed_runs, which_run
from mlx_gpt.errors import DataError, SettingError

if TYPE_CHECKING:
    from mlx_gpt.checkpoint import Checkpoint
    from mlx_gpt.completion import Text
    from mlx_gpt.decoding import Reading, Writer
    from mlx_gpt.drafting import Draft
    from mlx_gpt.sampling import Taste

TOGETHER = 16  # samples written side by side


@click.command(cls=TasteDoor)
@which_run
@mixed_runs
@click.option("--interactive", is_flag=True, help="Take prompts line by line; /help in it tells what else it takes.")
@click.option("--prompt", default="", help="The text to go on from; - reads it from standard input.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Keep what is remembered of the prompt in this file, or go on from what it holds.",
)
@cache_kind
@click.option(
    "--draft",
    "drafts",
    multiple=True,
    metavar="DIR|prompt",
    help="A cheaper run of the same tokenizer, or the text itself, guesses ahead: same law, same greedy text. Of "
    "several, the strongest first and the cheapest last, each drafts for the one before it.",
)
@click.option("--beam", type=click.IntRange(1, 1_000), metavar="N", help="Search for the likeliest texts, N at a time.")
@click.option(
    "--length-penalty",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    help="Of --beam: 0 ranks texts by their log-probability, more prefers longer ones.",
)
@click.option("--json", "in_json", is_flag=True, help="Print a text as one JSON object, with all log-probabilities.")
@click.option(
    "--alternatives",
    type=click.IntRange(0),
    metavar="K",
    help="Tell each token's probability, and those of the K likeliest ones in its place.",
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
    keep_first: int | None,
    cache_bits: int | None,
    drafts: tuple[str, ...],
    beam: int | None,
    length_penalty: float,
    in_json: bool,
    alternatives: int | None,
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
    python -m mlx_gpt.generate --stage 11 --prompt "The" --beam 8 --samples 3
    python -m mlx_gpt.generate --stage 11 --prompt "The" --json --alternatives 5
    python -m mlx_gpt.generate --stage 6 --prompt - --cache long.safetensors < long.txt
    python -m mlx_gpt.generate --stage 11 --tokens 5000 --keep-first 4
    """
    from mlx_gpt.cached import cached
    from mlx_gpt.completion import drawn, in_full, likeliest, remarks, table
    from mlx_gpt.decoding import Writer
    from mlx_gpt.device import pick_device
    from mlx_gpt.interactive import Session
    from mlx_gpt.mixture import chosen
    from mlx_gpt.sampling import Taste

    _check(click.get_current_context())
    wanted = dataclasses.replace(Taste(), **taste)  # type: ignore[arg-type]
    pick_device()
    trained = chosen(stage, run, mix)
    trained = dataclasses.replace(trained, model=cached(trained.model, keep_first, cache_bits))
    if interactive:
        return Session(trained, wanted, seed, tokens, stops).run(prompt)
    text = _standard_input() if prompt == "-" else prompt
    ids = [trained.tokenizer.eot, *trained.tokenizer.encode(text)]
    for remark in remarks(trained, ids):
        _notice(remark)
    writer = functools.partial(Writer, trained.tokenizer, tokens, stops)
    seeds = range(seed, seed + samples)
    asked = "" if keep_first is None and cache_bits is None else f" --keep-first {keep_first} --cache-bits {cache_bits}"
    reading = None if drafts else _reading(trained, ids, cache, asked)
    if beam:
        texts = likeliest(trained, ids, reading, beam, samples, tokens, length_penalty)
    elif drafts:
        texts = _drafted(trained, _proposer(trained, drafts, wanted), ids, wanted, seeds, writer)
    else:
        texts = drawn(trained.model, ids, reading, wanted, seeds, writer, 1 if mix else TOGETHER)
    for place, each in enumerate(texts, 1):
        if in_json:
            law = None if beam else wanted
            click.echo(as_json(in_full(each, trained, text, ids, reading, law, alternatives or 0)))
            continue
        _heading(each, place, samples)
        if alternatives is not None:
            click.echo(table(each, trained, ids, reading, alternatives))
        elif show_probabilities:
            _coloured(trained, ids, each)
        else:
            _echo(text, each.pieces)


# what an option does not go with, and why
APART = {
    "interactive": ("writes text by text", "cache drafts beam in_json alternatives show_probabilities samples"),
    "cache": ("keeps the memory of one model alone", "mix drafts"),
    "beam": ("draws nothing, and ends texts by tokens", "drafts stops seed"),
    "show_probabilities": ("colours a whole text", "stops in_json alternatives"),
}


def _check(ctx: click.Context) -> None:
    """Raise SettingError for options that do not go together."""
    from mlx_gpt.interactive import LARGEST_SEED
    from mlx_gpt.sampling import Taste

    spelled = {each.name: each.opts[0] for each in ctx.command.get_params(ctx)}
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    for name, (why, others) in APART.items():
        apart = [*others.split(), *(vars(Taste()) if name == "beam" else ())]
        found = [spelled[other] for other in apart if other in given]
        if name in given and found:
            raise SettingError(f"{spelled[name]}: {why}; drop it, or {' and '.join(found)}")
    beam, samples = ctx.params["beam"], ctx.params["samples"]
    if beam is None and "length_penalty" in given:
        raise SettingError("--length-penalty: ranks what --beam finds; give both or neither")
    if beam is not None and samples > beam:
        raise SettingError(f"--samples {samples}: --beam {beam} finds no more than {beam}; ask for fewer, or widen it")
    if ctx.params["seed"] + samples > LARGEST_SEED + 1:
        raise SettingError(f"--seed {ctx.params['seed']}: the last of --samples {samples} would be over {LARGEST_SEED}")
    if "" in ctx.params["stops"]:
        raise SettingError("--stop '': every text holds it; name the letters that end the text")
    if ctx.params["interactive"] and ctx.params["prompt"] == "-":
        raise SettingError("--prompt -: --interactive reads its prompts from standard input; drop one of them")


def _drafted(
    trained: Checkpoint,
    propose: Callable[[], Draft],
    ids: Sequence[int],
    taste: Taste,
    seeds: Sequence[int],
    writer: Callable[[], Writer],
) -> Iterator[Text]:
    """A text for each seed, one after the other, each with a draft of its own."""
    from mlx_gpt.completion import Text
    from mlx_gpt.decoding import stream

    for seed in seeds:
        writing = writer()
        yield Text({"seed": seed}, writing, stream(_draft_tokens(trained, propose, ids, taste, seed), writing))


def _reading(trained: Checkpoint, ids: Sequence[int], cache: Path | None, kind: str) -> Reading:
    """The prompt read, or what --cache holds of it; `kind` of the memory goes with the model's digest."""
    from mlx_gpt import safetensors
    from mlx_gpt.decoding import read
    from mlx_gpt.prompt_cache import remembered

    if cache is None:
        return read(trained.model, ids)
    return remembered(cache, trained.model, safetensors.digest(trained.path) + kind, ids, _notice)


def _heading(text: Text, place: int, samples: int) -> None:
    facts = ", ".join(f"{name} {value if name == 'seed' else f'{value:.4f}'}" for name, value in text.facts.items())
    if samples > 1:
        click.secho(f"--- sample {place} of {samples}, {facts}", dim=True)
    elif "seed" not in text.facts:
        _notice(facts)


def _echo(text: str, pieces: Iterator[str]) -> None:
    click.echo(text, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
        sys.stdout.flush()
    click.echo()


def _proposer(trained: Checkpoint, drafts: Sequence[str], taste: Taste) -> Callable[[], Draft]:
    """What makes the drafts of a text, each for the one before it, loaded once for all texts."""
    from mlx_gpt.acceptance import PROMPT
    from mlx_gpt.checkpoint import load, run_folder
    from mlx_gpt.drafting import Lookup, Model
    from mlx_gpt.errors import TokenizerError

    if PROMPT in drafts[:-1]:
        raise SettingError(f"--draft {PROMPT}: nothing drafts for the text itself; name it last")
    others = [load(run_folder(None, Path(draft))) for draft in drafts if draft != PROMPT]
    for other in others:
        if not other.tokenizer.agrees(trained.tokenizer):
            raise TokenizerError(
                f"--draft {other.path}: another tokenizer than {trained.path}; train it with --tokenizer-of that run"
            )

    def propose() -> Draft:
        draft: Draft | None = Lookup(trained.model.vocab_size) if drafts[-1] == PROMPT else None
        for other in reversed(others):
            draft = Model(other.model, taste, draft)
        assert draft is not None
        return draft

    return propose


def _draft_tokens(
    trained: Checkpoint, propose: Callable[[], Draft], ids: Sequence[int], taste: Taste, seed: int
) -> Iterator[int]:
    """What follows ids, drafted; tells in the end what came of the drafts."""
    from mlx_gpt.drafting import Tally, drafted

    tally = Tally()
    try:
        yield from drafted(trained.model, propose(), ids, taste, seed, tally)
    finally:
        _notice(
            ("\n" if sys.stdout.isatty() else "")  # the text that was written there has not ended its line
            + f"drafted: {tally.accepted:,} of {tally.proposed:,} tokens accepted, "
            f"{tally.tokens_per_round:.2f} tokens a pass"
        )


def _coloured(trained: Checkpoint, ids: Sequence[int], text: Text) -> None:
    """Prompt and text, each token in the colour of what the model itself gave it, whatever the taste made of that."""
    from mlx_gpt.completion import surprise
    from mlx_gpt.surprise import coloured, legend, wants_colour

    for _ in text.pieces:
        pass
    written = [token for token in text.writer.tokens if token != trained.tokenizer.eot]
    pieces, bits = surprise(trained, [*ids, *written])
    colour = wants_colour(sys.stdout)
    if colour:
        _notice(legend(colour))
    click.echo(coloured(pieces, bits, colour))
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
