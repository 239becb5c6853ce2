"""What is known of a text's n-grams: rows in lexicographic order, and how often each of them comes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from mlx_gpt.counting.columns import Column

CHUNK = 2**16  # elements handled in one go: what fits a core's own cache
SPAN = 2**17  # positions handled in one go: more of Python's lock is left to the other threads
MOST_ROWS = 2**31 - 1
HIGHEST_ORDER = 10
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Order:
    """The distinct k-grams of one order, R rows in lexicographic order; C contexts: the rows of the order below.

    tokens    (R,)      last token
    starts    (C + 1,)  the children of context c are the rows starts[c] to starts[c + 1]
    suffixes  (R,)      row of the last k - 1 tokens in the order below
    counts    (R,)      occurrences

    Order 1 has one row for each id of the vocabulary and one context, the empty one.
    """

    tokens: Column
    starts: Column
    suffixes: Column
    counts: Column


@dataclass(frozen=True)
class Counts:
    """What a text says of its n-grams, for every order 1 to N.

    orders  N of them
    first   (V,)  position at which each id is first seen, NEVER where it is not
    tokens  ids to be predicted, that is all but the mark that opens the stream
    """

    orders: list[Order]
    first: np.ndarray
    tokens: int
    eot: int

    @property
    def vocab_size(self) -> int:
        return len(self.first)


def threads_here() -> int:
    """How many threads counting and scoring use: one for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def id_type(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32
