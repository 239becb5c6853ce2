"""A table as the named arrays of a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlx_gpt.counting.packed import Codes, Starts, groups
from mlx_gpt.counting.table import Level, Table
from mlx_gpt.errors import CheckpointError
from mlx_gpt.safetensors import Array

ROWS_AT_ONCE = 2**20


def as_arrays(table: Table) -> dict[str, Array]:
    """`k.tokens`, `k.starts`, `k.probabilities` and `k.backoffs` of every order k, with what decodes them."""
    arrays: dict[str, Array] = {}
    for k, level in enumerate(table.levels, 1):
        arrays[f"{k}.tokens"], arrays[f"{k}.starts"] = level.tokens, level.starts.offsets
        if level.starts.bases is not None:
            arrays[f"{k}.bases"], arrays[f"{k}.block"] = level.starts.bases, np.array([level.starts.block], np.int32)
        for name, values in (("probabilities", level.probabilities), ("backoffs", level.backoffs)):
            if isinstance(values, Codes):
                arrays[f"{k}.{name}"], arrays[f"{k}.{name}_book"] = values.codes, values.book
            elif values is not None:
                arrays[f"{k}.{name}"] = values
    return arrays


def as_table(arrays: Mapping[str, np.ndarray], vocab_size: int) -> Table:
    """The table of saved arrays, which stay where they are.

    Raises CheckpointError where an order is missing or its arrays are no table of this vocabulary.
    """
    orders = sum(name.endswith(".tokens") for name in arrays)
    try:
        levels = [_level(arrays, k, k == orders) for k in range(1, orders + 1)]
    except KeyError as error:
        raise CheckpointError(f"a table without {error.args[0]}; train again") from error
    except (IndexError, TypeError, ValueError) as error:
        raise CheckpointError("a damaged table of n-grams; train again") from error
    above = 1
    if not levels or levels[0].tokens.shape != (vocab_size,):
        raise CheckpointError("a table of another vocabulary; train again")
    for level in levels:
        if level.starts.contexts != above or not _sound(level, vocab_size):
            raise CheckpointError("a damaged table of n-grams; train again")
        above = len(level.tokens)
    table = Table(levels)
    strange = sorted(arrays.keys() ^ as_arrays(table).keys())
    if strange:
        raise CheckpointError(f"a table with a strange {strange[0]}; train again")
    return table


def _level(arrays: Mapping[str, np.ndarray], k: int, highest: bool) -> Level:
    starts = Starts(arrays[f"{k}.starts"])
    if f"{k}.bases" in arrays:
        starts = Starts(arrays[f"{k}.starts"], arrays[f"{k}.bases"], int(arrays[f"{k}.block"].item()))
    numbers: list[np.ndarray | Codes] = []
    for name in ("probabilities",) if highest else ("probabilities", "backoffs"):
        stored = arrays[f"{k}.{name}"]
        numbers.append(Codes(stored, arrays[f"{k}.{name}_book"]) if stored.dtype == np.uint8 else stored)
    return Level(arrays[f"{k}.tokens"], starts, numbers[0], None if highest else numbers[1])


def _sound(level: Level, vocab_size: int) -> bool:
    """Whether a level's arrays fit each other, so that no query can reach past them."""
    tokens, starts = level.tokens, level.starts
    if tokens.ndim != 1 or tokens.dtype.kind != "u" or starts.offsets.ndim != 1 or len(starts) < 2:
        return False
    rows = len(tokens)
    if (starts.bases is None) != (starts.offsets.dtype == np.int32):
        return False
    if starts.bases is not None and not (starts.block > 0 and len(starts.bases) == -(-len(starts) // starts.block)):
        return False
    for values in (level.probabilities, level.backoffs):
        if values is not None and len(values) != rows:
            return False
        stored = values.codes if isinstance(values, Codes) else values
        if stored is not None and (stored.ndim != 1 or stored.dtype not in (np.float32, np.uint8)):
            return False
        if isinstance(values, Codes) and values.book.shape != (256,):
            return False
    before = 0
    for begin in range(0, len(starts), ROWS_AT_ONCE):
        edges = starts.part(begin, min(begin + ROWS_AT_ONCE, len(starts)))
        if edges[0] < before or (np.diff(edges) < 0).any():
            return False
        before = int(edges[-1])
    if before != rows or int(starts.part(0, 1)[0]) != 0:
        return False
    for _, edges in groups(starts.part, starts.contexts):
        part = tokens[int(edges[0]) : int(edges[-1])].astype(np.int64)
        rising = np.ones(len(part) + 1, bool)
        rising[1:-1] = part[1:] > part[:-1]
        rising[edges - edges[0]] = True  # a new context begins anew
        if not rising.all() or (part >= vocab_size).any():
            return False
    return True
