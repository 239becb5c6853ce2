"""How a gradient becomes a step: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from mlx_gpt.recipe import Descent

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: quintic with a steep slope at zero
OUTSIDE = ("embed", "head", "position")  # matrices with a row for each token or place: AdamW's, never Muon's


class Muon(optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz, with decoupled weight decay.

    Jordan et al. 2024 (Muon, with Nesterov momentum); Liu et al. 2025 (Moonlight): steps scaled by
    0.2 sqrt(max(rows, columns)), so that one learning rate serves Muon and AdamW.
    """

    def __init__(self, learning_rate: float, momentum: float, weight_decay: float) -> None:
        super().__init__()
        self._maybe_schedule("learning_rate", learning_rate)
        self.momentum, self.weight_decay = momentum, weight_decay

    def init_single(self, parameter: mx.array, state: dict[str, Any]) -> None:
        """One momentum per matrix."""
        state["v"] = mx.zeros_like(parameter)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
        """One matrix (R, C) moved."""
        rate = self.learning_rate.astype(parameter.dtype)
        v = self.momentum * state["v"] + gradient
        state["v"] = v
        step = orthogonalised(gradient + self.momentum * v)
        step = step * (0.2 * math.sqrt(max(parameter.shape)))
        return parameter * (1 - rate * self.weight_decay) - rate * step


def orthogonalised(matrix: mx.array, rounds: int = 5) -> mx.array:
    """The nearest matrix (R, C) whose singular values are near one, in float32."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.astype(mx.float32)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (mx.linalg.norm(x) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).astype(matrix.dtype)


def optimizer(recipe: Descent) -> optim.MultiOptimizer:
    """The recipe's optimiser: weight decay for matrices only, as every published recipe has it."""

    def adamw(decay: float) -> optim.Optimizer:
        betas = [recipe.beta1, recipe.beta2]
        return optim.AdamW(recipe.learning_rate, betas=betas, weight_decay=decay, bias_correction=True)

    def matrix(path: str, weight: mx.array) -> bool:
        return bool(weight.ndim >= 2)

    def hidden_matrix(path: str, weight: mx.array) -> bool:
        return matrix(path, weight) and not any(name in path for name in OUTSIDE)

    groups = [adamw(recipe.weight_decay), adamw(0.0)]
    filters = [matrix]
    if recipe.optimizer == "muon":
        groups.insert(0, Muon(recipe.learning_rate, momentum=0.95, weight_decay=recipe.weight_decay))
        filters.insert(0, hidden_matrix)
    return optim.MultiOptimizer(groups, filters)


def learning_rate(recipe: Descent, step: int) -> float:
    """Linear warm-up, then half a cosine down to `decay_to` of the highest rate; steps count from 0."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    floor = recipe.decay_to
    return recipe.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
