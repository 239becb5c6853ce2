"""What a held-out text is resampled by: its documents, or blocks of them where they are few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_gpt.corpus.corpus import Text
from mlx_gpt.tokenizer import Tokenizer

FEW = 20  # documents: with fewer, the text is cut into about so many blocks of consecutive bytes
SHORTEST = 100  # bytes of a block


@dataclass(frozen=True)
class Units:
    """Parts of a text that are scored apart, none of them across documents.

    starts  (U + 1,)  position in the stream of the token before each, and of the last token
    sizes   (U,)      raw UTF-8 bytes of each
    block   bytes in one where documents were cut, 0 where they are whole
    """

    starts: np.ndarray
    sizes: np.ndarray
    block: int = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def __str__(self) -> str:
        return f"blocks of {self.block:,} bytes" if self.block else f"{len(self):,} documents"

    def by_document(self, values: np.ndarray, text: Text) -> np.ndarray:
        """Sums (D,) of values (U,) over the units of each document."""
        return np.add.reduceat(values, np.searchsorted(self.starts, text.starts[:-1]))


def units(text: Text, tokenizer: Tokenizer) -> Units:
    """A text's units: the same bytes of the text whatever the tokenizer, a token counting where it begins.

    Blocks do not overlap (Carlstein 1986, Annals of Statistics 14:1171) and are few, so that a block is long beside
    what its tokens have in common.
    """
    block = max(SHORTEST, -(-text.bytes // FEW))
    if len(text) >= FEW:
        return Units(text.starts, text.sizes)
    spelled = tokenizer.lengths()
    starts, sizes = [np.zeros(1, np.int64)], []
    for document, size in enumerate(text.sizes.tolist()):
        count = max(1, round(size / block))
        ends = np.cumsum(spelled[text.document(document)[1:]])
        begins = np.append(0, ends[:-1])
        edges = np.arange(1, count + 1) * ends[-1] // count
        cuts = np.searchsorted(begins, edges)
        cuts[-1] = len(ends)  # the mark that ends the document begins at its end
        starts.append(text.starts[document] + cuts)
        sizes.append(np.diff(np.arange(count + 1) * size // count))
    return Units(np.concatenate(starts), np.concatenate(sizes), block)
