"""What every counting stage shares: a table in NumPy behind the contract in MLX."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gpt.corpus import Corpus, cache_folder
from mlx_gpt.counting.columns import Shelf, sweep
from mlx_gpt.counting.counts import HIGHEST_ORDER, MOST_ROWS, Counts, id_type
from mlx_gpt.counting.estimate import estimate
from mlx_gpt.counting.merge import count_in_shards
from mlx_gpt.counting.packed import Starts
from mlx_gpt.counting.quantise import quantised
from mlx_gpt.counting.record import contents, read_counts, text_digest
from mlx_gpt.counting.sampler import Sampler
from mlx_gpt.counting.smoothing import Smoothing
from mlx_gpt.counting.sorting import count
from mlx_gpt.counting.statistics import Statistics, statistics_lines
from mlx_gpt.counting.table import Level, Table
from mlx_gpt.counting.tables import as_arrays, as_table
from mlx_gpt.device import give_back_memory, memory_of_machine, resident_memory
from mlx_gpt.errors import DataError, SettingError
from mlx_gpt.measure import measure
from mlx_gpt.memory import Memory, Rows
from mlx_gpt.model import Kept, Progress, Report, check_ids
from mlx_gpt.recipe import Counting, size_in_bytes
from mlx_gpt.safetensors import Array

LEAST = 64 * 2**20  # bytes beyond the program itself in which anything can be counted


class Counted(ABC):
    """A model that is counted, not trained: subclasses say of what order, and how it is smoothed.

    An order of 0 is chosen on the validation text. `prune` holds what n-grams are dropped (see estimate).
    """

    prune: Sequence[int] = ()
    in_bits = False  # keep the table in 8-bit numbers

    def __init__(self, order: int, vocab_size: int) -> None:
        """Uniform over the vocabulary until it is fitted."""
        self.wanted, self.vocab_size = order, vocab_size
        self.table = _uniform(vocab_size)

    @property
    def order(self) -> int:
        """Tokens in an n-gram, the predicted one included."""
        return self.table.order

    @abstractmethod
    def smoothing(self, counts: Counts, heldout: np.ndarray, recipe: Any) -> Smoothing:
        """How these counts are smoothed; `heldout` is the validation stream (M,)."""

    def fit(self, corpus: Corpus, recipe: Counting, report: Report) -> None:
        """Count the training text once and smooth the counts; of several orders, the best on the validation text."""
        best = math.inf
        highest = HIGHEST_ORDER
        if recipe.counted:
            highest, texts = contents(Path(recipe.counted))
            if texts != {text_digest(corpus.train.ids)}:
                report.notice("these counts are not of this training text alone: the held-out text may be among them")
        orders = [self.wanted] if self.wanted else list(range(1, highest + 1))
        kept, lines = self.table, list[str]()
        for step, order in enumerate(orders):
            report.progress(Progress(step, len(orders), math.nan, 0.0, 0, 0.0))
            found = self._fit(order, corpus, recipe, report)
            bits = measure(self, corpus.valid).bits_per_byte
            if not self.wanted:
                report.notice(f"order {order}: {bits:.4f} bits per byte on the validation text")
            if step and bits >= best:
                break
            best, kept, lines = bits, self.table, statistics_lines(found)
        self.table = kept
        if recipe.counts:
            for line in ("Statistics:", *lines):
                report.notice(line)
        if math.isinf(best):
            report.notice("some tokens of the validation text have no probability at all: take another --smoothing")
        report.validated(self, 1, best)

    def _fit(self, order: int, corpus: Corpus, recipe: Counting, report: Report) -> list[Statistics]:
        """Fill the table with one order's model."""
        ids, room = corpus.train.ids, _room(recipe)
        given = read_counts(Path(recipe.counted), corpus.tokenizer, order) if recipe.counted else None
        report.keep(Kept({}, {}))  # nothing half-counted is worth keeping, but a resume must know what to count
        fits = min(room // bytes_per_token(order), MOST_ROWS - 1)  # tokens counted in memory
        size = min(-(-len(ids) // recipe.shards), fits)
        on_disk = (len(ids) if given is None else given.tokens) > fits
        try:
            with Shelf(_folder() if on_disk else None) as shelf:
                counts = given
                if counts is None and size < len(ids):
                    counts = count_in_shards(ids, order, self.vocab_size, corpus.tokenizer.eot, size, shelf)
                elif counts is None:
                    counts = count(ids, order, self.vocab_size, corpus.tokenizer.eot)
                chosen = self.smoothing(counts, corpus.valid.ids, recipe)
                self.table, found = estimate(counts, chosen, report.notice, self.prune, shelf, room // 8)
        except OSError as error:
            raise DataError(
                f"{error.filename or _folder()}: counting ended, {error.strerror}; "
                "make room there, or name another folder with MLX_GPT_CACHE"
            ) from error
        self.table.finder.may_index = not on_disk
        if self.in_bits:
            self.table = quantised(self.table)
        return found

    def memory(self, batch: int = 1) -> Memory:
        """A row for each length of context up to N - 1."""
        return Rows(batch, self.order)

    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, V), natural logarithms."""
        check_ids(ids, self.vocab_size)
        rows = self._rows(ids.shape[0], memory)
        states = self.table.advance(np.array(ids), np.array(rows.arrays[0]))  # (N - 1, B, T)
        rows.arrays[0] = mx.array(states[:, :, -1].astype(np.int32))
        p = self.table.distributions(states.reshape(self.order - 1, ids.size))
        return _logarithms(p).reshape(*ids.shape, self.vocab_size)

    def following(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, V), after the last id alone, for ids known to be sound."""
        rows = self._rows(ids.shape[0], memory)
        state = self._after(np.array(ids), np.array(rows.arrays[0]))
        rows.arrays[0] = mx.array(state.astype(np.int32))
        return _logarithms(self.table.distributions(state))

    def likeliest(self, past: Sequence[int], most: int) -> list[int]:
        """`most` ids to follow `past`, at least one id, each the likeliest after those before it; no memory is made."""
        return self.table.likeliest(past, most)

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T - 1); never makes a table of the vocabulary."""
        check_ids(ids, self.vocab_size)
        rows = self._rows(ids.shape[0], memory)
        read, before = np.array(ids), np.array(rows.arrays[0])
        scores, _ = self.table.score(read, before)
        if memory is not None and read.shape[1] > 1:
            rows.arrays[0] = mx.array(self._after(read[:, :-1], before).astype(np.int32))
        return mx.array(scores[:, 1:])

    def _after(self, ids: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The state (N - 1, B) after the last of ids (B, T), which stand after the state `before`."""
        near = ids[:, -max(1, self.order - 1) :]  # whatever stands further back, it is not remembered
        return self.table.advance(near, before if near.shape == ids.shape else None)[:, :, -1]

    def sample(self, batch: int, length: int, eot: int, seed: int) -> np.ndarray:
        """(B, T) ids of sequences drawn side by side, each beginning a document; see counting.sampler."""
        return Sampler(self.table).sample(batch, length, eot, seed)

    def _rows(self, batch: int, memory: Memory | None) -> Rows:
        rows = self.memory(batch) if memory is None else memory
        assert isinstance(rows, Rows), "a memory of another model"
        return rows

    def arrays(self) -> dict[str, Array]:
        """Tokens, starts, probabilities and backoffs of every order."""
        return as_arrays(self.table)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps the arrays mapped. Raises CheckpointError where they are no table of this vocabulary."""
        self.table = as_table(arrays, self.vocab_size)


def bytes_per_token(order: int) -> int:
    """The most memory that counting takes for each token of the text, whatever the text: see sorting.py."""
    return 20 + 14 * order


def _room(recipe: Counting) -> int:
    """Bytes that counting may take besides what the program holds already."""
    wanted = size_in_bytes(recipe.memory)
    give_back_memory()
    room = (wanted or memory_of_machine() // 2) - resident_memory()
    if room < LEAST:
        least = -(-(resident_memory() + LEAST) // 2**20)
        raise SettingError(
            f"--memory {recipe.memory}: too little, for this process holds much of it; at least {least}M"
        )
    return room


def _folder() -> Path:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    return folder


def _logarithms(p: np.ndarray) -> mx.array:
    """The natural logarithms of probabilities, which are overwritten."""
    with np.errstate(divide="ignore"):
        return mx.array(np.log(p, out=p))


def _uniform(vocab_size: int) -> Table:
    p = np.full(vocab_size, 1 / vocab_size, np.float32)
    return Table(
        [Level(np.arange(vocab_size, dtype=id_type(vocab_size)), Starts(np.array([0, vocab_size], np.int32)), p, None)]
    )
