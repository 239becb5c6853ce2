"""A report as Markdown: tables and a few lines, for terminals and repositories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_gpt import roster
from mlx_gpt.reporting.elements import FREE
from mlx_gpt.reporting.frontier_section import frontier_markdown
from mlx_gpt.reporting.frontiers import first_runs, told_apart
from mlx_gpt.reporting.league_section import league
from mlx_gpt.reporting.skills import skills_markdown
from mlx_gpt.reporting.textless import LEFT_OUT, has_text
from mlx_gpt.reporting.where_section import markdown as where
from mlx_gpt.reporting.words import count, excerpt, named, percent, plain

Told = dict[str, Any]


def markdown(told: Told) -> str:
    """The whole report but for the pictures and the passage."""
    told = told_apart(told)
    text = told["text"]
    parts = [
        "# Report of the ladder",
        f"{text['bytes']:,} bytes held out of {plain(text['source'])}, documents: {count(text['documents'])}; "
        f"{told['made']}.",
        *map(plain, trained_on(told)),
        *map(plain, gaps(told)),
        "## League table",
        _league(told),
        "\n".join(f"- {plain(line)}" for line in told["legend"]),
        "## Frontiers",
        *frontier_markdown(told, _table),
        "## Where the bits went",
        *where(told, _table),
        "## Skills",
        *(f"{plain(said)}\n\n{_table(head, rows)}" for said, head, rows in skills_markdown(first_runs(told))),
        "## Surprise of one passage",
        _passage(told) if has_text(told) else LEFT_OUT,
        "## Written text",
        _written(told),
        "## Samples",
        *((_samples(told, at) for at in range(len(told["asked"]["prompts"]))) if has_text(told) else [LEFT_OUT]),
        "## Machine and versions",
        _table(["", ""], [[name, value] for name, value in told["machine"].items()]),
    ]
    return "\n\n".join(parts) + "\n"


def trained_on(told: Told) -> list[str]:
    """Each training text and who was trained on it, in words; nothing where all were on the text of the page."""
    texts = dict[str, list[str]]()
    for run in first_runs(told):
        texts.setdefault(run["trained_on"], []).append(named(run))
    if texts.keys() == {told["text"]["source"]}:
        return []
    return [f"Trained on {text}: {', '.join(names)}." for text, names in texts.items()]


def gaps(told: Told) -> list[str]:
    """What is missing, what was left out, and who was trained on what of the held-out text, in words."""
    said = []
    if told["missing_stages"]:
        said.append(f"Missing: stage {', '.join(map(str, told['missing_stages']))}.")
    said += [f"{each[0].upper()}{each[1:]}." for each in roster.gaps(told["left_out"])]
    warned, runs = dict[str, list[str]](), first_runs(told)
    for run in runs:
        for warning in run.get("warnings", ()):
            warned.setdefault(warning, []).append(named(run))
    return said + [f"{warning} ({', '.join(names)})." for warning, names in warned.items()]


def _league(told: Told) -> str:
    found = league(told)
    names = [f"*{row[0].text}*" if row[0].kind == FREE else row[0].text for row in found.rows]
    rows = [[name, *(cell.text for cell in row[1:])] for name, row in zip(names, found.rows, strict=True)]
    return _table([each if isinstance(each, str) else each[0] for each in found.head], rows)


def _passage(told: Told) -> str:
    shown, rows = told["text"]["passage"], []
    for run in first_runs(told):
        bits = sum(run["surprise"]["bits"]) if None not in run["surprise"]["bits"] else None
        per_byte = None if bits is None else bits / max(1, len(shown.encode()))
        name = named(run)
        rows.append([name, "∞" if bits is None else f"{bits:,.0f}", "∞" if per_byte is None else f"{per_byte:.3f}"])
    quoted = "\n".join(f"> {plain(line)}  " for line in shown.splitlines())
    return f"{quoted}\n\n" + _table(["stage", "bits", "bits/byte"], rows)


def _written(told: Told) -> str:
    shares = {"distinct-1": "distinct_1", "distinct-2": "distinct_2", "distinct-3": "distinct_3"}
    shares |= {"repetition": "repetition", "copied 8-grams": "copied"}
    rows, each_run = [], [(named(run), run["written"]) for run in first_runs(told)]
    for name, each in [("*held-out text*", told["written"]), *each_run]:
        for at in each or ():
            shown = [percent(at[key]) for key in shares.values()]
            rows.append([name, str(at["tokens"]), count(at["words"]), *shown, count(at["longest"])])
    head = ["stage", "tokens", "words", *shares, "longest copy"]
    return _table(head, rows)


def _samples(told: Told, at: int) -> str:
    prompt, parts = told["asked"]["prompts"][at], []
    parts.append(f"### {'Without a prompt' if not prompt else f'“{plain(excerpt(prompt, 60))}”'}")
    rows = []
    for run in first_runs(told):
        each = next(each for each in run["samples"] if each["prompt"] == at)
        rows.append([named(run), percent(each["copied"]), excerpt(each["text"], 300)])
    return "\n\n".join([*parts, _table(["stage", "copied", f"seed {told['asked']['seeds'][0]}"], rows)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(said: str) -> str:
    return plain(" ".join(said.split())).replace("|", "\\|")
