"""The text a trained model is scored on: the split its run never saw, or files, with a look for leaks."""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mlx_gpt import stories
from mlx_gpt.checkpoint import Card, Checkpoint
from mlx_gpt.corpus import Corpus, Overlap, Text, Traces, documents, encode_text, files, named_paths, open_corpus
from mlx_gpt.errors import DataError
from mlx_gpt.tokenizer import WORD, Tokenizer

Notice = Callable[[str], None]


def held_out(trained: Checkpoint, data: Sequence[str], notice: Notice) -> Text:
    """The run's own test split, or the documents of `data` in its tokenizer.

    Raises DataError where the run's text is gone or has changed, or where `data` holds no text. A notice says
    how much of `data` was trained on. However long it is, it passes by document after document.
    """
    if not data:
        return own_corpus(trained, notice, "give --data FILE to score it on").test
    traces = Traces()
    with named_paths(data) as paths:
        text = encode_text(traces.of(documents(files(paths))), trained.tokenizer)
    if not len(text):
        raise DataError(f"{' '.join(data)}: no text to score")
    known = traces.in_training(trained.card.corpus, trained.tokenizer)
    if known is None:
        notice("the cached training text of this run is gone, so leaks were not looked for")
    elif known.documents or known.windows:
        notice(_leak(known))
    if trained.tokenizer.kind == WORD:  # blanks and the letters of unknown words are not scored
        unknown = int((text.ids == trained.tokenizer.unknown).sum())
        notice(
            f"{unknown:,} of {text.tokens:,} words are unknown; bits per byte of a word model leave out their letters"
        )
    return text


class Shared:
    """The held-out text of several runs: tokenised once for each tokenizer; what there is to say of it is said once
    for each training text, which it names if they are several; `said` keeps it by these texts."""

    def __init__(self, data: Sequence[str], cards: Iterable[Card], notice: Notice) -> None:
        self.data, self.notice, self.name = data, notice, len({card.text for card in cards}) > 1
        self.texts: dict[tuple[str, str, bytes], Text] = {}
        self.said: dict[str, list[str]] = {}

    def of(self, trained: Checkpoint) -> Text:
        """As `held_out`."""
        card, key = trained.card, (trained.card.text, trained.card.corpus, trained.tokenizer.model)
        if key not in self.texts:
            about = f"{card.source}: " if self.name else ""
            known, told = card.text in self.said, self.said.setdefault(card.text, [])

            def say(said: str) -> None:
                if not known:
                    told.append(said)
                    self.notice(about + said)

            self.texts[key] = held_out(trained, self.data, say)
        return self.texts[key]

    def free(self, trained: Checkpoint) -> tuple[dict[str, float], np.ndarray | None]:
        """Bits per byte of the text that cost no model, and the `floor` of our own stories.

        Nothing where tokens are words, which do not spell the text's bytes.
        """
        text, tokenizer = self.of(trained), trained.tokenizer
        if tokenizer.kind == WORD:
            return {}, None
        lines = reference_lines(raw_bytes(text, tokenizer))
        if self.data or not trained.card.source.builtin:
            return lines, None
        least = floor(raw_bytes(text, tokenizer))
        return lines | {"exact entropy": float(least.sum()) / text.bytes}, least


def own_corpus(trained: Checkpoint, notice: Notice, remedy: str) -> Corpus:
    """What a run was trained on, opened again. Raises DataError, with the remedy, where that is gone or has changed."""
    source = trained.card.source
    if trained.card.preset == "imported":
        raise DataError(f"this model was imported, and its text is not known; {remedy}")
    if "-" in source.paths:
        raise DataError(f"this run was trained on standard input; {remedy}")
    corpus = open_corpus(source, notice, trained.tokenizer)
    if corpus.digest != trained.card.corpus:
        raise DataError(f"{source}: changed since this run was trained on it; {remedy}")
    return corpus


def _leak(known: Overlap) -> str:
    shares = f"{100 * known.documents:.3g} % of the documents and {100 * known.windows:.3g} % of the 50-byte windows"
    return f"{'LEAK' if known.documents else 'overlap'}: {shares} also stand in the text this run was trained on"


def raw_bytes(text: Text, tokenizer: Tokenizer) -> Iterator[bytes]:
    """The documents of a text as they were in their files."""
    return (tokenizer.decode_bytes(text.document(index)) for index in range(len(text)))


def reference_lines(raw: Iterable[bytes]) -> dict[str, float]:
    """Bits per byte of documents that cost no model: uniform, byte entropy, three compressors over all of them."""
    makers: dict[str, Any] = {
        "gzip -9": zlib.compressobj(9, wbits=31),
        "bzip2 -9": bz2.BZ2Compressor(9),
        "xz -9": lzma.LZMACompressor(preset=9),
    }
    packed, counts = dict.fromkeys(makers, 0), np.zeros(256, np.int64)
    for document in raw:
        counts += np.bincount(np.frombuffer(document, np.uint8), minlength=256)
        for name, maker in makers.items():
            packed[name] += len(maker.compress(document))
    share = counts[counts > 0] / counts.sum()
    lines = {"uniform bytes": 8.0, "byte entropy": float(-(share * np.log2(share)).sum())}
    sizes = {name: packed[name] + len(maker.flush()) for name, maker in makers.items()}
    return lines | {name: size * 8 / int(counts.sum()) for name, size in sizes.items()}


def floor(raw: Iterable[bytes]) -> np.ndarray:
    """Bits (D,) of each of our own stories, exact: what no model can beat for long. Raises DataError for others."""
    return np.array([stories.nats(each.decode()) for each in raw]) / math.log(2)
