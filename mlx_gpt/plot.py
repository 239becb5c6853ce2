"""A run's log as curves: bits per byte, learning rate and throughput over the steps, and their picture as a PNG."""

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
ROUND = [1, 2, 2.5, 5, 10]  # distances of ticks
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
    lines = read_log(log)
    train, valid = curves(lines)
    if len(train) < 2:
        return False
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, MaxNLocator
    except ImportError:
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
