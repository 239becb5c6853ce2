"""Text as KenLM's lmplz takes it: words between blanks, a sentence a line, an empty line a sentence too."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mlx_gpt.counting.arpa.lexicon import Lexicon
from mlx_gpt.counting.arpa.lines import Block, opened
from mlx_gpt.counting.arpa.spelling import END, MARKS, UNKNOWN
from mlx_gpt.errors import DataError

UNKNOWN_ID, END_ID = 0, 1
BLOCK = 2**18  # bytes read in one go
MARK = re.compile(rb"(?<![^ \t\r\n])(?:" + "|".join(MARKS).encode() + rb")(?![^ \t\r\n])")


def read_sentences(paths: Sequence[Path], skip_symbols: bool) -> tuple[np.ndarray, list[str]]:
    """The sentences of files as one stream of ids (N,) int32 with END_ID before, between and after them; the words.

    Ids are given by first appearance, after those of <unk> and </s>. Marks that stand in a text are blanks with
    `skip_symbols`. Raises DataError naming file and line for such a mark without it and for what is no UTF-8 text.
    """
    ids = _Ids()
    parts = [np.array([END_ID], np.int32)]
    for path in paths:
        try:
            with opened(path) as file:
                for line, text in _blocks(file):
                    parts.append(ids.of(Block(_checked(path, line, text, skip_symbols), line)))
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: damaged gzip file ({error})") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(parts) == 1:
        raise DataError(f"{' '.join(map(str, paths))}: 0 bytes, no sentence to count")
    return np.concatenate(parts), [word.decode() for word in ids.words]


class _Ids:
    """The id of every word; one that was not seen before gets the next.

    Words are looked up in a lexicon of those known some time ago, and what it lacks one by one.
    """

    def __init__(self) -> None:
        self.words = {UNKNOWN.encode(): UNKNOWN_ID, END.encode(): END_ID}
        self.lexicon, self.missed = Lexicon(list(self.words)), 0

    def of(self, block: Block) -> np.ndarray:
        """The ids of a block's words, END_ID after each line."""
        found = self.lexicon.find(block.words(np.arange(len(block.begins))))
        new = np.flatnonzero(found < 0)
        found[new] = [self.words.setdefault(word, len(self.words)) for word in block.fields(new)]
        self.missed += len(new)
        if self.missed > len(self.words):  # by now a new lexicon has cost no more than the misses of the old one
            self.lexicon, self.missed = Lexicon(list(self.words)), 0
        lines = len(block.counts)
        ids = np.full(len(found) + lines, END_ID, np.int32)
        ids[np.arange(len(found)) + np.repeat(np.arange(lines), block.counts)] = found
        return ids


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Whole lines in blocks, each with the number of its first line; the last line gets the newline it may lack."""
    held: list[bytes] = []
    line = 1
    while read := file.read(BLOCK):
        cut = read.rfind(b"\n") + 1
        if cut:
            text = b"".join((*held, read[:cut]))
            yield line, text
            line += text.count(b"\n")
            held = []
        held.append(read[cut:])
    if any(held):
        yield line, b"".join((*held, b"\n"))


def _checked(path: Path, line: int, text: bytes, skip_symbols: bool) -> bytes:
    """A block of lines without the marks of the format."""

    def where(place: int) -> str:
        return f"{path}, line {line + text[:place].count(10)}"

    if b"\0" in text:
        raise DataError(f"{where(text.index(0))}: a NUL byte, so this is no text file")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where(error.start)}: not UTF-8 text; convert it, e.g. with iconv") from error
    if not any(mark.encode() in text for mark in MARKS):
        return text
    found = MARK.search(text)
    if found and not skip_symbols:
        raise DataError(f"{where(found.start())}: {found[0].decode()} is no word; --skip-symbols reads it as a blank")
    return MARK.sub(b" ", text)
