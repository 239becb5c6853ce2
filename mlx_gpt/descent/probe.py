"""What steps and looks of a run take, measured on few rows: bytes of MLX's buffers, and seconds.

A step has two peaks. That of the update does not depend on the rows; that of the backward pass grows by the same for
each. So the first is measured on whole steps of one row, the second on gradients alone of one, two, four rows and on,
until the rows outweigh the weights; from there the line goes on to all of them. What is quick is measured as it is.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_gpt.corpus import Text
from mlx_gpt.descent.optimizers import Tree
from mlx_gpt.descent.step import CARRIED, OPTIMIZER, WEIGHT, Step, under
from mlx_gpt.measure import scored
from mlx_gpt.memory import Memory
from mlx_gpt.recipe import Descent

if TYPE_CHECKING:
    from mlx_gpt.descent.neural import Neural

QUICK = 2.5  # seconds: a step that takes no longer is measured with all its rows
PATIENT = 4.0  # seconds: after a gradient that took so long, none of more than two rows is measured
CAREFUL = 0.5  # share of the limit beyond which nothing is measured: Metal ends the process at the real one
OUTWEIGHED = 2  # times the memory of one row: so much more, and the rows outweigh the weights
BENT = 1.05  # growth of the growth by which the highest point shows to lie in another part of the backward pass
PARTS = 2  # of a batch, where it is computed in parts: one that begins the sums, one that adds to them
HOPELESS = 1.2  # times what is wanted: no step that seems to need more is measured with all its rows


@dataclass(frozen=True)
class Way:
    """How a step is computed; its outcome is the same to rounding."""

    accumulate: int
    recompute: bool
    loss_chunk: int

    def of(self, recipe: Descent, batch_size: int) -> Descent:
        """The recipe that goes this way with batches of this size."""
        return replace(
            recipe,
            batch_size=batch_size,
            accumulate=self.accumulate,
            recompute=self.recompute,
            loss_chunk=self.loss_chunk,
        )


class Reading(NamedTuple):
    """The highest memory in bytes while something was done, and its seconds."""

    peak: float
    seconds: float


class _Point(NamedTuple):
    rows: int
    reading: Reading


class _Line(NamedTuple):
    """What gradients of more and more rows take: from the first measured to the last, and on with these slopes."""

    first: _Point
    last: _Point
    bytes_a_row: float
    seconds_a_row: float

    def at(self, rows: int) -> Reading:
        more = rows - self.last.rows
        peak, seconds = self.last.reading
        return Reading(peak + more * self.bytes_a_row, seconds + more * self.seconds_a_row)


class Probe:
    """Measures a run on a model, batches and memories of its own, so that the run that follows is undisturbed."""

    def __init__(self, build: Callable[[], Neural], recipe: Descent, precision: str, length: int, limit: float) -> None:
        """`build` makes a model like the run's; `limit` is in bytes."""
        gc.collect()
        self.before = mx.get_active_memory()
        self.model, self.recipe, self.precision, self.length, self.limit = build(), recipe, precision, length, limit
        mx.eval(self.model.parameters())
        state = Step(self.model, recipe, precision, length).begin()
        self.weights, self.optimizer, self.carried = (_bytes(state, kind) for kind in (WEIGHT, OPTIMIZER, CARRIED))
        self._read: dict[tuple[str, Way, int], Reading] = {}
        self._look: Reading | None = None
        self.most = 0  # rows of a batch that were measured at one time
        self._slopes: dict[tuple[bool, int], tuple[float, float]] = {}  # bytes and seconds a row

    def step(self, way: Way, wanted: float = math.inf) -> Reading:
        """A step of the run done this way; only what may stay below `wanted` bytes is worth a closer look."""
        rows, parts = self.recipe.batch_size // way.accumulate, way.accumulate
        one = self._whole(replace(way, accumulate=1), 1)  # all of the update, and little else, whatever the parts
        line = self._line(way, rows)
        peak, seconds = line.at(rows)
        peak = max(peak, one.peak)
        update = max(0.0, one.seconds - line.first.reading.seconds)
        if parts * seconds + update > QUICK or peak > min(CAREFUL * self.limit, HOPELESS * wanted):
            return Reading(peak, parts * seconds + update)
        whole = self._whole(way, rows)
        return Reading(whole.peak, whole.seconds + max(0, parts - PARTS) * seconds)

    def _line(self, way: Way, rows: int) -> _Line:
        """Gradients of one row, two, four and on, for as long as that is needed, safe and no question of patience."""
        alike = (way.recompute, way.loss_chunk)
        points = [_Point(1, self._gradient(way, 1))]
        if alike in self._slopes:  # a part of a batch holds one more gradient than a whole one, whatever its rows
            if rows > 1 and points[0].reading.seconds <= QUICK:
                points.append(_Point(2, self._gradient(way, 2)))
            return _Line(points[0], points[-1], *self._slopes[alike])
        slope = pace = before = 0.0
        while points[-1].rows < rows:
            at, (peak, seconds) = points[-1].rows, points[-1].reading
            more = min(2 * at, rows) - at
            # the line is straight once rows outweigh weights, no more logits come with them, and it has bent
            risen = peak >= OUTWEIGHED * points[0].reading.peak and slope <= BENT * before
            enough = risen and at * self.length >= 2 * way.loss_chunk and seconds > QUICK / 4
            expected = peak + more * (slope or peak)
            if enough or (seconds > PATIENT and at > 1) or expected > CAREFUL * self.limit:
                break
            points.append(_Point(at + more, self._gradient(way, at + more)))
            before, slope = slope, (points[-1].reading.peak - peak) / more
            pace = max(0.0, points[-1].reading.seconds - seconds) / more
        if len(points) > 1:
            self._slopes[alike] = slope, pace
        else:  # no second point: a line from nothing, which is too steep
            slope, pace = points[0].reading
        return _Line(points[0], points[-1], slope, pace)

    def look(self, text: Text) -> Reading:
        """A look at this text, the same for all ways; one batch of it is scored here."""
        if self._look is not None:
            return self._look
        step, state = self._begin(Way(1, False, 0), 1, 1)
        shape = [1]

        def score(ids: mx.array, memory: Memory | None) -> mx.array:
            shape[0] = ids[:, 1:].size
            return step.score(step.evaluated(state), ids, memory)

        for _ in range(2):  # the first makes kernels
            mx.reset_peak_memory()
            started = time.perf_counter()
            next(scored(self.model, text, score))
            seconds = time.perf_counter() - started
            if seconds > QUICK:
                break
        self._look = Reading(mx.get_peak_memory() - self.before, seconds * max(1.0, text.tokens / shape[0]))
        self._end(step, state)
        return self._look

    def _begin(self, way: Way, rows: int, parts: int) -> tuple[Step, Tree]:
        recipe = replace(way, accumulate=parts).of(self.recipe, rows * parts)
        step = Step(self.model, recipe, self.precision, self.length)
        step.targets = self.recipe.batch_size * self.length  # a constant of the graph: another would be another kernel
        return step, step.begin()

    def _end(self, step: Step, state: Tree) -> None:
        """The shell without what a trace left in it."""
        step.fill(under(state, WEIGHT))
        mx.clear_cache()

    def _ids(self, rows: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, self.model.vocab_size, (rows, self.length + 1)).astype(np.int32)

    def _whole(self, way: Way, rows: int) -> Reading:
        return self._once("whole", way, rows, self._measured_whole)

    def _gradient(self, way: Way, rows: int) -> Reading:
        return self._once("gradient", way, rows, self._measured_gradient)

    def _once(self, what: str, way: Way, rows: int, measure: Callable[[Way, int], Reading]) -> Reading:
        """A reading, which is the same for any number of parts greater than one."""
        alike = replace(way, accumulate=min(way.accumulate, PARTS))
        self.most = max(self.most, rows)
        if (what, alike, rows) not in self._read:
            self._read[what, alike, rows] = measure(alike, rows)
        return self._read[what, alike, rows]

    def _measured_whole(self, way: Way, rows: int) -> Reading:
        """Whole steps as the loop does them, two on their way at one time; the first makes kernels and is not read."""
        parts = min(way.accumulate, PARTS)
        step, state = self._begin(way, rows, parts)
        ids, waiting, count = self._ids(rows * parts), None, 3
        for number in range(count):
            if number <= 1:  # where the first is slow, what it makes besides weighs little, and it is read alone
                mx.reset_peak_memory()
                started = time.perf_counter()
            state, figures = step.take(state, ids, 0.0, number)
            mx.async_eval(state, figures)  # type: ignore[no-untyped-call]
            if waiting is not None or number == 0:
                np.array((waiting or figures).bad)
            waiting = figures
            if number == 0:
                mx.eval(state)
                if time.perf_counter() - started > QUICK:
                    break
        mx.eval(state)
        reading = Reading(mx.get_peak_memory() - self.before, (time.perf_counter() - started) / max(1, number))
        self._end(step, state)
        return reading

    def _measured_gradient(self, way: Way, rows: int) -> Reading:
        """The backward pass alone, beside all that a step holds meanwhile."""
        parts = min(way.accumulate, PARTS)
        step, state = self._begin(way, rows, parts)
        mine = {name: array[:rows] if name.startswith(CARRIED) else array for name, array in state.items()}
        sums = {name: mx.zeros(array.shape) for name, array in under(state, WEIGHT).items()} if parts > 1 else {}
        mx.eval(mine, sums)
        ids = self._ids(rows)
        for _ in range(2):  # the first makes kernels
            mx.reset_peak_memory()
            started = time.perf_counter()
            mx.eval(step.gradient(mine, sums, ids))
            seconds = time.perf_counter() - started
            if seconds > QUICK:
                break
        reading = Reading(mx.get_peak_memory() - self.before, seconds)
        del mine, sums
        self._end(step, state)
        return reading


def _bytes(state: Tree, kind: str) -> int:
    return sum(array.nbytes for array in under(state, kind).values())
