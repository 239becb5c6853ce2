"""The hybrid of all stages: several trained models over one tokenizer, weighed by how well each foretold the text.

    p(x_t) = sum_k w_k p_k(x_t),   w_k ∝ prior_k p_k(x_1) … p_k(x_t-1)

Whatever the text, these n tokens cost at most ln K nats more than they cost the best of K members, ln K / n a token
(Vovk 1990; Cesa-Bianchi & Lugosi 2006, section 9.2). The best member changes from word to word, so the experts that
are weighed are not only the members but also those that pass from member to member at a given rate (fixed share,
Herbster & Warmuth 1998): w_k <- (1 - a) w_k + a / K after each token. The rates are weighed as the members are, and
a rate of 0, which never passes, keeps the promise: at most ln(K R) nats more than the best member with R rates.

A member whose context is full is renewed alone and by its own rule (see endless): the weights and the memories of
the others stay, so the promise holds for whole documents, against what `measure` says of each member alone.

B batch, T tokens, V vocabulary, K members, R rates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import mlx.core as mx
import numpy as np

from mlx_gpt import checkpoint
from mlx_gpt.checkpoint import Checkpoint
from mlx_gpt.corpus import Corpus, Text
from mlx_gpt.endless import Endless
from mlx_gpt.errors import SettingError, TokenizerError
from mlx_gpt.measure import scored
from mlx_gpt.memory import Memory, Nested
from mlx_gpt.model import LanguageModel, Report, check_ids
from mlx_gpt.safetensors import Array

BAYES = (0.0,)  # no passing from member to member: the mixture of the members alone
TOGETHER = 256  # documents that are weighed side by side
RATES = (0.0, 1 / 64, 1 / 8, 1 / 2)


class Beliefs(Nested):
    """The members' memories, and in `arrays` what their mixture remembers itself: the logarithms of the weights
    (B, R, K), and what each member says of the next token (B, K, V), zero before the first."""

    def rows(self, which: Sequence[int]) -> Self:
        return self._rows(which)

    def shorten(self, tokens: int) -> bool:
        return False


class Mixture:
    """K models as one. Raises TokenizerError where their vocabularies differ."""

    def __init__(self, members: Sequence[LanguageModel], rates: Sequence[float] = RATES) -> None:
        """`rates` are the chances, 0 to 1, that another member is the best one at the next token."""
        assert members and rates, "a mixture of nothing"
        self.members, self.vocab_size = [Endless(model) for model in members], members[0].vocab_size
        self.rates = np.array(rates if len(members) > 1 else BAYES)
        assert ((self.rates >= 0) & (self.rates <= 1)).all(), f"rates {rates}"
        sizes = sorted({model.vocab_size for model in members})
        if len(sizes) > 1:
            raise TokenizerError(f"a mixture of vocabularies of {sizes[0]} and {sizes[1]}: its members need one")

    def fit(self, corpus: Corpus, recipe: Any, report: Report) -> None:
        """Raises SettingError: the members are trained one by one, and the weights are learned while reading."""
        raise SettingError("a mixture is not trained: train its members")

    def memory(self, batch: int = 1) -> Beliefs:
        """Equal weights, and every member's empty memory."""
        shape = (batch, len(self.rates), len(self.members))
        weights = mx.full(shape, -np.log(shape[1] * shape[2]))
        unasked = mx.zeros((batch, len(self.members), self.vocab_size))
        return Beliefs([member.memory(batch) for member in self.members], [weights, unasked])

    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, V), natural logarithms."""
        held = self._held(ids, memory)
        tables = [member.logprobs(ids, inner) for member, inner in zip(self.members, held.inner, strict=True)]
        said = [_gathered(table[:, :-1], ids[:, 1:]) for table in tables]
        weights = self._weigh(ids, mx.stack(said, axis=-1), held)
        held.arrays[1] = mx.stack([table[:, -1] for table in tables], axis=1)
        mixed = weights[:, :, :1] + tables[0]
        for k, table in enumerate(tables[1:], 1):
            mixed = mx.logaddexp(mixed, weights[:, :, k : k + 1] + table)
        return mixed

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T - 1). Asks each member for a table of the vocabulary at one place only, the last that is
        taken in: the next weights depend on a token that has not been read yet."""
        held = self._held(ids, memory)
        if ids.shape[1] == 1:
            return mx.zeros((ids.shape[0], 0))
        said, last = [], []
        for member, inner in zip(self.members, held.inner, strict=True):
            said.append(member.score(ids[:, :-1], inner))
            last.append(member.logprobs(ids[:, -2:-1], inner))
        weights = self._weigh(ids[:, :-1], mx.stack(said, axis=-1), held)
        held.arrays[1] = mx.concatenate(last, axis=1)
        final = mx.stack([_gathered(table, ids[:, -1:]) for table in last], axis=-1)  # (B, 1, K)
        return mx.logsumexp(weights + mx.concatenate([mx.stack(said, axis=-1), final], axis=1), axis=-1)

    def following(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, V), after the last id alone."""
        held = self._held(ids, memory)
        if ids.shape[1] > 1:
            self.score(ids, held)
        return self.logprobs(ids[:, -1:], held)[:, 0]

    def scored(self, text: Text) -> Iterator[tuple[int, int, np.ndarray]]:
        """As `measure.scored`. What the members say of a text does not depend on their weights, so each is asked for
        all of it in its own way, and then they are weighed."""
        told = np.empty((len(text.ids), len(self.members)), np.float32)  # after each token, of the next one
        for k, member in enumerate(self.members):
            for document, start, logprobs in scored(member.model, text):
                first = int(text.starts[document]) + start
                told[first : first + len(logprobs), k] = logprobs
        lengths = np.diff(text.starts)
        order = np.argsort(-lengths, kind="stable")
        for documents in np.array_split(order, -(-len(order) // TOGETHER)):
            said = np.zeros((len(documents), int(lengths[documents[0]]), len(self.members)))  # 0 after a shorter one
            for row, document in enumerate(documents):
                said[row, : lengths[document]] = told[text.starts[document] : text.starts[document + 1]]
            shape = (len(documents), len(self.rates), len(self.members))
            equal = np.full(shape, -np.log(shape[1] * shape[2]))
            every, _ = weigh(equal, said[:, :-1], self.rates)
            before = np.concatenate([np.logaddexp.reduce(equal, axis=1)[:, None], every], axis=1)
            mixed = np.logaddexp.reduce(before + said, axis=2)
            for row, document in enumerate(documents.tolist()):
                yield document, 0, mixed[row, : lengths[document]]

    def arrays(self) -> Mapping[str, Array]:
        """Those of the members, named by their places: 0.embed.weight."""
        return {f"{k}.{name}": array for k, model in enumerate(self.members) for name, array in model.arrays().items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Into the members. Raises CheckpointError where they do not fit."""
        for k, model in enumerate(self.members):
            head = f"{k}."
            model.restore({name.removeprefix(head): each for name, each in arrays.items() if name.startswith(head)})

    def _held(self, ids: mx.array, memory: Memory | None) -> Beliefs:
        check_ids(ids, self.vocab_size)
        held = self.memory(ids.shape[0]) if memory is None else memory
        assert isinstance(held, Beliefs), "a memory of another model"
        return held

    def _weigh(self, ids: mx.array, said: mx.array, held: Beliefs) -> mx.array:
        """The logarithms of the members' weights (B, T, K) after each of ids (B, T), of which all but the first had
        the log-probabilities `said` (B, T - 1, K); keeps the last."""
        first = _gathered(held.arrays[1], mx.broadcast_to(ids[:, :1], (ids.shape[0], len(self.members))))
        told = np.array(mx.concatenate([first[:, None], said], axis=1), np.float64)
        every, last = weigh(np.array(held.arrays[0], np.float64), told, self.rates)
        held.arrays[0] = mx.array(last.astype(np.float32))
        return mx.array(every.astype(np.float32))


def _gathered(table: mx.array, ids: mx.array) -> mx.array:
    """(B, T, V) at ids (B, T) -> (B, T)."""
    return mx.take_along_axis(table, ids[..., None], axis=-1)[..., 0]


def weigh(weights: np.ndarray, told: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logarithms of the members' weights (B, T, K) after each of T tokens, and of all weights (B, R, K) in the end.

    weights  (B, R, K)  before the first token
    told     (B, T, K)  log p_k of each token; one that all members held for impossible tells nothing
    rates    (R,)       fixed shares
    """
    every = np.empty(told.shape)
    with np.errstate(divide="ignore"):
        stay, move = np.log1p(-rates)[:, None], np.log(rates / told.shape[-1])[:, None]
    for t in range(told.shape[1]):
        seen = weights + told[:, t, None, :]
        total = np.logaddexp.reduce(seen, axis=(1, 2), keepdims=True)
        possible = np.isfinite(total)
        after = np.where(possible, seen - np.where(possible, total, 0.0), weights)
        weights = np.logaddexp(after + stay, np.logaddexp.reduce(after, axis=2, keepdims=True) + move)
        every[:, t] = np.logaddexp.reduce(weights, axis=1)
    return every, weights


def chosen(stage: int | None, run: Path | None, mix: Sequence[Path], one_text: bool = False) -> Checkpoint:
    """What --stage, --run or several --mix name. Raises SettingError where it is not one of the three."""
    if not mix:
        return checkpoint.load(checkpoint.run_folder(stage, run), stage)
    if stage is not None or run is not None:
        raise SettingError("give --stage N, --run DIR, or --mix DIR for each member, not several of them")
    return mixed([checkpoint.load(checkpoint.run_folder(None, folder)) for folder in mix], one_text)


def mixed(members: Sequence[Checkpoint], one_text: bool) -> Checkpoint:
    """The mixture of trained models, with the card of the first but for its scores.

    Raises TokenizerError where their tokenizers differ; with `one_text`, SettingError where their texts or splits do:
    what one of them was trained on must not be held-out text of another.
    """
    first = members[0]
    for other in members[1:]:
        if not other.tokenizer.agrees(first.tokenizer):
            raise TokenizerError(f"{first.path} and {other.path}: different tokenizers; a mixture needs one for all")
        if one_text and other.card.corpus != first.card.corpus:
            raise SettingError(f"{first.path} and {other.path}: trained on different texts, so none is held out")
    names = " + ".join(f"{each.stage.number} {each.stage.name}" for each in members)
    stage = dataclasses.replace(first.stage, number=0, name="mixture", title=names)
    card = dataclasses.replace(first.card, finished=all(each.card.finished for each in members), scores={})
    return dataclasses.replace(first, model=Mixture([each.model for each in members]), stage=stage, card=card)
