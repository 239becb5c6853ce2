"""What each stage of the league table spends on each cause, place and occurrence, and what it saves to the one before.

Rows are those of the league table, runs that differ in their seed alone averaged. Where all runs cut the text alike,
tokens inside words are a cause of their own; where they do not, their bits are added to their words.

The score of learning in context follows Kaplan et al. 2020 (arXiv 2001.08361) and Olsson et al. 2022 (arXiv
2209.11895), who compare the loss late in the context with the loss early in it. Late and early tokens are other words,
so here it is what the very same words, written alike, cost less when they stand in the document again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlx_gpt.bootstrap import Estimate, Noise, estimate, firsts, holm, judged, noise_of
from mlx_gpt.checkpoint import Checkpoint
from mlx_gpt.corpus import Text, Units
from mlx_gpt.corpus.corpus import training_text
from mlx_gpt.errors import MlxGptError
from mlx_gpt.reporting.causes import AGAIN, BEGIN, EDGES, INSIDE, PLACES, RARE, Labels, Sums, Words, on_disk, pieces
from mlx_gpt.tokenizer import Tokenizer

Told = dict[str, Any]
PARTS = 500  # of a text at most; of more units, neighbours are put together
SPREAD = 10  # parts in which a cause must stand to have an interval
LEAST = 1_000  # bytes at a place; of fewer, nothing is told
KINDS = (
    ("frequent", "frequent word", "the beginning of one of the {frequent} words that make half of the training text"),
    ("before", "seen before", "the beginning of any other word that stands earlier in the same document"),
    ("rare", "rare word", f"the beginning of any other word that the training text has fewer than {RARE} times"),
    ("other", "other word", "the beginning of any other word"),
)
OUTER = (
    ("end", "end of text", "the mark that ends a document"),
    ("sign", "signs", "punctuation, line breaks: what begins in no word"),
)
INNER = ("inside", "inside a word", "what begins after the first letter of a word")


class Witness:
    """Keeps what every token costs a model while it is scored, and adds it up."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.labels: dict[str, Labels] = {}

    def tokens(self, text: Text) -> np.ndarray:
        """What `measure` fills, (T,)."""
        return on_disk((text.tokens,), np.float32)

    def told(self, logprobs: np.ndarray, text: Text, tokenizer: Tokenizer, units: Units) -> Told:
        """As results.json keeps it of one run."""
        key = hashlib.sha256(tokenizer.kind.encode() + tokenizer.model).hexdigest()[:16]
        if key not in self.labels:
            self.labels[key] = Labels.of(text, tokenizer, self.words)
        starts = np.append(units.starts[:-1][firsts(len(units), PARTS)], units.starts[-1])
        sums = Sums.of(self.labels[key], logprobs, text, tokenizer.lengths(), starts)
        return {"tokenizer": key, **sums.json()}


def words_of(trained: Checkpoint, text: Text, notice: Callable[[str], None]) -> Words:
    """What the training text of a run says of words of the held-out text; a notice where it is gone."""
    tokenizer = trained.tokenizer
    try:
        return Words.counted(pieces(training_text(trained.card.corpus, tokenizer), tokenizer), pieces(text, tokenizer))
    except (OSError, ValueError, EOFError, MlxGptError):
        notice("the cached training text is gone, so frequent and rare words are not told apart")
        return Words((), frozenset(), 0)


def where(league: Sequence[Told], runs: Sequence[Told], text: Told) -> Told:
    """The section of results.json: `causes` with their shares of tokens and bytes; `rows` with bits per byte by cause
    and the differences to the row before, bits per byte by place with their margins, and what is gained `again`;
    `places` as the bytes before them."""
    kept = {run["run"]: run["where"] for run in runs}
    sums = [[Sums.kept(kept[name]) for name in row["runs"]] for row in league]
    alike = len({each["tokenizer"] for each in kept.values()}) == 1
    causes = _causes(alike, len(text["words"]["frequent"]))
    flat = sums[0][0]
    causes = [each for each in causes if flat.tokens[each[3]].sum()]
    nats = [np.array([_mean(row, "nats")[where].sum(axis=0) for *_, where in causes]) for row in sums]  # (C, U)
    places = [at for at in range(PLACES) if all(one.place_bytes[at].sum() >= LEAST for row in sums for one in row)]
    sizes = np.array(text["parts"])
    counted = {run["run"]: run["counted"] for run in runs}
    noises = [
        _noises(row, [where for *_, where in causes], text["bytes"], counted[of["run"]])
        for row, of in zip(sums, league, strict=True)
    ]
    told = []
    for at, (row, found) in enumerate(zip(league, sums, strict=True)):
        bits, differences = nats[at] / math.log(2), list[Told | None]()
        if at:
            with np.errstate(invalid="ignore"):
                lost = [_estimate(each, sizes) for each in bits - nats[at - 1] / math.log(2)]
            pairs = zip(lost, noises[at - 1], noises[at], strict=True)
            differences = [_told(each, training) for each, *training in pairs]
        spent, here = _mean(found, "places")[places] / math.log(2), found[0].place_bytes[places]
        told.append(
            {
                "run": row["run"],
                "bits_per_byte": (bits.sum(axis=1) / text["bytes"]).tolist(),
                "differences": differences,
                "places": [_at_place(*each) for each in zip(spent, here, strict=True)],
                "again": _again(found),
            }
        )
    tested = [each for row in told for each in row["differences"] if each]
    for each, p in zip(tested, holm([each["p"] for each in tested]), strict=True):
        each["p_holm"] = p
    return {
        "alike": alike,
        "causes": [
            {
                "cause": key,
                "name": name,
                "means": means,
                "tokens": float(flat.tokens[where].sum() / flat.tokens.sum()),
                "bytes": float(flat.bytes[where].sum() / flat.bytes.sum()),
            }
            for key, name, means, where in causes
        ],
        "places": [[int(EDGES[at - 1]) if at else 0, int(EDGES[at]) - 1] for at in places],
        "words": [int(each) for each in flat.words.sum(axis=1)],
        "rows": told,
    }


def _noises(row: Sequence[Sums], causes: Sequence[list[int]], size: int, counted: bool) -> list[Noise | None]:
    """Of training, by cause, in bits per byte of the whole text."""
    return [noise_of([one.nats[where].sum() / math.log(2) / size for one in row], counted) for where in causes]


def _causes(alike: bool, frequent: int) -> list[tuple[str, str, str, list[int]]]:
    """Each with its key, its name, what it means, and which of the causes that are kept it is."""
    found = [(*each, [at]) for at, each in enumerate(OUTER)]
    if alike:
        found.append((*INNER, list(range(INSIDE, INSIDE + len(KINDS)))))
    for at, (key, name, means) in enumerate(KINDS):
        cells = [BEGIN + at] if alike else [BEGIN + at, INSIDE + at]
        means = means if alike else means.replace("the beginning of ", "")
        found.append((key, name, means.format(frequent=frequent), cells))
    return found


def _again(found: Sequence[Sums]) -> list[Told | None]:
    """Of words that stand a second, third, fourth time in a document: bits a word where they stand first, and what they
    cost less that time, with the interval. None where there are no such words."""
    told = list[Told | None]()
    saved, words, first = _mean(found, "saved") / math.log(2), found[0].words, _mean(found, "first") / math.log(2)
    for at in range(AGAIN):
        count, here = float(words[at].sum()), words[at] > 0
        less = _estimate(saved[at][here], words[at][here])
        each = {"first": float(first[at]) / count, "saved": _told(less)} if count else None
        told.append(each)
    return told


def _at_place(bits: np.ndarray, sizes: np.ndarray) -> Told:
    """Bits per byte of a place and their margin, from bits (U,) and bytes (U,) there in each part of the text."""
    reached = sizes > 0
    found = _estimate(bits[reached], sizes[reached])
    return {"value": float(bits.sum() / sizes.sum()), "margin": found and found.margin}


def _estimate(costs: np.ndarray, sizes: np.ndarray) -> Estimate | None:
    """As `estimate`, with an infinite margin where all there is stands in a few parts: they do not tell of others."""
    found = estimate(costs, sizes)
    if found is not None and 0 < np.count_nonzero(costs) < SPREAD:
        return Estimate(found.value, math.inf, math.inf, 1.0)
    return found


def _told(found: Estimate | None, training: Sequence[Noise | None] = ()) -> Told | None:
    """With its p-value, in which `training` noise is counted."""
    if found is None:
        return None
    p = judged(found, training).p
    return {"value": found.value, "margin": found.margin, "p": p, "p_holm": p}


def _mean(found: Sequence[Sums], name: str) -> np.ndarray:
    return np.mean([vars(each)[name] for each in found], axis=0)
