"""From n-grams in any order to a table: sorted, and with every n-gram's context and suffix among the n-grams.

Pruned models (SRILM's) lack some. What is missing gets the probability that backing off gives it, and a backoff of 1,
so that no probability changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from mlx_gpt.counting.counts import CHUNK, id_type
from mlx_gpt.counting.packed import Starts
from mlx_gpt.counting.table import Level, Table

U64 = np.uint64
Repeated = Callable[[int, int], NoReturn]


@dataclass
class Rows:
    """The n-grams of one order.

    tokens         (R, k)  unsigned, but those of order 1
    probabilities  (R,)  float32, NaN where it is to be found by backing off
    backoffs       (R,)  float32
    """

    tokens: np.ndarray
    probabilities: np.ndarray
    backoffs: np.ndarray


def table_of(orders: Sequence[Rows], vocab_size: int, repeated: Repeated) -> Table:
    """The table of the n-grams of orders 1, 2, …; those of order 1 are all ids in turn. Uses `orders` up.

    Calls `repeated` with the order and the place of an n-gram that was there before; it does not come back.
    """
    bits = max(1, (vocab_size - 1).bit_length())
    keys = [np.arange(vocab_size, dtype=U64)]
    for k in range(2, len(orders) + 1):
        again = _sort(orders[k - 1], bits)
        if again is not None:
            repeated(k, again)
        keys.append(GONE)
    for k in range(len(orders), 1, -1):
        keys[k - 1] = _keys(orders[k - 1].tokens, bits)
        if k < len(orders):
            keys[k - 1] = _insert(orders[k - 1], keys[k - 1], _parts(orders[k].tokens, bits), bits)
    levels = []
    for k, rows in enumerate(orders, 1):
        starts = np.array([0, vocab_size])
        if k > 1:
            _fill(rows, orders[k - 2], keys[k - 2], bits)
            starts = np.append(_places(_keys(rows.tokens[:, :-1], bits), keys[k - 2]), len(rows.tokens))
            orders[k - 2].tokens = keys[k - 2] = GONE
        tokens = rows.tokens[:, -1].astype(id_type(vocab_size))
        backoffs = rows.backoffs if k < len(orders) else None
        levels.append(Level(tokens, Starts(starts.astype(np.int32)), rows.probabilities, backoffs))
    return Table(levels)


GONE = np.empty(0, U64)


def _keys(tokens: np.ndarray, bits: int) -> np.ndarray:
    """A key (R,) for each of tokens (R, k) that sorts as they do: an integer, or a string where none is long enough."""
    if bits * tokens.shape[1] > 64:
        return np.ascontiguousarray(tokens, ">u4").view(f"S{4 * tokens.shape[1]}").reshape(-1)
    keys = np.zeros(len(tokens), U64)
    for column in tokens.T:
        keys <<= U64(bits)
        keys |= column
    return keys


def _unpacked(keys: np.ndarray, k: int, bits: int) -> np.ndarray:
    """The tokens (R, k) of keys."""
    if keys.dtype != U64:
        return keys.view(">u4").reshape(-1, k)
    shifts = np.arange(k - 1, -1, -1, dtype=U64) * U64(bits)
    return (keys[:, None] >> shifts) & U64(2**bits - 1)


def _sort(rows: Rows, bits: int) -> int | None:
    """Bring n-grams into lexicographic order. The place of one that was there before, if there is any."""
    keys = _keys(rows.tokens, bits)
    if (keys[1:] > keys[:-1]).all():
        return None
    order = np.argsort(keys, kind="stable")
    keys = keys.take(order)
    again = order[1:][keys[1:] == keys[:-1]]
    if len(again):
        return int(again.min())
    rows.tokens = rows.tokens.take(order, axis=0)
    rows.probabilities, rows.backoffs = rows.probabilities.take(order), rows.backoffs.take(order)
    return None


def _parts(tokens: np.ndarray, bits: int) -> np.ndarray:
    """The keys of all contexts and suffixes of n-grams (R, k), sorted, each once."""
    both = np.concatenate([_keys(tokens[:, :-1], bits), _keys(tokens[:, 1:], bits)])
    both.sort()
    fresh = np.ones(len(both), bool)
    np.not_equal(both[1:], both[:-1], out=fresh[1:])
    return np.compress(fresh, both)


def _insert(rows: Rows, keys: np.ndarray, wanted: np.ndarray, bits: int) -> np.ndarray:
    """Add the n-grams among `wanted` that are no rows; the keys of all rows."""
    places = _places(keys, wanted)
    known = np.zeros(len(wanted), bool)
    inside = places < len(keys)
    known[inside] = keys.take(places[inside]) == wanted[inside]
    missing = wanted[~known]
    if not len(missing):
        return keys
    places = places[~known]
    tokens = _unpacked(missing, rows.tokens.shape[1], bits)
    rows.tokens = np.insert(rows.tokens, places, tokens, axis=0)
    rows.probabilities = np.insert(rows.probabilities, places, np.nan)
    rows.backoffs = np.insert(rows.backoffs, places, 1)
    return np.insert(keys, places, missing)


def _fill(rows: Rows, below: Rows, keys: np.ndarray, bits: int) -> None:
    """Give the inserted n-grams what backing off to the order below gives them; `keys` are those of that order."""
    gaps = np.flatnonzero(np.isnan(rows.probabilities))
    tokens = rows.tokens.take(gaps, axis=0)
    contexts = np.searchsorted(keys, _keys(tokens[:, :-1], bits))
    suffixes = np.searchsorted(keys, _keys(tokens[:, 1:], bits))
    p = below.backoffs.take(contexts).astype(np.float64) * below.probabilities.take(suffixes)
    rows.probabilities[gaps] = np.minimum(p, 1)


def _places(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` (W,) belongs in `keys`, both sorted; a chunk at a time looks at a short part only."""
    found = np.empty(len(wanted), np.int64)
    low = 0
    for begin in range(0, len(wanted), CHUNK):
        part = wanted[begin : begin + CHUNK]
        high = low + int(np.searchsorted(keys[low:], part[-1], side="right"))
        found[begin : begin + CHUNK] = low + np.searchsorted(keys[low:high], part)
        low += int(np.searchsorted(keys[low:high], part[-1]))
    return found
