"""Which text is trained on, which one validates and which one is held out until the end."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_gpt.corpus.documents import documents

SPLITS = ("train", "valid", "test")
SHARES = {"train": 0.9, "valid": 0.05, "test": 0.05}
FEW = 20  # documents: with fewer, each one is cut into blocks instead of being dealt out whole
NAMED = re.compile(r"(?:^|[._-])(train|valid(?:ation)?|val|dev|test)(?:[-_]\d+)*(?:\.\w+)*$", re.IGNORECASE)
NAMES = {"train": "train", "test": "test"}  # every other name in NAMED means the validation text


@dataclass(frozen=True)
class Group:
    """Files whose documents are shared out among the splits in the same way."""

    paths: tuple[Path, ...]
    shares: Mapping[str, float]


def groups(paths: Sequence[Path]) -> tuple[list[Group], str]:
    """How files are split, and a sentence that says so where it needs saying.

    Files named train, valid (val, dev) and test keep their names' meaning; else every document is dealt out.
    """
    named: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in paths:
        match = NAMED.search(path.name)
        if match:
            named[NAMES.get(match[1].lower(), "valid")].append(path)
    if not named["train"] or not (named["valid"] or named["test"]):
        return [Group(tuple(paths), SHARES)], ""
    kept = {path for split in SPLITS for path in named[split]}
    said = "the files' own split is kept"
    if len(kept) < len(paths):
        said += "; left out: " + ", ".join(sorted(path.name for path in paths if path not in kept))
    shares: dict[str, Mapping[str, float]] = {split: {split: 1.0} for split in SPLITS}
    if not named["valid"]:
        shares["train"] = {"train": 0.95, "valid": 0.05}
        said += "; no validation file, so 5 % of the training text validates"
    if not named["test"]:
        shares["valid"] = {"valid": 0.5, "test": 0.5}
        said += "; no test file, so half of the validation text is held out as the test text"
    return [Group(tuple(named[split]), shares[split]) for split in SPLITS if named[split]], said


@dataclass(frozen=True)
class Plan:
    """The splits of one group, settled: `limits` are hash limits, or None where documents are cut."""

    group: Group
    limits: tuple[np.uint64, ...] | None

    @property
    def cuts(self) -> bool:
        """Whether documents are cut into blocks."""
        return self.limits is None and len(self.group.shares) > 1

    def pieces(self, seed: int) -> Iterator[tuple[str, str]]:
        """Every (split, document) of the group, in the order of its files."""
        names = list(self.group.shares)
        for text in documents(self.group.paths):
            if len(names) == 1:
                yield names[0], text
            elif self.limits is None:
                yield from zip(names, cut(text, list(self.group.shares.values())), strict=True)
            else:
                place = shuffle(np.array([fingerprint(text)], np.uint64), seed)[0]
                yield names[sum(place >= limit for limit in self.limits)], text


def plan(group: Group, seed: int) -> Plan:
    """Deal a group's documents out by the hash of their words, so that equal documents stay together."""
    if len(group.shares) == 1:
        return Plan(group, None)
    prints = np.fromiter((fingerprint(text) for text in documents(group.paths)), np.uint64)
    if len(prints) < FEW:
        return Plan(group, None)
    order = np.sort(shuffle(prints, seed))
    held_out = [max(1, round(len(order) * share)) for share in list(group.shares.values())[1:]]
    first = len(order) - sum(held_out)
    return Plan(group, tuple(order[first + sum(held_out[:k])] for k in range(len(held_out))))


def fingerprint(text: str) -> int:
    """64 bits of a document's words: the same for copies that differ in case or spacing."""
    words = " ".join(text.split()).casefold()
    return int.from_bytes(hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def shuffle(prints: np.ndarray, seed: int) -> np.ndarray:
    """A one-to-one scrambling of 64-bit numbers that depends on the seed (splitmix64's finaliser)."""
    z = prints + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def cut(text: str, shares: Sequence[float]) -> list[str]:
    """One text in consecutive blocks of the given shares, cut after the nearest following line."""
    starts = [0]
    for share in np.cumsum(shares)[:-1]:
        at = max(starts[-1], int(len(text) * share))
        line = text.find("\n", at, at + 2_000)
        starts.append(line + 1 if line >= 0 else at)
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
