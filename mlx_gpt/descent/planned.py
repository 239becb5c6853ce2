"""A plan in words."""

from __future__ import annotations

from mlx_gpt.descent.plan import M2, M2_FLOPS, Offer, Plan, sized, spelled
from mlx_gpt.device import GPU_SHARE


def lines(plan: Plan) -> list[str]:
    """The plan in words, for a reader."""
    recipe, work = plan.recipe, plan.work
    offer = plan.fitting or plan.given
    need, more = offer.need, 4 / 3 if offer.way.recompute else 1.0
    by = f" (as many as {recipe.minutes:g} minutes have)" if recipe.minutes else ""
    attention = f" + 12 x {work.attention:,} (layers x width x length)" if work.attention else ""
    told = [
        f"parameters  {plan.parameters:,}",
        f"tokens      {work.tokens:,} = {plan.steps:,} steps{by} x {recipe.batch_size} sequences x {plan.length} "
        f"tokens; {work.tokens / plan.corpus:,.2f} epochs of {plan.corpus:,} tokens",
        f"work        {_work(work.per_token)} a token = 6 x {work.multiplying:,} weights that multiply"
        f"{attention}; {_work(work.per_token * work.tokens)} in all"
        + (", and a third of it again for recomputation" if more > 1 else ""),
        f"memory      {sized(need.total)} of MLX's buffers at the highest, predicted from steps of "
        f"{_measured(plan)} in {plan.precision}; Python and its libraries come on top",
    ]
    parts = {
        "weights": need.weights,
        "optimiser": need.optimizer,
        "memory passed on": need.carried,
        "best weights": need.best,
        "gradients": need.gradients,
        "logits": need.logits,
        "activations": need.activations,
    }
    told += [f"            {name:<17}{sized(size):>9}" for name, size in parts.items() if size]
    told += [
        f"            a look at the validation text: {sized(need.look)}, at another moment",
        f"limit       {sized(plan.limit)}: {plan.room}",
        f"way         {spelled(plan.given.way)}: {sized(plan.given.need.total)}, "
        + ("fits" if plan.fitting == plan.given else "does not fit"),
    ]
    if plan.fitting is None:
        told.append("            nor does any other: take a smaller --length, --width or --preset")
    elif plan.fitting != plan.given:
        told.append(f"            {spelled(plan.fitting.way)}: {sized(plan.fitting.need.total)}, fits")
    told[-1] += f"; {recipe.batch_size // offer.way.accumulate} sequences at one time"
    speed = recipe.batch_size * plan.length / offer.seconds
    told.append(
        f"time        {_time(plan.seconds)} = {plan.steps:,} steps of {offer.seconds:.2f} s ({speed:,.0f} tokens/s, "
        f"{work.per_token * speed * more / 1e9:,.0f} GFLOP/s) + {plan.looks:,} looks of {plan.look_seconds:.1f} s"
    )
    if plan.measured < recipe.batch_size // offer.way.accumulate:
        told.append(
            f"            seconds of a step and of a look are extrapolated: from {_measured(plan)}, from one batch"
        )
    return told + [_on_m2(plan, gb, found) for gb, found in plan.m2.items()]


def _on_m2(plan: Plan, gb: int, offer: Offer | None) -> str:
    room = GPU_SHARE * M2[gb]
    start = f"M2 {gb:>2} GB    prediction, not measured: {sized(room)} to use; "
    if offer is None:
        return start + "no way fits"
    per_token = plan.work.per_token * (4 / 3 if offer.way.recompute else 1)
    speed = M2_FLOPS / per_token
    return start + (
        f"{spelled(offer.way)} fits ({sized(offer.need.total)}); at most {speed:,.0f} tokens/s "
        f"at {M2_FLOPS / 1e12} TFLOP/s, {_time(plan.work.tokens / speed)}"
    )


def _measured(plan: Plan) -> str:
    return f"{plan.measured} of {plan.recipe.batch_size} sequences"


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:,.1f} h"
        if seconds >= 5_400
        else f"{seconds / 60:.1f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )


def _work(operations: float) -> str:
    size, unit = next(((n, u) for n, u in ((1e15, "P"), (1e12, "T"), (1e9, "G")) if operations >= n), (1e6, "M"))
    return f"{operations / size:,.2f} {unit}FLOP"
