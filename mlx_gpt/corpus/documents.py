"""Files to documents: what `--data` takes, read as a stream, refused by name where it is no text."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mlx_gpt.errors import DataError
from mlx_gpt.tokenizer import END_OF_TEXT

SUFFIXES = (".txt", ".md", ".jsonl", ".txt.gz", ".md.gz", ".jsonl.gz", ".gz")
LONGEST = 2**25  # characters; a longer document is taken in parts, so that memory stays bounded


def spool_standard_input() -> Path:
    """Standard input, copied to a temporary file because a corpus is read more than once."""
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError("--data -: nothing is piped into standard input; pipe a text or name a file")
    with tempfile.NamedTemporaryFile(prefix="mlx_gpt-stdin-", suffix=".txt", delete=False) as spool:
        try:
            shutil.copyfileobj(sys.stdin.buffer, spool)
        except BaseException:
            Path(spool.name).unlink(missing_ok=True)
            raise
    return Path(spool.name)


@contextmanager
def named_paths(names: Sequence[str]) -> Iterator[tuple[Path, ...]]:
    """The paths that `--data` names; for - a copy of standard input that vanishes in the end."""
    spooled: dict[int, Path] = {}
    try:
        spooled = {place: spool_standard_input() for place, name in enumerate(names) if name == "-"}
        yield tuple(spooled.get(place, Path(name)) for place, name in enumerate(names))
    finally:
        for path in spooled.values():
            path.unlink(missing_ok=True)


def absolute_paths(names: Sequence[str]) -> tuple[str, ...]:
    """The paths that `--data` names as a checkpoint keeps them: still true when read from another folder."""
    return tuple(name if name == "-" else os.path.abspath(name) for name in names)


def files(paths: Sequence[Path]) -> list[Path]:
    """Every text file named, folders searched through in alphabetical order.

    Raises DataError for a path that is missing, a folder without text, or no path at all.
    """
    found: list[Path] = []
    for path in paths:
        try:
            if path.is_dir():
                inside = [each for each in sorted(path.rglob("*")) if _is_text_file(path, each)]
                if not inside:
                    raise DataError(f"{path}: no {', '.join(SUFFIXES[:3])} or .gz file in this folder")
                found += inside
            elif path.is_file():
                found.append(path)
            elif path.exists():
                raise DataError(f"{path}: neither a file nor a folder")
            else:
                raise DataError(f"{path}: no such file or folder")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
    return found


def _is_text_file(folder: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.name.lower().endswith(SUFFIXES) and path.is_file() and not hidden


def digest(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, in hexadecimal."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return whole.hexdigest()


def documents(paths: Sequence[Path]) -> Iterator[str]:
    """The documents of files, one by one: a whole file, a JSON line, or the text between end-of-text lines.

    The newline before such a line, and before the end of a file that has one, belongs to the mark. Blank
    documents are left out. Raises DataError naming file and place for what is no UTF-8 text.
    """
    for path in paths:
        name = path.name.lower().removesuffix(".gz")
        try:
            with _open(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as text:
                for document in _json_lines(path, text) if name.endswith(".jsonl") else _marked(path, text):
                    if document.strip():
                        yield document
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason}); convert it, e.g. with iconv") from error
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: damaged gzip file ({error})") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _open(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _marked(path: Path, lines: io.TextIOWrapper) -> Iterator[str]:
    held: list[str] = []
    length, marked, number, begins = 0, False, 0, True
    while line := lines.readline(LONGEST):  # a line may be longer than memory
        number += begins
        if "\0" in line:
            raise DataError(f"{path}: a NUL byte in line {number}, so this is no text file")
        is_mark, begins = begins and line.rstrip("\r\n") == END_OF_TEXT, line.endswith(("\n", "\r"))
        if is_mark:
            marked = True
            yield _without_last_newline("".join(held))
            held, length = [], 0
            continue
        held.append(line)
        length += len(line)
        if length >= LONGEST:
            yield "".join(held)
            held, length = [], 0
    rest = "".join(held)
    yield _without_last_newline(rest) if marked else rest


def _without_last_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _json_lines(path: Path, lines: Iterator[str] | io.TextIOWrapper) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        text = value.get("text") if isinstance(value, dict) else value
        if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in set(text)):
            raise DataError(f"{path}, line {number}: half a surrogate pair, which is no Unicode text")
        if not isinstance(text, str):
            raise DataError(f'{path}, line {number}: expected a string or an object with a "text" string')
        yield text
