"""Pictures of a report as inline SVG: no colour is named here, classes leave all of them to the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from mlx_gpt.reporting import words

Row = dict[str, Any]
Point = tuple[float, float]
LETTER = 6.4  # pixels of a small letter, about
AXES = {"tokens": "training tokens", "seconds": "seconds of training"}


def ladder(league: Sequence[Row], lines: dict[str, float], width: int) -> str:
    """Bits per byte of each row, with its interval, among what costs no model; `width` in pixels."""
    narrow = width < 500
    left, right, top, bottom = 38, 86, 26, 34 if narrow else 96
    height = 320 if narrow else 420
    shown = [row["bits_per_byte"] for row in league if finite(row["bits_per_byte"])]
    if not shown:
        return ""
    tops = [row["bits_per_byte"] + (row["margin"] or 0.0) for row in league if finite(row["bits_per_byte"])]
    near = [bits for bits in lines.values() if bits < 1.5 * max(tops)]
    low, high = widened(min(shown + near), max(tops + near))
    step = (width - left - right) / max(1, len(league))

    def x(at: int) -> float:
        return left + step * (at + 0.5)

    def y(bits: float) -> float:
        return top + (high - bits) / (high - low) * (height - top - bottom)

    parts = grid(low, high, y, left, width - right)
    far = sorted(((bits, name) for name, bits in lines.items() if bits > high), reverse=True)
    if far:
        said = ", ".join(f"{name} {bits:.2f}" for bits, name in far)
        parts.append(text(width - 2, 12, f"above the picture: {said}", "note", "end"))
    inside = sorted(((y(bits), name, bits) for name, bits in lines.items() if low <= bits <= high))
    beside = apart([each[0] for each in inside], 13, top, height - bottom)
    for (at, name, _), place in zip(inside, beside, strict=True):
        parts.append(f'<line class="reference" x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(width - right + 5, place + 4, name, "reference-name"))
    places = [(x(at), y(row["bits_per_byte"])) for at, row in enumerate(league) if finite(row["bits_per_byte"])]
    parts.append(f'<polyline class="climb" points="{joined(places)}"/>')
    for at, row in enumerate(league):
        name, bits = words.named(row), row["bits_per_byte"]
        label = str(row["stage"] or "mix") if narrow else name
        turn = "" if narrow else f' transform="rotate(-40 {x(at):.1f} {height - bottom + 16})"'
        anchor = "middle" if narrow else "end"
        parts.append(text(x(at), height - bottom + 16, label, "tick", anchor, turn))
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
    return svg(width, height, f"Bits per byte by stage: {said}.", parts, "bits per byte")


def curves(runs: Sequence[Row], axis: str, width: int) -> str:
    """Validation bits per byte of each run, and of training, against `axis`, one of AXES, on a logarithmic scale."""
    narrow = width < 500
    at = list(AXES).index(axis)
    left, right, top, bottom, height = 38, 28 if narrow else 118, 26, 40, 320 if narrow else 420
    tracks = []
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
    low, high = widened(min(ends), max(ends) * 1.15)
    across = [place for _, train, valid in tracks for place, _ in train + valid]
    first, last = math.log10(min(across)), math.log10(max(across))
    last = max(last, first + 0.1)

    def x(value: float) -> float:
        return left + (math.log10(value) - first) / (last - first) * (width - left - right)

    def y(bits: float) -> float:
        return top + (high - bits) / (high - low) * (height - top - bottom)

    name = f"{axis}-{width}"
    clip = f'x="{left - 6}" y="{top}" width="{width - left - right + 12}" height="{height - top - bottom}"'
    parts = [f'<clipPath id="{name}"><rect {clip}/></clipPath>', *grid(low, high, y, left, width - right)]
    for power in range(math.ceil(first), math.floor(last) + 1):
        place = x(10**power)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(text(place, height - bottom + 16, words.short(10.0**power), "tick", "middle"))
    parts.append(text((left + width - right) / 2, height - 4, AXES[axis], "tick", "middle"))
    labels = apart([min(max(y(end), top), height - bottom) for end in ends], 13, top, height - bottom)
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
    for (run, train, valid), end, place in zip(tracks, ends, labels, strict=True):
        until = x((valid or train)[-1][0])
        parts.append(f'<g class="track" data-run="{escape(run["run"])}" data-stage="{run["stage"]}">')
        parts.append(
            f'<polyline class="leader" points="{until + 4:.1f},{y(end):.1f} {width - right:.1f},{place:.1f}"/>'
        )
        label = str(run["stage"]) if narrow else words.named(run)
        parts.append(text(width - right + 4, place + 4, label, "end-name") + "</g>")
    named = [words.named(run) for run, _, _ in tracks]
    said = "; ".join(f"{name} ends at {end:.4f}" for name, end in zip(named, ends, strict=True))
    return svg(width, height, f"Learning curves over {AXES[axis]}, bits per byte: {said}.", parts, "bits per byte")


def svg(width: int, height: int, label: str, parts: Sequence[str], unit: str) -> str:
    """A whole picture in pixels; `label` says it to those who do not see it, `unit` stands above it."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg {size} role="img" aria-label="{escape(label)}">'
    return "\n".join([head, text(0, 12, unit, "note"), *parts, "</svg>"])


def grid(low: float, high: float, y: Callable[[float], float], left: float, right: float) -> list[str]:
    """Lines across at round values, with their numbers."""
    parts = []
    for value in _ticks(low, high):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(text(left - 5, y(value) + 4, f"{value:g}", "tick", "end"))
    return parts


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
