"""Measure generation: python scripts/bench_generate.py, for tokens a second, and ratios against mlx-lm."""

from __future__ import annotations

from mlx_gpt.device import pick_device  # before MLX, so that it finds the tuned BLAS

# isort: split
import dataclasses
import functools
import importlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import numpy as np
from bench_figures import Figures, measured, missing, peak_bytes, ratio, summary, turns, writable
from mlx.utils import tree_map

from mlx_gpt import stages, stories
from mlx_gpt.corpus import Source, open_corpus
from mlx_gpt.decoding import Batch, generate, read
from mlx_gpt.descent import Neural
from mlx_gpt.descent.writing import laid_out
from mlx_gpt.door import Door
from mlx_gpt.model import LanguageModel, Silent
from mlx_gpt.sampling import Taste

VERSION = 1  # of the JSON
GREEDY = Taste(temperature=0)
VOCAB_SIZE = 2_048  # of the stages; of the counting ones a built-in text's
READ = 2**28  # bytes, more than any cache holds
MOST = 8_192  # tokens of all prompts of a batch together
MODERATE = 1_024  # tokens of the longest prompt that is compared with mlx-lm
UNCACHED = 128  # tokens of a prompt that stage 8 reads anew for each token it writes
NO_MLX_LM = "left out: mlx-lm is not installed (pip install mlx-lm)"
Seconds = tuple[float, float]  # to the first token; for all that follow


@dataclasses.dataclass(frozen=True)
class Asked:
    """The command line."""

    rounds: int
    quick: bool
    written: int
    lengths: tuple[int, ...] = (16, 128, 1_024, 8_192)
    batches: tuple[int, ...] = (1, 8, 32)

    @property
    def moderate(self) -> tuple[int, ...]:
        """The lengths of prompts that the larger model of the comparison with mlx-lm reads, too."""
        return tuple(length for length in self.lengths if length <= MODERATE)


@click.command(cls=Door)
@click.option("--only", type=click.Choice(("stages", "mlx-lm")), multiple=True, help="Measure this part alone.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Times each, by turns.")
@click.option("--written", type=click.IntRange(1), default=64, show_default=True, help="Tokens after the first one.")
@click.option("--quick", is_flag=True, help="Seconds: to see that it works, not to believe.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here, too.")
def main(only: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """How soon text comes: the first token, those after it, and the same by mlx-lm with the same weights.

    \b
    stages  every stage's small preset, by the length of the prompt and the texts side by side: tokens of prompts and
            of texts a second, peak memory beside the weights, bytes of weights and memory a step reads, as a share of
            what one row times a matrix of 256 MB reads in the same time (more than all of it: read from a cache)
    mlx-lm  stage 11 without convolutions, which is a Qwen3, one greedy text; the tokens must be the same

    What is compared takes turns in one process: see bench_train.py. Below 1 ours is ahead, for seconds are compared.
    """
    writable(out)
    pick_device()
    asked = Asked(**options)
    if asked.quick:
        asked = Asked(min(asked.rounds, 2), True, 4, (4, 16), (1, 2))
    parts: dict[str, Callable[[Asked], Figures]] = {"stages": _stages, "mlx-lm": _mlx_lm}
    settings = dataclasses.asdict(asked)
    measured({name: functools.partial(parts[name], asked) for name in only or parts}, VERSION, settings, out)


# --- every stage


def _stages(asked: Asked) -> Figures:
    limit = _read_per_second(asked.quick)
    click.echo(f"  one row times a large matrix reads {limit / 1e9:.1f} GB/s")
    click.echo(
        "                        prompt x texts   first token   prompt tok/s   text tok/s       peak        read"
    )
    told: Figures = {}
    for number in stages.numbers():
        model = _model(number, asked)
        told[str(number)] = [
            _texts(number, model, length, texts, asked, limit)
            for length in asked.lengths
            for texts in asked.batches
            if texts == 1 or length * texts <= MOST
            if number != 8 or length <= UNCACHED
        ]
    return {"read_bytes_per_second": limit, "of": told}


def _read_per_second(quick: bool) -> float:
    """Bytes a second of a large matrix, as weights lie while a text is written, in a product with one row."""
    matrix, taken = laid_out(mx.ones((2**10, (2**20 if quick else READ) // 2**12))), []
    row = mx.ones((1, matrix.shape[1]))
    mx.eval(matrix, row)
    for _ in range(5):
        started = time.perf_counter()
        mx.eval(row @ matrix.T)
        taken.append(time.perf_counter() - started)
    return float(matrix.nbytes / min(taken))


def _model(number: int, asked: Asked) -> LanguageModel:
    """A stage: counted on built-in stories, or with random weights of which none is zero and room for every text."""
    stage, quick = stages.stage(number), asked.quick
    preset = stage.tiny if quick or number <= 4 else stage.preset("small")
    if number > 4:
        longer = {"context": max(asked.lengths) + asked.written + 2} if number >= 8 else {}
        return rough(stage.model(dataclasses.replace(preset.config, **longer), VOCAB_SIZE))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        text = Path(folder) / "stories.txt"
        text.write_text("\n<|endoftext|>\n".join(stories.stories(1, 300 if quick else 10_000)) + "\n")
        corpus = open_corpus(Source((str(text),), "bpe", 512 if quick else VOCAB_SIZE, 0), lambda message: None)
        model = stage.model(preset.config, corpus.tokenizer.vocab_size)
        model.fit(corpus, preset.recipe, Silent())
    return model


def rough(model: Any) -> LanguageModel:
    """A neural model whose every weight counts: as it begins, some of them are zero."""
    mx.random.seed(0)
    model.update(tree_map(lambda weight: weight + 0.05 * mx.random.normal(weight.shape), model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model


def _texts(number: int, model: LanguageModel, length: int, texts: int, asked: Asked, limit: float) -> Figures:
    """One stage, prompts of one length, so many of them side by side."""
    prompts = _prompt(model.vocab_size, length * texts).reshape(texts, length).tolist()

    def way() -> Seconds:
        batch, started = Batch(model, GREEDY), time.perf_counter()
        for seed, prompt in enumerate(prompts):
            batch.add(prompt, seed)
        batch.step()
        first = time.perf_counter()
        for _ in range(asked.written):
            batch.step()
        return first - started, time.perf_counter() - first

    way()  # compiles, allocates, warms the caches
    taken = turns({"ours": way}, min(asked.rounds, 3))["ours"]
    first, rest = (min(seconds) for seconds in zip(*taken, strict=True))
    peak = peak_bytes(lambda: way)
    rates = texts * length / first, texts * asked.written / rest
    found: Figures = {"prompt": length, "texts": texts, "first_token_ms": first * 1e3, "peak_bytes": peak}
    found |= {"prompt_tokens_per_second": rates[0], "tokens_per_second": rates[1]}
    if isinstance(model, Neural):  # what of a table a step reads is not known
        weights = sum(array.nbytes for array in model.arrays().values())
        memory = texts * sum(array.nbytes for array in read(model, prompts[0]).memory.arrays)
        speed = (weights + memory) * asked.written / rest
        found |= {"weight_bytes": weights, "memory_bytes": memory, "read_bytes_per_second": speed}
        found["share_of_limit"] = speed / limit
    told = f"{speed / 1e9:>6.2f} GB/s = {speed / limit:.0%}" if isinstance(model, Neural) else ""
    name = f"{number} {stages.stage(number).name}"
    click.echo(
        f"  {name:<22}{length:>6} x {texts:<5}{first * 1e3:>11.1f} ms{rates[0]:>15,.0f}"
        f"{rates[1]:>13,.0f}{peak / 2**20:>8.1f} MB{told}"
    )
    return found


def _prompt(vocab_size: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab_size, tokens)


# --- beside mlx-lm


def _mlx_lm(asked: Asked) -> Figures:
    """Stage 11 and mlx-lm's Qwen3 with the same weights, one greedy text."""
    if importlib.util.find_spec("mlx_lm") is None:
        return missing(NO_MLX_LM)
    generate_step: Any = importlib.import_module("mlx_lm.generate").generate_step
    stage, context = stages.stage(11), 2 * max(asked.moderate) + asked.written
    preset = stage.tiny if asked.quick else stage.preset("base")
    config: Any = dataclasses.replace(preset.config, context=context, taps=0, window=0)
    ours: Any = rough(stage.model(config, 512 if asked.quick else 8_192))
    theirs = _qwen3(ours)
    weights = sum(array.size for array in ours.arrays().values())
    ids = mx.array(_prompt(ours.vocab_size, 64))[None]
    far = float(np.array(mx.abs(ours.logits(ours.hidden(ids)) - theirs(ids)).max()))
    assert far < 1e-4, f"the logits differ by {far}: not the same model"
    click.echo(f"  {weights / 1e6:.1f} M weights, logits within {far:.1e}")
    found: Figures = {"weights": weights, "logits_differ_by": far, "prompts": []}
    for length in asked.moderate:
        prompt, said = _prompt(ours.vocab_size, length), dict[str, list[int]]()

        def by_us(prompt: np.ndarray = prompt) -> Iterator[int]:
            return generate(ours, prompt.tolist(), GREEDY, 0)

        def by_them(prompt: np.ndarray = prompt) -> Iterator[int]:
            tokens = generate_step(mx.array(prompt), theirs, max_tokens=asked.written + 1)
            return (int(token) for token, _ in tokens)

        def way(name: str, begin: Callable[[], Iterator[int]], said: dict[str, list[int]] = said) -> Seconds:
            started = time.perf_counter()
            tokens = begin()
            heard = [next(tokens)]
            first = time.perf_counter()
            heard += [next(tokens) for _ in range(asked.written)]
            ended = time.perf_counter()
            assert said.setdefault(name, heard) == heard
            return first - started, ended - first

        ways: dict[str, Callable[[], Seconds]] = {
            "ours": lambda: way("ours", by_us),
            "theirs": lambda: way("theirs", by_them),
        }
        for once in ways.values():
            once()
        taken = turns(ways, asked.rounds)
        assert said["ours"] == said["theirs"], f"after {length} tokens: other words"
        found["prompts"].append({"prompt": length} | _compared(length, asked.written, taken))
    return found


def _compared(length: int, written: int, taken: dict[str, list[Seconds]]) -> Figures:
    """Both sides' seconds as figures and as lines."""
    found: Figures = {}
    for at, (name, tokens) in enumerate([("first_token", length), ("rest", written)]):
        ours, theirs = ([seconds[at] for seconds in taken[side]] for side in ("ours", "theirs"))
        by = ratio(ours, theirs)
        found[name] = {"ours_ms": summary(ours), "theirs_ms": summary(theirs), "ratio": by}
        rates = [tokens / min(seconds) for seconds in (ours, theirs)]
        found[name] |= {"ours_tokens_per_second": rates[0], "theirs_tokens_per_second": rates[1]}
        label = f"prompt {length}: {'first token' if at == 0 else f'{tokens} more'}"
        click.echo(
            f"  {label:<26}{min(ours) * 1e3:>9.2f} ms ({rates[0]:>6,.0f} tok/s)  / {min(theirs) * 1e3:>9.2f} ms"
            f" ({rates[1]:>6,.0f} tok/s)  = {by['of_minima']:.2f}"
            f"   pairs {by['median']:.2f} [{by['low']:.2f} … {by['high']:.2f}]"
        )
    return found


def _qwen3(model: Any) -> Any:
    """mlx-lm's Qwen3 with the weights of a stage 11 without convolutions."""
    qwen3: Any = importlib.import_module("mlx_lm.models.qwen3")
    config = model.config
    arguments = {
        "model_type": "qwen3",
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "intermediate_size": config.inner,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.width // config.heads,
    }
    arguments |= {"rope_theta": config.rope_base, "max_position_embeddings": config.context}
    arguments |= {
        "rms_norm_eps": 1e-6,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": True,
    }
    names = {"attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm"}
    names |= {"attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj"}
    names |= {"attention.value": "self_attn.v_proj", "attention.output": "self_attn.o_proj"}
    names |= {"attention_norm": "input_layernorm", "inner_norm": "post_attention_layernorm"}
    names |= {"gate": "mlp.gate_proj", "expand": "mlp.up_proj", "contract": "mlp.down_proj"}
    weights = [("model.embed_tokens.weight", model.embed.weight), ("model.norm.weight", model.norm.weight)]
    for path, array in model.arrays().items():
        if path.startswith("blocks."):
            _, layer, name = path.split(".", 2)
            weights.append((f"model.layers.{layer}.{names[name.removesuffix('.weight')]}.weight", array))
    return qwen3.Model(qwen3.ModelArgs.from_dict(arguments)).load_weights(weights).eval()


if __name__ == "__main__":
    main()
