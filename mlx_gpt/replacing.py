"""Files that take another's place only when they are whole and on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlx_gpt.errors import CheckpointError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` at the end; after any error an earlier `path` stands as it was.

    A device or a pipe is written to directly. Raises CheckpointError where the disk refuses.
    """
    direct = path.exists() and not path.is_file() and not path.is_dir()
    target = Path(os.path.realpath(path))
    part = path if direct else target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            if not direct:
                file.flush()
                _to_disk(file.fileno())
        if not direct:
            part.replace(target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BrokenPipeError:
        raise  # whoever read along has seen enough
    except OSError as error:
        full = "; is the disk full?" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error}{full})") from error
    finally:
        if not direct:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _to_disk(file: int) -> None:
    """Wait until a file is on the disk. On macOS fsync leaves it in the drive's own memory, F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # network drives do not know it
            fcntl.fcntl(file, full)
            return
    os.fsync(file)
