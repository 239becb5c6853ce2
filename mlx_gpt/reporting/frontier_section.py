"""The section "Frontiers" of a report, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from mlx_gpt.reporting import frontier_words as said
from mlx_gpt.reporting.courses import PLACES, courses
from mlx_gpt.reporting.elements import Table, choice, table
from mlx_gpt.reporting.frontier_figures import AXES, learnt, paid
from mlx_gpt.reporting.frontiers import POINTS
from mlx_gpt.reporting.words import plain

Told = dict[str, Any]
LEARNING = ("seconds", "tokens")
NO_CURVE = "No run has a learning curve, so nothing is known over training time and tokens."
PASSINGS = (
    "In the row of the one that is ahead in the end: where it passed the one of the column; ✓: ahead wherever both are "
    "known; –: not within what was trained of both."
)


def section(told: Told, drawn: Callable[[Callable[[int], str]], str]) -> str:
    """The section; `drawn` makes a picture for every width out of the function that draws one."""
    found = told["frontiers"]
    learning = [axis for axis in LEARNING if found["learning"][axis]["reached"]]
    shown = [*learning, *(axis for axis in POINTS if found["points"][axis])]
    parts = [
        f"<p>{escape(said.SPLITS)}</p>",
        f'<ul class="answers">{_items(said.short_answer(found))}</ul>',
        choice("frontier", {axis: AXES[axis][0] for axis in shown}, "The best by"),
        *(_part("frontier", axis, drawn(_picture(told, axis))) for axis in shown),
        '<p class="key"><span class="on">on the frontier</span> <span>beaten by another</span> '
        "<span>lower is better, and so is further left</span></p>",
        f'<ul class="notes"><li>{escape(said.MIDWAY)}</li><li>{escape(said.SECONDS)}</li></ul>',
        "<h3>Best within</h3>",
        table(said.answers(found), "Best within", ""),
        f"<p>{escape(said.SPREAD)}</p>",
    ]
    if not learning:
        parts.append(f'<p class="gap">{NO_CURVE}</p>')
    for axis in learning:
        parts.append(f"<h3>At equal {AXES[axis][0]}, validation text</h3>")
        parts.append(table(said.reached(found, axis), f"At equal {AXES[axis][0]}"))
    if learning:
        parts.append(f"<p>{escape(said.ENDED)}.{_without(found)}</p>")
    parts.append("<h3>At equal size and speed, held-out text</h3>")
    parts.append(table(said.paid(found, told["league"]), "At equal size and speed"))
    if learning:
        parts.append(f"<h3>Who passes whom, validation text</h3><p>{escape(PASSINGS)}</p>")
        parts.append(choice("passing", {axis: AXES[axis][0] for axis in learning}, "Passings over"))
    for axis in learning:
        listed = _items(said.passed(found, axis)) or "<li>Nobody passes anybody.</li>"
        both = table(said.passings(found, axis), f"Passings over {AXES[axis][0]}", "")
        both += f"<details><summary>All of them in words</summary><ul>{listed}</ul></details>"
        parts.append(_part("passing", axis, both))
    return "\n".join(parts)


def _picture(told: Told, axis: str) -> Callable[[int], str]:
    found = told["frontiers"]
    if axis in PLACES:
        return lambda width: learnt(courses(told["league"], told["runs"], axis), found["labels"], axis, width)
    return lambda width: paid(found["points"][axis], found["labels"], axis, width)


def _without(found: Told) -> str:
    names = [found["labels"][run] for run in found["learning"]["seconds"]["without"]]
    return f" Without a learning curve: {escape(', '.join(names))}." if names else ""


def _part(name: str, axis: str, content: str) -> str:
    return f'<div data-{name}="{axis}">{content}</div>'


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def frontier_markdown(told: Told, tabled: Callable[[list[str], list[list[str]]], str]) -> list[str]:
    """Paragraphs of Markdown; `tabled` writes a table."""
    found = told["frontiers"]
    learning = [axis for axis in LEARNING if found["learning"][axis]["reached"]]

    def written(found: Table) -> str:
        rows = [[f"**{cell.text}**" if cell.kind == said.LEAD else cell.text for cell in row] for row in found.rows]
        return tabled(list(map(str, found.head)), rows)

    parts = [
        said.SPLITS,
        "\n".join(f"- {plain(line)}" for line in said.short_answer(found)),
        written(said.answers(found)),
    ]
    parts.append(f"{said.SPREAD} {said.MIDWAY} {said.SECONDS}")
    if not learning:
        parts.append(NO_CURVE)
    for axis in learning:
        parts += [f"### At equal {AXES[axis][0]}, validation text", written(said.reached(found, axis))]
        lines = said.passed(found, axis)
        parts.append("\n".join(f"- {plain(line)}" for line in lines) if lines else "Nobody passes anybody.")
    parts += ["### At equal size and speed, held-out text", written(said.paid(found, told["league"]))]
    return parts
