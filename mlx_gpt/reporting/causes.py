"""Where the bits of a text went: its tokens by what makes them dear or cheap, known from texts alone, not from a model.

A word is a run of letters and digits, with apostrophes inside and the spaces before it; case does not count. A token
belongs to the word in which its first byte stands, so words of one text are the same words for every tokenizer, and
has one cause of a partition, the first that holds:

end         the mark that ends a document
sign        it begins in no word: punctuation, line breaks, other blanks
inside      it begins after the first letter of a word
frequent    it begins one of the most frequent words of the training text, as many as make up half of it
before      it begins a word that stands earlier in the same document
rare        it begins a word that the training text has fewer than RARE times
other       it begins any other word

What is inside a word depends on how a tokenizer cuts it. Kept are therefore the tokens inside words by the kind of
their word, 10 causes in all, so that between tokenizers the bits of whole words can be compared.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mlx_gpt.corpus import Text
from mlx_gpt.reporting.written import chunks
from mlx_gpt.tokenizer import Tokenizer

WORD = re.compile(r" *(\w+(?:['’]\w+)*)")
RARE = 10  # times in the training text
CHUNK = 2**20  # tokens at one time
END, SIGN, BEGIN, INSIDE = 0, 1, 2, 6  # causes; the last two are the first of four, by the kind of the word
FREQUENT, BEFORE, UNCOMMON, OTHER = range(4)
CAUSES = 10
AGAIN = 3  # times that a word stands again in a document: the second, the third, the fourth
EDGES = 4 * 2 ** np.arange(26)  # bytes from the beginning of a document, at which the next place begins
PLACES = len(EDGES) + 1
NO_PAIRS = np.zeros((0, 5), np.int64)


@dataclass(frozen=True)
class Words:
    """What a training text says of words: `frequent` are as many as make up half of its `total`, `rare` are those of
    the held-out text that it has fewer than RARE times. None of them where the training text is gone: total 0."""

    frequent: tuple[str, ...]
    rare: frozenset[str]
    total: int

    @classmethod
    def counted(cls, training: Iterable[str], held_out: Iterable[str]) -> Words:
        """From pieces of both texts that are cut between words."""
        counts = Counter(word for piece in training for word in WORD.findall(piece.lower()))
        total, sum_so_far, frequent = counts.total(), 0, []
        for word, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
            if 2 * sum_so_far >= total:
                break
            sum_so_far += count
            frequent.append(word)
        seldom = {word for piece in held_out for word in WORD.findall(piece.lower()) if counts[word] < RARE}
        return cls(tuple(frequent), frozenset(seldom - set(frequent)), total)

    def json(self) -> dict[str, Any]:
        """As results.json keeps them."""
        return {"frequent": list(self.frequent), "rare": sorted(self.rare), "total": self.total}

    @classmethod
    def kept(cls, told: dict[str, Any]) -> Words:
        """Again from what `json` told."""
        return cls(tuple(told["frequent"]), frozenset(told["rare"]), int(told["total"]))


@dataclass(frozen=True)
class Labels:
    """What is known of tokens before they are scored, kept in files.

    causes  (T,)    of every token to be predicted, in the order of the text
    places  (T,)    where in its document it begins, PLACES for the end
    pairs   (P, 5)  words that are not frequent and stand again in their document, written alike: 0 for the second time,
                    1 for the third, 2 for the fourth; a word's first token where it stands first and the token after
                    it; the same where it stands that time
    """

    causes: np.ndarray
    places: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, text: Text, tokenizer: Tokenizer, words: Words) -> Labels:
        """Document after document."""
        causes, places = (on_disk((text.tokens,), np.uint8) for _ in range(2))
        lengths, frequent = tokenizer.lengths(), frozenset(words.frequent)
        with tempfile.TemporaryFile(prefix="mlx_gpt-") as file:
            for document in range(len(text)):
                ids = text.document(document)[1:]
                ends = np.cumsum(lengths[ids])
                begins = ends - lengths[ids]
                first, last = (int(at) for at in text.starts[document : document + 2])
                spans, written = _words(tokenizer.decode_bytes(ids).decode(errors="replace"))
                kinds, pairs = _kinds(written, frequent, words.rare)
                at = np.searchsorted(spans[0], begins, side="right") - 1
                letters, stops, kind = (np.append(each, 0)[at] for each in (*spans[1:], kinds))
                within = (at >= 0) & (begins < stops)
                causes[first:last] = np.where(within, np.where(begins <= letters, BEGIN, INSIDE) + kind, SIGN)
                causes[last - 1] = END
                places[first:last] = np.searchsorted(EDGES, begins, side="right")
                places[last - 1] = PLACES
                tokens = first + np.searchsorted(begins, spans[[0, 2]])  # of each word, and the one after it
                found = np.column_stack([pairs[:, 0], tokens[:, pairs[:, 1]].T, tokens[:, pairs[:, 2]].T])
                found[(found[:, 1] < found[:, 2]) & (found[:, 3] < found[:, 4])].astype(np.int64).tofile(file)
            count = file.tell() // 40
            return cls(causes, places, np.memmap(file, np.int64, "r+", shape=(count, 5)) if count else NO_PAIRS)


def _words(text: str) -> tuple[np.ndarray, list[str]]:
    """The words of one document as they are written, with the spaces before them, and where in its bytes they begin,
    have their first letter and end, (3, W)."""
    matches = list(WORD.finditer(text))
    letters = [[match.start() for match in matches], [match.start(1) for match in matches], [m.end() for m in matches]]
    spans = np.array(letters, np.int64).reshape(3, -1)
    if not text.isascii():
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        spans = np.append(0, np.cumsum(1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)))[spans]
    return spans, [match[0] for match in matches]


def _kinds(written: list[str], frequent: frozenset[str], rare: frozenset[str]) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each word (W,) of a document, and which of them are written alike: time, 0 for the second, and the
    places of the first and of this one (P, 3)."""
    kinds, pairs = np.zeros(len(written), np.int64), list[tuple[int, int, int]]()
    known, stood = set[str](), dict[str, tuple[int, int]]()
    for at, word in enumerate(written):
        name = word.strip(" ").lower()
        if name in frequent:
            kinds[at] = FREQUENT
            continue
        kinds[at] = BEFORE if name in known else UNCOMMON if name in rare else OTHER
        known.add(name)
        first, times = stood.get(word, (at, -1))
        if 0 <= times < AGAIN:
            pairs.append((times, first, at))
        stood[word] = first, times + 1
    return kinds, np.array(pairs, np.int64).reshape(-1, 3)


@dataclass(frozen=True)
class Sums:
    """What one model spends, in nats, over U parts of a text.

    nats, tokens, bytes   by cause (CAUSES, U), (CAUSES,), (CAUSES,)
    places, place_bytes   by place (PLACES, U), the ends of documents left out
    saved, words          by pair (AGAIN, U): what words cost less the second, third, fourth time than the first, in
                          the part where they stand again, and how many they are
    first                 what these words cost where they stand first (AGAIN,)
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    places: np.ndarray
    place_bytes: np.ndarray
    saved: np.ndarray
    words: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, labels: Labels, logprobs: np.ndarray, text: Text, lengths: np.ndarray, starts: np.ndarray) -> Sums:
        """From the log-probability of every token (T,), in the order of the text.

        lengths  (V,)      raw bytes of each id
        starts   (U + 1,)  position in the stream of the token before each part, and of the last token
        """
        parts = len(starts) - 1
        by_cause, flat, by_place = np.zeros((CAUSES, parts)), np.zeros((2, CAUSES)), np.zeros((2, PLACES + 1, parts))
        before = on_disk((text.tokens + 1,), np.float64)  # what all tokens before each cost
        for first in range(0, text.tokens, CHUNK):
            last = min(first + CHUNK, text.tokens)
            nats = -logprobs[first:last].astype(np.float64)
            cause, place = labels.causes[first:last], labels.places[first:last]
            size = lengths[text.ids[first + 1 : last + 1]]
            part = _part(np.arange(first, last), starts)
            by_cause += _cells(cause, part, (CAUSES, parts), nats)
            flat += [np.bincount(cause, each, CAUSES) for each in (None, size)]
            by_place += [_cells(place, part, (PLACES + 1, parts), each) for each in (nats, size)]
            before[first + 1 : last + 1] = before[first] + np.cumsum(nats)
        saved, words, firsts = np.zeros((AGAIN, parts)), np.zeros((AGAIN, parts)), np.zeros(AGAIN)
        for start in range(0, len(labels.pairs), CHUNK):
            time, *ends = labels.pairs[start : start + CHUNK].T
            with np.errstate(invalid="ignore"):  # where something is impossible, no difference is known after it
                first_cost, cost = before[ends[1]] - before[ends[0]], before[ends[3]] - before[ends[2]]
            unit = _part(ends[2], starts)
            saved += _cells(time, unit, saved.shape, first_cost - cost)
            words += _cells(time, unit, words.shape, None)
            firsts += np.bincount(time, first_cost, AGAIN)
        counts = (each.astype(np.int64) for each in (*flat, by_place[1, :-1], words))
        tokens, spelled, place_bytes, words = counts
        return cls(by_cause, tokens, spelled, by_place[0, :-1], place_bytes, saved, words, firsts)

    def json(self) -> dict[str, Any]:
        """As results.json keeps them: to a thousandth of a nat, no places beyond the end of the longest document."""
        used = int(np.flatnonzero(self.place_bytes.any(axis=1)).max(initial=-1)) + 1
        told = {**vars(self), "places": self.places[:used], "place_bytes": self.place_bytes[:used]}
        return {name: values.round(3).tolist() for name, values in told.items()}

    @classmethod
    def kept(cls, told: dict[str, Any]) -> Sums:
        """Again from what `json` told; null is infinite. Raises KeyError, TypeError or ValueError for anything else."""
        arrays = {each.name: _array(told[each.name]) for each in fields(cls)}
        parts, by_cause = arrays["nats"].shape[-1], (CAUSES,)
        for name in ("places", "place_bytes"):
            used = arrays[name].reshape(-1, parts)
            arrays[name] = np.concatenate([used, np.zeros((max(0, PLACES - len(used)), parts))])
        made, by_place, again = cls(**arrays), (PLACES, parts), (AGAIN, parts)
        shapes = [(CAUSES, parts), by_cause, by_cause, by_place, by_place, again, again, (AGAIN,)]
        if [each.shape for each in vars(made).values()] != shapes:
            raise ValueError("lists that do not fit")
        return made


def _part(positions: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """In which part tokens are whose place in the order of the text is known."""
    return np.minimum(np.searchsorted(starts, positions, side="right") - 1, len(starts) - 2)


def _cells(row: np.ndarray, column: np.ndarray, shape: tuple[int, ...], values: np.ndarray | None) -> np.ndarray:
    """Sums of values, or their number, by row and column."""
    rows, columns = shape
    return np.bincount(row.astype(np.int64) * columns + column, values, rows * columns).reshape(shape)


def _array(told: list[Any]) -> np.ndarray:
    made = np.array(told, np.float64)
    return np.where(np.isnan(made), np.inf, made)


def on_disk(shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
    """Zeros in a file that vanishes with them, for texts that are larger than memory."""
    with tempfile.TemporaryFile(prefix="mlx_gpt-") as file:
        return np.memmap(file, kind, "w+", shape=shape)


def pieces(text: Text, tokenizer: Tokenizer) -> Iterator[str]:
    """A text in pieces that are cut between words."""
    left = b""
    for chunk in chunks(text, tokenizer, b"\n"):
        left += chunk
        cut = max(left.rfind(b" "), left.rfind(b"\n")) + 1
        yield left[:cut].decode(errors="replace")
        left = left[cut:]
    yield left.decode(errors="replace")
