"""What every run is asked for a report: the surprise of one passage, samples of the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_gpt.checkpoint import Checkpoint
from mlx_gpt.completion import surprise
from mlx_gpt.corpus import Text
from mlx_gpt.decoding import Batch
from mlx_gpt.plot import Line, smooth
from mlx_gpt.sampling import Taste
from mlx_gpt.tokenizer import Tokenizer

PASSAGE = 1_000  # bytes, about
PROMPT = 30  # bytes, about
POINTS = 100  # of a learning curve
SHORTER = (8, 4, 2)  # samples are measured as a whole and by their beginnings, such parts of the asked-for tokens


@dataclass(frozen=True)
class Asked:
    """How samples are written: every prompt with every seed, so many tokens each."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    tokens: int
    taste: Taste

    def json(self) -> dict[str, Any]:
        """As results.json tells it."""
        return {
            "prompts": list(self.prompts),
            "seeds": list(self.seeds),
            "tokens": self.tokens,
            "sampling": dict(vars(self.taste)),
        }


def passage(text: Text, tokenizer: Tokenizer) -> str:
    """The beginning of a held-out document that is long enough, cut after a line or a word."""
    enough = np.flatnonzero(text.sizes >= PASSAGE)
    document = int(enough[0]) if len(enough) else int(text.sizes.argmax())
    return beginning(tokenizer.decode(text.document(document)[: PASSAGE + 1]), PASSAGE)


def prompts(text: Text, tokenizer: Tokenizer, shown: str) -> tuple[str, ...]:
    """No prompt, the first words of the passage, and those of the last document."""
    last = tokenizer.decode(text.document(len(text) - 1)[: PROMPT + 1])
    return tuple(dict.fromkeys(("", beginning(shown, PROMPT), beginning(last, PROMPT))))


def beginning(text: str, size: int) -> str:
    """About so many bytes of a text, up to the end of a line or of a word."""
    raw = text.encode()[:size].decode(errors="ignore")
    if raw == text:
        return text
    line = raw.rfind("\n") + 1
    if line > len(raw) * 3 // 4:
        return raw[:line].rstrip()
    space = raw.rfind(" ")
    return raw[:space].rstrip() if space > 0 else raw


def passage_bits(trained: Checkpoint, shown: str) -> dict[str, Any]:
    """The tokens of a text that begins, and the bits of each, -log2 p."""
    pieces, bits = surprise(trained, [trained.tokenizer.eot, *trained.tokenizer.encode(shown)])
    return {"pieces": pieces, "bits": np.round(bits, 3).tolist()}


def samples(trained: Checkpoint, asked: Asked) -> list[dict[str, Any]]:
    """A text for every prompt and seed: where they stand in `asked`, what was written, how many tokens it is, and how
    many letters of it each of its beginnings has."""
    batch, places = Batch(trained.model, asked.taste), dict[int, tuple[int, int]]()
    for at, prompt in enumerate(asked.prompts):
        ids = [trained.tokenizer.eot, *trained.tokenizer.encode(prompt)]
        for number, seed in zip(batch.add_samples(ids, asked.seeds), asked.seeds, strict=True):
            places[number] = at, seed
    written: dict[int, list[int]] = {number: [] for number in places}
    while batch.numbers:
        for number, token in batch.step().items():
            written[number].append(token)
            if token == trained.tokenizer.eot or len(written[number]) == asked.tokens:
                batch.drop(number)
    told = []
    for number, (at, seed) in places.items():
        ids, tokenizer = written[number], trained.tokenizer
        cuts = _cuts(ids, tokenizer, asked)
        told.append({"prompt": at, "seed": seed, "text": tokenizer.decode(ids), "tokens": len(ids), "cuts": cuts})
    return told


def excerpts(text: Text, tokenizer: Tokenizer, asked: Asked) -> list[dict[str, Any]]:
    """As many parts of the held-out text as there are samples, each as long, told as samples are."""
    count, told = len(asked.prompts) * len(asked.seeds), []
    if len(text) >= count:
        starts = text.starts[np.arange(count) * len(text) // count] + 1
    else:
        starts = np.arange(count) * max(0, len(text.ids) - asked.tokens) // count + 1
    for start in starts.tolist():
        ids = text.ids[start : start + asked.tokens]
        ids = np.split(ids, np.flatnonzero(ids == tokenizer.eot)[:1])[0]
        told.append({"text": tokenizer.decode(ids), "cuts": _cuts(ids, tokenizer, asked)})
    return told


def _cuts(ids: Sequence[int] | np.ndarray, tokenizer: Tokenizer, asked: Asked) -> list[int]:
    """Letters of each beginning of a text."""
    return [len(tokenizer.decode(ids[: -(-asked.tokens // part)])) for part in SHORTER]


def lengths(asked: Asked, told: Sequence[dict[str, Any]]) -> dict[int, list[str]]:
    """The texts of samples by how many tokens of each are looked at, at most."""
    beginnings = {
        -(-asked.tokens // part): [each["text"][: each["cuts"][at]] for each in told] for at, part in enumerate(SHORTER)
    }
    return beginnings | {asked.tokens: [each["text"] for each in told]}


def curve(lines: Sequence[Line], scores: dict[str, float]) -> dict[str, list[list[float | None]]]:
    """A log's learning curves as points of training tokens, seconds and bits per byte: training, smoothed, and
    validation. A stage that counts has one point of validation, placed by its card's scores."""
    known = [(line.step, line.tokens, line.seconds) for line in lines if line.tokens and line.seconds]
    train = smooth([(line.step, line.bits_per_byte) for line in lines if line.step and line.bits_per_byte is not None])
    if len(train) > POINTS:  # dense at first, where curves are steep
        kept = np.unique(np.geomspace(1, len(train), POINTS).round().astype(int)) - 1
        train = [train[at] for at in kept.tolist()]
    valid = [(line.step, line.valid_bits_per_byte) for line in lines if line.valid_bits_per_byte is not None]

    def placed(points: Sequence[tuple[int, float]]) -> list[list[float | None]]:
        if not known:
            at = [scores.get("train_tokens"), scores.get("seconds")]
            return [[*at, value] for _, value in points[-1:]]
        steps, tokens, seconds = zip(*known, strict=True)
        return [
            [float(np.interp(step, steps, tokens)), round(float(np.interp(step, steps, seconds)), 3), round(value, 5)]
            for step, value in points
        ]

    return {"train": placed(train), "valid": placed(valid)}
