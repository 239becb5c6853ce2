"""Parts of the page that several sections are made of, as HTML: tables, their colours, choices, explanations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mlx_gpt.league import ALPHA
from mlx_gpt.reporting.words import reach, signed

SHADES = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2)  # bits per byte less or more, from which a cell is darker
FREE = "free"  # of the first cell of a row: it is of no model, and stays where it is when others are sorted


@dataclass(frozen=True)
class Cell:
    """What it says, the number it is sorted by, how far its interval reaches, and the class that colours it."""

    said: str
    value: float | None = None
    reach: str = ""
    kind: str = ""

    @property
    def text(self) -> str:
        """All of it in one."""
        return self.said + self.reach


@dataclass(frozen=True)
class Table:
    """Names of columns, each alone or with what it means, and rows, whose first cell is their own name."""

    head: Sequence[str | tuple[str, str]]
    rows: Sequence[Sequence[Cell]]


def table(found: Table, label: str, kind: str = "sortable", above: str = "", more: Sequence[str] = ()) -> str:
    """A table in its box, `label` its name to those who do not see it.

    kind   its class: the script lets the headings of a sortable one be pressed
    above  a row of headings over the others
    more   attributes of the rows, one each
    """
    heads = [(each, "") if isinstance(each, str) else each for each in found.head]
    head = "".join(_head(name, means, kind == "sortable") for name, means in heads)
    body = []
    for at, row in enumerate(found.rows):
        first = ' class="free"' if row[0].kind == FREE else ""
        cells = "".join(_cell(cell, place == 0) for place, cell in enumerate(row))
        body.append(f"<tr{first}{more[at] if more else ''}>{cells}</tr>")
    inside = f"<thead>{above}<tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return scrolled(label, f'<table class="{kind}">{inside}</table>')


def _head(name: str, means: str, pressed: bool) -> str:
    title = f' title="{escape(means)}"' if means else ""
    return f'<th scope="col"{title}>{f"<button>{escape(name)}</button>" if pressed else escape(name)}</th>'


def _cell(cell: Cell, first: bool) -> str:
    tag, more = ("th", ' scope="row"') if first else ("td", f' class="{cell.kind}"' if cell.kind else "")
    reach = f"<small>{escape(cell.reach)}</small>" if cell.reach else ""
    value = "" if cell.value is None else cell.value
    return f'<{tag}{more} data-value="{value}">{escape(cell.said)}{reach}</{tag}>'


def shade(kind: str, value: float, limits: Sequence[float]) -> str:
    """The class of the style sheet for a `good` or `bad` value: darker from each of six limits on, none below all."""
    step = sum(value >= each for each in limits)
    return f"{kind} s{step}" if step else ""


def changed(less: dict[str, Any] | None) -> Cell:
    """A difference of bits per byte to the row above, without a colour where it may be chance."""
    if less is None:
        return Cell("")
    sure, kind = less["p_holm"] < ALPHA, "good" if less["value"] < 0 else "bad"
    colour = shade(kind, abs(less["value"]), SHADES) if sure else ""
    return Cell(signed(less["value"]), less["value"], reach(less["margin"]) + (" *" if sure else ""), colour)


def scrolled(label: str, table: str) -> str:
    """A table in a box that scrolls sideways, by keys too; `label` names it to those who do not see it."""
    return f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">{table}</div>'


def choice(name: str, options: Mapping[str, str], legend: str) -> str:
    """Buttons of which one is chosen, the first to begin with; the script shows what has its value as data-<name>."""
    each = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{"" if at else " checked"}> {words}</label>\n'
        for at, (value, words) in enumerate(options.items())
    )
    return f'<fieldset class="choice"><legend>{legend}</legend>\n{each}</fieldset>'


def meanings(title: str, said: Iterable[tuple[str, str]], before: str = "") -> str:
    """Names and what they mean, to be opened; a paragraph before them."""
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(what)}</dd>" for name, what in said)
    first = f"<p>{escape(before)}</p>" if before else ""
    return f"<details><summary>{escape(title)}</summary>{first}<dl>{told}</dl></details>"
