"""The frontiers in words and tables, for the page and for Markdown alike."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlx_gpt.league import ALPHA
from mlx_gpt.reporting.elements import Cell, Table
from mlx_gpt.reporting.frontiers import ASKED, POINTS
from mlx_gpt.reporting.words import amount, bits, cost, reach, signed

Told = dict[str, Any]
SPLITS = (
    "Over training time and tokens stand the best scores so far on the validation text; over parameters, bytes on disk "
    "and scoring speed the scores on the held-out text of the table above."
)
SECONDS = (
    "Seconds are those of the machine that trained each run, and those of scoring of the one that scored it, with "
    "whatever else ran there. Tokens are those of each run's own tokenizer."
)
MIDWAY = (
    "Between two looks at the validation text a curve is taken as straight over the logarithm of time or tokens. A run "
    "is read on its way to its own end: one planned for less would do better there."
)
SPREAD = (
    "± after bits per byte: the standard deviation of seeds; after the next one: the 95 % interval of the difference, "
    "paired on the same parts of the text. Not told apart: p is 0.05 or more, the noise of training counted in; where "
    "learning curves are read, it is of that noise alone, if several seeds tell it. The best was picked on the text it "
    "is judged on, without correction, so it looks a little better than it is."
)
ENDED = "°: had ended before, and still is what it was; empty: not looked at yet"
BETTER, LEAD = "✓", "lead"
HEADS = {"parameters": "parameters", "bytes_on_disk": "on disk", "scoring": "to score 1 MB"}


def brief(labels: dict[str, str]) -> dict[str, str]:
    """The number alone, where it is of one row."""
    several = Counter(label.split()[0] for label in labels.values())
    return {run: label if several[label.split()[0]] > 1 else label.split()[0] for run, label in labels.items()}


def short_answer(told: Told) -> list[str]:
    """Which stage to use when, a line for each of the axes that are asked; budgets of one answer together."""
    lines = []
    for axis in ("seconds", "bytes_on_disk", "scoring"):
        parts = []
        asked = [each for each in told["answers"] if each["axis"] == axis]
        for name, group in itertools.groupby(asked, key=lambda each: _named(told, each)):
            marks = [each["mark"] for each in group]
            said = ASKED[axis].format(marks[0] if len(marks) == 1 else f"{marks[0]} to {marks[-1]}")
            parts.append(f"{said}: {name}")
        if parts:
            lines.append("; ".join(parts) + ".")
    return [line[0].upper() + line[1:] for line in lines]


def _named(told: Told, answer: Told) -> str:
    """The best, and the next one where neither the text nor the seeds tell them apart."""
    name, after = told["labels"].get(answer["run"], "none"), answer["next"]
    if after is None or after["p"] is None or after["p"] < ALPHA:
        return name
    return f"{name} (not told apart from {told['labels'][after['run']]})"


def answers(told: Told) -> Table:
    """What was asked, the best, its bits per byte, and by how much the next one is behind."""
    rows = []
    for each in told["answers"]:
        after, name, value = each["next"], told["labels"].get(each["run"], "none"), each["bits_per_byte"]
        behind = Cell("")
        if after is not None:
            behind = Cell(f"{told['labels'][after['run']]} {signed(after['more'])}", None, reach(after["margin"]))
        score = Cell("") if value is None else Cell(bits(value), value, reach(each["spread"]))
        rows.append([Cell(each["asked"]), Cell(name), score, Cell(each["split"]), behind])
    return Table(["asked", "best", "bits/byte", "text", "next"], rows)


def reached(told: Told, axis: str) -> Table:
    """Rows by budgets of training, each with the spread of its seeds, and when it was the best of all."""
    learning, rows = told["learning"][axis], list[list[Cell]]()
    best = [
        min((each["bits_per_byte"] for each in column if each), default=None)
        for column in zip(*learning["reached"].values(), strict=True)
    ]
    for run, each in learning["reached"].items():
        cells = [Cell(_seeds(told, learning, run), len(rows))]
        for at, least in zip(each, best, strict=True):
            if at is None:
                cells.append(Cell(""))
                continue
            value, ended = at["bits_per_byte"], " °" if at["ended"] else ""
            cells.append(Cell(bits(value), value, reach(at["spread"]) + ended, LEAD if value == least else ""))
        led = [each for each in learning["leads"] if each["run"] == run]
        until = [f" to {amount(axis, each['last'])}" if each["last"] else "" for each in led]
        when = [f"from {amount(axis, each['first'])}{end}" for each, end in zip(led, until, strict=True)]
        beaten = None if led else told["labels"][learning["beaten_by"][run]]
        cells.append(Cell("; ".join(when) if led else f"beaten by {beaten}", led[0]["first"] if led else None))
        rows.append(cells)
    return Table(["stage", *learning["budgets"], "best of all"], rows)


def _seeds(told: Told, learning: Told, run: str) -> str:
    count = learning["seeds"][run]
    return told["labels"][run] + (f" ({count} seeds)" if count > 1 else "")


def paid(told: Told, league: Sequence[Told]) -> Table:
    """Rows by what they cost, each with the number of the one that beats it there."""
    named, rows = brief(told["labels"]), []
    points = {axis: {each["run"]: each for each in told["points"][axis]} for axis in POINTS}
    for row in league:
        value = row["bits_per_byte"]
        cells = [Cell(told["labels"][row["run"]], row["stage"]), Cell(bits(value), value)]
        for axis in POINTS:
            each = points[axis].get(row["run"])
            cost, by = (each["cost"], each["beaten_by"]) if each else (None, "")
            beaten = Cell("none", kind=LEAD) if by is None else Cell(named.get(by, ""))
            cells += [Cell(amount(axis, cost), cost), beaten]
        rows.append(cells)
    return Table(["stage", "bits/byte", *(said for axis in POINTS for said in (HEADS[axis], "beaten by"))], rows)


def passings(told: Told, axis: str) -> Table:
    """Who passes whom: in the row of the one that is ahead in the end, where it passed the other of the column."""
    learning = told["learning"][axis]
    names = list(learning["reached"])
    cells: dict[tuple[str, str], Cell] = {}
    for each in learning["meetings"]:
        one, other = each["runs"]
        if not each["known"]:
            cells[one, other] = cells[other, one] = Cell("–")
        elif each["ahead"] is not None:
            behind = other if each["ahead"] == one else one
            last = each["passings"][-1]["at"] if each["passings"] else None
            cells[each["ahead"], behind] = Cell(BETTER) if last is None else Cell(amount(axis, last), last, kind=LEAD)
    rows = [[Cell(told["labels"][name]), *(cells.get((name, other), Cell("")) for other in names)] for name in names]
    return Table(["", *(brief(told["labels"])[name] for name in names)], rows)


def passed(told: Told, axis: str) -> list[str]:
    """Every passing in words, the first one first; with the range over pairs of seeds."""
    said = []
    for each in told["learning"][axis]["meetings"]:
        for at, passing in enumerate(each["passings"]):
            other = next(run for run in each["runs"] if run != passing["by"])
            line = f"{told['labels'][passing['by']]} passes {told['labels'][other]} at {cost(axis, passing['at'])}"
            found = each["range"]
            if found and at == len(each["passings"]) - 1:
                low, high = cost(axis, found["low"]), cost(axis, found["high"])
                line += f" ({low} to {high} in {found['pairs']} of {found['of']} pairs of seeds)"
            said.append((passing["at"], line))
    return [line for _, line in sorted(said)]
