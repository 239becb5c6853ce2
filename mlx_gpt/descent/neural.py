"""What every gradient stage shares: from a stage's hidden vectors to the contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_gpt.corpus import Corpus
from mlx_gpt.descent.cross_entropy import chunked_cross_entropy, cross_entropy, logits_of, nats_in_chunks
from mlx_gpt.descent.dropout import through
from mlx_gpt.descent.loop import descend
from mlx_gpt.descent.packed import Matrix, Packed, whole
from mlx_gpt.descent.writing import lay_out
from mlx_gpt.errors import CheckpointError, SettingError
from mlx_gpt.memory import Memory
from mlx_gpt.model import Report, check_ids

SCORED = 2**22  # logits that exist at one time while scoring


class Neural(nn.Module):
    """A model with weights: subclasses say what they remember, and how ids become hidden vectors.

    Whatever the architecture, logits = hidden W^T + b, with W (V, D) and b (V,) given by `head`.
    """

    vocab_size: int
    context: int | None = None  # tokens its memory has room for; None: no end
    blocks: list[nn.Module]  # of a stage that is a stack of them
    packable: tuple[str, ...] = ()  # its own matrices that it multiplies by `linear` or hands to a scan
    activation_penalty = 0.0  # on the mean square of the hidden vectors, in training
    slowness_penalty = 0.0  # on that of their change from token to token
    _laid_out = False  # the weights, for writing
    recompute = False  # whether the backward pass computes each block again instead of keeping its inside

    @abstractmethod
    def memory(self, batch: int = 1) -> Memory:
        """An empty memory."""

    @abstractmethod
    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """ids (B, T) -> what the output layer sees after each of them (B, T, D); brings the memory up to date."""

    @abstractmethod
    def head(self) -> tuple[Matrix, mx.array | None]:
        """Weight (V, D) and bias (V,) of the output layer."""

    def logits(self, hidden: mx.array) -> mx.array:
        """(..., D) -> (..., V)."""
        return logits_of(hidden, *self.head())

    def loss(self, ids: mx.array, memory: Memory | None, chunk: int) -> tuple[mx.array, mx.array]:
        """The summed nats of the targets of a batch (B, T + 1), at most `chunk` positions' logits at a time, and
        the penalty a token: what the activations cost (Merity et al. 2017, AR and TAR), 0 for most stages."""
        hidden = self.hidden(ids[:, :-1], memory)  # (B, T, D)
        flat, targets = hidden.reshape(-1, hidden.shape[-1]), ids[:, 1:].reshape(-1)
        if chunk:
            weight, bias = self.head()
            nats = chunked_cross_entropy(flat, whole(weight), bias, targets, chunk)
        else:
            nats = cross_entropy(self.logits(flat), targets).sum()
        penalty, wide = mx.array(0.0), hidden.astype(mx.float32)
        if self.activation_penalty:
            penalty = penalty + self.activation_penalty * (wide * wide).mean()
        if self.slowness_penalty:
            change = wide[:, 1:] - wide[:, :-1]
            penalty = penalty + self.slowness_penalty * (change * change).mean()
        return nats, penalty

    def block(self, block: nn.Module, x: mx.array, *rest: Any) -> mx.array:
        """block(x, *rest), computed again in the backward pass where training asks for it."""
        return through(block, x, *rest, again=self.training and self.recompute)

    def fit(self, corpus: Corpus, recipe: Any, report: Report) -> None:
        """Stochastic descent on the training text; see descent.loop. Raises SettingError for a quantised model."""
        if any(isinstance(module, Packed) for module in self.modules()):
            raise SettingError("a quantised model cannot be trained on; train the one that it was made from")
        descend(self, corpus, recipe, report)

    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, V), natural logarithms."""
        self._check(ids, ids.shape[-1], memory)
        if memory is not None:
            self._lay_out()
        return _normal(self.logits(self.hidden(ids, memory)))

    def following(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, V), after the last id alone, for ids known to be sound."""
        self._lay_out()
        return _normal(self.logits(self.hidden(ids, memory)[:, -1]))

    def _lay_out(self) -> None:
        """For writing, once."""
        if not (self.training or self._laid_out):
            lay_out(self, self.head()[0])
            self._laid_out = True

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T - 1); the logits of a few positions at a time."""
        self._check(ids, ids.shape[-1] - 1, memory)
        if ids.shape[1] == 1:
            return mx.zeros((ids.shape[0], 0))
        return self.score_unchecked(ids, memory)

    def score_unchecked(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """As `score`, for ids known to be sound: no value is looked at, so that it can be compiled."""
        hidden = self.hidden(ids[:, :-1], memory)
        flat, targets = hidden.reshape(-1, hidden.shape[-1]), ids[:, 1:].reshape(-1)
        nats = nats_in_chunks(flat, *self.head(), targets, max(1, SCORED // self.vocab_size))
        return -nats.reshape(ids.shape[0], -1)

    def _check(self, ids: mx.array, tokens: int, memory: Memory | None) -> None:
        check_ids(ids, self.vocab_size)
        room = self.context if memory is None else memory.room
        if room is not None and tokens > room:
            raise SettingError(f"{tokens} tokens: there is room for {room} of the context of {self.context}")

    def arrays(self) -> dict[str, mx.array]:
        """Every weight by its path."""
        return dict(tree_flatten(self.parameters()))

    def restore(self, arrays: Mapping[str, np.ndarray | mx.array]) -> None:
        """Copy these weights. Raises CheckpointError naming the first that is missing, unknown, or does not fit."""
        own = self.arrays()
        strange = sorted(own.keys() ^ arrays.keys())
        if strange:
            what = "without" if strange[0] in own else "with an unknown"
            raise CheckpointError(f"a checkpoint {what} {strange[0]}: it is of another model")
        for name, array in arrays.items():
            if tuple(array.shape) != own[name].shape:
                raise CheckpointError(f"{name} has shape {array.shape}, this model wants {own[name].shape}")
            held, wanted = (str(each.dtype).removeprefix("mlx.core.") for each in (array, own[name]))
            if held != wanted:
                raise CheckpointError(f"{name} holds {held}, this model wants {wanted}")
        self.update(tree_unflatten([(name, mx.array(array)) for name, array in arrays.items()]))
        self.eval()  # nothing is dropped: a module of MLX's begins in training
        mx.eval(self.parameters())


def _normal(logits: mx.array) -> mx.array:
    """Logits (..., V) as logarithms of probabilities that sum to one."""
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
