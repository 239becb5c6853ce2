"""Counts as a file: what one machine knows of a text, to be added to what others know."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gpt.counting.columns import Shelf
from mlx_gpt.counting.counts import NEVER, Counts, Order
from mlx_gpt.counting.merge import merge
from mlx_gpt.errors import DataError
from mlx_gpt.safetensors import Array, read, write
from mlx_gpt.tokenizer import Tokenizer

FORMAT = 1
COLUMNS = ("tokens", "starts", "suffixes", "counts")


Part = tuple[str, int, int, int]  # a text's digest, first id, one past the last id, ids in the whole text


def write_counts(path: Path, counts: Counts, tokenizer: Tokenizer, parts: Sequence[Part]) -> None:
    """Write counts, and what parts of one text they are of, whole or not at all."""
    _write(path, counts, tokenizer, parts, {parts[0][0]: counts.first})


def _write(
    path: Path, counts: Counts, tokenizer: Tokenizer, parts: Sequence[Part], firsts: Mapping[str, np.ndarray]
) -> None:
    arrays: dict[str, Array] = {f"first.{text}": first for text, first in firsts.items()}
    arrays["tokenizer"] = np.frombuffer(tokenizer.model, np.uint8)
    for k, order in enumerate(counts.orders, 1):
        arrays |= {f"{k}.{name}": getattr(order, name) for name in COLUMNS}
    told = {"format": FORMAT, "tokens": counts.tokens, "eot": counts.eot, "parts": parts, "kind": tokenizer.kind}
    write(path, arrays, {"mlx_gpt_counts": json.dumps(told)})


def read_counts(path: Path, tokenizer: Tokenizer, order: int) -> Counts:
    """The counts of a file up to an order, mapped.

    Raises DataError where they are of another tokenizer, of lower orders, or of a part of a text only.
    """
    counts, told, model = _read(path)
    if model != tokenizer.model or told["kind"] != tokenizer.kind:
        raise DataError(f"{path}: counted with another tokenizer than this corpus has")
    if len(counts.orders) < order:
        raise DataError(f"{path}: of order {len(counts.orders)}, not {order}; count again, or take a lower --order")
    for _, begin, stop, ids in told["parts"]:
        if (begin, stop) != (0, ids):
            raise DataError(f"{path}: ids {begin:,} to {stop:,} of {ids:,}; mlx_gpt.merge adds the other parts")
    return Counts(counts.orders[:order], counts.first, counts.tokens, counts.eot)


def contents(path: Path) -> tuple[int, set[str]]:
    """The order of a file of counts, and the digests of the texts it is of."""
    counts, told, _ = _read(path)
    return len(counts.orders), {text for text, *_ in told["parts"]}


def merge_counts(paths: Sequence[Path], out: Path, shelf: Shelf) -> Counts:
    """Add up files of counts and write the sum to `out`; raises DataError where they do not go together."""
    found = [_read(path) for path in paths]
    _, told, model = found[0]
    for path, (counts, own, spelled) in zip(paths, found, strict=True):
        if spelled != model or own["kind"] != told["kind"] or own["eot"] != told["eot"]:
            raise DataError(f"{path}: counted with another tokenizer than {paths[0]}")
        if len(counts.orders) != len(found[0][0].orders):
            raise DataError(f"{path}: of order {len(counts.orders)}, but {paths[0]} is of {len(found[0][0].orders)}")
    spans = sorted((tuple(part), path) for path, (_, own, _) in zip(paths, found, strict=True) for part in own["parts"])
    for (before, earlier), (after, later) in itertools.pairwise(spans):
        if before[0] == after[0] and after[1] < before[2]:
            raise DataError(f"{later}: holds tokens that {earlier} has counted already")
    whole = merge([counts for counts, _, _ in found], shelf)
    firsts: dict[str, np.ndarray] = {}
    for _, own, _ in found:
        for text, first in own["firsts"].items():
            firsts[text] = np.minimum(firsts[text], first) if text in firsts else first
    _write(out, whole, Tokenizer(told["kind"], model), _joined([part for part, _ in spans]), firsts)
    return whole


def _one_first(firsts: Mapping[str, np.ndarray], parts: Sequence[Part]) -> np.ndarray:
    """Where each id is first seen, of several texts one after the other, always in the same order."""
    sizes, base = {text: ids for text, *_, ids in parts}, 0
    moved = []
    for text in sorted(firsts):
        moved.append(np.where(firsts[text] == NEVER, NEVER, firsts[text] + base))
        base += sizes[text]
    return np.min(moved, axis=0)


def _joined(parts: Sequence[Part]) -> list[Part]:
    joined: list[Part] = []
    for digest, begin, stop, ids in parts:
        if joined and joined[-1][0] == digest and joined[-1][2] == begin:
            begin = joined.pop()[1]
        joined.append((digest, begin, stop, ids))
    return joined


def _read(path: Path) -> tuple[Counts, dict[str, Any], bytes]:
    if not path.exists():
        raise DataError(f"{path}: no such file; python -m mlx_gpt.count writes one")
    arrays, metadata = read(path)
    try:
        told = json.loads(metadata["mlx_gpt_counts"])
        if told["format"] != FORMAT:
            raise DataError(f"{path}: written by another version of mlx_gpt; count again")
        orders = sum(name.endswith(".suffixes") for name in arrays)
        made = [Order(*(arrays[f"{k}.{name}"] for name in COLUMNS)) for k in range(1, orders + 1)]
        firsts = {name.removeprefix("first."): each for name, each in arrays.items() if name.startswith("first.")}
        told["firsts"] = firsts
        counts = Counts(made, _one_first(firsts, told["parts"]), int(told["tokens"]), int(told["eot"]))
        if not made or not told["parts"] or len(made[0].tokens) != counts.vocab_size:
            raise ValueError("no counts")
        return counts, told, arrays["tokenizer"].tobytes()
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a file of counts; python -m mlx_gpt.count writes one") from error


def text_digest(ids: np.ndarray) -> str:
    """A fingerprint of a stream of ids."""
    told = hashlib.blake2b(digest_size=12)
    for a in range(0, len(ids), 2**22):
        told.update(np.ascontiguousarray(ids[a : a + 2**22]).data)
    return told.hexdigest()
