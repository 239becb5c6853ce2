"""The models that bench_ablation.py compares: stages 9, 10 and 11 with one change at a time made or taken back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from bench_ablation_models import Between, begun_as_ten, parts_of
from bench_cells import steps_for

from mlx_gpt import stages
from mlx_gpt.recipe import Descent, Settings

S = TypeVar("S", bound=Settings)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of all models, and how much they read."""

    width: int
    layers: int
    heads: int
    context: int
    batch: int
    steps: int
    vocab_size: int


HOUR = Shape(width=64, layers=3, heads=2, context=128, batch=8, steps=250, vocab_size=1_024)
QUICK = Shape(width=48, layers=2, heads=2, context=64, batch=8, steps=100, vocab_size=512)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model and its recipe: a stage, or `made` for the bench."""

    name: str
    stage: int
    config: Settings
    recipe: Descent
    made: Callable[[Any, int], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Change:
    """A variant without a change, and one with it. `sake`: for what else than bits it is made; `recipe`: whether it is
    one change of a default recipe, which it could leave."""

    name: str
    without: Variant
    having: Variant
    sake: str = ""
    recipe: bool = True


def plain(number: int, shape: Shape) -> Variant:
    """A stage with its default recipe, in the bench's shape."""
    stage: Any = stages.stage(number)
    wanted = {"context": shape.context, "width": shape.width, "layers": shape.layers, "heads": shape.heads}
    wanted |= {"inner": shape.width * 11 // 4} if number > 9 else {}
    config = dataclasses.replace(stage.config, **wanted)
    recipe = dataclasses.replace(stage.recipe, batch_size=shape.batch)
    recipe = steps_for(shape.steps * shape.batch * shape.context, recipe, config)
    return Variant(f"{number:02d}", number, config, recipe)


def changed(name: str, base: Variant, made: Callable[[Any, int], Any] | None = None, **changes: Any) -> Variant:
    """A variant with other settings, of its config or its recipe."""
    config, recipe = _with(base.config, changes), _with(base.recipe, changes)
    return Variant(f"{base.name}-{name}", base.stage, config, recipe, made)


def _with(settings: S, changes: dict[str, Any]) -> S:
    return dataclasses.replace(settings, **{name: changes[name] for name in vars(settings) if name in changes})


def walk(shape: Shape) -> list[Change]:
    """From stage 9 to stage 10, each change on top of those before it."""
    nine, ten = plain(9, shape), plain(10, shape)
    added: dict[str, dict[str, Any]] = {
        "RMSNorm": {"rms": True},
        "no biases": {"biases": False},
        "rotary positions": {"rotary": True},
        "SwiGLU": {"gated": True, "inner": ten.config.inner},  # type: ignore[attr-defined]
        "QK-norm": {"normed": True},
    }
    config: Any = ten.config
    parts = parts_of(config, rms=False, biases=True, rotary=False, gated=False, normed=False)
    parts = dataclasses.replace(parts, inner=4 * shape.width, kv_heads=shape.heads)
    before, changes = nine, []
    for name, change in added.items():
        parts = dataclasses.replace(parts, **change)
        after = Variant("09+" + _slug(name), 9, parts, nine.recipe, Between)
        changes.append(Change("+ " + name, before, after, recipe=False))
        before = after
    shared = changed("rate-of-09", ten, learning_rate=nine.recipe.learning_rate)
    changes.append(Change("+ shared keys and values", before, shared, sake="a smaller cache", recipe=False))
    changes.append(Change(f"+ rate {ten.recipe.learning_rate:g}", shared, ten, recipe=False))
    return [*changes, Change("stage 10 for stage 9", nine, ten, recipe=False)]


def taken_from_ten(shape: Shape) -> list[Change]:
    """Stage 10, each of its changes taken back alone."""
    ten = plain(10, shape)
    config: Any = ten.config

    def less(name: str, **parts: Any) -> Variant:
        return Variant("10-" + name, 10, parts_of(config, **parts), ten.recipe, Between)

    return [
        Change("RMSNorm", less("layernorm", rms=False), ten),
        Change("no biases", less("biases", biases=True), ten),
        Change("rotary positions", less("learned", rotary=False), ten),
        Change("SwiGLU", less("gelu", gated=False, inner=4 * shape.width), ten),
        Change("QK-norm", less("unnormed", normed=False), ten),
        Change("shared keys and values", changed("unshared", ten, kv_heads=shape.heads), ten, sake="a smaller cache"),
    ]


def taken_from_eleven(shape: Shape) -> list[Change]:
    """Stage 11, each of its changes taken back alone, to what stage 10 does; and the height and end of its rate."""
    ten, eleven = plain(10, shape), plain(11, shape)
    one = functools.partial(changed, base=eleven)
    rate = eleven.recipe.learning_rate
    adamw = one("adamw", optimizer="adamw", learning_rate=ten.recipe.learning_rate)
    return [
        Change("Muon", adamw, eleven),
        Change("even rows", one("rows", row_memory=0.0), eleven),
        Change("averaged weights", one("unaveraged", averaging=0.0), eleven, sake="looks and stops before the end"),
        Change("a line down, not a cosine", one("cosine", schedule="cosine"), eleven),
        Change("ends at a tenth, not at 0", one("to-nothing", decay_to=0.0), eleven),
        Change("a short warm-up", one("warmup", warmup=ten.recipe.warmup), eleven),
        Change("blocks begin as no change", one("begun-as-10", made=begun_as_ten), eleven),
        Change("convolutions", one("taps0", taps=0), eleven),
        Change("shared keys and values", one("unshared", kv_heads=shape.heads), eleven, sake="a smaller cache"),
        Change(f"rate {rate:g}, not half", one("rate-half", learning_rate=rate / 2), eleven),
        Change(f"rate {rate:g}, not twice", one("rate-twice", learning_rate=rate * 2), eleven),
        Change("stage 11 for stage 10", ten, eleven, recipe=False),
    ]


def machinery(shape: Shape) -> list[Change]:
    """What changes no number, only time."""
    eleven = plain(11, shape)
    return [
        Change("one graph", changed("uncompiled", eleven, compiled=False), eleven),
        Change("logits in chunks", changed("whole-logits", eleven, loss_chunk=0), eleven, sake="less memory"),
    ]


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


MAKERS = {"walk": walk, "ten": taken_from_ten, "eleven": taken_from_eleven}
