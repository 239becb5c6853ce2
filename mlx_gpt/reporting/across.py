"""The ladders of several texts: what is kept of each report, and that as one table and one picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mlx_gpt.errors import CheckpointError
from mlx_gpt.replacing import replacing
from mlx_gpt.reporting import FORMAT as REPORT
from mlx_gpt.reporting import VERSION as REPORTED
from mlx_gpt.reporting.words import bits

FORMAT, VERSION = "mlx_gpt ladders", 1
# of a row of the league table
KEPT = ("stage", "name", "finished", "bits_per_byte", "margin", "seeds", "seed_spread", "bits_per_byte_by_seed")
TEXT = ("source", "bytes", "documents", "resampled", "reference_lines")
KINDS = (".svg", ".png")  # of pictures
COLOURS = ("#2b6ca3", "#c0392b", "#4f9d8b", "#d9a441", "#7a5ba8", "#6b7079")
Told = dict[str, Any]


def read(path: Path) -> Told:
    """What was kept, or nothing. Raises CheckpointError for a file that is something else."""
    if not path.exists():
        return {"format": FORMAT, "version": VERSION, "texts": {}}
    what = "ladders of several texts"
    told = _file(path, FORMAT, VERSION, f"{what}; move it or name another file")
    try:
        for each in told["texts"].values():
            _checked(each)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged {what}; move it and add the texts again") from error
    return told


def league(path: Path) -> Told:
    """Of a report what a table of several texts shows. Raises CheckpointError where there is no report."""
    told = _file(path, REPORT, REPORTED, "report of this version; python -m mlx_gpt.report writes one")
    try:
        text = {name: told["text"][name] for name in TEXT}
        rows = [{name: row[name] for name in KEPT} for row in told["league"]]
        return _checked({"made": told["made"], "machine": told["machine"], "text": text, "league": rows})
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: a damaged report; python -m mlx_gpt.report writes it again") from error


def _checked(told: Told) -> Told:
    """Raises KeyError or TypeError where something is missing that the table tells."""
    _about(told)
    for row in told["league"]:
        _cell(told, row["stage"])
    sorted(told["text"]["reference_lines"].values())
    return told


def _file(path: Path, wanted: str, version: int, what: str) -> Told:
    try:
        told = json.loads(path.read_bytes())
        ours = (told["format"], told["version"]) == (wanted, version)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected a {what}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise CheckpointError(f"{path}: no {what}")
    return dict(told)


def best(told: Told, stage: int) -> Told | None:
    """The best row of a stage, where several are of it; picked on the text it is judged on."""
    rows = [row for row in told["league"] if row["stage"] == stage]
    return min(rows, key=_cost, default=None)


def _cost(row: Told) -> float:
    """Bits per byte; JSON has null for what is infinite."""
    return math.inf if row["bits_per_byte"] is None else float(row["bits_per_byte"])


def table(texts: dict[str, Told]) -> str:
    """Markdown: a row a stage, a column a text, and what the signs mean."""
    stages = {row["stage"]: row["name"] for each in texts.values() for row in each["league"] if row["stage"]}
    free = sorted({name for each in texts.values() for name in each["text"]["reference_lines"]})
    free.sort(key=lambda name: -max(each["text"]["reference_lines"].get(name, 0.0) for each in texts.values()))
    lines = [["", *texts], ["---", *["--:"] * len(texts)]]
    below: list[list[str]] = []  # what no model beats
    for name in free:
        known = [each["text"]["reference_lines"].get(name) for each in texts.values()]
        shown = [f"*{name}*", *("" if value is None else f"{value:.4f}" for value in known)]
        (below if name == "exact entropy" else lines).append(shown)
    for stage, name in sorted(stages.items()):
        lines.append([f"{stage} {name}", *(_cell(each, stage) for each in texts.values())])
    body = "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *below])
    return "\n".join([body, "", *(f"- {name}: {_about(each)}" for name, each in texts.items()), *SIGNS])


SIGNS = (
    "- first ±: 95 % interval of the text's noise (bootstrap over what is named above); second ±: standard deviation "
    "over so many seeds (in brackets), which is the noise of training",
    "- of several rows of a stage the best is told; …: not trained to its end",
)


def _cell(told: Told, stage: int) -> str:
    row = best(told, stage)
    if row is None:
        return ""
    said = [bits(row["bits_per_byte"])]
    said += [f"± {value:.4f}" for value in (row["margin"],) if value is not None]
    said += [f"± {row['seed_spread']:.4f} ({len(row['seeds'])})"] if row["seed_spread"] is not None else []
    return " ".join(said) + ("" if row["finished"] else " …")


def _about(told: Told) -> str:
    text, machine = told["text"], told["machine"]
    return (
        f"{text['bytes']:,} bytes held out of {text['source']}, {text['resampled']}; "
        f"{machine['processor']}, {machine['device']}, {told['made'][:10]}"
    )


def draw(texts: dict[str, Told], picture: Path) -> None:
    """A line a text over the stages, with the intervals of the text's noise; one of KINDS. Raises CheckpointError for a
    place that cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.hashsalt": FORMAT, "svg.fonttype": "none"}  # the same figures, the same small file
    figure, panel = pyplot.subplots(figsize=(9, 4.6), layout="constrained")
    names: dict[int, str] = {}
    for at, (name, told) in enumerate(texts.items()):
        stages = sorted({row["stage"] for row in told["league"] if row["stage"]})
        rows = [row for row in (best(told, stage) for stage in stages) if row and row["bits_per_byte"] is not None]
        names |= {row["stage"]: row["name"] for row in rows}
        colour = COLOURS[at % len(COLOURS)]
        places = [row["stage"] for row in rows]
        heights, reach = [row["bits_per_byte"] for row in rows], [row["margin"] or 0.0 for row in rows]
        panel.errorbar(places, heights, reach, fmt="o-", color=colour, capsize=3, markersize=4, label=name)
        for row in rows:
            seeds = row["bits_per_byte_by_seed"]
            panel.plot([row["stage"]] * len(seeds), seeds, ".", color=colour, alpha=0.5)
        floor = told["text"]["reference_lines"].get("exact entropy")
        if floor is not None:
            panel.axhline(floor, color=colour, linestyle=":", linewidth=1)
            panel.annotate("exact entropy", (1, floor), (0, 4), textcoords="offset points", color=colour, fontsize=8)
    labels = [f"{stage}\n" + names[stage].replace("-", "-\n") for stage in sorted(names)]
    panel.set_xticks(sorted(names), labels, fontsize=8)
    panel.set_ylabel("bits per byte, held out")
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.25)
    panel.legend(frameon=False)
    with replacing(picture) as file:
        kind = picture.suffix[1:]
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)
