"""A run's log as a chart in a terminal."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

from mlx_gpt.plot import Points, curves, limits, read_log, smooth

NARROWEST = 40  # columns of a terminal
UNIT = "bits per byte"


def terminal_curve(log: Path, width: int, height: int = 10, unicode: bool = True) -> str:
    """A run's log as `height` rows of a chart, a row of steps and a row of figures, at most `width` columns each.

    Training is a line, validation a mark at each look, both in bits per byte. Empty where there are fewer than two
    points or columns are too few. Without `unicode` nothing but ASCII.
    """
    assert height > 1, f"height {height}"
    train, valid = curves(read_log(log))
    train = smooth(train)
    steps = sorted({step for step, _ in train + valid})
    if len(steps) < 2 or width < NARROWEST:
        return ""
    first, last = steps[0], steps[-1]
    low, high = limits(train, valid)
    digits = 2 if high - low >= 0.1 else 4
    named = {row: f"{high - (high - low) * row / (height - 1):.{digits}f}" for row in (0, height // 2, height - 1)}
    margin = max(map(len, named.values()))
    columns = width - margin - 2
    across, down = (2, 4) if unicode else (1, 3)  # dots of a character
    wide, tall = across * columns, down * height

    def place(step: float, value: float) -> tuple[int, int]:
        """Dot of a point, from the left and from the top; above or below the chart where it is not in sight."""
        x, y = (step - first) / (last - first), (high - value) / (high - low)
        return round(x * (wide - 1)), round(y * (tall - 1))

    heights: dict[int, list[int]] = {}  # a column of dots shows the middle of what falls into it
    for x, y in (place(step, value) for step, value in train):
        heights.setdefault(x, []).append(y)
    dots = _trace([(x, statistics.median_low(ys)) for x, ys in heights.items()], tall)
    cells = _braille(dots) if unicode else _ascii(dots)
    for x, y in (place(step, value) for step, value in valid):
        cells[x // across, y // down] = "●" if unicode else "o"
    bar, corner, dash = "│└─" if unicode else "|+-"
    rows = ["".join(cells.get((column, row), " ") for column in range(columns)).rstrip() for row in range(height)]
    if len(rows[0]) < columns - len(UNIT):
        rows[0] += UNIT.rjust(columns - len(rows[0]))
    rows = [f"{named.get(i, ''):>{margin}} {bar}{row}" for i, row in enumerate(rows)]
    ends = f"{dash} step {first:,} ", f" {last:,}"
    axis = " " * (margin + 1) + corner + ends[0] + dash * (columns - len(ends[0]) - len(ends[1])) + ends[1]
    return "\n".join([*rows, axis, _figures(train, valid, width, unicode)])


def _trace(corners: list[tuple[int, int]], tall: int) -> set[tuple[int, int]]:
    """Dots of the straight lines from corner to corner, on a chart as many dots tall."""
    dots = set(corners)
    for (x, y), (right, bottom) in itertools.pairwise(corners):
        # a fall from far above is a long way of dots nobody sees
        y, bottom = (min(max(end, -tall), 2 * tall) for end in (y, bottom))
        length = max(abs(right - x), abs(bottom - y), 1)
        dots |= {(round(x + (right - x) * i / length), round(y + (bottom - y) * i / length)) for i in range(length + 1)}
    return dots


def _braille(dots: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Two by four dots in a character, in the order of Unicode's braille patterns."""
    bits = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
    codes: dict[tuple[int, int], int] = {}
    for x, y in dots:
        codes[x // 2, y // 4] = codes.get((x // 2, y // 4), 0x2800) | bits[x % 2][y % 4]
    return {cell: chr(code) for cell, code in codes.items()}


def _ascii(dots: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Three heights in a character; a line that passes through several is a bar."""
    heights: dict[tuple[int, int], set[int]] = {}
    for x, y in dots:
        heights.setdefault((x, y // 3), set()).add(y % 3)
    return {cell: "|" if len(found) > 1 else '"-_'[min(found)] for cell, found in heights.items()}


def _figures(train: Points, valid: Points, width: int, unicode: bool) -> str:
    """First, last and best values, as much of it as fits."""
    to, mark = ("→", "●") if unicode else ("->", "o")
    line = f"training {train[0][1]:.2f} {to} {train[-1][1]:.2f}   " if train else ""
    if not valid:
        return line.rstrip()
    step, best = min(valid, key=lambda point: point[1])
    looks = f"{mark} validation {valid[0][1]:.2f} {to} {valid[-1][1]:.2f}, best {best:.4f} at step {step:,}"
    shorter = f"{mark} best {best:.4f} at step {step:,}"
    told = (line + looks, line + shorter, line + f"{mark} best {best:.4f}", shorter)
    return next(text for text in told if len(text) <= width)
