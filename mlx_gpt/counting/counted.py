"""What every counting stage shares: a table in NumPy behind the contract in MLX."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.corpus import Corpus
from mlx_gpt.counting.counts import Order, count
from mlx_gpt.counting.table import Level, Table
from mlx_gpt.errors import CheckpointError
from mlx_gpt.measure import measure
from mlx_gpt.memory import Memory, Window
from mlx_gpt.model import Progress, Report, check_ids


class Counted(ABC):
    """A model that is counted, not trained: subclasses say of what order, and how counts become a table."""

    def __init__(self, order: int, vocab_size: int) -> None:
        """Uniform over the vocabulary until it is fitted."""
        self.order, self.vocab_size = order, vocab_size
        uniform = np.full(vocab_size, 1 / vocab_size, np.float32)
        self.table = Table([Level(np.arange(vocab_size), uniform, np.ones(vocab_size, np.float32))])

    @abstractmethod
    def estimate(self, orders: list[Order], heldout: np.ndarray, recipe: Any, report: Report) -> Table:
        """The table of these counts; `heldout` is the validation stream (N,)."""

    def fit(self, corpus: Corpus, recipe: Any, report: Report) -> None:
        """Count the training text once and smooth the counts."""
        started = Progress(0, 1, math.nan, 0.0, 0, 0.0)
        report.progress(started)
        orders = count(corpus.train.ids, self.order, self.vocab_size, corpus.tokenizer.eot)
        self.table = self.estimate(orders, corpus.valid.ids, recipe, report)
        report.validated(self, 1, measure(self, corpus.valid).bits_per_byte)

    def memory(self, batch: int = 1) -> Memory:
        """The last N - 1 tokens."""
        return Window(batch, self.order - 1)

    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, V), natural logarithms."""
        check_ids(ids, self.vocab_size)
        seen = self._with_context(ids, memory)
        context = seen.shape[1] - ids.shape[1]
        return mx.array(self.table.dense(seen)[:, context:])

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T - 1); never makes a table of the vocabulary."""
        check_ids(ids, self.vocab_size)
        seen = np.concatenate([self._with_context(ids[:, :-1], memory), np.array(ids[:, -1:])], axis=1)
        return mx.array(self.table.score(seen)[:, seen.shape[1] - ids.shape[1] :].astype(np.float32))

    def _with_context(self, ids: mx.array, memory: Memory | None) -> np.ndarray:
        window = self.memory(ids.shape[0]) if memory is None else memory
        assert isinstance(window, Window), "a memory of another model"
        return np.array(window.extend(ids))

    def arrays(self) -> dict[str, mx.array]:
        """Keys, probabilities and backoffs of every order."""
        return {
            f"{k}.{name}": mx.array(getattr(level, name))
            for k, level in enumerate(self.table.levels, 1)
            for name in ("keys", "probabilities", "backoffs")
        }

    def restore(self, arrays: dict[str, mx.array]) -> None:
        """Raises CheckpointError where an order is missing, or its arrays are no table."""
        try:
            levels = [
                Level(*(np.array(arrays[f"{k}.{name}"]) for name in ("keys", "probabilities", "backoffs")))
                for k in range(1, self.order + 1)
            ]
        except KeyError as error:
            raise CheckpointError(f"a table without {error.args[0]}; train again") from error
        for below, level in zip([None, *levels], levels, strict=False):
            rows = len(below.keys) if below else 1
            sound = len(level.keys) == len(level.probabilities) == len(level.backoffs)
            if not sound or (np.diff(level.keys) <= 0).any() or (level.keys >= rows * self.vocab_size).any():
                raise CheckpointError("a damaged table of n-grams; train again")
        self.table = Table(levels)
