"""Files that take another's place only when they are whole and on the disk, and folders that one process writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlx_gpt.errors import CheckpointError, SettingError

PART = re.compile(r"\..+\.([1-9][0-9]{0,8})\.part", re.DOTALL)  # of which process
LOCK = ".lock"


@contextlib.contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` at the end; after an error an earlier `path` stands, or the new one does.

    With `previous`, the earlier `path` is kept under that name, in the same file system. Killed at any moment, `path`
    is the earlier file or the new one; on drives without hard links it may be gone, and `previous` is the earlier one.
    A device or a pipe is written to directly. Raises CheckpointError where the disk refuses.
    """
    direct = path.exists() and not path.is_file() and not path.is_dir()
    target = Path(os.path.realpath(path))
    part = path if direct else _part(target)
    try:
        with part.open("wb") as file:
            yield file
            if not direct:
                file.flush()
                _to_disk(file.fileno())
        if not direct:
            _take_place(part, target, previous)
            _names_to_disk(target.parent)
    except BrokenPipeError:
        raise  # whoever read along has seen enough
    except OSError as error:
        full = "; is the disk full?" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error}{full})") from error
    finally:
        if not direct:
            _remove(part)


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed processes of this machine have left in a folder.

    Those of a process that lives are left alone, but not this one's own: call it before anything is written here.
    """
    for left in folder.glob(".*.part"):
        named = PART.fullmatch(left.name)
        if named and (int(named[1]) == os.getpid() or not _lives(int(named[1]))):
            _remove(left)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process that asks for the same may have this folder until the end, or until this process dies.

    The lock is the kernel's, on a file in the folder that tells the process: a killed one leaves a file that holds
    nobody up. It stays with a folder that is renamed. Where the file system knows no locks, there is none.
    Raises SettingError where another process has the folder, or it cannot be written.
    """
    try:
        here = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(folder, error) from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, here)
        file = _lock(folder, here)
        stack.callback(os.close, file)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if _is_named(file, here):
                    os.unlink(LOCK, dir_fd=here)


def _lock(folder: Path, here: int) -> int:
    while True:
        try:
            file = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=here)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            told = os.read(file, 16).decode("ascii", "replace").strip()
            os.close(file)
            who = f" (process {told})" if told.isdecimal() else ""
            raise SettingError(
                f"--run {folder}: another training writes here{who}; wait for it or name another folder"
            ) from error
        except OSError:
            pass  # a file system without locks must not keep anyone from training
        if _is_named(file, here):
            with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
                os.ftruncate(file, 0)
                os.write(file, f"{os.getpid()}\n".encode())
            return file
        os.close(file)  # who had it before has removed it in the meantime


def _is_named(file: int, here: int) -> bool:
    """Whether an open file is still the one that the lock's name leads to."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(LOCK, dir_fd=here, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _unwritable(folder: Path, error: OSError) -> SettingError:
    return SettingError(f"--run {folder}: cannot be written ({error.strerror or error}); name another folder")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is somebody else's
    return True


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _take_place(part: Path, target: Path, previous: Path | None) -> None:
    """Rename a file that is whole and on the disk; at no instant is there neither `target` nor `previous`."""
    if previous is None or not target.is_file():
        part.replace(target)
        return
    kept = _part(previous)
    try:
        kept.unlink(missing_ok=True)
        os.link(target, kept)
    except OSError:  # many network drives have no hard links
        target.replace(previous)
        try:
            part.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                previous.replace(target)
            raise
        return
    try:
        part.replace(target)  # first: if `target` was the damaged one of the two, `previous` must not go before
        kept.replace(previous)
    finally:
        _remove(kept)  # a rename between two names of one file leaves both


def _to_disk(file: int) -> None:
    """Wait until a file is on the disk. On macOS fsync leaves it in the drive's own memory, F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # network drives do not know it
            fcntl.fcntl(file, full)
            return
    os.fsync(file)


def _names_to_disk(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # what network drives say of folders
            raise
    finally:
        os.close(file)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
