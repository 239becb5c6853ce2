"""Pictures of where the bits went: bars of causes, and lines of bits per byte by place in a document."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from mlx_gpt.reporting.figures import LETTER, NARROW, TOP, TURN, Frame, finite, joined, svg, text
from mlx_gpt.reporting.words import bits, excerpt, named, short, with_margin

Told = dict[str, Any]
BAR, GAP = 22, 9
LABEL, LONGEST = 134, 18  # pixels and letters for the name of a stage


def name(row: Told, narrow: bool = False) -> str:
    """A row as it is written beside a picture."""
    return str(row["stage"] or "mix") if narrow else excerpt(named(row), LONGEST)


def bars(found: Told, width: int) -> str:
    """A bar for each row of the table, as long as its bits per byte, cut by cause; `width` in pixels."""
    narrow = width < NARROW
    left, right = 26 if narrow else LABEL, 52
    rows = [row for row in found["rows"] if all(map(finite, row["bits_per_byte"]))]
    if not rows:
        return ""
    most = max(sum(row["bits_per_byte"]) for row in rows)
    parts = []
    for at, row in enumerate(rows):
        y, x = TOP + at * (BAR + GAP), float(left)
        parts.append(text(left - 6, y + 15.5, name(row, narrow), "bar-name", "end"))
        for cause, value in zip(found["causes"], row["bits_per_byte"], strict=True):
            wide = value / most * (width - left - right)
            said = f"{name(row)}, {cause['name']}: {bits(value)} bits per byte"
            parts.append(f'<g class="cause {cause["cause"]}"><title>{escape(said)}</title>')
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{BAR}"/>')
            if wide > 5 * LETTER:
                parts.append(text(x + wide / 2, y + 15.5, f"{value:.2f}", "inside", "middle"))
            parts.append("</g>")
            x += wide
        parts.append(text(x + 6, y + 15.5, f"{sum(row['bits_per_byte']):.3f}", "value"))
    said = "; ".join(
        f"{name(row)}: "
        + ", ".join(
            f"{each['name']} {value:.3f}" for each, value in zip(found["causes"], row["bits_per_byte"], strict=True)
        )
        for row in rows
    )
    height = TOP + len(rows) * (BAR + GAP)
    return svg(width, height, f"Bits per byte by cause: {said}.", parts, "bits per byte of the whole text")


def places(found: Told, width: int) -> str:
    """Bits per byte of each row by how many bytes of the document stand before, on a scale of powers of two, with 95 %
    intervals."""
    rows = [row for row in found["rows"] if all(finite(each["value"]) for each in row["places"])]
    if len(found["places"]) < 2 or not rows:
        return ""
    values, last = [each["value"] for row in rows for each in row["places"]], len(found["places"]) - 1
    frame = Frame(width, (0, last), (min(values), max(values)), 38 if width < NARROW else LABEL)
    x, y = frame.x, frame.y
    every = 1 if x(1) - x(0) > 34 else 2
    marks: dict[float, str] = {
        at: place(first) if at % every == 0 else "" for at, (first, _) in enumerate(found["places"])
    }
    parts = frame.paper(marks, "bytes of the document before it, or more")
    ends = [row["places"][-1]["value"] for row in rows]
    for row, end, label in zip(rows, ends, frame.beside(ends), strict=True):
        points = [(x(at), y(each["value"])) for at, each in enumerate(row["places"])]
        parts.append(f'<g class="track" data-run="{escape(row["run"])}"><title>{escape(name(row))}</title>')
        parts.append(f'<polyline class="valid" points="{joined(points)}"/>')
        for (a, b), (first, _), each in zip(points, found["places"], row["places"], strict=True):
            told = f"{name(row)}, {place(first)} bytes before: {with_margin(each['value'], each['margin'])}"
            parts.append(f"<g><title>{escape(told)}</title>")
            if finite(each["margin"]):
                above, below = (y(each["value"] + side * each["margin"]) for side in (1, -1))
                parts.append(f'<line class="reach" x1="{a:.1f}" x2="{a:.1f}" y1="{above:.1f}" y2="{below:.1f}"/>')
            parts.append(f'<circle class="look" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/></g>')
        tail = [(points[-1][0] + 4, y(end)), (frame.right + TURN, label)]
        parts.append(f'<polyline class="leader" points="{joined(tail)}"/>')
        parts.append(text(frame.right + TURN + 3, label + 4, name(row, frame.narrow), "end-name") + "</g>")
    ends_said = [[f"{row['places'][at]['value']:.3f}" for at in (0, -1)] for row in rows]
    said = "; ".join(f"{name(row)} from {one} to {other}" for row, (one, other) in zip(rows, ends_said, strict=True))
    return svg(
        width, frame.height, f"Bits per byte by place in the document: {said}.", parts, "bits per byte at this place"
    )


def place(first: int) -> str:
    """How many bytes stand before, in short: 512, 1 k."""
    return short(first / 1024 * 1000) if first >= 1024 and math.log2(first).is_integer() else str(first)
