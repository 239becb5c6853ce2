"""The one loop that trains every gradient stage: when to step, look, keep, go back and stop."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from mlx_gpt.corpus import Ahead, Corpus, Running, Shuffled, Text
from mlx_gpt.descent.optimizers import Tree
from mlx_gpt.descent.precision import fastest
from mlx_gpt.descent.schedule import learning_rate
from mlx_gpt.descent.step import CARRIED, Figures, Step, under
from mlx_gpt.errors import CheckpointError, SettingError, Stopped, TrainingError
from mlx_gpt.measure import measure
from mlx_gpt.memory import Memory
from mlx_gpt.model import Kept, Progress, Report
from mlx_gpt.recipe import Descent

if TYPE_CHECKING:
    from mlx_gpt.descent.neural import Neural

VALIDATED = 20_000  # tokens of the validation text read at each look
REPORTED = 10  # steps between two reports of progress
FORGIVEN = {"fp32": 3, "bf16": 3, "fp16": 30}  # steps in a row that may not be finite: a loss scale needs some to fall
RETURNS = 3  # times a run goes back to its last save before it gives up
BEST = "best."
NONE_YET = 1e9  # bits per byte: JSON has no infinity


@dataclass
class Standing:
    """Where a run stands, besides its arrays."""

    precision: str = "fp32"
    step: int = 0  # steps done
    skipped: int = 0  # batches passed over after a return
    returns: int = 0
    seconds: float = 0.0
    best: float = NONE_YET  # bits per byte on the validation text
    looked: int = 0  # step of the last look
    tokens: int = 0  # read so far


def descend(model: Neural, corpus: Corpus, recipe: Descent, report: Report) -> None:
    """Train to the recipe's end, from the beginning or from what `report` kept of an earlier start; the model ends
    with the weights that did best on the validation text.

    Raises SettingError when the settings contradict each other or the text is too short for them, TrainingError
    when the loss stays no number, Stopped when the report says so, after all was kept.
    """
    length = sequence_length(model, recipe)
    ids = corpus.train.ids
    batches = (
        Running(ids, recipe.batch_size, length)
        if recipe.running
        else Shuffled(ids, recipe.batch_size, length, recipe.seed)
    )
    _Loop(model, corpus, recipe, report, length, batches).run()


class _Loop:
    def __init__(
        self,
        model: Neural,
        corpus: Corpus,
        recipe: Descent,
        report: Report,
        length: int,
        batches: Running | Shuffled,
    ) -> None:
        self.model, self.recipe, self.report, self.batches = model, recipe, report, batches
        self.looked_at = looked_at(corpus)
        self.tokens = recipe.batch_size * length
        kept = report.kept()
        self.at = Standing(recipe.precision) if kept is None else _standing(kept)
        if self.at.precision == "auto":
            self.at.precision, times = fastest()
            told = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in times.items())
            report.notice(f"--precision auto: {self.at.precision} ({told})")
        self.step = Step(model, recipe, self.at.precision, length)
        self.empty = self.step.empty()
        self.state = self.step.begin()
        self.best: Tree = {}
        if kept is not None:
            self._restore(kept)
        self.started = time.perf_counter() - self.at.seconds
        self.kept = time.perf_counter()
        self.look_seconds = 0.0
        self.bad = 0.0  # steps in a row that were not finite, as far as read

    def run(self) -> None:
        if not self.at.step:
            self._keep()
        waiting: tuple[int, float, Figures] | None = None  # a step whose figures are not read yet
        ahead = self._ahead()
        try:
            while not self._over():
                rate = learning_rate(self.recipe, self.at.step, self._share()) * 0.5**self.at.returns
                self._empty_by_turns()
                self.state, figures = self.step.take(self.state, ahead.next(), rate, self.at.step)
                mx.async_eval(self.state, figures)  # type: ignore[no-untyped-call]
                self.at.step += 1
                sound = waiting is None or self._read(*waiting)
                waiting = self.at.step, rate, figures
                signal = self.report.stopping()
                # by the clock, one look early: how long the last one takes must be known before it is due
                early = bool(self.recipe.minutes) and not self.look_seconds and self.at.step % REPORTED == 0
                look = self.at.step % self.recipe.evaluate_every == 0 or early
                save = bool(signal) or look or time.perf_counter() - self.kept > self.recipe.keep_every
                if sound and (save or self._over()):
                    sound, waiting = self._read(*waiting, last=self._over()), None
                if not sound:
                    ahead.close()
                    self._return()
                    ahead, waiting = self._ahead(), None
                    continue
                if look:
                    self._look()
                if save and not self.bad:  # in the midst of a bad stretch the weights may be what is bad
                    self._keep()
                if signal:
                    raise Stopped(signal)
        finally:
            ahead.close()
        if waiting is not None:
            self._read(*waiting, last=True)
        if self.at.looked != self.at.step or not self.best:
            self._look()
            self._keep()
        if signal := self.report.stopping():
            raise Stopped(signal)
        self.step.fill(self.best)
        if self.recipe.compiled:
            traces = ", ".join(f"{what} {count}" for what, count in self.step.traces.items())
            self.report.notice(f"traces of the compiled functions: {traces}")

    def _ahead(self) -> Ahead:
        return Ahead(self.batches, self.at.step + self.at.skipped)

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _share(self) -> float | None:
        if not self.recipe.minutes:
            return None
        return self._seconds() / max(1e-9, 60 * self.recipe.minutes - self.look_seconds)

    def _over(self) -> bool:
        """Whether the steps, or the minutes without those of the last look, are used up."""
        if not self.recipe.minutes:
            return self.at.step >= self.recipe.steps
        return self.at.step > 0 and self._seconds() + self.look_seconds >= 60 * self.recipe.minutes

    def _read(self, step: int, rate: float, figures: Figures, last: bool = False) -> bool:
        """Report a step; False when too many in a row were not finite."""
        self.bad = float(np.array(figures.bad))
        if step % REPORTED == 0 or step == 1 or last:
            seconds = self._seconds()
            share = self._share()
            steps = self.recipe.steps if share is None else max(step, round(step / max(share, 1e-9)))
            loss, norm, scale = (float(np.array(each)) for each in (figures.loss, figures.norm, figures.scale))
            self.report.progress(Progress(step, steps, loss, rate, step * self.tokens, seconds, norm, scale))
        return self.bad < FORGIVEN[self.at.precision]

    def _look(self) -> None:
        """Score the validation text and remember the weights if they did best."""
        started = time.perf_counter()
        weights = self.step.evaluated(self.state)

        def score(ids: mx.array, memory: Memory | None) -> mx.array:
            return self.step.score(weights, ids, memory)

        bits = measure(self.model, self.looked_at, score).bits_per_byte
        bits = bits if math.isfinite(bits) else NONE_YET
        if bits < self.at.best or not self.best:
            self.at.best, self.best = bits, weights
        self.at.looked = self.at.step
        self.step.fill(weights)
        self.report.validated(self.model, self.at.step, bits)
        self.step.fill(self.best)  # a compiled step never fills the shell again, and these are held anyway
        self.look_seconds = time.perf_counter() - started

    def _keep(self) -> None:
        self.at.seconds, self.at.tokens = self._seconds(), self.at.step * self.tokens
        self.report.keep(
            Kept({**self.state, **{BEST + name: array for name, array in self.best.items()}}, asdict(self.at))
        )
        self.kept = time.perf_counter()

    def _return(self) -> None:
        """Back to the last save, with half the rate and past the batches that went wrong; or give up."""
        failed, returns = self.at.step, self.at.returns + 1
        why = f"the loss or its gradient is no finite number at step {failed}"
        kept = self.report.kept()
        if kept is None or returns > RETURNS:
            after = f" after {RETURNS} returns to an earlier save, each with half the rate" if returns > RETURNS else ""
            raise TrainingError(f"{why}{after}: try a lower --learning-rate than {self.recipe.learning_rate:g}")
        passed = failed + self.at.skipped
        self.at = _standing(kept)
        self._restore(kept)
        self.at.returns, self.at.skipped = returns, passed - self.at.step
        self.state["bad"], self.bad = mx.array(0.0), 0.0
        self.report.notice(f"{why}: back to step {self.at.step} with half the learning rate")

    def _restore(self, kept: Kept) -> None:
        """Take over kept arrays. Raises CheckpointError where they are not this run's."""
        arrays = {name: mx.array(np.asarray(array)) for name, array in kept.arrays.items()}
        best = under(arrays, BEST)
        state = {name: array for name, array in arrays.items() if not name.startswith(BEST)}
        for mine, found in ((self.state, state), (self.step.evaluated(self.state), best)):
            if (found or mine is self.state) and _shapes(mine) != _shapes(found):
                strange = sorted(dict(_shapes(mine).items() ^ _shapes(found).items()))
                raise CheckpointError(f"what was kept of this run does not fit its settings: {strange[0]}")
        self.state, self.best = state, best
        mx.eval(state, best)

    def _empty_by_turns(self) -> None:
        names = [CARRIED + str(place) for place in range(len(self.empty))]
        carried = emptied([self.state[name] for name in names], self.empty, self.at.step, self.recipe.afresh)
        self.state |= dict(zip(names, carried, strict=True))


def _shapes(arrays: Tree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _standing(kept: Kept) -> Standing:
    """Raises CheckpointError for facts of another kind."""
    known = {field.name: field.default for field in fields(Standing)}
    told = kept.facts
    if told.keys() != known.keys() or any(type(told[name]) is not type(known[name]) for name in known):
        raise CheckpointError("what was kept of this run is damaged or of another version of mlx_gpt")
    return Standing(**told)  # type: ignore[arg-type]


def emptied(carried: list[mx.array], empty: list[mx.array], step: int, every: int) -> list[mx.array]:
    """Memories (B, ...) of which each row is emptied at every `every`-th step, the rows by turns.

    Without it a network that always carries its memory on never learns to begin, and texts are scored from
    an empty memory.
    """
    if not every or not carried:
        return carried
    turn = mx.array((np.arange(len(carried[0])) + step) % every == 0)
    return [
        mx.where(turn.reshape(-1, *[1] * (held.ndim - 1)), new, held) for held, new in zip(carried, empty, strict=True)
    ]


def looked_at(corpus: Corpus) -> Text:
    """The beginning of the validation text, which is read at each look."""
    return corpus.valid.head(VALIDATED, corpus.tokenizer)


def sequence_length(model: Neural, recipe: Descent) -> int:
    """Tokens in a training sequence: the recipe's, or all that the model's context holds."""
    length = recipe.length or model.context
    if length is None:
        raise SettingError("--length 0: this stage has no context to fill; give the tokens of a sequence, e.g. 64")
    if model.context is not None and length > model.context:
        raise SettingError(f"--length {length}: longer than --context {model.context}; shorten one or widen the other")
    if recipe.recompute and "blocks" not in model:
        raise SettingError("--recompute: this stage has no blocks to compute again; drop it")
    if recipe.running and not all(mx.issubdtype(held.dtype, mx.floating) for held in model.memory().arrays):
        raise SettingError("--running: only a memory of vectors can be passed on; drop it for this stage")
    if recipe.running and model.context is not None:
        raise SettingError("--running: only a memory without an end can be passed on; drop it for this stage")
    return length
