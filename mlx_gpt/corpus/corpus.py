"""A text as memory-mapped token ids: tokenised once, cached by the hash of its contents, opened ever after."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_gpt import stories
from mlx_gpt.corpus.documents import digest, documents, files, named_paths
from mlx_gpt.corpus.splits import SPLITS, Plan, fingerprint, groups, plan
from mlx_gpt.errors import DataError
from mlx_gpt.tokenizer import END_OF_TEXT, GIVEN, Tokenizer, short_lines

FORMAT = 1
STORIES = 8_000  # in the built-in corpus
TOKENIZER_TEXT = 20_000_000  # characters of training text that the tokenizer learns from
TOGETHER = 4_000_000  # characters encoded in one go
LONG_LINE = 1_000_000  # characters without a newline after which a space must do
UNIT = 65_536  # characters: longer documents are encoded in parallel parts, cut after a newline

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Text:
    """Documents as one stream of ids: eot d1 eot d2 eot … dn eot.

    ids    (N,)     token ids, memory-mapped
    starts (D + 1,) position of the end-of-text mark before each document, and of the last one
    sizes  (D,)     raw UTF-8 bytes of each document
    """

    ids: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def document(self, index: int) -> np.ndarray:
        """One document's ids with the marks before and after it, (T + 2,)."""
        return self.ids[self.starts[index] : self.starts[index + 1] + 1]

    def __len__(self) -> int:
        return len(self.sizes)

    def head(self, tokens: int, tokenizer: Tokenizer) -> Text:
        """The first documents, about `tokens` tokens of them; of a longer first document its beginning."""
        if self.tokens <= tokens:
            return self
        count = int(np.searchsorted(self.starts, tokens, side="right")) - 1
        if count:
            return Text(self.ids[: self.starts[count] + 1], self.starts[: count + 1], self.sizes[:count])
        ids = self.ids[: tokens + 1]
        return Text(ids, np.array([0, tokens]), np.array([len(tokenizer.decode_bytes(ids))]))

    @property
    def bytes(self) -> int:
        """Raw UTF-8 bytes of all documents."""
        return int(self.sizes.sum())

    @property
    def tokens(self) -> int:
        """Tokens to be predicted: those of every document and the mark that ends it."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class Source:
    """What a corpus was made from, enough to make it again. No paths: the built-in stories.

    A tokenizer that is `GIVEN` was learned from another text, and is asked for to make the corpus again.
    """

    paths: tuple[str, ...]
    tokenizer: str
    vocab_size: int
    split_seed: int

    @property
    def builtin(self) -> bool:
        return not self.paths

    def __str__(self) -> str:
        near = (path if path == "-" else min(path, os.path.relpath(path), key=len) for path in self.paths)
        return "built-in stories" if self.builtin else " ".join(near)


@dataclass(frozen=True)
class Corpus:
    """One text split three ways, and its tokenizer, learned from its training part or given."""

    source: Source
    digest: str  # of text, split and tokenizer
    text: str  # of text and split alone
    tokenizer: Tokenizer
    train: Text
    valid: Text
    test: Text


def cache_folder() -> Path:
    """Where tokenised corpora are kept: `MLX_GPT_CACHE`, or the system's folder for caches."""
    named = os.environ.get("MLX_GPT_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlx_gpt"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx_gpt"


def open_corpus(source: Source, notice: Notice, given: Tokenizer | None = None) -> Corpus:
    """The corpus of a source, from the cache or made now, with the tokenizer `given` where the source says so.

    Raises DataError for text that is missing, unreadable, or too short to be split three ways.
    """
    try:
        with named_paths(source.paths) as paths:
            found = [_story_file(notice)] if source.builtin else files(paths)
            arranged, said = groups(found)
            if said:
                notice(said)
            contents = [[list(group.shares.items()), digest(group.paths)] for group in arranged]
            text = _key(FORMAT, source.split_seed, *contents)
            given = given if source.tokenizer == GIVEN else None
            assert given is not None or source.tokenizer != GIVEN, "a tokenizer that nobody gave"
            learned = source.tokenizer if given is None else hashlib.sha256(given.model).hexdigest()
            key = _key(text, learned, source.vocab_size)
            folder = cache_folder() / key
            if not (folder / "corpus.json").is_file():
                _make(folder, source, [plan(group, source.split_seed) for group in arranged], notice, given)
            return _open(folder, source, source.tokenizer if given is None else given.kind, key, text)
    except OSError as error:
        raise DataError(f"{error.filename or cache_folder()}: {error.strerror}") from error


def training_text(digest: str, tokenizer: Tokenizer) -> Text:
    """The training part of a corpus from the cache. Raises OSError where it is gone."""
    return _read(cache_folder() / digest, "train", tokenizer)


def encode_text(texts: Iterable[str], tokenizer: Tokenizer) -> Text:
    """Documents with a tokenizer that exists already, for scoring; kept in a file that vanishes with it."""
    with tempfile.TemporaryDirectory(prefix="mlx_gpt-") as folder:
        writer = _Writer(Path(folder), "text", tokenizer)
        _encode((writer, text) for text in texts)
        writer.close()
        return _read(Path(folder), "text", tokenizer)


def _story_file(notice: Notice) -> Path:
    """The built-in corpus as a file in the cache, written on first use; its name changes with the grammar."""
    grammar = hashlib.sha256(stories.story(0, 0).encode()).hexdigest()[:8]
    path = cache_folder() / f"stories-{STORIES}-{grammar}.txt"
    if not path.is_file():
        notice(f"writing the built-in corpus ({STORIES:,} stories) to {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("w", encoding="utf-8") as file:
            file.writelines(f"{story}\n{END_OF_TEXT}\n" for story in stories.stories(0, STORIES))
        part.replace(path)
    return path


def _make(folder: Path, source: Source, plans: Sequence[Plan], notice: Notice, given: Tokenizer | None) -> None:
    def pieces() -> Iterator[tuple[str, str]]:
        for each in plans:
            yield from each.pieces(source.split_seed)

    sizes = dict.fromkeys(SPLITS, 0)
    prints: dict[str, list[int]] = {split: [] for split in SPLITS}
    for split, text in pieces():
        if text.strip():
            sizes[split] += len(text.encode("utf-8", "replace"))
            prints[split].append(fingerprint(text))
    for split in SPLITS:
        if not sizes[split]:
            raise DataError(f"{source}: only {sum(sizes.values()):,} bytes of text, nothing left to {split} on")
    for each in plans:
        if each.cuts and "train" in each.group.shares:  # cut up, but seen all the same
            prints["train"] += [fingerprint(text) for text in documents(each.group.paths)]
    seen = np.unique(np.array(prints["train"], np.uint64))
    for split in SPLITS[1:]:
        shared = int(np.isin(np.array(prints[split], np.uint64), seen).sum())
        if shared:
            notice(f"LEAK: {shared} of {len(prints[split])} {split} documents also stand in the training text")

    def training_sample() -> Iterator[str]:
        rate, due = min(1.0, TOKENIZER_TEXT / sizes["train"]), 0.0
        for split, text in pieces():
            for piece in short_lines(text) if split == "train" else ():
                due += rate
                if due >= 1:
                    due -= 1
                    yield piece

    notice(f"tokenising {sum(sizes.values()) / 1e6:.1f} MB of text, once for all stages")
    tokenizer = Tokenizer.train(source.tokenizer, training_sample(), source.vocab_size) if given is None else given
    if source.tokenizer == "bpe" and tokenizer.vocab_size < source.vocab_size:
        notice(f"vocabulary lowered from {source.vocab_size} to {tokenizer.vocab_size}: all this text can fill")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        writers = {split: _Writer(part, split, tokenizer) for split in SPLITS}
        _encode((writers[split], text) for split, text in pieces() if text.strip())
        for writer in writers.values():
            writer.close()
        np.save(part / "seen.npy", seen)
        (part / "tokenizer.model").write_bytes(tokenizer.model)
        (part / "corpus.json").write_text(json.dumps({"format": FORMAT, "tokenizer": tokenizer.kind}))
        if not (folder / "corpus.json").is_file():  # else another process was faster: its corpus is the same
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Writer:
    """One split's files, filled document by document so that a corpus larger than memory passes through."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer) -> None:
        self.folder, self.name, self.tokenizer = folder, name, tokenizer
        self.mark = np.array([tokenizer.eot], _id_type(tokenizer))
        self.file = (folder / f"{name}.ids").open("wb")
        self.mark.tofile(self.file)
        self.starts, self.sizes = [0], list[int]()

    def add(self, ids: Sequence[np.ndarray], size: int) -> None:
        for part in (*ids, self.mark):
            part.astype(self.mark.dtype).tofile(self.file)
        self.starts.append(self.starts[-1] + sum(map(len, ids)) + 1)
        self.sizes.append(size)

    def close(self) -> None:
        self.file.close()
        np.save(self.folder / f"{self.name}.starts.npy", np.array(self.starts, np.int64))
        np.save(self.folder / f"{self.name}.sizes.npy", np.array(self.sizes, np.int64))


def _encode(pieces: Iterable[tuple[_Writer, str]]) -> None:
    """Encode documents in large parallel helpings and hand each to its writer."""
    held: list[tuple[_Writer, str]] = []
    waiting = 0
    for writer, text in pieces:
        held.append((writer, text))
        waiting += len(text)
        if waiting >= TOGETHER:
            _write(held)
            held, waiting = [], 0
    _write(held)


def _write(held: Sequence[tuple[_Writer, str]]) -> None:
    if not held:
        return
    units = [_units(text) for _, text in held]
    rows = iter(held[0][0].tokenizer.encode_all([unit for each in units for unit in each]))
    for (writer, text), each in zip(held, units, strict=True):
        writer.add([next(rows) for _ in each], len(text.encode()))


def _units(text: str) -> list[str]:
    """A text in parts cut after a newline, or before a space: no piece spans these, so the ids are the whole's."""
    starts = [0]
    while len(text) - starts[-1] > UNIT:
        enough = starts[-1] + UNIT
        line = text.find("\n", enough, enough + LONG_LINE) + 1
        at = line or text.find(" ", enough + LONG_LINE)
        if at <= 0 or at == len(text):
            break
        starts.append(at)
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def _id_type(tokenizer: Tokenizer) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32


def _read(folder: Path, name: str, tokenizer: Tokenizer) -> Text:
    ids = np.memmap(folder / f"{name}.ids", _id_type(tokenizer), "r")
    text = Text(ids, np.load(folder / f"{name}.starts.npy"), np.load(folder / f"{name}.sizes.npy"))
    if len(text.starts) != len(text) + 1 or text.starts[-1] != len(ids) - 1 or ids.max() >= tokenizer.vocab_size:
        raise DataError(f"{folder}: a damaged cache; delete this folder and run again")
    return text


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _open(folder: Path, source: Source, kind: str, key: str, text: str) -> Corpus:
    try:
        tokenizer = Tokenizer(kind, (folder / "tokenizer.model").read_bytes())
        train, valid, test = (_read(folder, split, tokenizer) for split in SPLITS)
        return Corpus(source, key, text, tokenizer, train, valid, test)
    except (ValueError, EOFError) as error:
        raise DataError(f"{folder}: a damaged cache ({error}); delete this folder and run again") from error
