"""Scored runs as rows: intervals, paired differences between neighbours, seeds apart from the noise of the text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlx_gpt.bootstrap import Estimate, Noise, estimate, holm, judged, noise_of
from mlx_gpt.checkpoint import Card
from mlx_gpt.measure import Score
from mlx_gpt.recipe import Counting

WIDEST = 100  # columns of a table; what comes after is left to --json
ALPHA = 0.05
MEANS = ("parameters", "seconds", "train_tokens_per_second", "peak_memory")  # of a card's scores, as in the table
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One run and its score. `context` is in tokens, None where there is no end."""

    run: str
    stage: int
    name: str
    card: Card
    context: int | None
    score: Score


def rows(entries: Sequence[Entry], floor: np.ndarray | None = None) -> list[Row]:
    """The rows of the table in the order of stages, runs that differ in their seed alone as one; JSON can hold them.

    All entries must have scored the same units; floor (U,) is the bits that no model can beat.
    """
    told, before, trained = list[Row](), None, None
    for group in _groups(entries):
        noise = _noise_of_training(group)
        bits, sizes = np.mean([each.score.bits for each in group], axis=0), group[0].score.sizes
        told.append(_row(group, bits, sizes))
        if floor is not None:
            above = estimate(bits - floor, sizes)
            told[-1]["excess"] = above and {"value": above.value, "margin": above.margin}
        if before is not None:
            found = estimate(_less(bits, before), sizes)
            told[-1]["difference"] = found and _difference(found, told[-2]["run"], (trained, noise))
        before, trained = bits, noise
    differences = [row["difference"] for row in told if row["difference"]]
    for each, p in zip(differences, holm([each["p"] for each in differences]), strict=True):
        each["p_holm"] = p
    return told


def by_row(runs: Iterable[tuple[int, str, Card]]) -> list[list[str]]:
    """The runs of each row of the table, in its order; of each its stage, 0 for a mixture, its name and its card."""
    seen: Counter[Any] = Counter()
    groups: dict[Any, list[str]] = {}
    for stage, run, card in sorted(runs, key=lambda each: (each[0] or math.inf, each[1])):  # a mixture comes last
        packings = repr(sorted(card.packings.items()))
        recipe = replace(card.recipe, seed=0)
        same = (stage, card.corpus, card.vocab_size, card.source.tokenizer, card.config, recipe, packings)
        seen[same, card.recipe.seed] += 1
        groups.setdefault((same, seen[same, card.recipe.seed]), []).append(run)
    return list(groups.values())


def _groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    named = {each.run: each for each in entries}
    return [[named[run] for run in row] for row in by_row((each.stage, each.run, each.card) for each in entries)]


def _row(group: Sequence[Entry], bits: np.ndarray, sizes: np.ndarray) -> Row:
    first, score = group[0], group[0].score
    each = [entry.score.bits_per_byte for entry in group]
    spread = float(np.std(each, ddof=1)) if len(group) > 1 else None
    found = estimate(bits, sizes)
    whole = replace(score, nats=bits * math.log(2), seconds=float(np.mean([entry.score.seconds for entry in group])))
    cards = [entry.card.scores for entry in group]
    means = {name: [scores[name] for scores in cards if name in scores] for name in MEANS}
    return {
        "run": first.run,
        "runs": [entry.run for entry in group],
        "stage": first.stage,
        "name": first.name,
        "finished": all(entry.card.finished for entry in group),
        "bits_per_byte": whole.bits_per_byte,
        "standard_error": found and found.error,
        "margin": found and found.margin,
        "seeds": [entry.card.recipe.seed for entry in group],
        "bits_per_byte_by_seed": each,
        "seed_spread": spread,
        "perplexity": whole.perplexity,
        "tokens": whole.tokens,
        "bytes": whole.bytes,
        "tokens_per_second": whole.tokens_per_second,
        **{name: float(np.mean(values)) if values else None for name, values in means.items()},
        "context": first.context,
        "context_rule": context_rule(first.context, first.stage),
        "excess": None,
        "difference": None,
    }


def _less(bits: np.ndarray, before: np.ndarray) -> np.ndarray:
    """bits - before (U,), without a warning where both are infinite."""
    with np.errstate(invalid="ignore"):
        return bits - before


def _noise_of_training(group: Sequence[Entry]) -> Noise | None:
    first = group[0]
    counted = bool(first.stage) and isinstance(first.card.recipe, Counting)  # 0 is a mixture, its card a member's
    return noise_of([each.score.bits_per_byte for each in group], counted)


def _difference(found: Estimate, above: str, noises: Sequence[Noise | None]) -> Row:
    """Of a row to the run above it."""
    verdict = judged(found, noises)
    return {
        "to": above,
        "value": found.value,
        "standard_error": found.error,
        "margin": found.margin,
        "p": verdict.p,
        "p_holm": verdict.p,
        "detectable": verdict.detectable,
        "seed_standard_error": verdict.training,
    }


def context_rule(context: int | None, stage: int) -> str:
    """How a model of so large a context reads a document; 0 is a mixture."""
    if not stage:
        return "each member by its own rule"
    return "whole document" if context is None else "half-overlapping windows"


def table(told: Sequence[Row], lines: dict[str, float]) -> list[str]:
    """The rows as lines of text, among what costs no model, and no wider than WIDEST."""
    several = Counter(row["stage"] for row in told)
    columns = [("stage", 20), ("bits/byte", 18), ("to the row above", 21)]
    cells = [[_name(row, several[row["stage"]] > 1), _with_margin(row), _verdict(row)] for row in told]
    optional = {
        "over floor": [_or_nothing(row["excess"] and row["excess"]["value"], "{:.4f}") for row in told],
        "seeds": [_or_nothing(row["seed_spread"], f"{len(row['seeds'])} ± {{:.4f}}") for row in told],
        "parameters": [_number(row["parameters"]) for row in told],
        "trained": [_or_nothing(row["seconds"], "{:,.1f} s") for row in told],
        "memory": [_or_nothing(row["peak_memory"] and row["peak_memory"] / 1e6, "{:,.0f} MB") for row in told],
        "tokens/s": [_number(row["train_tokens_per_second"]) for row in told],
        "scores/s": [_number(row["tokens_per_second"]) for row in told],
    }
    room = WIDEST - sum(width for _, width in columns)
    for name, values in optional.items():
        width = max(map(len, [name, *values])) + 2
        if width > room:
            break
        if any(values):
            columns.append((name, width))
            cells = [[*row, value] for row, value in zip(cells, values, strict=True)]
            room -= width
    head = _line([name for name, _ in columns], columns)
    free = sorted(((bits, name) for name, bits in lines.items() if name != "exact entropy"), reverse=True)
    body = [_line([name, f"{bits:.4f}{_shown(None)} "], columns) for bits, name in free]
    body += [_line(row, columns) for row in cells]
    if "exact entropy" in lines:
        body.append(_line(["exact entropy", f"{lines['exact entropy']:.4f}{_shown(None)} "], columns))
    return [head, "-" * len(head), *body]


def legend(told: Sequence[Row], resampled: str) -> list[str]:
    """What the signs of the table mean, in words."""
    said = [f"±: 95 % interval of the text's noise, bootstrap over {resampled}"]
    found = [row["difference"] for row in told if row["difference"]]
    if found:
        least = sorted(each["detectable"] for each in found if math.isfinite(each["detectable"]))
        by_pair = f" to {least[-1]:.4f}, by pair" if len(least) > 1 else ""
        said.append(f"*: the paired difference has p < {ALPHA} after Holm's correction over {len(found)}")
        if any(row["seed_spread"] is not None for row in told):
            said.append("its p counts in the noise of training, as far as several seeds tell it")
        unknown = sum(each["seed_standard_error"] is None for each in found)
        if unknown:
            said.append(f"the noise of training is not known of {unknown} of them: runs of one seed cannot tell it")
        if least:
            said.append(
                f"least difference found in 80 % of such cases, without the correction: {least[0]:.4f}{by_pair}"
            )
    if any(row["seed_spread"] is not None for row in told):
        said.append("seeds: runs averaged ± the standard deviation of their scores, which is the noise of training")
    if not all(row["finished"] for row in told):
        said.append("…: not trained to its end")
    return said + _read(told)


def _read(told: Sequence[Row]) -> list[str]:
    """How the stages read a document, in words; a mixture reads as its members do."""
    windows: dict[int, set[int]] = {}
    for row in told:
        if row["context"] is not None:
            windows.setdefault(row["context"], set()).add(row["stage"])
    if not windows:
        return ["every document is read whole"]
    said = []
    for context, stages in sorted(windows.items()):
        which = ", ".join(map(str, sorted(stages)))
        said.append(f"read in {context_rule(context, min(stages))} of {context:,} tokens: stage {which}")
    return said


def _line(cells: Sequence[str], columns: Sequence[tuple[str, int]]) -> str:
    first, *rest = zip(cells, columns, strict=False)
    return (f"{first[0]:<{first[1][1]}}" + "".join(f"{cell:>{width}}" for cell, (_, width) in rest)).rstrip()


def _name(row: Row, by_run: bool) -> str:
    """A stage, or where several rows are of it, the run."""
    last = row["run"].rstrip("/").split("/")[-1]
    name = f"{row['stage'] or '':>2} {last if by_run else row['name']}{'' if row['finished'] else ' …'}"
    return name if len(name) < 20 else name[:18] + "~"


def _with_margin(row: Row) -> str:
    return f"{row['bits_per_byte']:.4f} {_shown(row['margin'])}"


def _verdict(row: Row) -> str:
    found = row["difference"]
    if not found:
        return ""
    return f"{found['value']:+.4f} {_shown(found['margin'])} {'*' if found['p_holm'] < ALPHA else ' '}"


def _shown(margin: float | None) -> str:
    """Nine columns."""
    return f"± {margin:<7.4f}" if margin is not None and math.isfinite(margin) else " " * 9


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.2f} M"
