"""Skills as lines of text: a skill a row, a run a column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from mlx_gpt.probes.pairs import SKILLS
from mlx_gpt.stories import TAGS

WIDEST = 100  # columns; more runs than fit are told in another block
Told = dict[str, Any]


def table(runs: Mapping[str, Told]) -> list[str]:
    """What each run, by its name, can do."""
    told = dict(zip(_short(runs), runs.values(), strict=True))
    lines = _block("probe", {run: each["probes"] for run, each in told.items()}, _score)
    known = {run: each["dependencies"] for run, each in told.items() if each["dependencies"]}
    if known:
        whole = {run: [{"name": "bits/byte", "value": each["per_byte"]}] for run, each in known.items()}
        lines += ["", *_block("over the floor", whole, _bits)]
        lines += ["", *_block("bits a choice", {run: each["kinds"] for run, each in known.items()}, _bits)]
        lines += ["", *_block("bytes back", {run: each["distances"] for run, each in known.items()}, _bits)]
    return lines


def legend(told: Mapping[str, Told]) -> list[str]:
    """What the rows ask, and what the figures mean."""
    asked = {row["name"] for each in told.values() for row in each["probes"] if row["value"] is not None}
    said = [", ".join(f"{short}: {run}" for short, run in zip(_short(told), told, strict=True))]
    said += ["probes: 0 is chance, 100 always right; behind it how far the 95 % interval reaches, over twins of texts"]
    said += [f"{skill.name}: {skill.asks}" for skill in SKILLS if skill.name in asked]
    missing = [skill.name for skill in SKILLS if skill.name not in asked]
    if missing:
        said.append(f"not asked, for the text lacks words or passages for it: {', '.join(missing)}")
    if any(each["dependencies"] for each in told.values()):
        said.append(
            "bits a choice: above the exact floor, which is 0, ± 95 %, bootstrap over stories; to be remembered:"
        )
        said += [f"{tag}: {what}" for tag, what in TAGS.items()]
        said.append("bytes back: the same of words told before, by how far back that was last")
    return [line for each in said for line in wrap(each, WIDEST, subsequent_indent="  ", break_on_hyphens=False)]


def _short(runs: Mapping[str, Told]) -> list[str]:
    """A column's name: the stage, and where there are several of it, which one."""
    stages, short = [each["stage"] for each in runs.values()], list[str]()
    for at, stage in enumerate(stages):
        short.append(
            f"{stage}" if stages.count(stage) == 1 else f"{stage}{chr(ord('a') + stages[:at].count(stage) % 26)}"
        )
    return short


def _score(row: Told) -> str:
    if row["value"] is None:
        return "-"
    return f"{100 * row['value']:.0f}±{100 * max(row['high'] - row['value'], row['value'] - row['low']):.0f}"


def _bits(row: Told) -> str:
    margin = row.get("margin")
    return f"{row['value']:.3f}" if margin is None else f"{row['value']:.2f}±{margin:.2f}"


def _block(head: str, told: Mapping[str, Sequence[Told]], shown: Callable[[Told], str]) -> list[str]:
    names = list(dict.fromkeys(row["name"] for rows in told.values() for row in rows))
    cells = {run: {row["name"]: shown(row) for row in rows} for run, rows in told.items()}
    first = max(map(len, [head, *names]))
    width = 1 + max(len(cell) for each in cells.values() for cell in [*each.values(), *told])
    lines, runs, fit = list[str](), list(told), max(1, (WIDEST - first) // width)
    for at in range(0, len(runs), fit):
        here = runs[at : at + fit]
        lines += [""] if at else []
        lines.append(f"{head:<{first}}" + "".join(f"{run:>{width}}" for run in here))
        lines.append("-" * len(lines[-1]))
        lines += [
            f"{name:<{first}}" + "".join(f"{cells[run].get(name, ''):>{width}}" for run in here) for name in names
        ]
    return lines
