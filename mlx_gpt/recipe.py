"""How to train: frozen dataclasses whose every field carries its default, its help and its bounds."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlx_gpt.errors import SettingError


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    divides: str = "",
    reads: Callable[[str], Any] | None = None,
    auto: bool = False,
    before: Any = None,
) -> Any:
    """A dataclass field that explains and guards itself.

    divides  names a field it must divide
    reads    what makes sense of a text, raising SettingError where there is none
    auto     a whole number for which the command line also takes the word auto, which means 0
    before   what was done before there was this setting, where that is not the default
    """
    guards: dict[str, object] = {"help": help, "low": low, "high": high, "choices": choices}
    guards |= {"divides": divides, "reads": reads, "auto": auto, "before": default if before is None else before}
    return field(default=default, metadata=guards)


@dataclass(frozen=True)
class Settings:
    """Base of every Config and recipe: checks each field against its own bounds.

    Raises SettingError naming the field, its value and what it may be.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, guards = getattr(self, each.name), each.metadata
            name = option(each.name)
            kind = type(each.default)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise SettingError(f"{name} {value!r}: expected {kind.__name__}, e.g. {each.default}")
            if guards["choices"] and value not in guards["choices"]:
                raise SettingError(f"{name} {value!r}: choose one of {', '.join(guards['choices'])}")
            if guards["reads"]:
                guards["reads"](value)
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingError(f"{name} {value}: must be a finite number")
            if guards["auto"] and value == 0:
                continue
            if guards["low"] is not None and value < guards["low"]:
                raise SettingError(f"{name} {value}: must be at least {guards['low']}")
            if guards["high"] is not None and value > guards["high"]:
                raise SettingError(f"{name} {value}: must be at most {guards['high']}")
        for each in dataclasses.fields(self):
            whole = each.metadata["divides"]
            if whole and getattr(self, whole) % getattr(self, each.name):
                raise SettingError(
                    f"{option(each.name)} {getattr(self, each.name)} must divide {option(whole)} {getattr(self, whole)}"
                )


def option(name: str) -> str:
    """The command-line spelling of a field: learning_rate -> --learning-rate."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Recipe(Settings):
    """What every way of training has."""

    seed: int = setting(0, "seed of the first weights and of the order of the batches", low=0, high=2**63 - 1)


def size_in_bytes(text: str) -> int:
    """Bytes of a size such as 500M, 2G or 1.5GB; 0 for no text. Raises SettingError for anything else."""
    if not text:
        return 0
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([KMGT]?)i?B?", text, re.IGNORECASE)
    size = int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")) if found else 0
    if not size:
        raise SettingError(f"--memory {text}: expected a size such as 500M or 2G")
    return size


@dataclass(frozen=True)
class Counting(Recipe):
    """How the counting stages (1-4) are fitted: one pass of counting, then weights on held-out text."""

    em_rounds: int = setting(
        30, "rounds of expectation-maximisation for weights fitted on held-out text", low=1, high=10_000
    )
    memory: str = setting(
        "",
        "the most memory to count in, such as 2G: a text that needs more is counted in shards, merged on disk "
        "(in MLX_GPT_CACHE); half of the machine's without it",
        reads=size_in_bytes,
    )
    shards: int = setting(1, "parts to count one after the other and merge; changes no bit", low=1, high=100_000)
    counted: str = setting("", "file of counts (mlx_gpt.count, mlx_gpt.merge) to use instead of the training text")
    counts: bool = setting(False, "print the counts of counts, discounts and numbers of n-grams, as lmplz does")


@dataclass(frozen=True)
class Descent(Recipe):
    """How the gradient stages (5-11) are fitted: stochastic descent with a warm-up and a way down."""

    steps: int = setting(400, "updates of the weights", low=1, high=100_000_000)
    minutes: float = setting(
        0.0, "train for so long instead of --steps, the way down planned by the clock; 0 means by steps", low=0.0
    )
    batch_size: int = setting(16, "sequences in a step", low=1, high=65_536)
    accumulate: int = setting(
        1,
        "parts a batch is computed in, their gradients summed: less memory, the same step",
        low=1,
        high=65_536,
        divides="batch_size",
    )
    length: int = setting(0, "tokens in a training sequence; 0 means the whole context", low=0, high=1_048_576)
    learning_rate: float = setting(1e-3, "highest learning rate, reached after the warm-up", low=1e-9, high=100)
    warmup: int = setting(
        40, "steps over which the learning rate rises from zero, at most a quarter of --steps", low=0, high=10_000_000
    )
    schedule: str = setting(
        "cosine",
        "how the learning rate falls: half a cosine, a line, or level and then a line",
        choices=("cosine", "linear", "wsd"),
    )
    decay_to: float = setting(0.1, "share of the learning rate left at the end", low=0.0, high=1.0)
    decay_share: float = setting(
        0.2, "wsd: last part of what follows the warm-up, over which the rate falls", low=0.01, high=1.0
    )
    weight_decay: float = setting(0.1, "decoupled decay of the weight matrices", low=0.0, high=10.0)
    beta1: float = setting(0.9, "AdamW: memory of the gradient", low=0.0, high=0.9999)
    beta2: float = setting(0.95, "AdamW: memory of its square", low=0.0, high=0.999999)
    clip: float = setting(1.0, "largest norm of the whole gradient; 0 means no limit", low=0.0, high=1e6)
    optimizer: str = setting("adamw", "optimiser of the hidden matrices", choices=("adamw", "muon"))
    momentum: float = setting(0.95, "Muon: memory of the gradient", low=0.0, high=0.9999)
    row_memory: float = setting(
        0.0,
        "Muon: memory of the mean square of each row of a step, by which rows are evened out; 0 leaves them be",
        low=0.0,
        high=0.9999,
    )
    adamw_share: float = setting(1.0, "with Muon: AdamW's learning rate as a share of the whole", low=1e-6, high=1e3)
    averaging: float = setting(
        0.0,
        "memory of the running average of the weights, which is judged and kept: after n steps n / (n + 9), up to "
        "this; 0 means none",
        low=0.0,
        high=0.99999,
    )
    running: bool = setting(
        False, "read the text in order and pass the memory from step to step (truncated back-propagation)"
    )
    afresh: int = setting(
        0,
        "with --running: every so many steps a track begins with an empty memory; 0 means never",
        low=0,
        high=1_000_000,
    )
    compiled: bool = setting(False, "compile the whole step into one graph")
    precision: str = setting(
        "fp32",
        "numbers of the forward and backward pass; masters stay in fp32; auto takes what this device does soonest",
        choices=("fp32", "bf16", "fp16", "auto"),
    )
    recompute: bool = setting(
        False, "compute the inside of each block again in the backward pass: less memory, more time"
    )
    loss_chunk: int = setting(
        0, "positions whose logits exist at one time in the loss; 0 means all", low=0, high=1_048_576
    )
    evaluate_every: int = setting(100, "steps between two looks at the validation text", low=1, high=100_000_000)
    keep_every: float = setting(60.0, "seconds between two saves of all that a resume needs", low=0.0, high=86_400.0)
