"""A report as one HTML file: style, script, pictures and data are in it, and its policy forbids every request.

The policy names the SHA-256 of the one script and the one style sheet, so nothing else in the file can run, whatever
a run's text holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from html import escape
from importlib import resources
from string import Template
from typing import Any

from mlx_gpt.reporting.elements import FREE, Cell, Table, choice, table
from mlx_gpt.reporting.figures import AXES, curves, ladder
from mlx_gpt.reporting.frontier_section import section
from mlx_gpt.reporting.frontiers import first_runs, told_apart
from mlx_gpt.reporting.league_section import league
from mlx_gpt.reporting.markdown import gaps, trained_on
from mlx_gpt.reporting.skills import skills_section
from mlx_gpt.reporting.textless import LEFT_OUT, has_text
from mlx_gpt.reporting.where_section import section as where
from mlx_gpt.reporting.words import count, named, percent, with_margin

Told = dict[str, Any]
WIDTHS = {"wide": 760, "narrow": 328}  # pixels of a picture, of which the style sheet shows one
FIGURES = (
    ("words", "words", "of all texts together"),
    ("distinct_1", "distinct-1", "different words as a share of all"),
    ("distinct_2", "distinct-2", "different pairs of words as a share of all"),
    ("distinct_3", "distinct-3", "different triples of words as a share of all"),
    ("repetition", "repetition", "4-grams of words that stood before in the same text"),
    ("copied", "copied", "8-grams of words that also stand in the training text"),
    ("longest", "longest copy", "words of the longest passage whose every 8-gram stands in the training text"),
)
COUNTED = ("words", "longest")  # the others are shares


def page(told: Told) -> str:
    """The whole report."""
    told = told_apart(told)
    text, machine, quoted = told["text"], told["machine"], has_text(told)
    style, script = _read("page.css"), _read("page.js") + (_read("text.js") if quoted else "")
    parts = {
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'",
        "style": style,
        "script": script,
        "data": json.dumps(_data(told), ensure_ascii=False).replace("<", "\\u003c"),
        "source": escape(text["source"]),
        "made": escape(told["made"]),
        "lead": escape(_lead(told)),
        "trained_on": "".join(f'<p class="quiet">{escape(said)}</p>' for said in trained_on(told)),
        "gaps": "".join(f'<p class="gap">{escape(said)}</p>' for said in gaps(told)),
        "league": table(league(told), "League table"),
        "legend": "".join(f"<li>{escape(said)}</li>" for said in told["legend"]),
        "ladder": _both(lambda width: ladder(told["league"], text["reference_lines"], width)),
        "curves": "".join(_curves(told, axis) for axis in AXES),
        "frontiers": section(told, _both),
        "lengths": choice("length", {str(length): f"{length} tokens" for length in _lengths(told)}, "The first"),
        "skills": skills_section(first_runs(told)),
        "where": where(told, _both),
        "passage": _read("passage.html") if quoted else f"<p>{LEFT_OUT}</p>",
        "samples": _read("samples.html") if quoted else f"<p>{LEFT_OUT}</p>",
        "written": _written(told),
        "machine": "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in machine.items()),
    }
    return Template(_read("page.html")).substitute(parts)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _both(draw: Callable[[int], str]) -> str:
    return "".join(f'<div class="{name}">{draw(width)}</div>' for name, width in WIDTHS.items())


def _curves(told: Told, axis: str) -> str:
    drawn = _both(lambda width: curves(first_runs(told), axis, width))
    return f'<div data-axis="{axis}">{drawn}</div>'


def _data(told: Told) -> dict[str, Any]:
    """What the script shows: surprise and samples, and no more of each run than that."""
    kept = ("run", "stage", "name", "title", "remembers", "surprise", "samples")
    return {
        "runs": [{name: run[name] for name in kept} for run in first_runs(told)],
        "asked": told["asked"],
        "bytes": len((told["text"]["passage"] or "").encode()),
    }


def _lead(told: Told) -> str:
    """One sentence on what came out."""
    scored = [row for row in told["league"] if row["bits_per_byte"] is not None]
    said = f"{told['text']['bytes']:,} bytes held out of {told['text']['source']}"
    if not scored:
        return said + "."
    best = min(scored, key=lambda row: row["bits_per_byte"])
    name = f"stage {best['stage']} {best['name']}"
    return f"{said}; {name} needs the least, {with_margin(best['bits_per_byte'], best['margin'])} bits per byte."


def _lengths(told: Told) -> list[int]:
    """Of written texts, in tokens, the longest first."""
    return sorted((each["tokens"] for each in told["written"] or ()), reverse=True)


def _written(told: Told) -> str:
    """The table of what can be told of samples by counting, by length."""
    head = [("stage", ""), ("tokens", "of each text, at most"), *(each[1:] for each in FIGURES)]
    each_run = [(Cell("held-out text", kind=FREE), told["written"])]
    each_run += [(Cell(named(run), run["stage"]), run["written"]) for run in first_runs(told)]
    rows, more = [], []
    for name, measured in each_run:
        for each in measured or ():
            shown = [Cell((count if key in COUNTED else percent)(each[key]), each[key]) for key, _, _ in FIGURES]
            rows.append([name, Cell(str(each["tokens"]), each["tokens"]), *shown])
            more.append(f' data-length="{each["tokens"]}"')
    return table(Table(head, rows), "Measures of written text", more=more)
