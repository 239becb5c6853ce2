"""What a model writes by itself, as text for another to learn: each text begins as a training document does.

A model fitted to such text foretells the first better than one fitted to the training text (Kim & Rush 2016,
sequence-level knowledge distillation; Zhou et al. 2023, DistillSpec, for drafts).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mlx_gpt.corpus import Text
from mlx_gpt.decoding import Batch
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste

TOGETHER = 64  # texts written side by side
LONGEST = 48  # tokens that a text begins with, at most


def beginnings(text: Text, count: int, seed: int) -> Iterator[list[int]]:
    """The first 1 to `LONGEST` tokens of documents, the mark before them the first: each document once, in an order of
    chance, before any comes again."""
    chance = np.random.default_rng(seed)
    rounds = itertools.chain.from_iterable(chance.permutation(len(text)) for _ in itertools.count())
    for document in itertools.islice(rounds, count):
        yield text.document(int(document))[: chance.integers(1, LONGEST + 1)].tolist()


def written(
    model: LanguageModel, begun: Iterable[Sequence[int]], taste: Taste, tokens: int, eot: int, seed: int
) -> Iterator[list[int]]:
    """Texts as they end, with their beginnings: each goes on until the mark of its end, or for so many tokens."""
    batch, waiting, texts = Batch(model, taste), iter(begun), dict[int, list[int]]()
    lengths = dict[int, int]()  # of the beginnings
    while True:
        for ids in itertools.islice(waiting, TOGETHER - len(texts)):
            number = batch.add(ids, seed + len(lengths))
            texts[number], lengths[number] = list(ids), len(ids)
        if not texts:
            return
        for number, token in batch.step().items():
            texts[number].append(token)
            if token == eot or len(texts[number]) == lengths[number] + tokens:
                batch.drop(number)
                yield texts.pop(number)
