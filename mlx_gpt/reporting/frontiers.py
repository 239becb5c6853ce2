"""What quality costs: the best by training time, tokens, parameters, bytes on disk and time to score; who passes whom.

Two kinds of axes, of two texts that are never mixed. Over training time and tokens stand learning curves, which are of
the validation text (`courses`). Over parameters, bytes on disk and seconds to score a megabyte stands one point for
each row of the league table, which is of the held-out text. A row is beaten where another costs no more and needs fewer
bits, or costs less and needs no more. Every answer follows from these by rule.

In the dict: `labels` by run; `answers`; `learning` by axis: reached, leads, beaten_by, meetings and who has no curve;
`points` by axis: run, cost, bits_per_byte, margin, spread of seeds and beaten_by.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_gpt.bootstrap import Noise, estimate, judged, noise_from, noise_of, trained_apart
from mlx_gpt.reporting.courses import PLACES, Course, best_at, courses, leads, meeting
from mlx_gpt.reporting.words import short

SECONDS = {"1 s": 1.0, "10 s": 10.0, "1 min": 60.0, "10 min": 600.0}
ON_DISK = {"1 MB": 1e6, "4 MB": 4e6, "16 MB": 16e6}
POINTS = ("parameters", "bytes_on_disk", "scoring")  # of the held-out text
ASKED = {
    "seconds": "within {} of training",
    "tokens": "within {} training tokens",
    "parameters": "with up to {} parameters",
    "bytes_on_disk": "under {} on disk",
    "scoring": "fastest within {} of the best",
}
MOST, NEAR = 4, 0.01  # marks of an axis; how near to the best is as good
Told = dict[str, Any]


def frontiers(league: Sequence[Told], runs: Sequence[Told], sizes: np.ndarray) -> Told:
    """All that can be told of the rows of a table and of their runs; sizes (U,) of what is resampled, in bytes."""
    bits, counted = _bits(league, runs), {run["run"]: run["counted"] for run in runs}
    noises = {run: noise_of((each.sum(axis=1) / sizes.sum()).tolist(), counted[run]) for run, each in bits.items()}
    learning = dict[str, Told]()
    for axis in PLACES:
        found = courses(league, runs, axis)
        told = learning[axis] = _learning(found, _budgets(axis, found))
        told["without"] = [row["run"] for row in league if row["run"] not in told["reached"]]
    points = {axis: pareto(costs(league, runs, axis)) for axis in POINTS}
    answers = [each for axis in ("seconds", "tokens") for each in _by_then(axis, learning[axis], counted)]
    answers += [each for axis in POINTS for each in _by_cost(axis, points[axis], bits, noises, sizes)]
    return {"labels": labels(league), "answers": answers, "learning": learning, "points": points}


def labels(league: Sequence[Told]) -> dict[str, str]:
    """A row's number and name; where several are of a stage, number and what its run is called, if that has letters."""
    several, named = Counter(row["stage"] for row in league), dict[str, str]()
    for row in league:
        own = row["run"].removeprefix(f"{row['stage']:02}-")
        name = own if several[row["stage"]] > 1 and any(letter.isalpha() for letter in own) else row["name"]
        label = f"{row['stage'] or ''} {name}".strip()
        named[row["run"]] = f"{row['stage'] or ''} {row['run']}".strip() if label in named.values() else label
    return named


def told_apart(told: Told) -> Told:
    """A report in which the rows of one stage, and their runs, have the names that tell them apart."""
    rows = told["league"]
    names = {
        row["run"]: told["frontiers"]["labels"][row["run"]].removeprefix(str(row["stage"] or "")).strip()
        for row in rows
    }
    of = {run: names[row["run"]] for row in rows for run in row["runs"]}
    league = [{**row, "name": names[row["run"]]} for row in rows]
    return {**told, "league": league, "runs": [{**run, "name": of[run["run"]]} for run in told["runs"]]}


def first_runs(told: Told) -> list[Told]:
    """The runs that stand for a row of the table where there is no mean of its seeds, in the order of `runs`."""
    first = {row["run"] for row in told["league"]}
    return [run for run in told["runs"] if run["run"] in first]


def costs(league: Sequence[Told], runs: Sequence[Told], axis: str) -> list[Told]:
    """What each row costs, one of POINTS, beside its bits per byte on the held-out text; none of impossible ones."""
    sizes = {run["run"]: run["bytes_on_disk"] for run in runs}
    found = []
    for row in league:
        if axis == "parameters":
            cost = row["parameters"]
        elif axis == "bytes_on_disk":
            cost = sum(sizes[run] for run in row["runs"]) / len(row["runs"])
        else:
            cost = 1e6 * row["tokens"] / row["tokens_per_second"] / row["bytes"] if row["tokens_per_second"] else None
        bits = row["bits_per_byte"]
        if cost and bits is not None and math.isfinite(bits):
            noise = {"margin": row["margin"], "spread": row["seed_spread"]}
            found.append({"run": row["run"], "cost": cost, "bits_per_byte": bits, **noise})
    return found


def pareto(points: Sequence[Told]) -> list[Told]:
    """The points, cheap ones first, each with the best of those that beat it, or None on the frontier."""
    told = []
    for each in sorted(points, key=lambda point: (point["cost"], point["bits_per_byte"])):
        mine = (each["cost"], each["bits_per_byte"])
        theirs = [(other["bits_per_byte"], other["cost"], other["run"]) for other in points]
        beating = [it for it in theirs if it[1] <= mine[0] and it[0] <= mine[1] and (it[1], it[0]) != mine]
        told.append({**each, "beaten_by": min(beating)[2] if beating else None})
    return told


def marks(low: float, high: float) -> list[float]:
    """Round numbers within and the next one that holds all, at most MOST: powers of ten, or where few, 1, 2 and 5."""
    for steps in ((1,), (1, 2, 5)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
        rounds = [step * 10.0**power for power in powers for step in steps]
        found = [each for each in rounds if low <= each < high]
        found += [each for each in rounds if each >= high][:1]
        if len(found) >= MOST - 1:
            break
    return found[-MOST:]


def _budgets(axis: str, found: Sequence[Course]) -> dict[str, float]:
    """What is asked of an axis of learning curves, each as it is written."""
    if axis == "seconds":
        return SECONDS
    if not found:
        return {}
    return {short(each): each for each in marks(min(one.first for one in found), max(one.done for one in found))}


def _learning(found: Sequence[Course], budgets: dict[str, float]) -> Told:
    """One axis of learning curves. `ended`: trained for less than that, and not because it was whole."""
    reached: dict[str, list[Told | None]] = {}
    for course in found:
        reached[course.run] = []
        for place in budgets.values():
            each = course.each(np.array([place]))[:, 0]
            known = {"bits_per_byte": float(each.mean()), "spread": _spread(each), "ended": course.end < place}
            reached[course.run].append(known if np.isfinite(each).all() else None)
    lead = leads(found)
    leading = {each.run for each in lead}
    return {
        "budgets": budgets,
        "reached": reached,
        "seeds": {course.run: len(course.tracks) for course in found},
        "range": {course.run: [course.first, course.done] for course in found},
        "leads": [{"run": each.run, "first": each.first, "last": each.last} for each in lead],
        "beaten_by": {
            course.run: best_at([other for other in found if other is not course], course.done)
            for course in found
            if course.run not in leading
        },
        "meetings": [_met(one, other) for one, other in itertools.combinations(found, 2)],
    }


def _spread(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None


def _met(one: Course, other: Course) -> Told:
    """`known` False: never trained to the same place. `range`: of the last passing, over all pairs of seeds, of which
    `pairs` of `of` have it."""
    met = meeting(one, other)
    told: Told = {"runs": [one.run, other.run], "known": met is not None, "ahead": None, "passings": [], "range": None}
    if met is None:
        return told
    told |= {"ahead": met.ahead, "passings": [{"at": place, "by": run} for place, run in met.passings]}
    pairs = [meeting(a, b) for a in one.alone() for b in other.alone()]
    if met.passings and len(pairs) > 1:
        same = [each.passings[-1][0] for each in pairs if each and each.passings and each.ahead == met.ahead]
        if same:
            told["range"] = {"low": min(same), "high": max(same), "pairs": len(same), "of": len(pairs)}
    return told


def _by_then(axis: str, told: Told, counted: dict[str, bool]) -> list[Told]:
    """The best within each budget of training, and the next, with the p that seeds give their difference."""
    answers = []
    for at, (said, budget) in enumerate(told["budgets"].items()):
        by_then = {run: each[at] for run, each in told["reached"].items() if each[at]}
        order = sorted((each["bits_per_byte"], run) for run, each in by_then.items())
        answer = _answer(axis, said, budget, "validation", order)
        if order:
            answer["spread"] = by_then[order[0][1]]["spread"]
        if answer["next"]:
            pair = answer["run"], answer["next"]["run"]
            noises = [noise_from(by_then[run]["spread"], told["seeds"][run], counted[run]) for run in pair]
            answer["next"]["p"] = trained_apart(answer["next"]["more"], noises)
        answers.append(answer)
    return answers


def _bits(league: Sequence[Told], runs: Sequence[Told]) -> dict[str, np.ndarray]:
    """Bits (R, U) of what is resampled by each of a row's R runs, where they are finite."""
    nats = {run["run"]: run["score"]["nats"] for run in runs}
    possible = [row for row in league if not any(None in nats[run] for run in row["runs"])]
    return {row["run"]: np.array([nats[run] for run in row["runs"]]) / math.log(2) for row in possible}


def _by_cost(
    axis: str,
    points: Sequence[Told],
    bits: dict[str, np.ndarray],
    noises: dict[str, Noise | None],
    sizes: np.ndarray,
) -> list[Told]:
    """The best within each budget and the next, with the interval of their paired difference over the text and its p,
    which the noise of training counts in; of time, the fastest of those near the best, and the best, unless it is the
    same."""
    order = sorted((each["bits_per_byte"], each["run"]) for each in points)
    if not order:
        return []
    if axis == "scoring":
        near = [each for each in points if each["bits_per_byte"] <= (1 + NEAR) * order[0][0]]
        chosen = [(near[0]["bits_per_byte"], near[0]["run"])]
        asked = [(f"{NEAR:.0%}".replace("%", " %"), NEAR, list(dict.fromkeys([*chosen, order[0]])))]
    else:
        budgets = ON_DISK
        if axis == "parameters":
            budgets = {short(each): each for each in marks(points[0]["cost"], points[-1]["cost"])}
        cost = {each["run"]: each["cost"] for each in points}
        asked = [(said, most, [it for it in order if cost[it[1]] <= most]) for said, most in budgets.items()]
    answers = []
    for said, budget, within in asked:
        answer = _answer(axis, said, budget, "held-out", within)
        answer["spread"] = next((each["spread"] for each in points if each["run"] == answer["run"]), None)
        if answer["next"]:
            pair = answer["next"]["run"], answer["run"]
            found = estimate(np.subtract(*(bits[run].mean(axis=0) for run in pair)), sizes)
            if found:
                answer["next"] |= {"margin": found.margin, "p": judged(found, [noises[run] for run in pair]).p}
        answers.append(answer)
    return answers


def _answer(axis: str, said: str, budget: float, split: str, order: Sequence[tuple[float, str]]) -> Told:
    """`next`: the one that comes after, and how many more bits per byte it needs."""
    bits, run = order[0] if order else (None, None)
    after = (
        {"run": order[1][1], "more": order[1][0] - order[0][0], "margin": None, "p": None} if len(order) > 1 else None
    )
    more = {"run": run, "bits_per_byte": bits, "spread": None, "next": after}
    return {"axis": axis, "asked": ASKED[axis].format(said), "mark": said, "budget": budget, "split": split, **more}
