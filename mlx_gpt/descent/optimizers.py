"""How a gradient becomes a step: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.

An optimiser here is two pure functions of flat trees, name -> array: `begin` makes its state, `update` moves weights.
Nothing is hidden in an object, so a step can be compiled, saved and repeated to the bit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import mlx.core as mx

from mlx_gpt.recipe import Descent

Tree = dict[str, mx.array]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: quintic with a steep slope at zero
OUTSIDE = ("embed", "head", "position")  # matrices with a row for each token or place: AdamW's, never Muon's
EPSILON = 1e-8  # of AdamW


def is_matrix(name: str, weight: mx.array) -> bool:
    """Whether it multiplies vectors; the taps of a depthwise convolution are a gain for each channel, in a row."""
    return weight.ndim >= 2 and name.rpartition(".")[2] != "taps"


def hidden_matrices(weights: Mapping[str, mx.array]) -> list[str]:
    """Names of the matrices between the embedding and the output layer."""
    return [name for name in weights if is_matrix(name, weights[name]) and not any(part in name for part in OUTSIDE)]


def groups(recipe: Descent, weights: Mapping[str, mx.array]) -> tuple[list[str], list[str], list[str]]:
    """Names of what Muon moves, of what AdamW moves and decays, and of what AdamW moves alone.

    Only matrices decay; a gain, a bias or an initial state pulled to zero would be another model.
    """
    matrices = [name for name in weights if is_matrix(name, weights[name])]
    hidden = hidden_matrices(weights) if recipe.optimizer == "muon" else []
    return hidden, [name for name in matrices if name not in hidden], [n for n in weights if n not in matrices]


def begin(recipe: Descent, weights: Mapping[str, mx.array]) -> Tree:
    """The state before the first step: one momentum for Muon, two for AdamW, an average where it is asked for."""
    muon, *adam = groups(recipe, weights)
    state: Tree = {"updates": mx.array(0.0)}
    for name in muon:
        state[f"momentum.{name}"] = mx.zeros(weights[name].shape)
        if recipe.row_memory:
            state[f"rows.{name}"] = mx.zeros((weights[name].shape[0], 1))
    for name in (name for names in adam for name in names):
        state[f"mean.{name}"] = mx.zeros(weights[name].shape)
        state[f"square.{name}"] = mx.zeros(weights[name].shape)
    if recipe.averaging:
        state |= {f"average.{name}": mx.array(weight) for name, weight in weights.items()}
    return state


def update(
    recipe: Descent, weights: Tree, state: Tree, gradient: Tree, rate: mx.array, finite: mx.array
) -> tuple[Tree, Tree]:
    """Weights and state after one step at learning rate `rate`; where `finite` is false, both as they were.

    AdamW: Loshchilov & Hutter 2019, with bias correction. Muon: Jordan et al. 2024 with Nesterov momentum, steps
    scaled by 0.2 sqrt(max(rows, columns)) so that one learning rate serves both (Liu et al. 2025), decay decoupled;
    with `row_memory` each row divided by the root of its running mean square (NorMuon, Li et al. 2025).
    """
    on = finite.astype(mx.float32)
    rate = rate * on
    gradient = {name: mx.where(finite, g, 0) for name, g in gradient.items()}
    muon, decayed, spared = groups(recipe, weights)
    after: Tree = {"updates": state["updates"] + on}
    moved: Tree = {}
    # a step that is not taken: the memories keep all (factor 1) and take in nothing
    keep1, keep2, keep = (
        mx.where(finite, mx.array(factor), 1) for factor in (recipe.beta1, recipe.beta2, recipe.momentum)
    )
    corrected1, corrected2 = (
        1 - mx.power(mx.array(beta), mx.maximum(after["updates"], 1)) for beta in (recipe.beta1, recipe.beta2)
    )
    for name in (*decayed, *spared):
        g = gradient[name]
        mean = keep1 * state[f"mean.{name}"] + (1 - recipe.beta1) * g
        square = keep2 * state[f"square.{name}"] + (1 - recipe.beta2) * g * g
        after[f"mean.{name}"], after[f"square.{name}"] = mean, square
        decay = recipe.weight_decay if name in decayed else 0.0
        own = rate * recipe.adamw_share if muon else rate
        step = (mean / corrected1) / (mx.sqrt(square / corrected2) + EPSILON)
        moved[name] = weights[name] * (1 - own * decay) - own * step
    ahead: Tree = {}
    for name in muon:
        momentum = keep * state[f"momentum.{name}"] + gradient[name]
        after[f"momentum.{name}"] = momentum
        ahead[name] = gradient[name] + recipe.momentum * momentum
    for name, step in orthogonalised(ahead).items():
        if recipe.row_memory:
            square = (step * step).mean(axis=1, keepdims=True)  # (R, 1)
            rows = mx.where(finite, mx.array(recipe.row_memory), 1) * state[f"rows.{name}"]
            rows = rows + (1 - recipe.row_memory) * on * square
            after[f"rows.{name}"] = rows
            even = step / (mx.sqrt(rows) + EPSILON)  # what it lacks in its first steps falls out with the length
            step = even * (mx.linalg.norm(step) / (mx.linalg.norm(even) + EPSILON))
        step = step * (0.2 * math.sqrt(max(step.shape)))
        moved[name] = weights[name] * (1 - rate * recipe.weight_decay) - rate * step
    if recipe.averaging:
        # short at first, so that the first weights do not linger
        share = mx.minimum(recipe.averaging, after["updates"] / (after["updates"] + 9))
        for name, weight in moved.items():
            average = state[f"average.{name}"]
            after[f"average.{name}"] = mx.where(finite, average + (1 - share) * (weight - average), average)
    return moved, after


def orthogonalised(matrices: Mapping[str, mx.array], rounds: int = 5) -> Tree:
    """Of each matrix (R, C) the nearest whose singular values are all near one, by Newton-Schulz in float32.

    Matrices of one shape, or of its transpose, are worked on together: one product of (n, R, C), not n products.
    """
    a, b, c = NEWTON_SCHULZ
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, matrix in matrices.items():
        alike[tuple(sorted(matrix.shape))].append(name)
    found: Tree = {}
    for names in alike.values():
        tall = {name: matrices[name].shape[0] > matrices[name].shape[1] for name in names}
        x = mx.stack([matrices[name].T if tall[name] else matrices[name] for name in names]).astype(mx.float32)
        x = x / (mx.sqrt((x * x).sum(axis=(1, 2), keepdims=True)) + 1e-7)  # (n, R, C), R <= C
        for _ in range(rounds):
            gram = x @ x.swapaxes(1, 2)  # (n, R, R)
            x = a * x + (b * gram + c * gram @ gram) @ x
        for place, name in enumerate(names):
            found[name] = x[place].T if tall[name] else x[place]
    return found
