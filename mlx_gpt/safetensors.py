"""The safetensors header, checked before MLX sees the file: a hostile file must not reach native code."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from mlx_gpt.errors import CheckpointError

LARGEST_HEADER = 16 * 2**20  # bytes
MOST_ARRAYS = 10_000
ITEM = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4}
ITEM |= {"U64": 8, "I64": 8, "F64": 8}


def check_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file whose arrays lie in it without gap or overlap.

    Raises CheckpointError saying what is wrong with any other file.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(size - 8, LARGEST_HEADER):
                raise CheckpointError(f"{path}: not a checkpoint, or a truncated one ({size:,} bytes)")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
        metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is no text")
        if len(header) > MOST_ARRAYS:
            raise ValueError(f"{len(header)} arrays")
        end = 0
        for begin, stop, needed in sorted(_extent(name, told) for name, told in header.items()):
            if begin != end or stop - begin != needed:
                raise ValueError("arrays that do not lie end to end")
            end = stop
        if end != size - 8 - length:
            raise ValueError(f"{end:,} bytes of arrays announced, {size - 8 - length:,} there: truncated?")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or a damaged one ({error})") from error
    return metadata


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name that stands twice")
    return found


def _extent(name: str, told: dict[str, Any]) -> tuple[int, int, int]:
    """Where an array begins and ends, and the bytes that its type and shape need."""
    begin, stop = told["data_offsets"]
    shape = told["shape"]
    if told.keys() != {"dtype", "shape", "data_offsets"} or len(shape) > 16:
        raise ValueError(f"array {name}")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in (begin, stop, *shape)):
        raise ValueError(f"array {name}: sizes that are no counts")
    return begin, stop, math.prod(shape) * ITEM[told["dtype"]]
