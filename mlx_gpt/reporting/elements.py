"""Parts of the page that several sections are made of, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape


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
