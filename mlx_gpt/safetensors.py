"""The safetensors format: written a piece at a time, mapped into memory when read, and checked before it is believed.

8 bytes  length of the header, little-endian
header   JSON: the metadata, and of each array its type, its shape and where it lies; padded with white space
arrays   end to end, larger items first, so that each begins at a multiple of its items' size

A column on disk may be larger than memory on the way out and on the way in. MLX never parses a file: a hostile one
must not reach native code.

What is written here names its own SHA-256, that of the file with zeros in the digest's place. It is the metadata's
first entry, so that it can be put there when the last byte is known; others read the file as they always did.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, Protocol, TypeAlias

import mlx.core as mx
import numpy as np

from mlx_gpt.errors import CheckpointError
from mlx_gpt.replacing import replacing

PIECE = 2**22  # bytes written in one go
LARGEST_HEADER = 16 * 2**20  # bytes
MOST_ARRAYS = 10_000
DIGEST = "sha256"  # its name in the metadata
BEFORE = f'{{"__metadata__": {{"{DIGEST}": "'.encode()  # how a header with a digest begins
ZEROS = b"0" * 64
SEAL = b"\t\n"  # and how it ends: with the name of the digest damaged, this tells that there was one
TYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
NAMES = {dtype: name for name, dtype in TYPES.items()}
TYPES["BF16"] = np.dtype("<u2")  # NumPy has no such type: the upper half of a float32


class Column(Protocol):
    """An array that need not be in memory: `column[a:b]` are its rows from a to b, of shape (b - a, ...)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


Array: TypeAlias = np.ndarray | mx.array | Column


@dataclass(frozen=True)
class _Place:
    """One array of a file: bytes `begin` to `end` after the header."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str], previous: Path | None = None) -> None:
    """Write a file whole or not at all, with some MB of a column in memory at a time.

    An earlier file stays as it was until the new one is safe on the disk; whoever has it mapped keeps it. With
    `previous`, it is kept under that name. Raises CheckpointError where the disk refuses.
    """
    assert DIGEST not in metadata, "a name that is taken"
    stored = {name: _stored(array) for name, array in arrays.items()}
    order = sorted(stored, key=lambda name: -TYPES[stored[name][0]].itemsize)
    header: dict[str, object] = {"__metadata__": {DIGEST: ZEROS.decode(), **metadata}}
    end = 0
    for name in order:
        kind, shape = stored[name][0], tuple(arrays[name].shape)
        begin, end = end, end + math.prod(shape) * TYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text + SEAL) % 8) + SEAL
    assert len(text) <= LARGEST_HEADER, "more metadata than read accepts"
    _parse(text, end)  # what read would refuse is never written: a ValueError here is a mistake of ours
    head = len(text).to_bytes(8, "little") + text
    columns = [stored[name][1] for name in order]
    with replacing(path, previous) as file:
        if not file.seekable():  # into a pipe the digest goes before what it is of: the columns are gone through twice
            digest = hashlib.sha256(head)
            for piece in _all_pieces(columns):
                digest.update(piece)
            head = head.replace(ZEROS, digest.hexdigest().encode(), 1)
        digest = hashlib.sha256(head)
        file.write(head)
        for piece in _all_pieces(columns):
            digest.update(piece)
            file.write(piece)
        if file.seekable():
            file.seek(8 + len(BEFORE))
            file.write(digest.hexdigest().encode())


def read(path: Path, verify: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, read-only and mapped: only what is looked at is ever read. And its metadata.

    bfloat16 becomes float32, exactly, and is the one type that is copied. With `verify`, the whole file is read first,
    as the function of that name does. Raises CheckpointError as check_header does.
    """
    data, places, metadata, _ = _map(path, verify)
    arrays = {}
    for name, place in places.items():
        array: np.ndarray = np.ndarray(place.shape, TYPES[place.kind], data, place.begin)
        if place.kind == "BF16":
            array = np.asarray(array.astype(np.uint32) << np.uint32(16)).view(np.float32)
            array.flags.writeable = False
        arrays[name] = array
    return arrays, metadata


def verify(path: Path) -> None:
    """Read a file from end to end, some MB at a time, and compare its SHA-256 with the one it names.

    Raises CheckpointError where they differ, or as check_header does. Files that never named one pass.
    """
    _map(path, verify=True)


def digest(path: Path) -> str:
    """The SHA-256 that a file names; of one that names none, that of all its bytes. Raises as check_header does."""
    named = _map(path)[3]
    if named is None:
        with open(path, "rb") as file:
            named = hashlib.file_digest(file, "sha256").hexdigest()
    return named


def check_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file whose arrays lie in it without gap or overlap.

    Raises CheckpointError saying what is wrong with any other file.
    """
    return _map(path)[2]


def _stored(array: Array) -> tuple[str, Column]:
    """The format's name for an array's type, and its rows as NumPy has them; a single number is one row."""
    if isinstance(array, mx.array):
        if array.dtype == mx.bfloat16:
            return "BF16", np.atleast_1d(np.asarray(array.view(mx.uint16)))
        array = np.asarray(array)
    if isinstance(array, np.ndarray):
        array = np.atleast_1d(array)
    return NAMES[array.dtype.newbyteorder("<")], array


def _pieces(column: Column) -> Iterator[np.ndarray]:
    """All rows in order, little-endian and contiguous, as many at a time as fit in a piece."""
    count, *rest = column.shape
    step = max(1, PIECE // max(1, math.prod(rest) * column.dtype.itemsize))
    for start in range(0, count, step):
        stop = min(start + step, count)
        rows = column[start:stop]
        assert rows.shape == (stop - start, *rest) and rows.dtype == column.dtype, "a column that is not what it says"
        yield np.ascontiguousarray(rows, column.dtype.newbyteorder("<"))


def _all_pieces(columns: Iterable[Column]) -> Iterator[memoryview]:
    for column in columns:
        for piece in _pieces(column):
            yield piece.reshape(-1).view(np.uint8).data  # hashlib takes nothing but rows of bytes


def _map(path: Path, verify: bool = False) -> tuple[memoryview, dict[str, _Place], dict[str, str], str | None]:
    """The bytes of a file after its header, mapped; where its arrays lie in them; its metadata; the digest it names."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            stat = os.fstat(file.fileno())
            if not S_ISREG(stat.st_mode):
                raise ValueError("not a file")
            size = stat.st_size
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
            length = int.from_bytes(mapped[:8], "little")
            if not 2 <= length <= min(size - 8, LARGEST_HEADER):
                raise CheckpointError(f"{path}: not a checkpoint, or a truncated one ({size:,} bytes)")
            text, data = mapped[8 : 8 + length], memoryview(mapped)[8 + length :]
            try:
                places, metadata = _parse(text, len(data))
            except (ValueError, RecursionError) as error:
                raise CheckpointError(f"{path}: not a checkpoint, or a damaged one ({error})") from error
            named = metadata.pop(DIGEST, None)
            if verify and (named is not None or text.endswith(SEAL)) and named != _digest(file, text):
                remedy = "take an earlier copy, or train again"
                raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one it was written with; {remedy}")
    except (OSError, ValueError) as error:  # ValueError: shorter than it was a moment ago
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path}: cannot be read ({reason})") from error
    return data, places, metadata, named


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for somebody to write


def _digest(file: BinaryIO, text: bytes) -> str:
    """The SHA-256 of an open file, its header given, with zeros where `write` puts the digest.

    Read, not mapped: a disk that fails under a mapped page kills the process.
    """
    at = len(BEFORE)
    told = hashlib.sha256(len(text).to_bytes(8, "little") + text[:at] + ZEROS + text[at + len(ZEROS) :])
    file.seek(8 + len(text))
    while piece := file.read(PIECE):
        told.update(piece)
    return told.hexdigest()


def _parse(text: bytes, size: int) -> tuple[dict[str, _Place], dict[str, str]]:
    """Where the arrays lie in the `size` bytes after a header, and the metadata.

    Raises ValueError for what the format forbids, and where a byte belongs to no array or to two.
    """
    if not text.startswith(b"{"):
        raise ValueError("a header that is no JSON object")
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats, parse_int=_count)
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is no text")
    if len(header) > MOST_ARRAYS:
        raise ValueError(f"{len(header):,} arrays")
    places = {name: _place(name, told) for name, told in header.items()}
    end = 0
    for place in sorted(places.values(), key=lambda place: (place.begin, place.end)):
        if place.begin != end:
            raise ValueError("arrays that do not lie end to end")
        end = place.end
    if end != size:
        raise ValueError(f"{end:,} bytes of arrays announced, {size:,} there: truncated?")
    return places, metadata


def _place(name: str, told: object) -> _Place:
    """One entry of the header. Raises ValueError where its numbers do not fit each other."""
    label = f"array {name!r:.60}"
    if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{label}: not a type, a shape and a place")
    kind, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"{label}: a type that is unknown here")
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(shape) <= 16 and len(offsets) == 2):
        raise ValueError(f"{label}: a shape or a place that is none")
    if any(type(n) is not int or n >= 2**48 for n in (*shape, *offsets)):
        raise ValueError(f"{label}: sizes that are no counts")
    if math.prod(n for n in shape if n) >= 2**60:  # NumPy multiplies these even where another one is 0
        raise ValueError(f"{label}: a shape that cannot be")
    begin, end = offsets
    if end - begin != math.prod(shape) * TYPES[kind].itemsize:
        raise ValueError(f"{label}: {end - begin:,} bytes, which its shape does not fill")
    return _Place(kind, tuple(shape), begin, end)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name that stands twice")
    "".join((*found, *(value for value in found.values() if isinstance(value, str)))).encode()  # no half surrogates
    return found


def _count(digits: str) -> int:
    if digits.startswith("-"):  # -0 too: other readers refuse it
        raise ValueError("a size below zero")
    return int(digits)
