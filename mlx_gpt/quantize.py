"""Put a trained model's matrices in few bits: python -m mlx_gpt.quantize --stage 11 --bits 4 -o runs/11-four-bits"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gpt.door import Door, notice, which_run

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_gpt.checkpoint import Checkpoint
    from mlx_gpt.descent import Neural
    from mlx_gpt.descent.packed import Packing
    from mlx_gpt.descent.sensitivity import Choice
    from mlx_gpt.measure import Score

AUTO = "auto"
KEEP_WITHIN = 1.0  # per cent
WRITTEN, ROUNDS = 96, 3  # tokens by which decoding is timed, and how often after a first time; the best counts
OF_THE_TRAINING = ("parameters", "seconds", "train_tokens", "train_tokens_per_second", "peak_memory")  # scores kept


@click.command(cls=Door)
@which_run
@click.option(
    "--bits",
    type=click.Choice(["8", "6", "4", "3", "2", "mxfp4", AUTO]),
    help="Bits of a number; mxfp4: 4-bit floating point; auto: by each matrix's sensitivity.  [default: 4]",
)
@click.option(
    "--group",
    type=click.Choice(["128", "64", "32"]),
    help="Numbers that share a scale: a matrix takes the largest group, up to this one, that divides its rows. Smaller "
    "groups are more exact and larger files.  [default: 32]",
)
@click.option(
    "--keep-within",
    type=click.FloatRange(0, 1_000, min_open=True),
    metavar="PERCENT",
    help="With --bits auto, which it implies: bits per byte that may be lost on validation text.  "
    f"[default: {KEEP_WITHIN:g}]",
)
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="The run folder to write.")
@click.option("--data", multiple=True, metavar="PATH...", help="Text to score instead of the run's held-out split.")
def main(
    stage: int | None,
    run: Path | None,
    bits: str | None,
    group: str | None,
    keep_within: float | None,
    out: Path,
    data: tuple[str, ...],
) -> None:
    """Write a smaller copy of a trained run: linear layers, embeddings and recurrent matrices in few bits.

    Every other door loads it as any run. Prints bits per byte lost on the held-out text against bytes saved, and the
    speed of decoding. Norms, biases and convolutions stay whole, and so does a matrix whose rows no group divides.
    With --bits auto each matrix is rounded alone, and those that lose least for the bytes they save get fewer bits.

    \b
    python -m mlx_gpt.quantize --stage 11 --bits 4 -o runs/11-four-bits
    python -m mlx_gpt.quantize --run runs/07-lstm --keep-within 0.5 -o runs/07-small
    """
    from mlx_gpt.checkpoint import MODEL, load, run_folder, save
    from mlx_gpt.descent.packed import AFFINE, MXFP4
    from mlx_gpt.descent.packing import matrices, pack, packing_for
    from mlx_gpt.descent.sensitivity import LOOKED_AT, choose
    from mlx_gpt.device import pick_device
    from mlx_gpt.errors import SettingError
    from mlx_gpt.folder import prepare
    from mlx_gpt.heldout import held_out, own_corpus
    from mlx_gpt.measure import measure

    if keep_within is not None and bits not in (None, AUTO):
        raise SettingError(
            f"--keep-within {keep_within:g} with --bits {bits}: it chooses the bits itself; drop one of them"
        )
    if bits == MXFP4 and group not in (None, "32"):
        raise SettingError(f"--group {group}: mxfp4 has groups of 32; drop it")
    wanted = bits or ("4" if keep_within is None else AUTO)
    largest = int(group or 32)
    pick_device()
    trained = load(run_folder(stage, run), stage)
    model, eot = _with_weights(trained), trained.tokenizer.eot
    found = matrices(model)
    if trained.card.packings:
        raise SettingError(f"{trained.path}: quantised already; name the run that it was made of")
    if not any(packing_for(matrix, AFFINE, 8, largest) for matrix in found.values()):
        widths = ", ".join(map(str, sorted({matrix.shape[1] for matrix in found.values()})))
        raise SettingError(f"no matrix to quantise: no group of 32 to {largest} divides rows of {widths}")
    if (out / MODEL).exists():
        raise SettingError(f"--out {out}: holds a run already; name another folder")
    text = held_out(trained, data, notice)
    looked_at = own_corpus(trained, notice, "give --bits 8 or 4").valid if wanted == AUTO else None
    folder = prepare(out)
    before = _Figures(measure(model, text), trained.path.stat().st_size, _memory(model), _speed(model, eot))
    if looked_at is None:
        mode, number = (MXFP4, 4) if wanted == MXFP4 else (AFFINE, int(wanted))
        plans = {name: packing_for(matrix, mode, number, largest) for name, matrix in found.items()}
        packings = {name: how for name, how in plans.items() if how is not None}
        lines = _by_kind(found, packings, largest)
    else:
        share = (keep_within or KEEP_WITHIN) / 100
        choice = choose(model, looked_at.head(LOOKED_AT, trained.tokenizer), share, largest, notice)
        packings, lines = choice.packings, _by_matrix(found, choice)
    pack(model, packings)
    score = measure(model, text)
    scores = {name: value for name, value in trained.card.scores.items() if name in OF_THE_TRAINING}
    if not data:
        scores |= {"bits_per_byte": score.bits_per_byte, "perplexity": score.perplexity}
        scores["tokens_per_second"] = score.tokens_per_second
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / MODEL, model, trained.tokenizer, replace(trained.card, packings=packings, scores=scores))
    after = _Figures(score, (folder / MODEL).stat().st_size, _memory(model), _speed(model, eot))
    click.secho(f"stage {trained.stage.number} {trained.stage.name}, {text.bytes:,} bytes held out\n", bold=True)
    click.echo("\n".join([*lines, "", *_before_and_after(before, after)]))
    click.echo(f"\npython -m mlx_gpt.generate --run {shlex.quote(str(out))}")


def _with_weights(trained: Checkpoint) -> Neural:
    """The model of a gradient stage. Raises SettingError for a counting one."""
    from mlx_gpt.descent import Neural
    from mlx_gpt.errors import SettingError

    if not isinstance(trained.model, Neural):
        stage = trained.stage
        raise SettingError(
            f"stage {stage.number} ({stage.name}) counts and has no weights to quantise; stage 4 keeps its tables in "
            "8 bits with python -m mlx_gpt.train --stage 4 --quantised"
        )
    return trained.model


@dataclass(frozen=True)
class _Figures:
    """What is set against what: a score, bytes of the file and of the weights, tokens written a second."""

    score: Score
    file: int
    memory: int
    speed: float


def _memory(model: Neural) -> int:
    """Bytes of the weights."""
    return sum(array.nbytes for array in model.arrays().values())


def _speed(model: Neural, eot: int) -> float:
    """Tokens a second that one text is written at, the best of a few rounds."""
    from mlx_gpt.decoding import generate
    from mlx_gpt.sampling import Taste

    best = 0.0
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        for _ in zip(range(WRITTEN), generate(model, [eot], Taste(), 0), strict=False):
            pass
        best = max(best, WRITTEN / (time.perf_counter() - started))
    return best


def _by_kind(found: Mapping[str, mx.array], packings: Mapping[str, Packing], largest: int) -> list[str]:
    """A line for the matrices of one name in all blocks: how many, how large, how packed, or why not."""
    kinds: dict[tuple[str, tuple[int, ...], str], int] = {}
    for name, matrix in found.items():
        if name in packings:
            how = f"{packings[name].mode}, {packings[name].bits} bits, groups of {packings[name].group}"
        else:
            how = f"whole: no group of 32 to {largest} divides rows of {matrix.shape[1]}"
        kind = ".".join("*" if part.isdigit() else part for part in name.split("."))
        kinds[kind, matrix.shape, how] = kinds.get((kind, matrix.shape, how), 0) + 1
    return [
        f"{kind:<34}{count:>3} x {shape[0]:>6,} x {shape[1]:>6,}  {how}" for (kind, shape, how), count in kinds.items()
    ]


def _by_matrix(found: Mapping[str, mx.array], choice: Choice) -> list[str]:
    """A line for each matrix: what rounding it alone to 4 bits lost on the validation text, and the bits chosen."""
    head = f"{'':<34}{'rows':>8}{'width':>7}{'lost alone at 4 bits':>22}{'bits':>6}{'group':>7}{'bytes':>11}"
    lines = [head, "-" * len(head)]
    for name, matrix in found.items():
        line = f"{name:<34}{matrix.shape[0]:>8,}{matrix.shape[1]:>7,}"
        if name not in choice.packings:
            lines.append(line + f"{'whole: no group divides its rows':>46}")
            continue
        how, told = choice.packings[name], choice.found[name]
        alone = f"{100 * told.lost[4] / choice.whole:+.3f} %"
        lines.append(line + f"{alone:>22}{how.bits:>6}{how.group:>7}{told.bytes[how.bits]:>11,}")
    lost = 100 * (choice.packed / choice.whole - 1)
    return [*lines, "", f"{lost:+.3f} % bits per byte together, on the validation text they were chosen by"]


def _before_and_after(before: _Figures, after: _Figures) -> list[str]:
    head = f"{'':<12}{'bits/byte':>10}{'lost':>10}{'file':>12}{'memory':>12}{'tokens/s':>10}"
    lines = [head, "-" * len(head)]
    for name, told in (("whole", before), ("quantised", after)):
        lost = 100 * (told.score.bits_per_byte / before.score.bits_per_byte - 1)
        shown = f"{lost:+.3f} %" if told is after else ""
        lines.append(
            f"{name:<12}{told.score.bits_per_byte:>10.4f}{shown:>10}{told.file / 1e6:>9,.2f} MB"
            f"{told.memory / 1e6:>9,.2f} MB{told.speed:>10,.0f}"
        )
    saved = (100 * (1 - after.file / before.file), 100 * (1 - after.memory / before.memory))
    return [*lines, f"{'saved':<32}{saved[0]:>10.1f} %{saved[1]:>10.1f} %"]


if __name__ == "__main__":
    main()
