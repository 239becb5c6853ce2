"""How many training tokens a recipe needs: python scripts/bench_tokens.py --data ../tinyshakespeare

Stage 11 at the size and batch of nanoGPT's small setting, by several seeds, scored on all held-out text (validation
and test) at given counts of tokens, in two ways: in disjoint blocks of the context's length, as nanoGPT does (contexts
of 1 to 64 characters), and as this project does (half-overlapping windows). At the end the n-gram of stage 4 on the
same text, and what the two reach together when their probabilities are mixed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import click

import mlx_gpt  # before MLX, so that it finds the tuned BLAS

# isort: split
import mlx.core as mx
import numpy as np

from mlx_gpt import stages
from mlx_gpt.corpus import Corpus, Source, Text, open_corpus
from mlx_gpt.device import description, pick_device
from mlx_gpt.measure import measure
from mlx_gpt.model import Kept, LanguageModel, Progress

SMALL = {
    "context": 64,
    "width": 128,
    "layers": 4,
    "heads": 2,
    "kv_heads": 2,
    "inner": 320,
}  # 0.80 M parameters with 322 characters and bytes
BATCH = 12


class Silent:
    """A report that nobody reads."""

    def notice(self, message: str) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None: ...

    def keep(self, kept: Kept) -> None: ...

    def kept(self) -> Kept | None:
        return None

    def stopping(self) -> int:
        return 0


class Watch(Silent):
    """A report that scores all held-out text at each look."""

    def __init__(self, texts: tuple[Text, ...], tokens_a_step: int) -> None:
        self.texts, self.tokens_a_step = texts, tokens_a_step
        self.points: list[dict[str, float]] = []
        self.scoring = 0.0
        self.started = time.perf_counter()

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None:
        started = time.perf_counter()
        windows = [measure(model, text) for text in self.texts]
        blocks = [block_nats(model, text, SMALL["context"]) for text in self.texts]
        tokens = sum(text.tokens for text in self.texts)
        point: dict[str, float] = {
            "tokens": step * self.tokens_a_step,
            "nats_in_blocks": sum(n * text.tokens for n, text in zip(blocks, self.texts, strict=True)) / tokens,
            "nats_in_windows": sum(float(score.nats.sum()) for score in windows) / tokens,
        }
        self.scoring += time.perf_counter() - started
        self.points.append({**point, "seconds": time.perf_counter() - self.started - self.scoring})


def block_nats(model: LanguageModel, text: Text, context: int) -> float:
    """Nats a token in disjoint blocks of `context` tokens, as nanoGPT reports its loss, but over all of the text."""
    ids = np.asarray(text.ids, np.int32)
    blocks = (len(ids) - 1) // context
    starts = np.arange(blocks)[:, None] * context + np.arange(context + 1)
    total = sum(
        float(np.array(model.score(mx.array(ids[starts[n : n + 128]]))).sum(dtype=np.float64))
        for n in range(0, blocks, 128)
    )
    return -total / (blocks * context)


def together(neural: LanguageModel, counted: LanguageModel, corpus: Corpus, context: int) -> dict[str, float]:
    """Nats a token of the test text: each alone, and their mixture by one weight, which the validation text sets."""
    pairs = [side_by_side(neural, counted, text, context) for text in (corpus.valid, corpus.test)]
    (one, other), (two, more) = pairs
    weight = min(np.linspace(0, 1, 101), key=lambda w: -np.log(w * one + (1 - w) * other).sum())
    figures = {"neural": two, "ngram": more, "together": weight * two + (1 - weight) * more}
    return {name: -float(np.log(p).mean()) for name, p in figures.items()} | {"weight_of_neural": float(weight)}


def side_by_side(
    neural: LanguageModel, counted: LanguageModel, text: Text, context: int
) -> tuple[np.ndarray, np.ndarray]:
    """What each gives the tokens of a text; the neural model in windows that each score their last half."""
    ids = np.asarray(text.ids, np.int32)
    stride = context // 2
    starts = np.arange(0, len(ids) - context - 1, stride)
    windows = ids[starts[:, None] + np.arange(context + 1)]
    parts = [np.array(neural.score(mx.array(windows[n : n + 128])))[:, stride:] for n in range(0, len(windows), 128)]
    places = (starts[:, None] + np.arange(stride, context) + 1).ravel()
    one = np.exp(np.concatenate(parts).ravel().astype(np.float64))
    other = np.exp(np.array(counted.score(mx.array(ids[None])))[0][places - 1].astype(np.float64))
    return one, other


def trained(number: int, corpus: Corpus, config: dict[str, Any], recipe: dict[str, Any], watch: Watch) -> LanguageModel:
    """A stage with these changes of its small preset, trained."""
    stage = stages.stage(number)
    mx.random.seed(recipe.get("seed", 0))
    model = stage.model(dataclasses.replace(stage.config, **config), corpus.tokenizer.vocab_size)
    model.fit(corpus, dataclasses.replace(stage.recipe, **recipe), watch)
    return model


@click.command()
@click.option("--data", required=True, multiple=True, help="Text with its own train and valid files, or any text.")
@click.option("--stage", default=11, show_default=True, type=click.IntRange(5, 11), help="Stage to train.")
@click.option("--steps", default=2_000, show_default=True, help="Steps of 12 sequences of 64 characters.")
@click.option("--every", default=333, show_default=True, help="Steps between two looks.")
@click.option("--seeds", default=5, show_default=True, help="Runs, each with a seed of its own.")
@click.option("--first-seed", default=0, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A setting of config or recipe, changed.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures there.")
def main(
    data: tuple[str, ...],
    stage: int,
    steps: int,
    every: int,
    seeds: int,
    first_seed: int,
    changes: tuple[str, ...],
    target: Path | None,
) -> None:
    """Validation loss by training tokens: mean and spread over seeds."""
    pick_device()
    corpus = open_corpus(Source(data, "char", 0, 0), lambda message: None)
    known = stages.stage(stage)
    config: dict[str, Any] = {name: value for name, value in SMALL.items() if hasattr(known.config, name)}
    recipe: dict[str, Any] = {"steps": steps, "batch_size": BATCH, "evaluate_every": every}
    for change in changes:
        name, _, text = change.partition("=")
        kind = config if hasattr(known.config, name) else recipe
        default = getattr(known.config if kind is config else known.recipe, name)
        kind[name] = text == "True" if isinstance(default, bool) else type(default)(text)
    recipe["warmup"] = recipe.get("warmup", min(vars(known.recipe)["warmup"], steps // 4))
    runs, model = [], None
    for seed in range(first_seed, first_seed + seeds):
        watch = Watch((corpus.valid, corpus.test), BATCH * SMALL["context"])
        model = trained(stage, corpus, config, {**recipe, "seed": seed}, watch)
        runs.append(watch.points)
        last = watch.points[-1]
        click.echo(
            f"seed {seed}: {last['tokens']:,} tokens, {last['nats_in_blocks']:.4f} nats in blocks, "
            f"{last['nats_in_windows']:.4f} in windows, {last['seconds']:.1f} s of training; below 1.88 in blocks "
            f"after {crossing(watch.points, 1.88)}",
            err=True,
        )
    click.echo("     tokens   nats/token in blocks   in windows     seconds")
    table = []
    for points in zip(*runs, strict=True):
        row: dict[str, Any] = {"tokens": points[0]["tokens"]}
        for name in ("nats_in_blocks", "nats_in_windows", "seconds"):
            values = [point[name] for point in points]
            row[name] = statistics.mean(values)
            row[f"{name}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
        table.append(row)
        click.echo(
            f"{row['tokens']:>11,}   {row['nats_in_blocks']:.4f} ± {row['nats_in_blocks_spread']:.4f}      "
            f"{row['nats_in_windows']:.4f} ± {row['nats_in_windows_spread']:.4f}   {row['seconds']:6.1f}"
        )
    assert model is not None
    counted = stages.stage(4)
    longest: dict[str, Any] = {"order": 7}
    ngram = counted.model(dataclasses.replace(counted.config, **longest), corpus.tokenizer.vocab_size)
    ngram.fit(corpus, counted.recipe, Silent())
    pair = together(model, ngram, corpus, SMALL["context"])
    click.echo(
        f"test text: n-gram {pair['ngram']:.4f}, stage {stage} {pair['neural']:.4f}, together "
        f"{pair['together']:.4f} (weight of stage {stage} {pair['weight_of_neural']:.2f}, set on the validation text)"
    )
    if target is not None:
        told = {"machine": description(), "version": mlx_gpt.__version__, "steps": steps, "changes": changes}
        target.write_text(json.dumps({**told, "runs": runs, "table": table, "pair": pair}, indent=1))


def crossing(points: list[dict[str, float]], level: float) -> str:
    """The first look at which the loss in blocks is at most `level`."""
    found = next((point["tokens"] for point in points if point["nats_in_blocks"] <= level), math.inf)
    return f"{found:,.0f} tokens" if found < math.inf else "no look"


if __name__ == "__main__":
    main()
