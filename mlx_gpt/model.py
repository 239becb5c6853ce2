"""The contract: what a language model is here, and what a stage file declares.

Glossary of shapes, used in every module:

B  batch             H  attention heads           K  key-value heads
T  tokens            E  width of one head         F  width of the feed-forward layer
V  vocabulary        D  width of the model        N  order of an n-gram
C  context           L  layers                    S  tokens remembered and new together
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlx_gpt.corpus import Corpus
from mlx_gpt.errors import SettingError, TokenizerError
from mlx_gpt.memory import Memory
from mlx_gpt.recipe import Recipe, Settings
from mlx_gpt.safetensors import Array

PRESETS = ("tiny", "small", "base", "large")


@dataclass(frozen=True)
class Progress:
    """Where a training run stands. Loss in nats a token, rates and sizes per second, in bytes."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float
    gradient_norm: float = math.nan
    loss_scale: float = 1.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Kept:
    """All that a run needs to go on as if it had never stopped: arrays by name, and facts that JSON can hold."""

    arrays: Mapping[str, Array]
    facts: Mapping[str, str | int | float]


class Report(Protocol):
    """Whom `fit` tells how it goes; the doors print, log and save, the library does not."""

    def notice(self, message: str) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None: ...

    def keep(self, kept: Kept) -> None:
        """Save what a run needs to go on."""
        ...

    def kept(self) -> Kept | None:
        """What was kept last, of this run or the one it goes on with."""
        ...

    def stopping(self) -> int:
        """The number of a signal that asked the run to stop, or 0."""
        ...


class Silent:
    """A report to nobody."""

    def notice(self, message: str) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None: ...

    def keep(self, kept: Kept) -> None: ...

    def kept(self) -> Kept | None:
        return None

    def stopping(self) -> int:
        return 0


class LanguageModel(Protocol):
    """A probability for every possible next token, given the ones before.

    ids       (B, T)     token ids
    logprobs  (B, T, V)  log p(next token | everything up to and including t), natural logarithm
    """

    vocab_size: int

    def fit(self, corpus: Corpus, recipe: Any, report: Report) -> None:
        """Learn from the training text, choose by the validation text, never see the test text."""
        ...

    def memory(self, batch: int = 1) -> Memory:
        """An empty memory for `batch` sequences."""
        ...

    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """Log-probabilities (B, T, V) after each id; with a memory, after all it has seen before as well."""
        ...

    def following(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """Log-probabilities (B, V) after the last id alone; of the others no row of V numbers is ever made.

        The ids are known to be sound: none is looked at, so that they may still be on their way.
        """
        ...

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """Log-probability (B, T - 1) of each id but the first; the memory takes in all ids but the last."""
        ...

    def arrays(self) -> Mapping[str, Array]:
        """All there is to save; what does not fit in memory as columns on disk."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over saved arrays, read-only and memory-mapped: what is counted stays mapped, weights are copied.

        Raises CheckpointError where names, shapes or types do not fit.
        """
        ...


class Wrapped(ABC):
    """A model that is read in another way than its own; it is fitted and saved as ever."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.vocab_size = model, model.vocab_size

    @abstractmethod
    def memory(self, batch: int = 1) -> Memory: ...

    @abstractmethod
    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array: ...

    @abstractmethod
    def following(self, ids: mx.array, memory: Memory | None = None) -> mx.array: ...

    @abstractmethod
    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array: ...

    def fit(self, corpus: Corpus, recipe: Any, report: Report) -> None:
        """Fit the model itself."""
        self.model.fit(corpus, recipe, report)

    def arrays(self) -> Mapping[str, Array]:
        """Those of the model."""
        return self.model.arrays()

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Into the model. Raises CheckpointError where they do not fit."""
        self.model.restore(arrays)


@dataclass(frozen=True)
class Preset:
    """One size of a stage: what the model is, and how it is trained."""

    config: Any
    recipe: Any


@dataclass(frozen=True)
class Stage:
    """What a stage file declares. Number, name, title and remembers come from the file's name and docstring."""

    model: Callable[[Any, int], LanguageModel]
    config: Settings
    recipe: Recipe
    tiny: Preset
    presets: Mapping[str, Preset]
    number: int = 0
    name: str = ""
    title: str = ""
    remembers: str = ""

    def preset(self, name: str) -> Preset:
        """The config and recipe of tiny, small (the default), base or large."""
        known = {"tiny": self.tiny, "small": Preset(self.config, self.recipe), **self.presets}
        if name not in known:
            raise SettingError(f"--preset {name}: choose one of {', '.join(known)}")
        return known[name]

    @property
    def run(self) -> str:
        """The name of its default run folder: 07-lstm."""
        return f"{self.number:02d}-{self.name}"


def check_ids(ids: mx.array, vocab_size: int) -> None:
    """Raise TokenizerError for ids that are no (B, T >= 1) integers below `vocab_size`.

    MLX gathers out of range without complaint, so every public entrance of a model asks this first.
    """
    if ids.ndim != 2 or ids.shape[1] < 1 or not mx.issubdtype(ids.dtype, mx.integer):
        raise TokenizerError(f"ids of shape {ids.shape} and type {ids.dtype}: expected integers (batch, tokens >= 1)")
    held = np.array(ids)
    if not held.size:
        return
    low, high = int(held.min()), int(held.max())
    if low < 0 or high >= vocab_size:
        outside = low if low < 0 else high
        raise TokenizerError(f"token id {outside}: the vocabulary is 0 to {vocab_size - 1}")
