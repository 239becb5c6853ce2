"""A model's answers to probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from mlx_gpt.bootstrap import LEVEL
from mlx_gpt.corpus import encode_text
from mlx_gpt.measure import scored
from mlx_gpt.model import LanguageModel
from mlx_gpt.probes.pairs import Skill, Twins
from mlx_gpt.tokenizer import Tokenizer

TIE = 1e-3  # nats: what rounding makes of two texts that are the same to a model


def probabilities(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """log p of each text (N,) in nats, read as in an evaluation; whether it ends there is not asked."""
    text = encode_text(texts, tokenizer)
    found, lengths = np.zeros(len(text)), np.diff(text.starts)
    for document, start, logprobs in scored(model, text):
        found[document] += logprobs[: max(0, int(lengths[document]) - 1 - start)].sum(dtype=np.float64)
    return found


def answers(
    model: LanguageModel, tokenizer: Tokenizer, probes: Sequence[tuple[Skill, Sequence[Twins]]]
) -> list[dict[str, Any]]:
    """What comes of each skill; see `centred`. `bits` is by how much right is likelier than wrong, a text, on average.

    All are None where nothing could be asked.
    """
    flat = [text for _, made in probes for each in made for text in each.texts]
    logprobs = probabilities(model, tokenizer, flat).reshape(-1, 2, 2) if flat else np.zeros((0, 2, 2))
    with np.errstate(invalid="ignore"):  # two impossible texts are a tie
        better = np.nan_to_num((logprobs[..., 0] - logprobs[..., 1]).mean(axis=1), posinf=np.inf, neginf=-np.inf)
    told, at = list[dict[str, Any]](), 0
    for skill, made in probes:
        here, at = better[at : at + len(made)], at + len(made)
        value, low, high = centred(int((here > TIE).sum()), int((here < -TIE).sum()), len(made)) or (None,) * 3
        bits = float(here.mean()) / math.log(2) if made else None
        about = {"name": skill.name, "group": skill.group, "part": skill.part, "twins": len(made)}
        told.append(about | {"value": value, "low": low, "high": high, "bits": bits})
    return told


def centred(right: int, wrong: int, count: int) -> tuple[float, float, float] | None:
    """(accuracy - chance) / (1 - chance) with chance 1/2, ties being half right, as CORE does (Li et al. 2024, arXiv
    2406.11794): 0 is chance, 1 always right; and the ends of its 95 % interval. None for a count of 0.

    It is (right - wrong) / count, a difference of matched proportions, whose interval stays honest where all are alike
    with half a twin added to each of its four kinds (Agresti & Min 2005, Statistics in Medicine 24:729).
    """
    if not count:
        return None
    middle = (right - wrong) / (count + 2)
    error = math.sqrt(right + wrong + 1 - (right - wrong) ** 2 / (count + 2)) / (count + 2)
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    return (right - wrong) / count, max(-1.0, middle - reach), min(1.0, middle + reach)
