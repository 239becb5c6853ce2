"""The section "Where the bits went" of a report, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from mlx_gpt.league import ALPHA
from mlx_gpt.reporting.elements import FREE, SHADES, Cell, Table, changed, choice, meanings, shade, table
from mlx_gpt.reporting.where_figures import bars, place, places
from mlx_gpt.reporting.words import bits, percent, plain, reach, signed, titled

Told = dict[str, Any]
SHOWN = 12  # of the frequent words
ORDER = (
    "Every token has the first of these causes that holds, known from the held-out and the training text alone, so the "
    "bits of all causes add up to the score. A word is a run of letters and digits with the spaces before it; a token "
    "belongs to the word in which it begins."
)
UNLIKE = (
    "These runs cut the text by different tokenizers, so all bits of tokens that begin in a word are the word's, and "
    "what is inside a word is not told apart. The shares are those of the first run, and words are frequent or rare in "
    "the training text of the one that was scored first."
)
UNKNOWN = "The training text was gone, so frequent and rare words are not told apart."
SPENT = "Bits per byte of the whole text"
COLOURS = "Blue: less than the stage before; orange: more; no colour: next to nothing, or it may be chance."
LOST = (
    "Bits per byte less (−) or more (+) than the stage before it in this table, ± the 95 % interval, paired on the "
    f"same parts of the text. *: p < {ALPHA} after Holm's correction over all cells, the noise of training counted in "
    "as far as several seeds tell it."
)
PLACES = (
    "Bits per byte of what begins so far from the beginning of its document, without the marks that end documents: how "
    "much a stage gains from what it has read, with the 95 % interval, bootstrap over the same parts of the text as "
    "above. One that remembers nothing tells how hard the text itself is there; far places are those of long documents."
)
TRACKS = "The buttons of the learning curves bring stages out here too."
FEW = "The documents are too short, or too few, to tell places apart."
AGAIN = (
    "Words that are not frequent and stand again in the same document, written alike; how many is in the heading. Bits "
    "a word where they stand first, and what the very same words cost less (−) or more (+) the second, third, fourth "
    "time. Coloured is what its 95 % interval tells from 0. A stage that remembers nothing pays the same again."
)
TIMES = ("2nd", "3rd", "4th")
ALL = Cell("100.0 %")
CHOICES = {"spent": "bits per byte", "lost": "difference to the stage before"}


def section(told: Told, drawn: Callable[[Callable[[int], str]], str]) -> str:
    """The section; `drawn` makes a picture for every width out of the function that draws one."""
    found = _named_rows(told)
    notes, spent = _notes(told), _spent(found)
    spent = Table(spent.head, [*_shares(found), *spent.rows])
    parts = [
        f"<p>{SPENT}, by what makes a token dear or cheap.</p>",
        _key(found),
        drawn(lambda width: bars(found, width)),
        choice("where", CHOICES, "Stages by causes"),
        f'<div data-where="spent"><p class="quiet">{SPENT}. {COLOURS}</p>{table(spent, "Bits by cause")}</div>',
        f'<div data-where="lost"><p class="quiet">{escape(LOST)}</p>{table(_lost(found), "Changes by cause")}</div>',
        meanings("What the causes are", _meanings(told), ORDER),
        *(f'<p class="quiet">{escape(said)}</p>' for said in notes),
        "<h3>By place in the document</h3>",
        f'<p class="quiet">{escape(f"{PLACES} {TRACKS}" if found["places"] else FEW)}</p>',
        drawn(lambda width: places(found, width)),
    ]
    if any(found["words"]):
        parts += [
            f'<h3>When a word comes again</h3><p class="quiet">{escape(AGAIN)}</p>',
            table(_again(found), "When a word comes again"),
        ]
    return "\n".join(parts)


def markdown(told: Told, tabled: Callable[[list[str], list[list[str]]], str]) -> list[str]:
    """Paragraphs of Markdown; `tabled` writes a table."""
    found = _named_rows(told)

    def written(found: Table) -> str:
        return tabled(list(map(str, found.head)), [[cell.text for cell in row] for row in found.rows])

    causes = [
        [each["name"], percent(each["tokens"]), percent(each["bytes"]), each["means"]] for each in found["causes"]
    ]
    parts = [ORDER, *_notes(told), tabled(["cause", "tokens", "bytes", "what it is"], causes)]
    if told["text"]["words"]["frequent"]:
        parts.append(plain(f"Frequent: {_frequent(told)}."))
    parts += [f"{SPENT}:", written(_spent(found))]
    if len(found["rows"]) > 1:
        parts += [LOST, written(_lost(found))]
    parts.append(f"### By place in the document\n\n{PLACES if found['places'] else FEW}")
    if found["places"]:
        parts.append(written(_placed(found)))
    if any(found["words"]):
        parts += [f"### When a word comes again\n\n{AGAIN}", written(_again(found))]
    return parts


def _named_rows(told: Told) -> Told:
    """What was found, its rows with the names of those of the league table."""
    names = ({key: row[key] for key in ("stage", "name", "finished")} for row in told["league"])
    rows = [{**row, **named} for row, named in zip(told["where"]["rows"], names, strict=True)]
    return {**told["where"], "rows": rows}


def _notes(told: Told) -> list[str]:
    said = [] if told["where"]["alike"] else [UNLIKE]
    return said + ([] if told["text"]["words"]["total"] else [UNKNOWN])


def _frequent(told: Told) -> str:
    words = told["text"]["words"]["frequent"] or ()
    return ", ".join(words[:SHOWN]) + (", …" if len(words) > SHOWN else "")


def _spent(found: Told) -> Table:
    rows = list[list[Cell]]()
    for row in found["rows"]:
        cells = [_titled(row)]
        for at, value in enumerate(row["bits_per_byte"]):
            less = row["differences"][at] if row["differences"] else None
            cells.append(Cell(bits(value), value, kind=changed(less).kind))
        total = None if None in row["bits_per_byte"] else sum(row["bits_per_byte"])
        rows.append([*cells, Cell(bits(total), total)])
    return Table(["stage", *(each["name"] for each in found["causes"]), "all"], rows)


def _shares(found: Told) -> list[list[Cell]]:
    """Rows that stay below or above whatever the others are sorted by."""
    return [
        [Cell(f"share of {what}", kind=FREE), *(Cell(percent(each[what])) for each in found["causes"]), ALL]
        for what in ("tokens", "bytes")
    ]


def _lost(found: Told) -> Table:
    rows = [[_titled(row), *map(changed, row["differences"])] for row in found["rows"] if row["differences"]]
    return Table(["stage", *(each["name"] for each in found["causes"])], rows)


def _placed(found: Told) -> Table:
    head = ["stage", *(f"{place(first)}–{last if last < 1024 else place(last + 1)}" for first, last in found["places"])]
    rows = []
    for row in found["rows"]:
        shown = [Cell(bits(each["value"]), each["value"], reach(each["margin"])) for each in row["places"]]
        rows.append([_titled(row), *shown])
    return Table(head, rows)


def _again(found: Told) -> Table:
    head, rows = ["stage"], list[list[Cell]]()
    for time, count in zip(TIMES, found["words"], strict=True):
        head += [f"1st, {count:,} words", f"{time} time"] if count else []
    for row in found["rows"]:
        cells = [_titled(row)]
        for each in row["again"]:
            if each is None:
                continue
            cells.append(Cell(bits(each["first"], 2), each["first"]))
            less = each["saved"]
            if less is None:
                cells.append(Cell(""))
                continue
            sure = less["margin"] is not None and abs(less["value"]) > less["margin"]
            value, kind = 0.0 - less["value"], "good" if less["value"] > 0 else "bad"
            colour = shade(kind, abs(value) / 20, SHADES) if sure else ""
            cells.append(Cell(signed(value, 2), value, reach(less["margin"], 2), colour))
        rows.append(cells)
    return Table(head, rows)


def _titled(row: Told) -> Cell:
    return Cell(titled(row), row["stage"])


def _key(found: Told) -> str:
    each = (f'<span class="cause {cause["cause"]}">{escape(cause["name"])}</span>' for cause in found["causes"])
    return f'<p class="causes">{" ".join(each)}</p>'


def _meanings(told: Told) -> list[tuple[str, str]]:
    more = {"frequent": f": {_frequent(told)}"} if _frequent(told) else {}
    return [(each["name"], each["means"] + more.get(each["cause"], "")) for each in told["where"]["causes"]]
