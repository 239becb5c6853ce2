"""What bench_train.py measures: our training step, and the same written plainly in MLX, behind one small interface."""

from __future__ import annotations

import dataclasses
import importlib.util
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, final

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from mlx_gpt import stages
from mlx_gpt.descent import Neural
from mlx_gpt.descent.attention import BLOCK
from mlx_gpt.descent.step import Step
from mlx_gpt.model import Stage

TORCH = importlib.util.find_spec("torch") is not None
NO_TORCH = "left out: PyTorch is not installed (pip install torch)"
EVALUATED = 128  # rows scored at one time


@dataclasses.dataclass(frozen=True)
class Asked:
    """The command line."""

    data: Path | None
    rounds: int
    quick: bool
    vocab_size: int
    tokens: int
    batch: int
    steps: int
    rate: float
    target: float


class Trainer(ABC):
    """A model that is being trained."""

    @abstractmethod
    def take(self, batch: np.ndarray, rate: float) -> None:
        """One step on a batch (B, T + 1), over when this returns."""

    @abstractmethod
    def nats(self, rows: np.ndarray) -> float:
        """Mean loss of the targets of rows (R, T + 1), each read from its beginning."""


@final
class Ours(Trainer):
    """A stage of the ladder with the step that trains it."""

    def __init__(self, stage: Stage, config: Any, recipe: Any, vocab_size: int, length: int) -> None:
        mx.random.seed(recipe.seed)
        model: Any = stage.model(config, vocab_size)
        self.step = Step(model, recipe, "fp32", length)
        self.state, self.at = self.step.begin(), 0

    def lazy(self, batch: np.ndarray, rate: float) -> list[mx.array]:
        """Everything a step makes, not yet computed."""
        self.state, figures = self.step.take(self.state, batch, rate, self.at)
        self.at += 1
        return [*self.state.values(), *figures]

    def take(self, batch: np.ndarray, rate: float) -> None:
        mx.eval(self.lazy(batch, rate))

    def nats(self, rows: np.ndarray) -> float:
        weights = self.step.evaluated(self.state)
        parts = [self.step.score(weights, mx.array(part), None) for part in _parts(rows)]
        return -float(np.array(mx.concatenate([part.flatten() for part in parts])).mean())


@final
class Plain(Trainer):
    """A stage's model as a first MLX program trains it: value_and_grad, MLX's AdamW, all logits, nothing compiled."""

    def __init__(self, stage: Stage, config: Any, recipe: Any, vocab_size: int) -> None:
        mx.random.seed(recipe.seed)
        model: Any = stage.model(config, vocab_size)
        self.model: Neural = model
        self.clip = recipe.clip
        self.optimizer = optim.AdamW(
            recipe.learning_rate,
            betas=[recipe.beta1, recipe.beta2],
            weight_decay=recipe.weight_decay,
            bias_correction=True,
        )
        self.graded = nn.value_and_grad(self.model, self._loss)
        mx.eval(self.model.parameters())

    def lazy(self, batch: np.ndarray, rate: float) -> list[mx.array]:
        """Everything a step makes, not yet computed."""
        self.optimizer.learning_rate = rate
        loss, gradient = self.graded(self.model, mx.array(batch))
        gradient, _ = optim.clip_grad_norm(gradient, self.clip)
        self.optimizer.update(self.model, gradient)
        made = tree_flatten((self.model.parameters(), self.optimizer.state))
        return [loss, *(array for _, array in made)]

    def take(self, batch: np.ndarray, rate: float) -> None:
        mx.eval(self.lazy(batch, rate))

    def nats(self, rows: np.ndarray) -> float:
        losses = [self._loss(self.model, mx.array(part)) * len(part) for part in _parts(rows)]
        return float(np.array(sum(losses, mx.array(0.0)))) / len(rows)

    @staticmethod
    def _loss(model: Neural, ids: mx.array) -> mx.array:
        logits = model.logits(model.hidden(ids[:, :-1]))
        return nn.losses.cross_entropy(logits, ids[:, 1:], reduction="mean")


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + EVALUATED] for start in range(0, len(rows), EVALUATED)]


def ours_of(number: int, config: Any, recipe: Any, vocab_size: int, tokens: int) -> Ours:
    """A neural stage, by its number."""
    return Ours(stages.stage(number), config, recipe, vocab_size, tokens)


# --- what a step asks of the device

# fmt: off
VIEWS = {
    "AsStrided", "Broadcast", "BroadcastAxes", "CustomTransforms", "Depends", "ExpandDims", "Flatten", "Reshape",
    "Slice", "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten", "View",
}
# fmt: on


def operations(arrays: list[mx.array], folder: Path) -> dict[str, int]:
    """Primitives of the lazy graph that ends in these arrays, by name, without those that only look differently at
    memory that is there. A fused kernel counts as one."""
    file = folder / "graph.dot"
    mx.export_to_dot(str(file), *arrays)
    names = [line.split('label ="')[1].split('"')[0] for line in file.read_text().splitlines() if "rectangle" in line]
    kept = ["fused" if name.startswith("Compiled") else name for name in names if name not in VIEWS]
    return dict(Counter(kept).most_common())


Product = tuple[tuple[int, ...], tuple[int, ...]]


def products(config: Any, recipe: Any, vocab_size: int, tokens: int) -> list[Product]:
    """The shapes of every matrix product of a step of stage 11: what a step cannot do without."""
    rows, width, head = recipe.batch_size * tokens, config.width, config.width // config.heads
    found: list[Product] = []

    def linear(n: int, out: int, into: int) -> None:
        """Forward, and the gradients in what comes in and in the weight."""
        found.extend([((n, into), (into, out)), ((n, out), (out, into)), ((out, n), (n, into))])

    kv, inner = config.kv_heads * head, config.inner
    matrices = [(width, width)] * 2 + [(kv, width)] * 2 + [(inner, width)] * 2 + [(width, inner)]
    for out, into in matrices:
        linear(rows, out, into)
    share = config.heads // config.kv_heads
    for start in range(0, tokens, BLOCK):
        stop = min(start + BLOCK, tokens)
        asks, each = share * (stop - start), (recipe.batch_size, config.kv_heads)
        found += [((*each, asks, head), (*each, head, stop)), ((*each, asks, stop), (*each, stop, head))] * 2
        found += [((*each, stop, asks), (*each, asks, head))] * 2
    found *= config.layers
    chunk = recipe.loss_chunk or rows
    for start in range(0, rows, chunk):
        linear(min(chunk, rows - start), vocab_size, width)
    if recipe.optimizer == "muon":
        alike: dict[tuple[int, int], int] = defaultdict(int)
        for shape in matrices:
            alike[min(shape), max(shape)] += config.layers
        for (r, c), n in alike.items():
            found += [((n, r, c), (n, c, r)), ((n, r, r), (n, r, r)), ((n, r, r), (n, r, c))] * 5
    return found
