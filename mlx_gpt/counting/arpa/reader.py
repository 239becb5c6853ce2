"""ARPA text read as a table: what KenLM, SRILM and this package write, gzipped or not, and no other text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from mlx_gpt.counting.arpa.closure import Rows, table_of
from mlx_gpt.counting.arpa.lexicon import LONGEST, Lexicon
from mlx_gpt.counting.arpa.lines import Block, Lines, opened
from mlx_gpt.counting.arpa.spelling import BEGIN, END, UNKNOWN
from mlx_gpt.counting.counts import MOST_ROWS, id_type
from mlx_gpt.counting.statistics import Notice
from mlx_gpt.counting.table import Table
from mlx_gpt.errors import CheckpointError
from mlx_gpt.tokenizer import LARGEST_VOCABULARY

HIGHEST = 10  # order
SLACK = 1e-6  # by which a log-probability may be above 0
OVER = 1e-3  # by which the unigrams may sum to more than 1
LARGEST = 38.0  # log10 of what float32 holds
COUNT = re.compile(rb"ngram[ \t]+(\d{1,18})[ \t]*=[ \t]*(\d{1,18})")


@dataclass(frozen=True)
class Vocabulary:
    """The word (V,) of every id; the mark before and after a document; the id of what the others do not cover."""

    words: Sequence[str]
    eot: int
    unknown: int | None


@dataclass(frozen=True)
class Arpa:
    """A table read, with the word (V,) of every id. `eot` is both <s> and </s>, and called </s>."""

    table: Table
    words: list[str]
    eot: int
    unknown: int | None


def read_arpa(
    path: Path,
    notice: Notice,
    vocabulary: Vocabulary | None = None,
    progress: Callable[[int], None] | None = None,
) -> Arpa:
    """The table of an ARPA file.

    Without a vocabulary the ids are the unigrams in their order, <s> and </s> one of them; with one they are its
    own, and ids without a unigram get the probability of <unk>. A missing backoff is 1, a missing <unk> gets
    probability 0 (KenLM: 1e-100). What backing off after </s> would give is not looked at, for nothing follows it.
    `progress` is called with the number of lines read.

    Raises CheckpointError naming the line of what is no ARPA model.
    """
    try:
        with opened(path) as file:
            return _Reading(path, file, notice, vocabulary, progress).run()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Reading:
    """One file on its way to a table.

    ids     the id of each word in UTF-8; V for <s>
    begins  number of the first line of each section
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        notice: Notice,
        vocabulary: Vocabulary | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.path, self.notice, self.given, self.progress = path, notice, vocabulary, progress
        self.lines = Lines(path, file)
        self.fail = self.lines.fail
        self.ids: dict[bytes, int] = {}
        self.begins: list[int] = []

    def run(self) -> Arpa:
        counts = self._header()
        found, unigrams = self._unigrams(counts)
        orders = [unigrams]
        self.lexicon, self.numbers = Lexicon(list(self.ids)), np.array([*self.ids.values(), -1])
        for k in range(2, len(counts) + 1):
            orders.append(self._ngrams(k, counts, len(found.words), found.eot))
        self.lines.mark("\\end\\")
        for number, _ in self.lines.plain():
            self.fail(number, "text after \\end\\")
        if self.lines.held[self.lines.at :]:
            self.fail(self.lines.number + 1, "text after \\end\\")
        return Arpa(table_of(orders, len(found.words), self._repeated), list(found.words), found.eot, found.unknown)

    def _header(self) -> list[int]:
        """How many n-grams of each order the file says it has."""
        for number, line in self.lines.plain():
            if not line.startswith(b"#"):
                self.fail(number, f"expected \\data\\, found {_shown(line)}; not an ARPA file")
        self.lines.mark("\\data\\")
        counts: list[int] = []
        for number, line in self.lines.plain():
            found, k = COUNT.fullmatch(line), len(counts) + 1
            if not found or int(found[1]) != k:
                self.fail(number, f"expected 'ngram {k}=' and a number, found {_shown(line)}")
            most = LARGEST_VOCABULARY if k == 1 else MOST_ROWS
            if k > HIGHEST or int(found[2]) > most:
                self.fail(number, f"{_shown(line)}: at most {most:,} n-grams and order {HIGHEST} are read")
            counts.append(int(found[2]))
        if not counts:
            self.fail(self.lines.number, "expected 'ngram 1=' and a number after \\data\\")
        return counts

    def _blocks(self, k: int, counts: Sequence[int]) -> Iterator[tuple[Block, np.ndarray]]:
        """The rows of a section, as many as the header says, and the place (R,) of each one's first field."""
        self.lines.mark(f"\\{k}-grams:")
        self.begins.append(self.lines.number + 1)
        rows, ended = 0, False
        while text := self.lines.block():
            block = Block(text, self.lines.number - text.count(b"\n") + 1)
            filled = np.flatnonzero(block.counts)
            if len(filled) and (ended or filled[-1] != len(filled) - 1):
                gap = -1 if ended else int(np.argmin(block.counts))
                self.fail(block.line + int(filled[filled > gap][0]), f"a {k}-gram after a blank line")
            ended = ended or len(filled) < len(block.counts)
            sizes = block.counts[: len(filled)]
            wrong = np.flatnonzero((sizes < k + 1) | (sizes > k + 2))
            if len(wrong):
                row, words = int(wrong[0]), f"{k} word{'s' if k > 1 else ''}"
                self.fail(block.line + row, f"{sizes[row]} fields; expected a number, {words} and perhaps a backoff")
            if rows + len(filled) > counts[k - 1]:
                self.fail(block.line + counts[k - 1] - rows, f"more {k}-grams than the {counts[k - 1]:,} of the header")
            rows += len(filled)
            if len(filled):
                yield block, np.cumsum(sizes) - sizes
            if self.progress is not None:
                self.progress(self.lines.number)
        if rows < counts[k - 1]:
            self.fail(self.lines.number, f"only {rows:,} {k}-grams, but the header says {counts[k - 1]:,}")

    def _values(self, block: Block, places: np.ndarray, k: int, highest: bool) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (R,) and backoffs (R,) of a block's rows, as they are, float32."""
        full = np.flatnonzero(block.counts[: len(places)] == k + 2)
        logs, backs = block.numbers(places), np.zeros(len(places))
        backs[full] = block.numbers(places.take(full) + k + 1)
        for wrong, shift, message in (
            (np.isnan(logs), 0, "is no number"),
            (np.isnan(backs), k + 1, "is no number"),
            (logs > SLACK, 0, "is a log-probability above 0"),
            (backs > LARGEST, k + 1, "is too large for a backoff"),
            (backs != 0 if highest else np.zeros(len(backs), bool), k + 1, "is a backoff in the highest order"),
        ):
            if wrong.any():
                row = int(np.argmax(wrong))
                self.fail(block.line + row, f"{_shown(block.field(int(places[row]) + shift))} {message}")
        return _linear(np.minimum(logs, 0)), _linear(backs)

    def _unigrams(self, counts: Sequence[int]) -> tuple[Vocabulary, Rows]:
        words: list[bytes] = []
        values: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.float32),) * 2]
        for block, places in self._blocks(1, counts):
            values.append(self._values(block, places, 1, len(counts) == 1))
            words += block.fields(places + 1)
        p, b = (np.concatenate(parts) for parts in zip(*values, strict=True))
        rows = {word: row for row, word in enumerate(words)}
        for row, word in enumerate(words):
            if len(word) > LONGEST:
                self.fail(self.begins[0] + row, f"a word of {len(word):,} bytes; at most {LONGEST:,} are read")
        if len(rows) < len(words):
            again = next(row for row, word in enumerate(words) if rows[word] > row)
            self.fail(self.begins[0] + rows[words[again]], f"{_shown(words[again])} is there twice")
        for mark in (BEGIN, END):
            if mark.encode() not in rows:
                self.fail(self.lines.number, f"no {mark} among the unigrams")
        b[rows[END.encode()]] = b[rows[BEGIN.encode()]]
        unknown = rows.get(UNKNOWN.encode(), rows.get(UNKNOWN.upper().encode()))
        if unknown is None:
            self.notice(f"{self.path}: no {UNKNOWN} among the unigrams, so unknown words have probability 0")
            words.append(UNKNOWN.encode())
            p, b, unknown = np.append(p, np.float32(0)), np.append(b, np.float32(1)), len(words) - 1
        if self.given is not None:
            return self.given, self._placed(words, p, b, unknown)
        return self._listed(words, p, b, unknown)

    def _listed(self, words: list[bytes], p: np.ndarray, b: np.ndarray, unknown: int) -> tuple[Vocabulary, Rows]:
        """The unigrams with the ids of their order; of <s> and </s> the first gives both its place."""
        begin, end = words.index(BEGIN.encode()), words.index(END.encode())
        p[min(begin, end)], b[min(begin, end)] = p[end], b[end]
        later = max(begin, end)
        p, b = np.delete(p, later), np.delete(b, later)
        del words[later]
        eot, unknown = min(begin, end), unknown - (unknown > later)
        words[eot] = END.encode()
        self.ids = {word: number for number, word in enumerate(words)}
        self.ids[BEGIN.encode()] = len(words)
        words[unknown] = UNKNOWN.encode()
        found = Vocabulary([word.decode() for word in words], eot, unknown)
        return found, Rows(np.arange(len(words))[:, None], p, b)

    def _placed(self, words: list[bytes], p: np.ndarray, b: np.ndarray, unknown: int) -> Rows:
        """The unigrams with the ids of the given vocabulary. Its other ids share what <unk> has, if that is a share."""
        given = self.given
        assert given is not None
        size = len(given.words)
        self.ids = {word.encode(): number for number, word in enumerate(given.words)}
        self.ids[BEGIN.encode()], self.ids[END.encode()] = size, given.eot
        if given.unknown is not None:
            self.ids[words[unknown]] = given.unknown
        probabilities, backoffs = np.full(size, np.nan, np.float32), np.ones(size, np.float32)
        for row, word in enumerate(words):
            number = self.ids.get(word, -1)
            if number < 0 and row != unknown:
                self.fail(self.begins[0] + row, f"{_shown(word)} is no piece of this tokenizer")
            if 0 <= number < size:
                probabilities[number], backoffs[number] = p[row], b[row]
        if given.unknown is not None:
            probabilities[given.unknown] = np.nan
        without = np.isnan(probabilities)
        share, mass = float(p[unknown]), float(np.nansum(probabilities, dtype=np.float64))
        many = int(np.count_nonzero(without))
        if mass + many * share > 1 + OVER:
            share /= many
            self.notice(f"{self.path}: {many:,} pieces are not among the unigrams; they share what {UNKNOWN} has")
        probabilities[without] = share
        return Rows(np.arange(size)[:, None], probabilities, backoffs)

    def _ngrams(self, k: int, counts: Sequence[int], size: int, eot: int) -> Rows:
        """The n-grams of an order, with V for the size of the vocabulary."""
        kind = id_type(size)
        parts: list[tuple[np.ndarray, ...]] = [(np.empty((0, k), kind), *(np.empty(0, np.float32),) * 2)]
        for block, first in self._blocks(k, counts):
            p, b = self._values(block, first, k, k == len(counts))
            places = first[:, None] + np.arange(1, k + 1)
            found = self.lexicon.find(block.words(places.ravel()))
            tokens = self.numbers.take(found).reshape(places.shape)  # (R, k); the last number is that of no word
            opens = tokens == size
            opens[:, 0] = False
            closes = tokens == eot
            closes[:, -1] = False
            tokens[tokens[:, 0] == size, 0] = eot
            for wrong, message in (
                (tokens < 0, "is not among the unigrams"),
                (opens, "can only be the first word"),
                (closes, "can only be the last word"),
            ):
                if wrong.any():
                    row, column = (int(each) for each in np.argwhere(wrong)[0])
                    self.fail(block.line + row, f"{_shown(block.field(int(places[row, column])))} {message}")
            b[tokens[:, -1] == eot] = 1
            parts.append((tokens.astype(kind), p, b))
        return Rows(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def _repeated(self, k: int, row: int) -> NoReturn:
        self.fail(self.begins[k - 1] + row, f"this {k}-gram was there before")


def _linear(logs: np.ndarray) -> np.ndarray:
    """10^x, float32."""
    return np.exp(logs * math.log(10)).astype(np.float32)


def _shown(text: bytes) -> str:
    return f"{text.decode(errors='replace')[:60]!r}"
