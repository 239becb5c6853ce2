"""Pictures of the frontiers: courses over training, points over what they cost, and the line of the best so far."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from mlx_gpt.reporting import words
from mlx_gpt.reporting.courses import Course, Lead, leads
from mlx_gpt.reporting.figures import LEFT, LETTER, LINE, NARROW, TOP, TURN, Frame, Point, finite, joined, svg, text
from mlx_gpt.reporting.frontier_words import brief

Told = dict[str, Any]
Box = tuple[float, float, float, float]  # left, upper, right and lower edge
AXES = {
    "seconds": ("training time", "seconds of training"),
    "tokens": ("training tokens", "training tokens"),
    "parameters": ("parameters", "parameters"),
    "bytes_on_disk": ("bytes on disk", "bytes on disk"),
    "scoring": ("scoring speed", "seconds to score a megabyte"),
}  # the name of each, and what is written below its picture
AWAY = (-1.0, 1.0, -2.0, 2.0, -3.0, 3.0, -4.0, 4.0)  # lines up or down
BELOW = [(side, step) for step in (0.9, 1.9, 2.9) for side in (-1, 1)]  # where no frontier goes through
BESIDE = [(side, step) for step in (0.0, *AWAY) for side in (1, -1)]


def learnt(found: Sequence[Course], names: dict[str, str], axis: str, width: int) -> str:
    """Every course, and the best of them from place to place; `names` by run, as they are written."""
    if not found:
        return ""
    places = [place for course in found for place in course.knots.tolist()]
    ends = [float(course.mean(np.array([course.done]))[0]) for course in found]
    span, bits = (min(places), max(places)), (min(ends), max(ends) * 1.15)
    frame = Frame(width, span, bits, 38 if width < NARROW else 134, logarithmic=True)
    parts = frame.paper(frame.costs(), AXES[axis][1])
    for course in found:
        looks = list(zip(course.knots.tolist(), course.mean(course.knots).tolist(), strict=True))
        parts.append(f'<polyline class="course" points="{joined(_inside(frame, looks))}"/>')
        seen = [(frame.x(place), frame.y(value)) for place, value in looks if value <= frame.high]
        parts += [f'<circle class="off" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in seen]
    lead, shown = leads(found), brief(names) if frame.narrow else names
    parts.append(f'<path class="frontier" d="{_envelope(frame, found, lead)}"/>')
    leading = {each.run for each in lead}
    for course, end, place in zip(found, ends, frame.beside(ends), strict=True):
        x, y, on = frame.x(course.done), frame.y(end), course.run in leading
        said = f"{names[course.run]}: {words.bits(end)} bits per byte at {words.cost(axis, course.done)}"
        still = [(x + 5, y), (frame.right, y), (frame.right + TURN, place)]
        parts.append(f'<g class="{"best" if on else "rest"}"><title>{escape(said)}</title>')
        parts.append(f'<polyline class="leader" points="{joined(still)}"/>')
        parts.append(f'<circle class="{"on" if on else "off"}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
        parts.append(text(frame.right + TURN + 3, place + 4, shown[course.run], "end-name") + "</g>")
    stretches = [f"{names[each.run]} from {words.cost(axis, each.first)}" for each in lead]
    label = f"Best so far by {AXES[axis][0]}, bits per byte of the validation text: {', then '.join(stretches)}."
    return svg(frame.width, frame.height, label, parts, "bits per byte, validation text")


def _inside(frame: Frame, points: Sequence[Point]) -> list[Point]:
    """A falling line in pixels, from where it comes in below the upper edge."""
    drawn: list[Point] = []
    for at, (place, bits) in enumerate(points):
        if bits <= frame.high:
            if not drawn and at:
                before, above = points[at - 1]
                share = (above - frame.high) / (above - bits)
                drawn.append((frame.x(before) + share * (frame.x(place) - frame.x(before)), frame.y(frame.high)))
            drawn.append((frame.x(place), frame.y(bits)))
    return drawn


def _envelope(frame: Frame, found: Sequence[Course], lead: Sequence[Lead]) -> str:
    """The line of the best, which falls where another takes over; to the right edge."""
    by_run, edge = {course.run: course for course in found}, 10**frame.last
    parts: list[str] = []
    for each in lead:
        last, course = each.last or edge, by_run[each.run]
        places = np.unique([each.first, *course.knots[(course.knots > each.first) & (course.knots < last)], last])
        drawn = zip(places.tolist(), course.mean(places).tolist(), strict=True)
        parts += [f"{frame.x(place):.1f} {frame.y(bits):.1f}" for place, bits in drawn]
    return "M" + " L".join(parts) if parts else ""


def paid(points: Sequence[Told], names: dict[str, str], axis: str, width: int) -> str:
    """Every point by its cost, with the interval of its bits per byte, and the step line of those that none beats."""
    if not points:
        return ""
    bits = [each["bits_per_byte"] for each in points]
    margins = [each["margin"] if finite(each["margin"]) else 0.0 for each in points]
    ends = [value + side * margin for value, margin in zip(bits, margins, strict=True) for side in (-1, 1)]
    costs = [each["cost"] for each in points]
    frame = Frame(width, (min(costs), max(costs)), (min(ends), max(ends)), 10, logarithmic=True)
    parts = frame.paper(frame.costs(), AXES[axis][1])
    best = [each for each in points if each["beaten_by"] is None]
    line = [(frame.x(best[0]["cost"]), frame.y(frame.high))]
    for before, each in itertools.pairwise([best[0], *best]):
        x = frame.x(each["cost"])
        line += [(x, frame.y(before["bits_per_byte"])), (x, frame.y(each["bits_per_byte"]))]
    line.append((frame.right, line[-1][1]))
    parts.append(f'<polyline class="frontier" points="{joined(line)}"/>')
    places = [(frame.x(each["cost"]), frame.y(each["bits_per_byte"])) for each in points]
    written = brief(names) if frame.narrow else names
    best_first = sorted(range(len(points)), key=lambda at: points[at]["beaten_by"] is not None)
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for (x, y), (right, low) in itertools.pairwise(line):
        taken.append((x - 2, min(y, low) - 2, right + 2, max(y, low) + 2))
    labels = {
        at: _beside(places[at], written[points[at]["run"]], bool(points[at]["beaten_by"]), taken, frame)
        for at in best_first
    }
    for at, (each, (x, y), margin) in enumerate(zip(points, places, margins, strict=True)):
        beaten = each["beaten_by"]
        said = f"{names[each['run']]}: {words.with_margin(each['bits_per_byte'], margin)} bits per byte, "
        said += words.cost(axis, each["cost"]) + (f"; beaten by {names[beaten]}" if beaten else "")
        parts.append(f'<g class="{"rest" if beaten else "best"}"><title>{escape(said)}</title>')
        if margin:
            above, below = (frame.y(each["bits_per_byte"] + side * margin) for side in (1, -1))
            parts.append(f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{above:.1f}" y2="{below:.1f}"/>')
        (left, base, side), away = labels[at], abs(labels[at][1] - 4 - y) >= LINE
        if away:
            parts.append(f'<polyline class="leader" points="{x:.1f},{y:.1f} {left - 2 * side:.1f},{base - 4:.1f}"/>')
        parts.append(
            f'<circle class="{"off" if beaten else "on"}" cx="{x:.1f}" cy="{y:.1f}" r="{4 if beaten else 5}"/>'
        )
        parts.append(text(left, base, written[each["run"]], "point-name", "start" if side > 0 else "end") + "</g>")
    order = ", ".join(f"{names[each['run']]} {words.bits(each['bits_per_byte'])}" for each in best)
    label = f"Bits per byte of the held-out text by {AXES[axis][0]}; on the frontier, cheap ones first: {order}."
    return svg(frame.width, frame.height, label, parts, "bits per byte, held-out text")


def _beside(place: Point, name: str, beaten: bool, taken: list[Box], frame: Frame) -> tuple[float, float, int]:
    """A free spot for a point's name, which is taken then: x, base line, and 1 where it goes on to the right, or -1."""
    (x, y), wide = place, LETTER * len(name) * (1 if beaten else 1.1)
    tried: list[tuple[float, int, float, float, int, Box]] = []
    for side, step in BESIDE if beaten else BELOW + BESIDE:
        left, base = x + side * (9 if abs(step) < 1 else 16), y + 4 + step * LINE
        box = (min(left, left + side * wide), base - 10, max(left, left + side * wide), base + 2)
        out = box[0] < LEFT or box[2] > frame.width or box[1] < TOP - 4 or box[3] > frame.bottom
        covered = sum(_overlap(box, other) for other in taken)
        tried.append((covered + 1e6 * out, len(tried), left, base, side, box))
    _, _, left, base, side, box = min(tried)
    taken.append(box)
    return left, base, side


def _overlap(one: Box, other: Box) -> float:
    wide, high = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0
