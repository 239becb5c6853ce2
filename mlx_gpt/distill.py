"""Have a trained model write the text that a draft for it learns: python -m mlx_gpt.distill --stage 11 -o own.jsonl"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gpt.door import GreedyDoor, counted, notice, passing, which_run
from mlx_gpt.recipe import option

if TYPE_CHECKING:
    from mlx_gpt.sampling import Taste

EVERY = 0.5  # seconds between two words of how far it is


@click.command(cls=GreedyDoor)
@which_run
@click.option("--texts", type=click.IntRange(1), default=1_000, show_default=True, help="How many texts to write.")
@click.option(
    "--tokens", type=click.IntRange(1), default=160, show_default=True, help="The most tokens to write of each."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="Seed of beginnings and draws."
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The .jsonl to write."
)
def main(
    stage: int | None, run: Path | None, texts: int, tokens: int, seed: int, out: Path, **taste: float | str
) -> None:
    """Write what a trained model makes of the beginnings of its training documents, a JSON line a text.

    A small model that is trained on this text, with the tokenizer of the large one, guesses better what the large one
    will write than a model of the training text does, and as its --draft makes generation sooner; the
    text is the same as without (Kim & Rush 2016, sequence-level knowledge distillation; Zhou et al. 2023, DistillSpec).
    Without --temperature the likeliest tokens are written, for a draft of greedy text. What is written is kept when
    Ctrl-C ends it early.

    \b
    python -m mlx_gpt.distill --stage 11 -o own.jsonl
    python -m mlx_gpt.train --stage 4 --order 8 --data own.jsonl --tokenizer-of runs/11-m2-gpt --run drafts/04
    python -m mlx_gpt.generate --stage 11 --draft drafts/04 --temperature 0
    """
    from mlx_gpt.checkpoint import load, run_folder
    from mlx_gpt.device import pick_device
    from mlx_gpt.distillation import beginnings, written
    from mlx_gpt.errors import DataError, SettingError
    from mlx_gpt.heldout import own_corpus
    from mlx_gpt.replacing import replacing
    from mlx_gpt.sampling import Taste

    wanted = dataclasses.replace(Taste(), **taste)  # type: ignore[arg-type]
    pick_device()
    if out.suffix != ".jsonl":
        raise SettingError(f"--out {out}: JSON lines are written; name a file that ends in .jsonl")
    if out.exists():
        raise SettingError(f"--out {out}: exists already; name another file, or move it away")
    if not out.absolute().parent.is_dir():
        raise DataError(f"--out {out}: no folder {out.parent}; make it, or name another")
    trained = load(run_folder(stage, run), stage)
    eot, decode = trained.tokenizer.eot, trained.tokenizer.decode
    begun = beginnings(own_corpus(trained, notice, "name a run that was trained here on a file").train, texts, seed)
    started, told, count, done = time.monotonic(), 0.0, 0, 0
    with replacing(out) as file:
        try:
            for done, ids in enumerate(written(trained.model, begun, wanted, tokens, eot, seed), 1):
                file.write(json.dumps({"text": decode([each for each in ids if each != eot])}).encode() + b"\n")
                count += len(ids)
                seconds = time.monotonic() - started
                if seconds - told > EVERY:
                    told = seconds
                    left = int(seconds / done * (texts - done))
                    passing(f"{done:,} of {texts:,} texts  ETA {left // 60}:{left % 60:02}")
        except KeyboardInterrupt:
            if not count:
                raise
            notice("stopped early; the texts so far are kept")
        passing("")
    name, draft = shlex.quote(str(run_folder(stage, run))), "--run drafts/04"
    click.echo(f"{out}: {counted(done, 'text')}, {count:,} tokens")
    click.echo(
        f"\npython -m mlx_gpt.train --stage 4 --order 8 --data {shlex.quote(str(out))} --tokenizer-of {name} {draft}"
    )
    click.echo(f"python -m mlx_gpt.generate --run {name} --draft drafts/04" + _spelled(wanted))


def _spelled(taste: Taste) -> str:
    """The settings that are not the default ones, as options."""
    from mlx_gpt.sampling import Taste

    plain = vars(Taste())
    return "".join(
        f" {option(name)} {value:g}" if isinstance(value, float) else f" {option(name)} {shlex.quote(str(value))}"
        for name, value in vars(taste).items()
        if value != plain[name]
    )


if __name__ == "__main__":
    main()
