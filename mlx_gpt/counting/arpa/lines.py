"""A text file in blocks of whole lines, each cut into its fields at one go. Every error names the line."""

from __future__ import annotations

import contextlib
import gzip
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from mlx_gpt.counting.arpa.lexicon import Words
from mlx_gpt.errors import CheckpointError

GZIP = b"\x1f\x8b"  # what a gzip file begins with, whatever its name
BLOCK = 2**20  # bytes read in one go
LONGEST = 2**22  # bytes of a line

LETTERS = np.arange(256)
BLANK = np.isin(LETTERS, list(b" \t\r\n"))
IS_DIGIT = np.isin(LETTERS, list(b"0123456789"))
DIGIT = np.where(IS_DIGIT, LETTERS - ord("0"), 0).astype(np.float64)
TIMES = np.where(IS_DIGIT, 10.0, 1.0)
PLAIN = np.isin(LETTERS, list(b"0123456789. "))
POINT, SPACE, MINUS = b"."[0], b" "[0], b"-"[0]
WIDTH = 16  # letters of a number of which all digits are exact in float64
NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The text of a file, gzipped or not."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.open(file) as text:
            yield text  # type: ignore[misc]


class Lines:
    """The lines of a file: in blocks, but for those that begin with a backslash."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.number = 0  # of the line handed out last
        self.held, self.at = b"", 0

    def fail(self, line: int, message: str) -> NoReturn:
        raise CheckpointError(f"{self.path}, line {line}: {message}")

    def block(self) -> bytes:
        """Whole lines up to the next that begins with a backslash; nothing where that is the next one."""
        while self.held[self.at : self.at + 1] != b"\\":
            stop = self.held.find(b"\n\\", self.at) + 1 or self.held.rfind(b"\n", self.at) + 1
            if stop:
                return self._take(stop)
            if not self._more():
                break
        return b""

    def plain(self) -> Iterator[tuple[int, bytes]]:
        """Number and text of the lines that are not blank, up to the next that begins with a backslash."""
        while block := self.block():
            lines = block.split(b"\n")[:-1]
            for number, line in enumerate(lines, self.number - len(lines) + 1):
                if line.strip():
                    yield number, line.rstrip()

    def mark(self, expected: str) -> None:
        """Take a line that begins with a backslash, which must be the one expected."""
        while (stop := self.held.find(b"\n", self.at) + 1) == 0:
            if not self._more():
                self.fail(max(1, self.number), f"the file ends here; expected {expected}")
        line = self._take(stop).rstrip().decode()
        if line != expected:
            self.fail(self.number, f"expected {expected}, found {line!r:.60}")

    def _take(self, stop: int) -> bytes:
        text = self.held[self.at : stop]
        if self.at == 0 and stop == len(self.held):
            text = self.held
        before, self.at = self.number, stop
        self.number += text.count(b"\n")
        if b"\0" in text:
            self.fail(before + 1 + text[: text.index(b"\0")].count(b"\n"), "a NUL byte, so this is no text")
        try:
            text.decode()
        except UnicodeDecodeError as error:
            self.fail(before + 1 + text[: error.start].count(b"\n"), "not UTF-8 text")
        return text

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        if len(self.held) - self.at > LONGEST:
            self.fail(self.number + 1, f"longer than {LONGEST:,} bytes, so this is no ARPA file")
        try:
            read = self.file.read(BLOCK)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            self.fail(self.number + 1, f"damaged gzip file ({error})")
        self.held, self.at = self.held[self.at :] + read, 0
        if not read and self.held and not self.held.endswith(b"\n"):
            self.held += b"\n"
            return True
        return bool(read)


class Block:
    """Neighbouring lines, L of them, cut at blanks into F fields.

    text    the lines, each with its newline
    line    number of the first
    begins  (F,)  where each field begins in the text
    stops   (F,)  one past its last letter
    counts  (L,)  fields of each line
    """

    def __init__(self, text: bytes, line: int) -> None:
        self.text, self.line = text, line
        self.letters = np.frombuffer(text, np.uint8)
        blank = np.ones(len(text) + 1, bool)
        np.take(BLANK, self.letters, out=blank[1:])
        edges = np.flatnonzero(blank[1:] != blank[:-1])
        self.begins, self.stops = edges[::2], edges[1::2]
        newlines = np.flatnonzero(self.letters == ord("\n"))
        self.counts = np.diff(np.searchsorted(self.stops, newlines, side="right"), prepend=0)

    def field(self, place: int) -> bytes:
        """One field, all of which are numbered through."""
        return self.text[self.begins[place] : self.stops[place]]

    def fields(self, places: np.ndarray) -> list[bytes]:
        """Many fields (M,)."""
        pairs = zip(self.begins.take(places).tolist(), self.stops.take(places).tolist(), strict=True)
        return [self.text[begin:stop] for begin, stop in pairs]

    def words(self, places: np.ndarray) -> Words:
        """Many fields (M,), to be found in a lexicon."""
        begins = self.begins.take(places)
        return Words(self.text, begins, self.stops.take(places) - begins)

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """The values of fields (M,), NaN for what is no finite number. Exact, as float() is."""
        begins = self.begins.take(places)
        sizes = self.stops.take(places) - begins
        values, points = np.zeros(len(places)), np.full(len(places), -1)
        minus = self.letters.take(begins) == MINUS
        odd = sizes > WIDTH
        for at in range(min(WIDTH, int(sizes.max(initial=0)))):
            letters = self.letters.take(begins + at, mode="clip")
            letters[sizes <= at] = SPACE
            if at == 0:
                letters[minus] = SPACE
            values *= TIMES.take(letters)
            values += DIGIT.take(letters)
            point = letters == POINT
            odd |= ~PLAIN.take(letters) | point & (points >= 0)
            points[point] = at
        after = np.where(points < 0, 0, sizes - 1 - points)
        odd |= sizes - minus - (points >= 0) < 1  # no digit at all
        values /= 10.0 ** np.minimum(after, WIDTH)
        np.negative(values, out=values, where=minus)
        for place in np.flatnonzero(odd).tolist():
            values[place] = _value(self.field(int(places[place])))
        return values


def _value(text: bytes) -> float:
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else math.nan
