"""The league table of a report, for both pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlx_gpt.reporting.elements import FREE, Cell, Table, changed
from mlx_gpt.reporting.words import bits, count, megabytes, reach, time, titled

COLUMNS = (
    ("stage", ""),
    ("bits/byte", "bits per raw byte of the held-out text, ± its 95 % interval"),
    (
        "to the stage before",
        "difference in bits per byte to the stage before it in this table, paired on the same parts of the text",
    ),
    ("over floor", "bits per byte above the exact entropy of the text"),
    ("seeds", "runs that differ in their seed alone, ± the standard deviation of their scores"),
    ("parameters", ""),
    ("trained", "time of training"),
    ("tokens/s", "in training"),
    ("memory", "the most that training held"),
)
EMPTY = Cell("")
FLOOR = "exact entropy"  # what no model beats: the last row


def league(told: dict[str, Any]) -> Table:
    """The rows among what costs no model, without the columns that nothing is known of."""
    lines = told["text"]["reference_lines"]
    free = sorted(lines, key=lambda name: (name == FLOOR, -lines[name]))
    shown = {name: {"stage": Cell(name, kind=FREE), "bits/byte": Cell(bits(lines[name]), lines[name])} for name in free}
    floor = [shown.pop(FLOOR)] if FLOOR in shown else []
    rows = [*shown.values(), *map(_row, told["league"]), *floor]
    columns = [each for each in COLUMNS if any(row.get(each[0], EMPTY).said for row in rows)]
    return Table(columns, [[row.get(name, EMPTY) for name, _ in columns] for row in rows])


def _row(row: dict[str, Any]) -> dict[str, Cell]:
    found, excess, spread, per_byte = row["difference"], row["excess"], row["seed_spread"], row["bits_per_byte"]
    return {
        "stage": Cell(titled(row), row["stage"]),
        "bits/byte": Cell(bits(per_byte), per_byte, reach(row["margin"])),
        "to the stage before": replace(changed(found), kind=""),
        "over floor": Cell(bits(excess["value"]), excess["value"]) if excess else EMPTY,
        "seeds": EMPTY if spread is None else Cell(f"{len(row['seeds'])}", spread, reach(spread)),
        "parameters": Cell(count(row["parameters"]), row["parameters"]),
        "trained": Cell(time(row["seconds"]), row["seconds"]),
        "tokens/s": Cell(count(row["train_tokens_per_second"]), row["train_tokens_per_second"]),
        "memory": Cell(megabytes(row["peak_memory"]), row["peak_memory"]),
    }
