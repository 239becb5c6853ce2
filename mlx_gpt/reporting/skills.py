"""What each stage can do, as a section of the pages: stages down, skills across."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from typing import Any

from mlx_gpt.probes import SKILLS
from mlx_gpt.reporting.elements import Cell, Table, meanings, shade, table
from mlx_gpt.reporting.words import named, reach, signed
from mlx_gpt.stories import TAGS

Told = dict[str, Any]
SHADES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)  # of a probe, 0 to 1
PROBED = [(skill.part, skill.asks) for skill in SKILLS]
HEATS = (0.1, 0.3, 1.0, 2.5, 5.0, 10.0)  # bits above the floor
PROBES = (
    "Twins of texts that differ in one word that decides, each with a right and a wrong way to go on, ± the reach of "
    "the 95 % interval: 0 is chance, 100 always right, below 0 misled. The words are frequent ones of the training "
    "text, the passages held out; a skill that the text never teaches reads as chance, and – was not asked for want of "
    "words. B: bytes back to what decides."
)
KINDS = (
    "Bits a choice above the exact floor, by what has to be remembered, ± the 95 % interval: 0 is all that the grammar "
    "can tell, and cannot be beaten but for the noise of a sample."
)
DISTANCES = (
    "The same for names, things and words that stood in the story before, by how many bytes ago that was last: whoever "
    "looks far enough back need not pay."
)


def skills_section(runs: Sequence[Told]) -> str:
    """The tables as HTML."""
    parts = [f"<p>{escape(PROBES)}</p>", _matrix(runs, "Probes", PROBED, _probes(runs), _groups())]
    asks = [(skill.name, skill.asks) for skill in SKILLS]
    parts.append(meanings("What each probe asks", asks))
    known = [run for run in runs if run["skills"]["dependencies"]]
    if known:
        for name, said, title in (("kinds", KINDS, "Excess by kind"), ("distances", DISTANCES, "Excess by distance")):
            rows = [run["skills"]["dependencies"][name] for run in known]
            columns = _columns(rows)
            parts.append(f"<p>{escape(said)}</p>")
            parts.append(_matrix(known, title, columns, [_cells(each, columns, _excess) for each in rows]))
            if name == "kinds":
                parts.append(meanings("What has to be remembered", TAGS.items()))
    return "".join(parts)


def skills_markdown(runs: Sequence[Told]) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables as (what is said before it, head, rows): skills down, stages across."""
    tables = [(PROBES, "probe", runs, [run["skills"]["probes"] for run in runs], _score)]
    known = [run for run in runs if run["skills"]["dependencies"]]
    for name, said, head in (("kinds", KINDS, "bits a choice"), ("distances", DISTANCES, "bytes back")):
        tables.append((said, head, known, [run["skills"]["dependencies"][name] for run in known], _excess))
    told = []
    for said, head, members, rows, shown in tables:
        names = [named(run) for run in members]
        columns = _columns(rows)
        cells = [_cells(each, columns, shown) for each in rows]
        down = [[column, *(cell.text for cell in at)] for column, *at in zip(columns, *cells, strict=True)]
        if members:
            told.append((said, [head, *names], down))
    return told


def _probes(runs: Sequence[Told]) -> list[list[Cell]]:
    columns = [skill.name for skill in SKILLS]
    return [_cells(run["skills"]["probes"], columns, _score) for run in runs]


def _columns(rows: Sequence[Sequence[Told]]) -> list[str]:
    return list(dict.fromkeys(each["name"] for row in rows for each in row))


def _cells(row: Sequence[Told], columns: Sequence[str], shown: Callable[[Told], Cell]) -> list[Cell]:
    known = {each["name"]: shown(each) for each in row}
    return [known.get(column, Cell("")) for column in columns]


def _score(row: Told) -> Cell:
    value = row["value"]
    if value is None:
        return Cell("–")
    beyond = max(row["high"] - value, value - row["low"])
    kind = shade("good", value, SHADES) if row["low"] > 0 else shade("bad", -value, SHADES) if row["high"] < 0 else ""
    return Cell(signed(100 * value, 0).lstrip("+"), value, reach(100 * beyond, 0), kind)  # chance has no colour


def _excess(row: Told) -> Cell:
    value = row["value"]
    heat = sum(value >= least for least in HEATS) if value is not None else len(HEATS)
    figure = "∞" if value is None else signed(value, 2).lstrip("+")
    return Cell(figure, value, "" if value is None else reach(row["margin"], 2), f"h{heat}")


def _groups() -> str:
    """Headings of groups over their parts."""
    above = "<th></th>"
    for group, members in groupby(SKILLS, key=lambda skill: skill.group):
        above += f'<th scope="colgroup" colspan="{len(list(members))}">{escape(group)}</th>'
    return f"<tr>{above}</tr>"


def _matrix(
    runs: Sequence[Told],
    title: str,
    head: Sequence[str | tuple[str, str]],
    rows: Sequence[Sequence[Cell]],
    above: str = "",
) -> str:
    cells = [[Cell(named(run), run["stage"]), *row] for run, row in zip(runs, rows, strict=True)]
    return table(Table(["stage", *head], cells), title, "matrix", above)
