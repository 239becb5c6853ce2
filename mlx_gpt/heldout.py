"""The text a trained model is scored on: the split its run never saw, or files, with a look for leaks."""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Callable, Sequence

import numpy as np

from mlx_gpt import stories
from mlx_gpt.checkpoint import Checkpoint
from mlx_gpt.corpus import Corpus, Text, documents, encode_text, files, named_paths, open_corpus, overlap
from mlx_gpt.errors import DataError
from mlx_gpt.tokenizer import WORD, Tokenizer

Notice = Callable[[str], None]


def held_out(trained: Checkpoint, data: Sequence[str], notice: Notice) -> Text:
    """The run's own test split, or the documents of `data` in its tokenizer.

    Raises DataError where the run's text is gone or has changed, or where `data` holds no text. Notices say
    how many documents of `data` were trained on.
    """
    if not data:
        return own_corpus(trained, notice).test
    with named_paths(data) as paths:
        texts = list(documents(files(paths)))
    if not texts:
        raise DataError(f"{' '.join(data)}: no text to score")
    known = overlap(trained.card.corpus, texts)
    if known is None:
        notice("the cached training text of this run is gone, so leaks were not looked for")
    elif known:
        notice(f"LEAK: {known} of {len(texts)} documents also stand in the text this run was trained on")
    text = encode_text(texts, trained.tokenizer)
    if trained.tokenizer.kind == WORD:  # blanks and the letters of unknown words are not scored
        unknown = int((text.ids == trained.tokenizer.unknown).sum())
        notice(
            f"{unknown:,} of {text.tokens:,} words are unknown; bits per byte of a word model leave out their letters"
        )
    return text


def own_corpus(trained: Checkpoint, notice: Notice) -> Corpus:
    """What a run was trained on, opened again. Raises DataError where that is gone or has changed."""
    source = trained.card.source
    if trained.card.preset == "imported":
        raise DataError("this model was imported, and its text is not known; give --data FILE to score it on")
    if "-" in source.paths:
        raise DataError("this run was trained on standard input; give --data FILE to score it on")
    corpus = open_corpus(source, notice)
    if corpus.digest != trained.card.corpus:
        raise DataError(f"{source}: changed since this run was trained on it; give --data FILE")
    return corpus


def raw_bytes(text: Text, tokenizer: Tokenizer) -> list[bytes]:
    """The documents of a text as they were in their files."""
    return [tokenizer.decode_bytes(text.document(index)) for index in range(len(text))]


def reference_lines(raw: Sequence[bytes], builtin: bool) -> dict[str, float]:
    """Bits per byte that cost no model: uniform, byte entropy, two compressors, and the exact floor of our own
    stories, below which no model can stay for long."""
    whole = b"".join(raw)
    share = np.bincount(np.frombuffer(whole, np.uint8)) / len(whole)
    share = share[share > 0]
    lines = {
        "uniform bytes": 8.0,
        "byte entropy": float(-(share * np.log2(share)).sum()),
        "gzip -9": len(gzip.compress(whole, 9)) * 8 / len(whole),
        "xz -9": len(lzma.compress(whole, preset=9)) * 8 / len(whole),
    }
    if builtin:
        nats = math.fsum(stories.nats(each.decode()) for each in raw)
        lines["exact entropy"] = nats / math.log(2) / len(whole)
    return lines
