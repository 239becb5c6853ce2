"""How much of a text also stands in a training text: whole documents, and windows of bytes wherever they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mlx_gpt.corpus.corpus import cache_folder, training_text
from mlx_gpt.corpus.splits import fingerprint, shuffle
from mlx_gpt.tokenizer import Tokenizer

WINDOW = 50  # bytes, as long as what counts as a copy in Lee et al. 2022 (arXiv 2107.06499), who take 50 tokens
FACTOR = 0x9E3779B97F4A7C15  # of the polynomial that a window's hash is
SIEVE = 22  # bits of a hash that are looked up first
CHUNK = 2**20  # tokens of the training text read at one time


@dataclass(frozen=True)
class Overlap:
    """Shares of a text, 0 to 1, that also stand in a training text: of its documents, in whatever case and spacing,
    and of its windows of 50 bytes to the byte."""

    documents: float
    windows: float


class Traces:
    """Hashes of the documents that pass by: of each, and of its windows, one after another."""

    def __init__(self) -> None:
        self.documents: list[int] = []
        self.windows: list[np.ndarray] = []

    def of(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts, remembered."""
        for text in texts:
            self.documents.append(fingerprint(text))
            self.windows.append(apart(text.encode()))
            yield text

    def in_training(self, digest: str, tokenizer: Tokenizer) -> Overlap | None:
        """What of them the training text of a corpus holds; None where its cache is gone."""
        try:
            seen = np.load(cache_folder() / digest / "seen.npy")
            text = training_text(digest, tokenizer)
        except (OSError, ValueError, EOFError):
            return None
        known = np.isin(np.array(self.documents, np.uint64), seen)
        windows, counts = np.unique(np.concatenate([*self.windows, np.zeros(0, np.uint64)]), return_counts=True)
        found, sieve = np.zeros(len(windows), bool), np.zeros(2**SIEVE, bool)
        sieve[windows >> np.uint64(64 - SIEVE)] = True
        before = b""
        for start in range(0, len(text.ids) if len(windows) else 0, CHUNK):
            raw = before + tokenizer.decode_bytes(text.ids[start : start + CHUNK])
            here = hashes(raw)
            here = here[sieve[here >> np.uint64(64 - SIEVE)]]
            at = np.minimum(np.searchsorted(windows, here), len(windows) - 1)
            found[at[windows[at] == here]] = True
            before = raw[-(WINDOW - 1) :]
        return Overlap(float(known.mean()) if len(known) else 0.0, _share(int(counts[found].sum()), int(counts.sum())))


def apart(raw: bytes) -> np.ndarray:
    """64 bits of each window of 50 bytes, one after another (N // 50,): a polynomial of its bytes, scrambled first
    (Karp & Rabin 1987)."""
    whole = np.zeros(len(raw) // WINDOW, np.uint64)
    for column in np.frombuffer(raw[: len(whole) * WINDOW], np.uint8).reshape(-1, WINDOW).T:
        whole = whole * np.uint64(FACTOR) + scrambled(column)
    return shuffle(whole, 0)


def scrambled(column: np.ndarray) -> np.ndarray:
    """Another 64 bits for each byte."""
    return shuffle(np.arange(256, dtype=np.uint64), 0)[column]


def hashes(raw: bytes) -> np.ndarray:
    """The same of windows at every place (N - 49,), none of a shorter text: a long one's is made of its halves'."""
    if len(raw) < WINDOW:
        return np.zeros(0, np.uint64)
    part = scrambled(np.frombuffer(raw, np.uint8))  # of windows of 1, 2, 4 …
    whole, held, width, factor = np.zeros(len(raw), np.uint64), 0, 1, FACTOR
    while width <= WINDOW:
        if WINDOW & width:
            size = len(part) - held
            whole = whole[:size] * np.uint64(factor) + part[held:]
            held += width
        part = part[:-width] * np.uint64(factor) + part[width:]
        factor, width = factor * factor % 2**64, 2 * width
    return shuffle(whole[: len(raw) - WINDOW + 1], 0)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
