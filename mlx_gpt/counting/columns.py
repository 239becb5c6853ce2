"""Long columns of numbers, in memory or in files, written from front to back and read in slices.

What is counted beyond memory lives in files. They are appended to and read back piece by piece, never mapped
while they are written: on a full disk a write is an error that can be told, a mapped page kills the process.
"""

from __future__ import annotations

import mmap
import os
import platform
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np

T = TypeVar("T")
SHELF = "counting-"  # folders on disk are called this, the machine, the process and chance


class Stored:
    """A column in a file: a slice of it is read when it is asked for."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype = path, dtype
        self.shape = (path.stat().st_size // dtype.itemsize,)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(len(self))
        assert step == 1, "columns are read front to back"
        return np.fromfile(self.path, self.dtype, max(0, stop - start), offset=start * self.dtype.itemsize)

    def mapped(self) -> np.ndarray:
        """The whole column, memory-mapped and read-only."""
        return np.memmap(self.path, self.dtype, "r") if len(self) else np.empty(0, self.dtype)


Column = np.ndarray | Stored


def whole(column: Column) -> np.ndarray:
    """A column as an array: mapped where it lies in a file."""
    return column.mapped() if isinstance(column, Stored) else column


def let_go(array: np.ndarray) -> None:
    """Give back the memory that the pages of a mapped array take; they are read again when they are asked for."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


class Shelf:
    """Makes columns: in memory, or in files of a folder that vanishes with the shelf."""

    def __init__(self, folder: Path | None = None) -> None:
        prefix = f"{SHELF}{platform.node()}-{os.getpid()}-"
        self.home = None if folder is None else tempfile.TemporaryDirectory(prefix=prefix, dir=folder)
        self.made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.home is not None:
            self.home.cleanup()

    def column(self, dtype: Any, most: int) -> Writer:
        """An empty column for at most `most` numbers."""
        if self.home is None:
            return InMemory(dtype, most)
        self.made += 1
        return InFile(Path(self.home.name) / f"{self.made}.column", np.dtype(dtype))


def sweep(folder: Path) -> None:
    """Remove the shelves that processes of this machine which were killed have left in a folder."""
    own = f"{SHELF}{platform.node()}-"
    for left in folder.iterdir():
        if not left.name.startswith(own):
            continue
        owner = left.name.removeprefix(own).partition("-")[0]
        try:
            os.kill(int(owner), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue  # it lives, and is somebody else's


class InMemory:
    """A column being written in memory; room that is never written takes none."""

    def __init__(self, dtype: Any, most: int) -> None:
        self.array, self.length, self.dtype = np.empty(most, dtype), 0, np.dtype(dtype)

    def append(self, values: np.ndarray) -> None:
        self.array[self.length : self.length + len(values)] = values
        self.length += len(values)

    def close(self) -> Column:
        self.array.resize(self.length, refcheck=False)
        return self.array


class InFile:
    """A column being written to a file."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype = path, dtype
        self.file: BinaryIO = path.open("wb")

    def append(self, values: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(values, self.dtype).data)

    def close(self) -> Column:
        self.file.close()
        return Stored(self.path, self.dtype)


Writer = InMemory | InFile


def in_order(pool: Executor | None, work: Callable[[Any], T], tasks: Iterable[Any], ahead: int = 8) -> Iterator[T]:
    """The results of `work` for each task in turn, at most `ahead` of them done before they are wanted."""
    if pool is None:
        yield from map(work, tasks)
        return
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
