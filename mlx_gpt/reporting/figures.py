"""Pictures of a report as inline SVG: no colour is named here, classes leave all of them to the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mlx_gpt.reporting import words

Row = dict[str, Any]
Point = tuple[float, float]
LETTER = 6.4  # pixels of a small letter, about
AXES = {"tokens": "training tokens", "seconds": "seconds of training"}
NARROW = 500  # pixels: pictures below are for a phone
LEFT, TOP, BOTTOM = 38, 26, 40  # pixels of the margins
LINE, TURN = 13, 14  # pixels from name to name, and of the bend of a line to it


class Frame:
    """A picture's place: bits per byte upwards; from left to right places, or costs by their logarithm."""

    def __init__(
        self,
        width: int,
        across: tuple[float, float],
        bits: tuple[float, float],
        right: int,
        bottom: int = BOTTOM,
        logarithmic: bool = False,
    ) -> None:
        """`across` and `bits` are the least and the most to be shown, `right` and `bottom` the pixels beside them."""
        self.width, self.narrow = width, width < NARROW
        self.height = 320 if self.narrow else 420
        self.right, self.bottom = width - right, self.height - bottom
        self.low, self.high = widened(*bits)
        self.logarithmic = logarithmic
        first, last = map(self._scale, across)
        room = 0.04 * max(last - first, 1.0)
        self.first, self.last = first - room, last + room

    def _scale(self, cost: float) -> float:
        return math.log10(cost) if self.logarithmic else cost

    def x(self, cost: float) -> float:
        """In pixels."""
        return LEFT + (self._scale(cost) - self.first) / (self.last - self.first) * (self.right - LEFT)

    def y(self, bits: float) -> float:
        """In pixels, no further than the edges."""
        return self.beyond(min(max(bits, self.low), self.high))

    def beyond(self, bits: float) -> float:
        """In pixels, of what is cut off at the edges."""
        return TOP + (self.high - bits) / (self.high - self.low) * (self.bottom - TOP)

    def costs(self) -> dict[float, str]:
        """Marks of a logarithmic axis: powers of ten, and where there are few, what is between them."""
        steps = (1,) if self.last - self.first > 2 else (1, 2, 5)
        powers = range(math.floor(self.first), math.ceil(self.last))
        values = (step * 10.0**power for power in powers for step in steps)
        return {value: words.short(value) for value in values if self.first <= math.log10(value) <= self.last}

    def paper(self, marks: Mapping[float, str], said: str) -> list[str]:
        """Lines with their numbers, across at round values and upwards at the marks, and what the axis is of."""
        parts = []
        for value in _ticks(self.low, self.high):
            y = f"{self.y(value):.1f}"
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{self.right}" y1="{y}" y2="{y}"/>')
            parts.append(text(LEFT - 5, self.y(value) + 4, f"{value:g}", "tick", "end"))
        for value, name in marks.items():
            x = f"{self.x(value):.1f}"
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{self.bottom}"/>')
            parts.append(text(self.x(value), self.bottom + 16, name, "tick", "middle"))
        return parts + ([text((LEFT + self.right) / 2, self.height - 4, said, "tick", "middle")] if said else [])

    def beside(self, ends: Sequence[float]) -> list[float]:
        """Places in pixels of names beside lines that end at so many bits per byte."""
        return apart([self.y(end) for end in ends], LINE, TOP, self.bottom)


def ladder(league: Sequence[Row], lines: dict[str, float], width: int) -> str:
    """Bits per byte of each row, with its interval, among what costs no model; `width` in pixels."""
    shown = [row for row in league if finite(row["bits_per_byte"])]
    if not shown:
        return ""
    tops = [row["bits_per_byte"] + (row["margin"] or 0.0) for row in shown]
    near = [bits for bits in lines.values() if bits < 1.5 * max(tops)]
    low = min([row["bits_per_byte"] for row in shown] + near)
    frame = Frame(width, (-0.5, len(league) - 0.5), (low, max(tops + near)), 86, 34 if width < NARROW else 96)
    parts, narrow, x, y = frame.paper({}, ""), frame.narrow, frame.x, frame.y
    far = sorted(((bits, name) for name, bits in lines.items() if bits > frame.high), reverse=True)
    if far:
        said = ", ".join(f"{name} {bits:.2f}" for bits, name in far)
        parts.append(text(width - 2, 12, f"above the picture: {said}", "note", "end"))
    inside = sorted((bits, name) for name, bits in lines.items() if frame.low <= bits <= frame.high)
    for (bits, name), place in zip(inside, frame.beside([each[0] for each in inside]), strict=True):
        line = f'x1="{LEFT}" x2="{frame.right}" y1="{y(bits):.1f}" y2="{y(bits):.1f}"'
        parts.append(f'<line class="reference" {line}/>')
        parts.append(text(frame.right + 5, place + 4, name, "reference-name"))
    places = [(x(at), y(row["bits_per_byte"])) for at, row in enumerate(league) if finite(row["bits_per_byte"])]
    parts.append(f'<polyline class="climb" points="{joined(places)}"/>')
    for at, row in enumerate(league):
        name, bits = words.named(row), row["bits_per_byte"]
        label = str(row["stage"] or "mix") if narrow else name
        turn = "" if narrow else f' transform="rotate(-40 {x(at):.1f} {frame.bottom + 16})"'
        anchor = "middle" if narrow else "end"
        parts.append(text(x(at), frame.bottom + 16, label, "tick", anchor, turn))
        if not finite(bits):
            continue
        margin = row["margin"] or 0.0
        parts.append(f"<g><title>{escape(name)}: {words.with_margin(bits, margin)} bits per byte</title>")
        if margin:
            ends = f'x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y(bits + margin):.1f}" y2="{y(bits - margin):.1f}"'
            parts.append(f'<line class="interval" {ends}/>')
        parts.append(f'<circle class="dot" cx="{x(at):.1f}" cy="{y(bits):.1f}" r="{4 if narrow else 5}"/></g>')
        if not narrow:
            parts.append(text(x(at), y(bits + (margin or 0.0)) - 9, f"{bits:.2f}", "value", "middle"))
    said = "; ".join(f"{words.named(row)} {words.bits(row['bits_per_byte'])}" for row in league)
    return svg(width, frame.height, f"Bits per byte by stage: {said}.", parts, "bits per byte")


def curves(runs: Sequence[Row], axis: str, width: int) -> str:
    """Validation bits per byte of each run, and of training, against `axis`, one of AXES, on a logarithmic scale."""
    at, tracks = list(AXES).index(axis), []
    for run in runs:
        train, valid = (
            [(each[at], each[2]) for each in run["curve"][name] if each[at] and finite(each[2])]
            for name in ("train", "valid")
        )
        if valid or train:
            tracks.append((run, train, valid))
    if not tracks:
        return ""
    ends = [(valid or train)[-1][1] for _, train, valid in tracks]
    across = [place for _, train, valid in tracks for place, _ in train + valid]
    span = min(across), max(across)
    frame = Frame(width, span, (min(ends), max(ends) * 1.15), 38 if width < NARROW else 134, logarithmic=True)
    x, y, name = frame.x, frame.beyond, f"{axis}-{width}"
    clip = f'x="{LEFT}" y="{TOP}" width="{frame.right - LEFT}" height="{frame.bottom - TOP}"'
    parts = [f'<clipPath id="{name}"><rect {clip}/></clipPath>', *frame.paper(frame.costs(), AXES[axis])]
    parts.append(f'<g clip-path="url(#{name})">')
    for run, train, valid in tracks:
        parts.append(f'<g class="track" data-run="{escape(run["run"])}" data-stage="{run["stage"]}">')
        if len(train) > 1:
            parts.append(f'<polyline class="train" points="{joined([(x(a), y(b)) for a, b in train])}"/>')
        if len(valid) > 1:
            parts.append(f'<polyline class="valid" points="{joined([(x(a), y(b)) for a, b in valid])}"/>')
        parts += [f'<circle class="look" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3"/>' for a, b in valid]
        parts.append("</g>")
    parts.append("</g>")
    for (run, train, valid), end, place in zip(tracks, ends, frame.beside(ends), strict=True):
        until = x((valid or train)[-1][0])
        parts.append(f'<g class="track" data-run="{escape(run["run"])}" data-stage="{run["stage"]}">')
        tail = [(until + 4, y(end)), (frame.right, y(end)), (frame.right + TURN, place)]
        parts.append(f'<polyline class="leader" points="{joined(tail)}"/>')
        label = str(run["stage"] or "mix") if frame.narrow else words.named(run)
        parts.append(text(frame.right + TURN + 3, place + 4, label, "end-name") + "</g>")
    named = [words.named(run) for run, _, _ in tracks]
    said = "; ".join(f"{name} ends at {end:.4f}" for name, end in zip(named, ends, strict=True))
    return svg(
        width, frame.height, f"Learning curves over {AXES[axis]}, bits per byte: {said}.", parts, "bits per byte"
    )


def svg(width: int, height: int, label: str, parts: Sequence[str], unit: str) -> str:
    """A whole picture in pixels; `label` says it to those who do not see it, `unit` stands above it."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg {size} role="img" aria-label="{escape(label)}">'
    return "\n".join([head, text(0, 12, unit, "note"), *parts, "</svg>"])


def text(x: float, y: float, said: str, kind: str, anchor: str = "start", more: str = "") -> str:
    """Words at a place in pixels; `kind` is the class of the style sheet."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(said)}</text>'


def joined(points: Sequence[Point]) -> str:
    """Points as an SVG line wants them."""
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def finite(value: float | None) -> bool:
    """Whether it is there and a number."""
    return value is not None and math.isfinite(value)


def widened(low: float, high: float) -> tuple[float, float]:
    """A little more on both sides."""
    room = max(high - low, 0.02 * high, 1e-3)
    return max(0.0, low - 0.08 * room), high + 0.08 * room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within, four to nine."""
    rough = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
    return [round(step * at, 10) for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def apart(places: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Places of labels near those asked for, `gap` apart where there is room."""
    order = sorted(range(len(places)), key=places.__getitem__)
    told, least = list(places), top
    for at in order:
        told[at] = least = max(places[at], least)
        least += gap
    most = bottom
    for at in reversed(order):
        told[at] = min(told[at], most)
        most = told[at] - gap
    return told
