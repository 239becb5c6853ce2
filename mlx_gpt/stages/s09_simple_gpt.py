"""Simplified GPT: GPT-2, with norms before the sums and a cache of keys and values.

    x = x + attention(norm(x)),   x = x + W2 gelu(W1 norm(x))

Remembers: a window and a key-value cache.

Better than the Transformer: gradients run straight through the sums, so it trains easily and deep, and each new
token is computed alone against the cache.
Still wrong: a learned vector for each place ties it to its window, and every head keeps its own keys and values.

Source: Radford et al. 2018 and 2019 (GPT, GPT-2). `load_gpt2` reads OpenAI's weights from a local folder.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_gpt.descent import Dropout, Neural
from mlx_gpt.errors import CheckpointError
from mlx_gpt.kv_cache import KVCache, Layout
from mlx_gpt.memory import Memory
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Descent, Settings, setting
from mlx_gpt.safetensors import read


@dataclass(frozen=True)
class Config(Settings):
    """What a GPT-2 is."""

    context: int = setting(256, "tokens in the window", low=2, high=1_048_576)
    width: int = setting(128, "numbers in a token's vector", low=2, high=65_536)
    layers: int = setting(4, "blocks of attention and feed-forward", low=1, high=512)
    heads: int = setting(2, "attention heads", low=1, high=1_024, divides="width")
    dropout: float = setting(0.0, "share of the numbers dropped in training", low=0.0, high=0.9)


class Block(nn.Module):
    """One GPT-2 block over H heads of width E."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(config.dropout)

    def __call__(self, x: mx.array, cache: KVCache | None, layer: int) -> mx.array:
        x = x + self.dropout(self._attend(self.attention_norm(x), cache, layer))
        return x + self.dropout(self.contract(nn.gelu_approx(self.expand(self.inner_norm(x)))))

    def _attend(self, x: mx.array, cache: KVCache | None, layer: int) -> mx.array:
        tokens = x.shape[1]
        q, k, v = (
            mx.unflatten(part, -1, (self.heads, -1)).swapaxes(1, 2) for part in mx.split(self.qkv(x), 3, axis=-1)
        )
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, H, S, E)
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, S)
        before = k.shape[2] - tokens
        hidden = mx.arange(tokens)[:, None] + before < mx.arange(k.shape[2])  # the future
        blank = None if cache is None else cache.blank(k.shape[2])
        hidden = hidden if blank is None else hidden | blank
        weights = mx.softmax(mx.where(hidden, -mx.inf, scores), axis=-1, precise=True)
        return self.output((weights @ v).swapaxes(1, 2).flatten(2))  # (B, T, D)


class GPT(Neural):
    """Token and place embeddings, blocks, a last norm, and the embedding's transpose."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.context, self.config = vocab_size, config.context, config
        self.embed = nn.Embedding(vocab_size, config.width)
        self.position = nn.Embedding(config.context, config.width)
        self.blocks = [Block(config) for _ in range(config.layers)]
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)
        self._initialise()

    def _initialise(self) -> None:
        """Normal with 0.02; what is added to the stream is divided by the root of the number of sums."""
        added = 0.02 / math.sqrt(2 * self.config.layers)
        for table in (self.embed, self.position):
            table.weight = mx.random.normal(table.weight.shape, scale=0.02)
        for block in self.blocks:
            linears = (
                (block.qkv, 0.02),
                (block.expand, 0.02),
                (block.output, added),
                (block.contract, added),
            )
            for linear, scale in linears:
                linear.weight = mx.random.normal(linear.weight.shape, scale=scale)
                linear.bias = mx.zeros_like(linear.bias)

    def memory(self, batch: int = 1) -> Memory:
        config = self.config
        dtype = self.norm.weight.dtype
        width = config.width // config.heads
        return KVCache(batch, Layout(config.layers, config.heads, width, config.context, dtype=dtype))

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, D)."""
        assert memory is None or isinstance(memory, KVCache), "a memory of another model"
        places = mx.arange(ids.shape[1]) if memory is None else memory.positions(ids.shape[1])
        x = self.dropout(self.embed(ids) + self.position(places))
        for layer, block in enumerate(self.blocks):
            x = self.block(block, x, memory, layer)
        if memory is not None:
            memory.advance(ids.shape[1])
        return self.norm(x)

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.embed.weight, None


def load_gpt2(folder: Path) -> GPT:
    """OpenAI's GPT-2 from a folder with config.json and model.safetensors as published on the model hub.

    Speaks GPT-2's own token ids. Raises CheckpointError where a file or a weight is missing.
    """
    try:
        told = json.loads((folder / "config.json").read_text())
        config = Config(context=told["n_positions"], width=told["n_embd"], layers=told["n_layer"], heads=told["n_head"])
        found, _ = read(folder / "model.safetensors")
        model = GPT(config, told["vocab_size"])
        theirs = {name.removeprefix("transformer."): array for name, array in found.items()}
        model.restore({ours: _from_openai(theirs, ours) for ours in model.arrays()})
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: not a GPT-2 folder ({error})") from error
    return model


OPENAI = {
    "attention_norm": "ln_1",
    "inner_norm": "ln_2",
    "qkv": "attn.c_attn",
    "output": "attn.c_proj",
    "expand": "mlp.c_fc",
    "contract": "mlp.c_proj",
    "embed": "wte",
    "position": "wpe",
    "norm": "ln_f",
    "blocks": "h",
}


def _from_openai(theirs: dict[str, np.ndarray], ours: str) -> np.ndarray:
    """Their weight under our name; their linear layers are stored transposed, (in, out)."""
    array = theirs[".".join(OPENAI.get(part, part) for part in ours.split("."))].astype(np.float32, copy=False)
    linear = ours.split(".")[-2] in ("qkv", "output", "expand", "contract")
    return array.T if linear and array.ndim == 2 else array


STAGE = Stage(
    model=GPT,
    config=Config(),
    recipe=Descent(steps=500, batch_size=8, learning_rate=5e-3, warmup=50, evaluate_every=100),
    tiny=Preset(
        Config(context=32, width=32, layers=2, heads=2),
        Descent(steps=100, batch_size=16, learning_rate=1e-2, warmup=10, evaluate_every=50),
    ),
    presets={
        "base": Preset(
            Config(width=384, layers=6, heads=6, dropout=0.1),
            Descent(steps=1_400, batch_size=32, learning_rate=1e-3, warmup=100, evaluate_every=100),
        ),
        "large": Preset(
            Config(context=512, width=512, layers=8, heads=8, dropout=0.1),
            Descent(steps=12_000, batch_size=32, learning_rate=6e-4, warmup=500, evaluate_every=500),
        ),
    },
)
