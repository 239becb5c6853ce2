"""The one loop that trains every gradient stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from mlx_gpt.corpus import Corpus, Running, Shuffled
from mlx_gpt.descent.optimizers import learning_rate, optimizer
from mlx_gpt.errors import SettingError, TrainingError
from mlx_gpt.measure import measure
from mlx_gpt.model import Progress, Report
from mlx_gpt.recipe import Descent

if TYPE_CHECKING:
    from mlx_gpt.descent.neural import Neural

VALIDATED = 20_000  # tokens of the validation text read at each look
REPORTED = 10  # steps between two reports of progress

Step = Callable[[mx.array, list[mx.array]], tuple[mx.array, list[mx.array]]]


def descend(model: Neural, corpus: Corpus, recipe: Descent, report: Report) -> None:
    """Train until `recipe.steps`, keeping the weights that did best on the validation text.

    Raises SettingError when the settings contradict each other or the text is too short for them,
    TrainingError when the loss is no longer a number.
    """
    length = sequence_length(model, recipe)
    mx.random.seed(recipe.seed)  # of dropout
    ids = corpus.train.ids
    batches = (
        Running(ids, recipe.batch_size, length)
        if recipe.running
        else Shuffled(ids, recipe.batch_size, length, recipe.seed)
    )
    looked_at = corpus.valid.head(VALIDATED, corpus.tokenizer)
    optimiser = optimizer(recipe)
    optimiser.init(model.trainable_parameters())
    mx.eval(model.parameters(), optimiser.state)
    take_step = _step(model, optimiser, recipe)
    empty = model.memory(recipe.batch_size).arrays if recipe.running else []
    carried = empty
    best, best_weights = math.inf, model.parameters()
    started = time.perf_counter()
    model.train()
    for step in range(recipe.steps):
        rate = learning_rate(recipe, step)
        optimiser.learning_rate = rate
        carried = emptied(carried, empty, step, recipe.afresh)
        loss, carried = take_step(mx.array(batches.at(step)), carried)
        mx.async_eval(loss, carried, model.state, optimiser.state)  # type: ignore[no-untyped-call]
        done = step + 1
        if done % REPORTED == 0 or done in (1, recipe.steps):
            nats = float(np.array(loss))
            if not math.isfinite(nats):
                raise TrainingError(
                    f"the loss is {nats} at step {done}: try a lower --learning-rate than {recipe.learning_rate:g}"
                )
            tokens = done * recipe.batch_size * length
            seconds = time.perf_counter() - started
            report.progress(Progress(done, recipe.steps, nats, rate, tokens, seconds))
        if done % recipe.evaluate_every == 0 or done == recipe.steps:
            model.eval()
            bits = measure(model, looked_at).bits_per_byte
            if bits < best:
                best, best_weights = bits, tree_map(lambda weight: weight + 0, model.parameters())
                mx.eval(best_weights)
            report.validated(model, done, bits)
            model.train()
    model.update(best_weights)
    model.eval()


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


def sequence_length(model: Neural, recipe: Descent) -> int:
    """Tokens in a training sequence: the recipe's, or all that the model's context holds."""
    length = recipe.length or model.context
    if length is None:
        raise SettingError("--length 0: this stage has no context to fill; give the tokens of a sequence, e.g. 64")
    if model.context is not None and length > model.context:
        raise SettingError(f"--length {length}: longer than --context {model.context}; shorten one or widen the other")
    if recipe.running and model.context is not None:
        raise SettingError("--running: only a memory without an end can be passed on; drop it for this stage")
    return length


def _step(model: Neural, optimiser: optim.MultiOptimizer, recipe: Descent) -> Step:
    """Forward, backward, clip and update as one function of a batch (B, T + 1) and the memory carried over."""

    def loss_of(ids: mx.array, carried: list[mx.array]) -> tuple[mx.array, list[mx.array]]:
        memory = None
        if recipe.running:
            memory = model.memory(ids.shape[0])
            memory.arrays = list(carried)
        return model.loss(ids, memory, recipe.loss_chunk), [] if memory is None else memory.arrays

    loss_and_gradient = nn.value_and_grad(model, loss_of)

    def step(ids: mx.array, carried: list[mx.array]) -> tuple[mx.array, list[mx.array]]:
        (loss, after), gradient = loss_and_gradient(ids, carried)
        if recipe.clip:
            gradient, _ = optim.clip_grad_norm(gradient, recipe.clip)
        optimiser.update(model, gradient)
        return loss, after

    if not recipe.compiled:
        return step
    state = [model.state, optimiser.state, mx.random.state]
    compiled: Step = partial(mx.compile, inputs=state, outputs=state)(step)
    return compiled
