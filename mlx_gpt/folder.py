"""A run's folder: whose it is, what an earlier run in it keeps, and the files that grow: log, samples, events."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from mlx_gpt.checkpoint import LAST, MODEL, read_card
from mlx_gpt.errors import CheckpointError, SettingError
from mlx_gpt.events import Events
from mlx_gpt.replacing import alone, sweep

LOG, SAMPLES = "log.jsonl", "samples.txt"


def prepare(folder: Path) -> Path:
    """Make sure that a run can be written; returns the folder's full path, and leaves everything as it was.

    Raises SettingError for a folder that cannot be written or holds other things than a run.
    """
    folder = Path(os.path.abspath(folder))
    try:
        if folder.is_dir() and not is_run(folder) and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise SettingError(f"--run {folder}: holds other files and no run; name a new or an empty folder")
        with made(folder), tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise SettingError(f"--run {folder}: a file stands in the way; name a folder") from error
    except OSError as error:
        raise SettingError(f"--run {folder}: cannot be written ({error.strerror}); name another folder") from error
    return folder


def is_run(folder: Path) -> bool:
    """Whether a training was begun or a model kept here; other programs write a model.safetensors, too."""
    if (folder / LOG).is_file():
        return True
    with contextlib.suppress(CheckpointError):
        read_card(folder)
        return True
    return False


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """A folder, made with those it lies in; what was made is gone again in the end where nothing came into it."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in new:
            with contextlib.suppress(OSError):
                each.rmdir()


class Folder:
    """While entered, a folder that no other training writes, and its growing files; a new one goes if none is written.

    Nothing of an earlier run in it is touched before `begin` or `go_on`: what is said until then stays in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = False
        self.log: BinaryIO = io.BytesIO()
        self.samples: BinaryIO = io.BytesIO()
        self.events: Events | None = None

    def __enter__(self) -> Self:
        """Raises SettingError where another process has the folder, or it cannot be written."""
        with ExitStack() as stack:
            stack.enter_context(made(self.path))
            stack.enter_context(alone(self.path))
            sweep(self.path)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stack.close()

    def begin(self, notice: Callable[[str], None]) -> None:
        """Write what was said so far, unless that is done; an earlier run is kept as <name>.previous."""
        if self.opened:
            return
        if any((self.path / name).is_file() for name in (MODEL, LAST)):
            kept = _room_for_previous(self.path)
            self.path.rename(kept)
            self.path.mkdir()
            self.stack.enter_context(alone(self.path))
            notice(f"the run that was here is kept as {kept}")
        for name, told in ((LOG, self.log), (SAMPLES, self.samples)):
            assert isinstance(told, io.BytesIO)
            (self.path / name).write_bytes(told.getvalue())
        self._append(None)

    def go_on(self, sizes: Mapping[str, int], step: int) -> None:
        """Take up the files as they were at the last save, made at `step`: what came after it will come again."""
        for name, size in ((LOG, sizes["log"]), (SAMPLES, sizes["samples"])):
            path = self.path / name
            path.touch()
            if path.stat().st_size > size:
                os.truncate(path, size)
        self._append(step)

    def _append(self, step: int | None) -> None:
        self.log, self.samples = (self.stack.enter_context((self.path / name).open("ab")) for name in (LOG, SAMPLES))
        self.opened = True
        self.events = Events(self.path, time.time(), step)
        self.stack.callback(self.events.close)

    def note(self, **figures: Any) -> None:
        """A line of the log."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
        self.log.write((json.dumps(clean) + "\n").encode())
        self.log.flush()

    def show(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures for TensorBoard."""
        if self.events is not None:
            known = {name: value for name, value in figures.items() if math.isfinite(value)}
            self.events.scalars(step, time.time(), known)

    def sample(self, step: int, text: str) -> None:
        """A sample, under the step's heading."""
        self.samples.write(f"--- step {step}\n{text}\n\n".encode())
        self.samples.flush()

    def settle(self) -> dict[str, int]:
        """Log and samples on the disk, so that no save speaks of lines that a power cut takes back; their sizes."""
        for file in (self.log, self.samples):
            file.flush()
            os.fsync(file.fileno())
        return {"log": self.log.tell(), "samples": self.samples.tell()}


def _room_for_previous(folder: Path) -> Path:
    """A free name beside a run's folder, for the run to be kept under; an earlier run there makes room.

    Raises SettingError where that one is being trained.
    """
    for number in itertools.count(1):
        place = folder.with_name(f"{folder.name}.previous{number if number > 1 else ''}")
        if not place.exists():
            return place
        if any((place / name).is_file() for name in (LOG, LAST)):
            with alone(place):
                shutil.rmtree(place)
            return place
    raise AssertionError
