"""How many training tokens a recipe needs: python scripts/bench_tokens.py --data ../tinyshakespeare

Stage 11 at the size and batch of nanoGPT's small setting, by several seeds, scored on all held-out text (validation
and test) at given counts of tokens, in two ways: in disjoint blocks of the context's length, as nanoGPT does (contexts
of 1 to 64 characters), and as this project does (half-overlapping windows). Beside it the n-gram of stage 4 on the
same text: where it is overtaken, and what the two reach together when their probabilities are mixed.
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
from mlx_gpt.model import LanguageModel, Silent
from mlx_gpt.run import parameter_count

SMALL = {
    "context": 64,
    "width": 128,
    "layers": 4,
    "heads": 2,
    "kv_heads": 2,
    "inner": 320,
}  # 800,640 parameters with Tiny Shakespeare's 65 characters and 257 bytes; nanoGPT's small setting has 804,096
BATCH = 12


class Watch(Silent):
    """A report that scores all held-out text at each look; its seconds are of training, compiling and the loop's own
    looks."""

    def __init__(self, texts: tuple[Text, ...], rows: int, context: int) -> None:
        self.texts, self.context, self.tokens_a_step = texts, context, rows * context
        self.points: list[dict[str, float]] = []
        self.scoring = 0.0
        self.started = time.perf_counter()

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None:
        started = time.perf_counter()
        blocks = [block_nats(model, text, self.context) * text.tokens for text in self.texts]
        point: dict[str, float] = {
            "tokens": step * self.tokens_a_step,
            "nats_in_blocks": sum(blocks) / sum(text.tokens for text in self.texts),
            "nats_in_windows": nats_a_token(model, self.texts),
        }
        self.scoring += time.perf_counter() - started
        self.points.append({**point, "seconds": time.perf_counter() - self.started - self.scoring})


def nats_a_token(model: LanguageModel, texts: tuple[Text, ...]) -> float:
    """As this project evaluates: a whole text, in windows that each score their last half where there is a context."""
    return sum(float(measure(model, text).nats.sum()) for text in texts) / sum(text.tokens for text in texts)


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


def crossing(points: list[dict[str, float]], name: str, level: float) -> str:
    """Between which looks a loss falls to `level`, in tokens, and where in a line between them."""
    before = {"tokens": 0.0, name: math.inf}
    for after in points:
        if after[name] <= level:
            share = (before[name] - level) / (before[name] - after[name]) if before["tokens"] else 1.0
            about = before["tokens"] + share * (after["tokens"] - before["tokens"])
            return f"{before['tokens']:,.0f} to {after['tokens']:,.0f} (about {about:,.0f})"
        before = after
    return "no look"


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
@click.option("--level", default=1.88, show_default=True, help="Nats a token whose crossing, in blocks, is told.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A setting of config or recipe, changed.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures there.")
def main(
    data: tuple[str, ...],
    stage: int,
    steps: int,
    every: int,
    seeds: int,
    first_seed: int,
    level: float,
    changes: tuple[str, ...],
    target: Path | None,
) -> None:
    """Validation loss by training tokens: mean and spread over seeds."""
    pick_device()
    corpus = open_corpus(Source(data, "char", 0, 0), lambda message: None)
    texts = (corpus.valid, corpus.test)
    known, counted = stages.stage(stage), stages.stage(4)
    config, recipe = changed(stage, changes)
    recipe = {"batch_size": BATCH, "length": 0} | recipe | {"steps": steps, "evaluate_every": every}
    context = recipe["length"] or config.get("context", SMALL["context"])
    recipe["length"] = context
    recipe["warmup"] = recipe.get("warmup", min(vars(known.recipe)["warmup"], steps // 4))
    longest: dict[str, Any] = {"order": 7}
    ngram = counted.model(dataclasses.replace(counted.config, **longest), corpus.tokenizer.vocab_size)
    ngram.fit(corpus, counted.recipe, Silent())
    counting = nats_a_token(ngram, texts)
    click.echo(f"n-gram of order 7: {counting:.4f} nats a token after {corpus.train.tokens:,} tokens, each once")
    runs, pairs, size = [], [], 0
    for seed in range(first_seed, first_seed + seeds):
        watch = Watch(texts, recipe["batch_size"], context)
        model = trained(stage, corpus, config, {**recipe, "seed": seed}, watch)
        size = parameter_count(model)
        runs.append(watch.points)
        pairs.append(together(model, ngram, corpus, context))
        last = watch.points[-1]
        click.echo(
            f"seed {seed}: {last['nats_in_blocks']:.4f} nats in blocks, {last['nats_in_windows']:.4f} in windows after "
            f"{last['tokens']:,} tokens and {last['seconds']:.0f} s; {level} in blocks at "
            f"{crossing(watch.points, 'nats_in_blocks', level)} tokens; the n-gram passed in windows at "
            f"{crossing(watch.points, 'nats_in_windows', counting)}, in blocks at "
            f"{crossing(watch.points, 'nats_in_blocks', counting)}"
        )
    click.echo(f"stage {stage}, {size:,} parameters, {seeds} seeds: mean ± standard deviation")
    click.echo("     tokens   nats/token in blocks   in windows        seconds")
    table = [spread(points) for points in zip(*runs, strict=True)]
    for row in table:
        click.echo(
            f"{row['tokens']:>11,}   {row['nats_in_blocks']:.4f}{give(row, 'nats_in_blocks')}      "
            f"{row['nats_in_windows']:.4f}{give(row, 'nats_in_windows')}   {row['seconds']:6.1f}"
        )
    pair = {name: statistics.mean(found[name] for found in pairs) for name in pairs[0]}
    click.echo(
        f"test half alone: n-gram {pair['ngram']:.4f}, stage {stage} {pair['neural']:.4f}, together "
        f"{pair['together']:.4f} (weight of stage {stage} {pair['weight_of_neural']:.2f}, set on the other half)"
    )
    if target is not None:
        told = {"machine": description(), "version": mlx_gpt.__version__, "steps": steps, "changes": changes}
        told |= {"data": [Path(name).name for name in data], "parameters": size, "ngram": counting}
        target.write_text(json.dumps({**told, "runs": runs, "table": table, "pairs": pairs}, indent=1))


def changed(stage: int, changes: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs from a stage's own config and recipe: the small shape, and NAME=VALUE of either."""
    known = stages.stage(stage)
    config: dict[str, Any] = {name: value for name, value in SMALL.items() if hasattr(known.config, name)}
    recipe: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        own, kind = (known.config, config) if hasattr(known.config, name) else (known.recipe, recipe)
        if not hasattr(own, name) or name in ("steps", "evaluate_every", "seed"):
            raise click.BadParameter(
                f"{name}: neither config nor recipe of stage {stage} has it, or an option of its own",
                param_hint="--set",
            )
        default = getattr(own, name)
        try:
            kind[name] = {"true": True, "false": False}[text.lower()] if type(default) is bool else type(default)(text)
        except (KeyError, ValueError) as error:
            raise click.BadParameter(f"{change}: expected a {type(default).__name__}", param_hint="--set") from error
    return config, recipe


def give(row: dict[str, float], name: str) -> str:
    """The standard deviation; one run has none."""
    spread = row.get(f"{name}_spread")
    return " " * 9 if spread is None else f" ± {spread:.4f}"


def spread(points: tuple[dict[str, float], ...]) -> dict[str, float]:
    """The mean of one look over several runs, and the standard deviation."""
    row = {"tokens": points[0]["tokens"]}
    for name in ("nats_in_blocks", "nats_in_windows", "seconds"):
        values = [point[name] for point in points]
        row[name] = statistics.mean(values)
        if len(values) > 1:
            row[f"{name}_spread"] = statistics.stdev(values)
    return row


if __name__ == "__main__":
    main()
