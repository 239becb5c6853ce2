"""The learning rate over a run: by steps, or by the clock."""

from __future__ import annotations

import math

from mlx_gpt.recipe import Descent


def learning_rate(recipe: Descent, step: int, share: float | None = None) -> float:
    """The rate of a step, counted from 0: a linear warm-up, then the recipe's way down to `decay_to` of the highest.

    cosine  half a cosine over all that is left (Loshchilov & Hutter 2017)
    linear  a straight line over all that is left
    wsd     level until the last `decay_share` of the run, then a straight line (Hu et al. 2024)

    share  of the run that is over, 0 to 1; by default of its steps, with a time budget of its minutes
    """
    warmup = recipe.warmup if share is not None else min(recipe.warmup, recipe.steps // 4)
    risen = min(1.0, (step + 1) / max(1, warmup))
    gone = max(0, step - warmup) / max(1, recipe.steps - warmup) if share is None else share
    gone = min(1.0, gone)
    if recipe.schedule == "wsd":
        gone = max(0.0, 1 - (1 - gone) / recipe.decay_share)
    left = 0.5 * (1 + math.cos(math.pi * gone)) if recipe.schedule == "cosine" else 1 - gone
    return recipe.learning_rate * risen * (recipe.decay_to + (1 - recipe.decay_to) * left)
