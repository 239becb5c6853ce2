"""Pictures of a run's log: bits per byte, learning rate and throughput over the steps, as a PNG and in a terminal."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Points = list[tuple[int, float]]  # of a curve: step and value, steps rising

# what a line of a log can sensibly say; a log that somebody cut or patched may say anything
LIMITS = {"bits_per_byte": 1e3, "valid_bits_per_byte": 1e3, "learning_rate": 1e4, "tokens": 1e18, "seconds": 1e12}
MOST_STEPS = 10**8
NARROWEST = 40  # columns of a terminal
ROUND = [1, 2, 2.5, 5, 10]  # distances of ticks
UNIT = "bits per byte"
BLUE, PALE, RED, GREEN, INK = "#2563a8", "#b9cfe6", "#c8372d", "#3a7d5c", "#444444"


@dataclass(frozen=True)
class Line:
    """One report of a run: a validation line has `valid_bits_per_byte`, a training line the others; None is absent."""

    step: int
    bits_per_byte: float | None = None
    valid_bits_per_byte: float | None = None
    learning_rate: float | None = None
    tokens: float | None = None
    seconds: float | None = None

    @property
    def place(self) -> tuple[int, bool]:
        """Its place in a log: a step is first reported, then validated."""
        return self.step, self.valid_bits_per_byte is not None


def read_log(log: Path) -> list[Line]:
    """The reports of a log by rising step; what makes no sense, such as a torn last line, is left out.

    A run that went on from an earlier step repeats steps: what was reported last holds.
    """
    lines: list[Line] = []
    for raw in log.read_bytes().splitlines():
        line = _line(raw)
        if line is not None:
            while lines and lines[-1].place >= line.place:
                lines.pop()
            lines.append(line)
    return lines


def _line(raw: bytes) -> Line | None:
    try:
        found = json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None
    step = found.get("step") if isinstance(found, dict) else None
    if type(step) is not int or not 0 <= step <= MOST_STEPS:
        return None
    figures = {name: _figure(found.get(name), most) for name, most in LIMITS.items()}
    return None if set(figures.values()) == {None} else Line(step, **figures)


def _figure(value: object, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= most else None


def _curve(lines: list[Line], read: Callable[[Line], float | None]) -> Points:
    return [(line.step, value) for line in lines if (value := read(line)) is not None]


def curves(lines: list[Line]) -> tuple[Points, Points]:
    """Bits per byte of the training batches and of the validation text."""
    return _curve(lines, lambda line: line.bits_per_byte), _curve(lines, lambda line: line.valid_bits_per_byte)


def throughput_curve(lines: list[Line]) -> Points:
    """Tokens per second from each report of training to the next."""
    known = [(at.step, at.tokens, at.seconds) for at in lines if at.tokens is not None and at.seconds is not None]
    return [
        (step, (tokens - before) / (at - since))
        for (_, before, since), (step, tokens, at) in itertools.pairwise(known)
        if at - since > 1e-9 and tokens >= before
    ]


def smooth(points: Points) -> Points:
    """A running median, that spikes do not count, and its running mean; narrower at first, where curves are steep."""
    reach = min(len(points) // 40, 50)
    values = [value for _, value in points]
    for middle in (statistics.median, statistics.fmean):
        values = [middle(values[i - min(i // 2, reach) : i + min(i // 2, reach) + 1]) for i in range(len(values))]
    return [(step, value) for (step, _), value in zip(points, values, strict=True)]


def limits(train: Points, valid: Points) -> tuple[float, float]:
    """Lowest and highest bits per byte to show, such that neither the first steps nor a spike flatten the rest."""
    both = smooth(train) + valid
    steps, values = _columns(both)
    calm = min(steps) + (max(steps) - min(steps)) / 20
    later = [value for step, value in both if step >= calm]
    low = min(values + sorted(value for _, value in train)[len(train) // 50 :][:1])
    high = min(max(later), low + max(8 * (statistics.median(later) - low), low))
    room = max(high - low, 0.02 * high, 1e-3)
    return max(0.0, low - 0.06 * room), high + 0.06 * room


def draw_curve(log: Path, picture: Path, title: str) -> bool:
    """Draw a run's log as a PNG; returns False where matplotlib is missing or there is no curve to draw."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, MaxNLocator
    except ImportError:
        return False
    lines = read_log(log)
    train, valid = curves(lines)
    if len(train) < 2:
        return False
    rates, speeds = _curve(lines, lambda line: line.learning_rate), throughput_curve(lines)
    figure = Figure(figsize=(8, 7), layout="constrained")
    bits, rate, speed = figure.subplots(3, 1, sharex=True, height_ratios=[3.4, 1, 1])
    bits.set_title(title, loc="left", fontweight="bold", color=INK, pad=28, parse_math=False)
    bits.plot(*_columns(train), color=PALE, linewidth=0.9, label="training batches")
    bits.plot(*_columns(smooth(train)), color=BLUE, linewidth=2, label="training, smoothed")
    if valid:
        step, best = min(valid, key=lambda point: point[1])
        bits.plot(*_columns(valid), color=RED, linewidth=1.2, marker="o", markersize=3.5, label="validation text")
        bits.plot([step], [best], "o", color="none", markeredgecolor=RED, markersize=10, markeredgewidth=1.4)
        bits.axhline(best, color=RED, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
        beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        bits.annotate(f"best {best:.4f}\nstep {step:,}", (1, best), (5, 0), color=RED, fontsize=9, **beside)
    bits.set(ylabel="bits per byte", ylim=limits(train, valid))
    bits.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, frameon=False, labelcolor=INK)
    rate.plot(*_columns(rates), color=GREEN, linewidth=1.6)
    rate.set(ylabel="learning rate", ylim=(0, None))
    rate.ticklabel_format(axis="y", scilimits=(-2, 4))
    speed.plot(*_columns(speeds), color=PALE, linewidth=0.9)
    speed.plot(*_columns(smooth(speeds)), color=BLUE, linewidth=1.6)
    fastest = max((value for _, value in smooth(speeds)), default=0)
    speed.set(ylabel="tokens/s", xlabel="step", ylim=(0, 1.15 * fastest or None))
    speed.yaxis.set_major_formatter(EngFormatter(sep=""))
    speed.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    speed.xaxis.set_major_locator(MaxNLocator(integer=True, steps=ROUND))
    for axes in (bits, rate, speed):
        axes.margins(x=0.015)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#bbbbbb")
        axes.tick_params(color="#bbbbbb", labelcolor=INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.yaxis.set_major_locator(MaxNLocator(7 if axes is bits else 3, steps=ROUND))
    figure.align_ylabels()
    figure.savefig(picture, dpi=144)
    return True


def _columns(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


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
