"""What a stage had reached by when: best validation score so far, over training time or tokens, of one run or several.

Between two looks at the validation text a course is a straight line over the logarithm of time or tokens; before the
first it is unknown. A model that was learnt at once, by counting, is what it is from its end on; one that learns step
by step is, after its last look, what it was then, and how it would have gone on is not known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PLACES = {"tokens": 0, "seconds": 1}  # of a point of a curve in results.json; its bits per byte come last
Told = dict[str, Any]


@dataclass(frozen=True)
class Track:
    """One run: places (N,), rising seconds or tokens, and the least bits per byte (N,) until then."""

    places: np.ndarray
    bits: np.ndarray


@dataclass(frozen=True)
class Course:
    """Runs that differ in their seed alone, as their mean. `whole`: learnt at once, nothing is left to be trained."""

    run: str
    tracks: tuple[Track, ...]
    whole: bool

    @property
    def first(self) -> float:
        """Where all have been looked at."""
        return float(max(track.places[0] for track in self.tracks))

    @property
    def last(self) -> float:
        """Until where all were trained, or `first` if one ended before."""
        return max(self.first, float(min(track.places[-1] for track in self.tracks)))

    @property
    def done(self) -> float:
        """Where the last of them ended: from here on the mean is that of what they became."""
        return float(max(track.places[-1] for track in self.tracks))

    @property
    def end(self) -> float:
        """How far it may be compared: no further than it was trained, unless it is whole."""
        return math.inf if self.whole else self.last

    @property
    def knots(self) -> np.ndarray:
        """Places (K,) between which it is straight."""
        places = np.unique(np.concatenate([track.places for track in self.tracks]))
        return places[places >= self.first]

    def each(self, places: np.ndarray) -> np.ndarray:
        """Bits per byte of every run (S, P); nan before its first look, and from its last on what it was then."""
        at = np.log(places)
        return np.stack([np.interp(at, np.log(one.places), one.bits, left=math.nan) for one in self.tracks])

    def mean(self, places: np.ndarray) -> np.ndarray:
        """Bits per byte (P,), nan before all have been looked at."""
        return np.asarray(self.each(places).mean(axis=0))

    def alone(self) -> list[Course]:
        """Each of its runs as a course."""
        return [Course(self.run, (track,), self.whole) for track in self.tracks]


@dataclass(frozen=True)
class Meeting:
    """Two courses where both are known: who is better in the end, and where each passing was, rising, and by whom."""

    ahead: str | None
    passings: list[tuple[float, str]]


@dataclass(frozen=True)
class Lead:
    """A stretch in which a course is the best of all; `last` is None where nobody takes it over."""

    run: str
    first: float
    last: float | None


def courses(league: Sequence[Told], runs: Sequence[Told], axis: str) -> list[Course]:
    """The course of every row of the table that has a curve, by one of PLACES; seeds without a curve do not count."""
    known = {run["run"]: run for run in runs}
    found = []
    for row in league:
        curves = [known[run]["curve"]["valid"] for run in row["runs"]]
        tracks = [track for curve in curves if (track := _track(curve, PLACES[axis])) is not None]
        if tracks:
            whole = all(known[run]["counted"] for run in row["runs"])
            found.append(Course(row["run"], tuple(tracks), whole))
    return found


def _track(points: Sequence[Sequence[float | None]], at: int) -> Track | None:
    known = sorted((each[at], each[-1]) for each in points if each[at] and each[-1] is not None)
    if not known:
        return None
    places, bits = np.array(known, np.float64).T
    kept = np.append(places[1:] > places[:-1], True)  # of several at one place the last, with the least until then
    return Track(places[kept], np.minimum.accumulate(bits)[kept])


def meeting(one: Course, other: Course) -> Meeting | None:
    """Where two courses pass each other, within what was trained of both. None where there is no such place."""
    low, high = max(one.first, other.first), min(one.end, other.end)
    if low > high:
        return None
    return _meeting(one, other, low, high)


def _meeting(one: Course, other: Course, low: float, high: float) -> Meeting:
    knots = np.concatenate([one.knots, other.knots, [low, min(high, max(one.done, other.done, low))]])
    places = np.unique(knots[(knots >= low) & (knots <= high)])
    less = one.mean(places) - other.mean(places)
    told = np.flatnonzero(less)
    passings = []
    for before, after in itertools.pairwise(told.tolist()):
        if less[before] * less[after] < 0:  # straight in between, unless they were equal for a while
            share = less[before] / (less[before] - less[after]) if after == before + 1 else 0.0
            start, stop = np.log(places[[before if after == before + 1 else after - 1, after]]).tolist()
            passings.append((math.exp(start + share * (stop - start)), (one if less[after] < 0 else other).run))
    ahead = None if not len(told) else (one if less[told[-1]] < 0 else other).run
    return Meeting(ahead, passings)


def leads(found: Sequence[Course]) -> list[Lead]:
    """Who is the best from where to where, all courses together; what has ended still is what it was."""
    if not found:
        return []
    far = max(course.done for course in found)
    places = [course.knots for course in found]
    for one, other in itertools.combinations(found, 2):
        both = max(one.first, other.first)
        places.append(np.array([place for place, _ in _meeting(one, other, both, max(both, far)).passings]))
    edges = np.unique(np.concatenate(places))
    inside = np.append(np.sqrt(edges[:-1] * edges[1:]), edges[-1])  # between two edges nobody passes
    bits = np.stack([np.nan_to_num(course.mean(inside), nan=math.inf) for course in found])
    told: list[Lead] = []
    for place, best, least in zip(edges.tolist(), bits.argmin(axis=0).tolist(), bits.min(axis=0).tolist(), strict=True):
        if not math.isfinite(least) or (told and told[-1].run == found[best].run):
            continue
        if told:
            told[-1] = Lead(told[-1].run, told[-1].first, place)
        told.append(Lead(found[best].run, place, None))
    return told


def best_at(found: Iterable[Course], place: float) -> str | None:
    """Whose mean is the least there."""
    known = [(float(course.mean(np.array([place]))[0]), course.run) for course in found if course.first <= place]
    return min(known)[1] if known else None
