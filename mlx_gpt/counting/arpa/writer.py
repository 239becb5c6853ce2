"""Tables written as ARPA text, many thousand lines at a time, without a Python object for a line.

A line is laid out in units of 8 bytes: two hold a number, one or more a word and the sign that follows it; what is
left over of a unit is NUL. Units go to their places column by column, then all NULs are squeezed out.
"""

from __future__ import annotations

import contextlib
import gzip
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mlx_gpt.counting.arpa.spelling import BEGIN, END, UNKNOWN
from mlx_gpt.counting.table import Level, Table
from mlx_gpt.replacing import replacing

LINES = 2**14  # laid out in one go: what fits a core's own cache
UNIT = 8  # bytes
NUMBER = 2  # units
ONE = 10**8  # numbers are counted in its parts: eight decimals give every float32 back to the bit
LEAST = -99 * ONE  # stands for the logarithm of 0: KenLM refuses infinite numbers
COMPRESSION = 3  # of gzip: 6 takes twice as long for a tenth less

FOUR = np.frombuffer(b"".join(b"%04d" % i for i in range(10_000)) + b"\0" * 4, np.uint32)
WHOLE = np.frombuffer(
    b"".join((b"%s%d." % (sign, i)).ljust(4, b"\0") for sign in (b"-", b"") for i in range(100)) + b"0\0\0\0", np.uint32
)


def write_arpa(
    table: Table, words: Sequence[str], eot: int, unknown: int | None, seen: np.ndarray | None, path: Path
) -> list[int]:
    """Write a table as ARPA text, gzipped where the path ends in .gz, whole or not at all.

    words    (V,)  the word of every id as words_of spells it; those of the marks are not looked at
    eot      the mark before and after a document: <s> where it opens an n-gram, else </s>
    unknown  the id that becomes <unk>. Without it <unk> gets the probability of an id that was never seen, or 0
             where all were, for KenLM wants the word even then
    seen     (V,)  bool, the ids with a row of their own; the others are left to <unk>. None: all

    Numbers are log10 with eight decimals; the logarithm of 0 is written as -99. Returns the rows of each order.
    KenLM loads orders 2 to 6. Raises CheckpointError where the disk refuses.
    """
    listed = np.ones(table.vocab_size, bool) if seen is None else seen.copy()
    unseen = np.flatnonzero(~listed)
    marks = [eot] if unknown is None else [eot, unknown]
    listed[marks] = False
    if unknown is not None:
        rest = float(table.unigram[unknown])
    else:
        rest = float(table.unigram[unseen[0]]) if len(unseen) else 0.0
    counts = [3 + int(np.count_nonzero(listed)), *table.rows[1:]]
    spelling = _Spelling(words, eot, unknown, table.order)
    with _opened(path) as file:
        file.write(b"\\data\\\n" + b"".join(b"ngram %d=%d\n" % pair for pair in enumerate(counts, 1)))
        for k, level in enumerate(table.levels, 1):
            file.write(b"\n\\%d-grams:\n" % k)
            if k == 1:
                file.write(_mark_lines(level, eot, unknown, rest))
            columns = spelling.columns(k)
            for begin in range(0, table.rows[k - 1], LINES):
                rows = np.arange(begin, min(begin + LINES, table.rows[k - 1]))
                if k == 1:
                    rows = rows[listed.take(rows)]
                if len(rows):
                    file.write(_lines(table.levels, k, rows, columns).data)
        file.write(b"\n\\end\\\n")
    return counts


def seen_ids(table: Table, unknown: int | None) -> np.ndarray:
    """Which ids (V,) need a row of their own: all but those that are in no longer n-gram and as likely as <unk>."""
    level = table.levels[0]
    p = table.unigram
    seen = p != (p.min() if unknown is None else p[unknown])
    if table.order > 1:
        above = table.levels[1]
        seen |= np.bincount(above.tokens, minlength=table.vocab_size) > 0
        seen |= np.diff(above.starts.part(0, table.vocab_size + 1)) > 0
    if level.backoffs is not None:
        seen |= level.backoffs[:] != 1
    return seen


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is whole; gzipped without name and time, so the same bytes."""
    with replacing(path) as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield file


class _Column:
    """The words (V,) of one column as units, each with the sign that follows it."""

    def __init__(self, words: Sequence[bytes], sign: bytes) -> None:
        self.sizes = np.array([len(word) // UNIT + 1 for word in words])
        self.begins = np.cumsum(self.sizes) - self.sizes
        padded = ((word + sign).ljust(int(size) * UNIT, b"\0") for word, size in zip(words, self.sizes, strict=True))
        self.units = np.frombuffer(b"".join(padded), np.uint64)


class _Spelling:
    """The columns of all orders: the first of several spells the mark <s>, the others </s>."""

    def __init__(self, words: Sequence[str], eot: int, unknown: int | None, order: int) -> None:
        self.words, self.eot, self.order = [word.encode() for word in words], eot, order
        if unknown is not None:
            self.words[unknown] = UNKNOWN.encode()
        self.made: dict[tuple[str, bytes], _Column] = {}

    def columns(self, k: int) -> list[_Column]:
        """The k columns of one order."""
        last = self._column(END, b"\n" if k == self.order else b"\t")
        if k == 1:
            return [last]
        return [self._column(BEGIN, b" "), *[self._column(END, b" ") for _ in range(k - 2)], last]

    def _column(self, mark: str, sign: bytes) -> _Column:
        if (mark, sign) not in self.made:
            self.words[self.eot] = mark.encode()
            self.made[mark, sign] = _Column(self.words, sign)
        return self.made[mark, sign]


def _mark_lines(level: Level, eot: int, unknown: int | None, rest: float) -> bytes:
    """The rows of <unk>, <s> and </s>. Nothing follows </s>, so that it needs no backoff."""
    p = _text(np.array([rest, 1.0, float(level.probabilities[eot : eot + 1][0])]), 0, b"\t")
    signs = [b"\n"] * 3
    if level.backoffs is not None:
        unknowns = 1.0 if unknown is None else float(level.backoffs[unknown : unknown + 1][0])
        backoffs = np.array([unknowns, float(level.backoffs[eot : eot + 1][0]), 1.0])
        signs = [b"\t" + row.tobytes() for row in _text(backoffs, -LEAST, b"\n")]
    words = (UNKNOWN.encode(), BEGIN.encode(), END.encode())
    lines = b"".join(row.tobytes() + word + sign for row, word, sign in zip(p, words, signs, strict=True))
    return lines.replace(b"\0", b"")


def _lines(levels: Sequence[Level], k: int, rows: np.ndarray, columns: Sequence[_Column]) -> np.ndarray:
    """The lines of rows (R,) of order k, in bytes; above order 1 the rows have no gaps."""
    level = levels[k - 1]
    tokens = rows[:, None] if k == 1 else _tokens(levels, k, int(rows[0]), int(rows[-1]) + 1)
    words = list(zip(columns, tokens.T, strict=True))
    sizes = [column.sizes.take(ids) for column, ids in words]
    lengths = np.sum(sizes, axis=0)
    lengths += NUMBER if level.backoffs is None else 2 * NUMBER
    at = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), np.uint64)
    at = _put(out, at, _text(level.probabilities.take(rows), 0, b"\t"))
    for (column, ids), size in zip(words, sizes, strict=True):
        begins = column.begins.take(ids)
        out[at] = column.units.take(begins)
        longer, further = np.flatnonzero(size > 1), 1
        while len(longer):
            out[at.take(longer) + further] = column.units.take(begins.take(longer) + further)
            further += 1
            longer = longer[size.take(longer) > further]
        at += size
    if level.backoffs is not None:
        _put(out, at, _text(level.backoffs.take(rows), -LEAST, b"\n"))
    text = out.view(np.uint8)
    return np.compress(text != 0, text)


def _put(out: np.ndarray, at: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Put numbers (R, 16) where each line has come to; where it goes on."""
    units = numbers.view(np.uint64)  # (R, 2)
    out[at], out[at + 1] = units[:, 0], units[:, 1]
    return at + NUMBER


def _tokens(levels: Sequence[Level], k: int, begin: int, stop: int) -> np.ndarray:
    """The tokens (R, k) of rows begin to stop - 1 of order k: those of a row's context, then its own."""
    level = levels[k - 1]
    own = level.tokens[begin:stop, None].astype(np.int64)
    if k == 1:
        return own
    first, last = _context(level, begin), _context(level, stop - 1)
    sizes = np.diff(level.starts.part(first, last + 2).clip(begin, stop))
    return np.concatenate([_tokens(levels, k - 1, first, last + 1).repeat(sizes, axis=0), own], axis=1)


def _context(level: Level, row: int) -> int:
    """The context that a row is a child of."""
    return bisect_right(range(level.starts.contexts), row, key=lambda context: level.starts.span(context)[0]) - 1


def _text(numbers: np.ndarray, most: int, sign: bytes) -> np.ndarray:
    """The logarithms of numbers (R,) >= 0 as bytes (R, 16), NUL where there is none, with a sign after each."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(numbers.astype(np.float64))
    logs *= ONE / math.log(10)
    np.fmax(logs, LEAST, out=logs)
    np.fmin(logs, most, out=logs)
    parts = np.rint(logs, out=logs).astype(np.int64)
    size = np.abs(parts).view(np.uint64)
    whole = size // np.uint64(ONE)
    size -= whole * np.uint64(ONE)
    high = size // np.uint64(10_000)
    size -= high * np.uint64(10_000)
    whole[parts > 0] += np.uint64(100)
    zero = parts == 0
    whole[zero], high[zero], size[zero] = 200, 10_000, 10_000
    out = np.empty((len(numbers), 4), np.uint32)
    out[:, 0] = WHOLE.take(whole.view(np.int64))
    out[:, 1] = FOUR.take(high.view(np.int64))
    out[:, 2] = FOUR.take(size.view(np.int64))
    out[:, 3] = np.frombuffer(sign.ljust(4, b"\0"), np.uint32)
    return out.view(np.uint8)
