"""One step of descent as a pure function of arrays: compiled once, traced once, repeatable to the bit.

The state is one flat tree, name -> array; the model is only a shell that the weights pass through. What a step needs
besides, its learning rate, its batch and the key of its dropout masks, are arrays too: a Python number would be a
constant of the graph, and each new value a new trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from mlx_gpt.descent import optimizers
from mlx_gpt.descent.dropout import keyed
from mlx_gpt.descent.optimizers import Tree
from mlx_gpt.descent.precision import TYPES, first_scale, next_scale
from mlx_gpt.memory import Memory
from mlx_gpt.recipe import Descent

if TYPE_CHECKING:
    from mlx_gpt.descent.neural import Neural

WEIGHT, OPTIMIZER, CARRIED = "weight.", "optimizer.", "carried."


class Figures(NamedTuple):
    """What a step tells: scalars not yet computed, read one step later so that host and device overlap."""

    loss: mx.array  # nats a token
    norm: mx.array  # of the whole gradient, before it is clipped
    scale: mx.array  # the loss scale it was computed with
    bad: mx.array  # steps in a row, this one included, that were not taken because a number was not finite


class Step:
    """The steps of one run: forward, backward, accumulation, clipping, update, finite check."""

    def __init__(self, model: Neural, recipe: Descent, precision: str, length: int) -> None:
        """`precision` is one of precision.TYPES; `length` the tokens T of a sequence."""
        self.model, self.recipe, self.precision = model, recipe, precision
        model.recompute = recipe.recompute
        self.targets = recipe.batch_size * length
        self.rows = recipe.batch_size // recipe.accumulate
        self.traces = {"training": 0, "evaluation": 0}
        if recipe.accumulate > 1:
            self.traces["update"] = 0
        compiled: Callable[..., Callable[..., Any]] = mx.compile if recipe.compiled else lambda f: f
        self._whole = compiled(self._step)
        self._part, self._end = compiled(self._gradient), compiled(self._update)
        self._score = compiled(self._scored)
        self._alone = compiled(self._together)

    def begin(self) -> Tree:
        """The state before the first step."""
        weights = self.model.arrays()
        state = {WEIGHT + name: weight for name, weight in weights.items()}
        state |= {OPTIMIZER + name: array for name, array in optimizers.begin(self.recipe, weights).items()}
        state |= {"scale": first_scale(self.precision), "calm": mx.array(0.0), "bad": mx.array(0.0)}
        state |= {CARRIED + str(place): array for place, array in enumerate(self.empty())}
        mx.eval(state)
        return state

    def empty(self) -> list[mx.array]:
        """The memory (B, ...) that tracks of a running text begin with."""
        return self.model.memory(self.recipe.batch_size).arrays if self.recipe.running else []

    def take(self, state: Tree, batch: np.ndarray, rate: float, step: int) -> tuple[Tree, Figures]:
        """The state after a step on a batch (B, T + 1), and its figures; nothing is computed yet."""
        ids, at = mx.array(batch), mx.array(rate)
        if self.recipe.accumulate == 1:
            state, figures = self._whole(state, at, self._key(step, 0), ids)
            return state, Figures(**figures)
        gradient, nats = self._nothing(state), mx.array(0.0)
        carried: dict[str, list[mx.array]] = {name: [] for name in state if name.startswith(CARRIED)}
        for part in range(self.recipe.accumulate):
            rows = slice(part * self.rows, (part + 1) * self.rows)
            mine = {name: array[rows] if name in carried else array for name, array in state.items()}
            gradient, told = self._part(mine, gradient, nats, self._key(step, part), ids[rows])
            nats = told.pop("nats")
            for name, array in told.items():
                carried[name].append(array)
            # bounds the graph: the activations of one part at a time
            mx.async_eval(nats, gradient, told)  # type: ignore[no-untyped-call]
        state, figures = self._end(state, gradient, nats, at, {n: mx.concatenate(a) for n, a in carried.items()})
        return state, Figures(**figures)

    def gradient(self, state: Tree, sums: Tree, batch: np.ndarray) -> tuple[Tree | mx.array, ...]:
        """What `take` does with a part of a batch before any weight moves, for measuring it: the gradient of the rows
        given, added to `sums` where a batch has several parts."""
        ids, key = mx.array(batch), self._key(0, 0)
        return self._part(state, sums, mx.array(0.0), key, ids) if sums else self._alone(state, key, ids)

    def score(self, weights: Tree, ids: mx.array, memory: Memory | None) -> mx.array:
        """Log-probabilities (R, T) of a batch (R, T + 1) of always one shape, under these weights."""
        logprobs, after = self._score(weights, ids, [] if memory is None else memory.arrays)
        if memory is not None:
            memory.arrays = after
        return logprobs

    def evaluated(self, state: Tree) -> Tree:
        """The weights that are judged and kept: the averaged ones where the recipe averages."""
        kind = OPTIMIZER + "average." if self.recipe.averaging else WEIGHT
        return under(state, kind)

    def fill(self, weights: Tree, dtype: mx.Dtype = mx.float32, training: bool = False) -> None:
        """Put weights into the model; a trace leaves placeholders in it, so fill it again before use."""
        self.model.update(tree_unflatten([(name, weight.astype(dtype)) for name, weight in weights.items()]))
        self.model.train(training)

    def _key(self, step: int, part: int) -> mx.array:
        """The key of a step's masks, a function of seed and step alone: nothing to save, nothing to restore."""
        seed = self.recipe.seed
        return mx.array(
            [(seed ^ (seed >> 32)) & 0xFFFFFFFF, (step * self.recipe.accumulate + part) & 0xFFFFFFFF], mx.uint32
        )

    def _nothing(self, state: Tree) -> Tree:
        return {name: mx.zeros(weight.shape) for name, weight in under(state, WEIGHT).items()}

    def _step(self, state: Tree, rate: mx.array, key: mx.array, ids: mx.array) -> tuple[Tree, Tree]:
        self.traces["training"] += 1
        gradient, told = self._differentiated(state, key, ids)
        nats = told.pop("nats")
        return self._moved(state, gradient, nats, rate, told)

    def _gradient(self, state: Tree, gradient: Tree, nats: mx.array, key: mx.array, ids: mx.array) -> tuple[Tree, Tree]:
        """One part of a batch: its gradient added to those before."""
        self.traces["training"] += 1
        own, told = self._differentiated(state, key, ids)
        return {name: gradient[name] + g for name, g in own.items()}, {**told, "nats": nats + told["nats"]}

    def _update(self, state: Tree, gradient: Tree, nats: mx.array, rate: mx.array, carried: Tree) -> tuple[Tree, Tree]:
        self.traces["update"] += 1
        return self._moved(state, gradient, nats, rate, carried)

    def _differentiated(self, state: Tree, key: mx.array, ids: mx.array) -> tuple[Tree, Tree]:
        """The gradient of scale x mean loss in every weight; the summed nats and the memory carried on."""
        dtype = TYPES[self.precision]
        weights = under(state, WEIGHT)
        names = [CARRIED + str(place) for place in range(sum(name.startswith(CARRIED) for name in state))]

        def objective(weights: Tree) -> tuple[mx.array, Tree]:
            self.fill(weights, dtype, training=True)
            memory = self._memory(ids.shape[0], [state[name] for name in names])
            with keyed(key):
                nats, penalty = self.model.loss(ids, memory, self.recipe.loss_chunk)
            told = {"nats": mx.stop_gradient(nats)}
            if memory is not None:
                after = (mx.stop_gradient(array).astype(mx.float32) for array in memory.arrays)
                told |= dict(zip(names, after, strict=True))
            # each part weighs as many tokens as it has, whatever the parts
            share = ids[:, 1:].size / self.targets
            loss = nats * (1 / self.targets) + penalty * share
            return loss * state["scale"] if self.precision == "fp16" else loss, told

        (_, told), gradient = mx.value_and_grad(objective)(weights)
        return gradient, told

    def _together(self, state: Tree, key: mx.array, ids: mx.array) -> tuple[mx.array, Tree, Tree]:
        """A gradient behind a number that needs all of it, as the norm in a step does: only so does MLX walk the
        backward pass in the step's order, and hold as much at its highest point."""
        gradient, told = self._differentiated(state, key, ids)
        return sum((g.flatten()[0] for g in gradient.values()), mx.array(0.0)), gradient, told

    def _moved(self, state: Tree, gradient: Tree, nats: mx.array, rate: mx.array, carried: Tree) -> tuple[Tree, Tree]:
        """The state after the update, or as it was where the loss or the gradient is not finite."""
        recipe = self.recipe
        if self.precision == "fp16":
            gradient = {name: g * (1 / state["scale"]) for name, g in gradient.items()}
        norm = mx.sqrt(sum((g.square().sum() for g in gradient.values()), mx.array(0.0)))
        finite = mx.isfinite(norm) & mx.isfinite(nats)
        if recipe.clip:
            shrink = mx.minimum(1.0, recipe.clip / (norm + 1e-6))
            gradient = {name: g * shrink for name, g in gradient.items()}
        weights, memory = optimizers.update(
            recipe, under(state, WEIGHT), under(state, OPTIMIZER), gradient, rate, finite
        )
        after = {WEIGHT + name: weight for name, weight in weights.items()}
        after |= {OPTIMIZER + name: array for name, array in memory.items()}
        # a gradient that overflowed says nothing against what was read
        after |= {name: mx.where(mx.isfinite(nats), array, 0) for name, array in carried.items()}
        after["scale"], after["calm"] = next_scale(self.precision, state["scale"], state["calm"], finite)
        after["bad"] = mx.where(finite, 0, state["bad"] + 1)
        figures = {"loss": nats * (1 / self.targets), "norm": norm, "scale": state["scale"], "bad": after["bad"]}
        return {name: after[name] for name in state}, figures  # in one order: another would be another trace

    def _scored(self, weights: Tree, ids: mx.array, arrays: list[mx.array]) -> tuple[mx.array, list[mx.array]]:
        self.traces["evaluation"] += 1
        self.fill(weights)
        memory = self._memory(ids.shape[0], list(arrays))
        logprobs = self.model.score_unchecked(ids, memory)
        return logprobs, [] if memory is None else memory.arrays

    def _memory(self, rows: int, arrays: list[mx.array]) -> Memory | None:
        """A memory that holds these arrays; none without any."""
        if not arrays:
            return None
        memory = self.model.memory(rows)
        memory.arrays = arrays
        return memory


def under(tree: Tree, prefix: str) -> Tree:
    """The arrays whose names begin with a prefix, by what follows it."""
    return {name.removeprefix(prefix): array for name, array in tree.items() if name.startswith(prefix)}
