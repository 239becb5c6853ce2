"""Transformer: every token looks at all those before it, at once.

    attention(Q, K, V) = softmax(Q K^T / sqrt(E)) V,   x = norm(x + attention(x)),   x = norm(x + ffn(x))

Remembers: a window, all of it at once.

Better than the LSTM: nothing has to be squeezed into one vector, any two tokens are one step apart, and all
places of a training sequence are computed in parallel.
Still wrong: norms after the sums need a careful warm-up, and for each new token the whole window is read again.

Source: Vaswani et al. 2017, the decoder alone: sinusoidal positions, ReLU, embedding shared with the output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent import Dropout, Neural
from mlx_gpt.memory import Memory, Transcript
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Descent, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What a Transformer is."""

    context: int = setting(256, "tokens in the window", low=2, high=1_048_576)
    width: int = setting(128, "numbers in a token's vector", low=2, high=65_536)
    layers: int = setting(4, "blocks of attention and feed-forward", low=1, high=512)
    heads: int = setting(2, "attention heads", low=1, high=1_024, divides="width")
    inner: int = setting(512, "units of a feed-forward layer", low=1, high=262_144)
    dropout: float = setting(0.0, "share of the numbers dropped in training", low=0.0, high=0.9)


def positions(tokens: int, width: int) -> mx.array:
    """sin(t / 10000^(2 i / D)) and cos of the same, interleaved, (T, D); section 3.5."""
    rate = mx.exp(mx.arange(0, width, 2) * (-math.log(10_000) / width))
    angle = mx.arange(tokens)[:, None] * rate  # (T, ceil(D / 2))
    return mx.stack([mx.sin(angle), mx.cos(angle)], axis=-1).reshape(tokens, -1)[:, :width]


class Attention(nn.Module):
    """Several heads of causal scaled dot-product attention, written out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query, self.key, self.value, self.output = (nn.Linear(config.width, config.width) for _ in range(4))

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.shape[1]
        q, k, v = (mx.unflatten(project(x), -1, (self.heads, -1)).swapaxes(1, 2) for project in self._projections())
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, T)
        future = mx.arange(tokens)[:, None] < mx.arange(tokens)
        weights = mx.softmax(mx.where(future, -mx.inf, scores), axis=-1, precise=True)
        return self.output((weights @ v).swapaxes(1, 2).flatten(2))  # (B, T, D)

    def _projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value


class Block(nn.Module):
    """Attention, then feed-forward, each added to its input and then normed."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention, self.attention_norm = Attention(config), nn.LayerNorm(config.width)
        self.expand, self.contract = (
            nn.Linear(config.width, config.inner),
            nn.Linear(config.inner, config.width),
        )
        self.inner_norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        return self.inner_norm(x + self.dropout(self.contract(nn.relu(self.expand(x)))))


class Transformer(Neural):
    """Embedding plus position, blocks, and the embedding's transpose."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.context, self.width = vocab_size, config.context, config.width
        self.embed = nn.Embedding(vocab_size, config.width)
        self.blocks = [Block(config) for _ in range(config.layers)]
        self.dropout = Dropout(config.dropout)

    def memory(self, batch: int = 1) -> Memory:
        return Transcript(batch, self.config.context)

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, D); with a memory the whole window is computed anew."""
        assert memory is None or isinstance(memory, Transcript), "a memory of another model"
        seen = ids if memory is None else memory.extend(ids)
        x = self.embed(seen) * math.sqrt(self.width)
        x = self.dropout(x + positions(seen.shape[1], self.width).astype(x.dtype))
        for block in self.blocks:
            x = self.block(block, x)
        return x if memory is None else memory.last(x, ids.shape[1])

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.embed.weight, None


STAGE = Stage(
    model=Transformer,
    config=Config(),
    recipe=Descent(steps=500, batch_size=8, learning_rate=3e-3, warmup=100, evaluate_every=100),
    tiny=Preset(
        Config(context=32, width=32, layers=2, heads=2, inner=64),
        Descent(steps=150, batch_size=16, learning_rate=5e-3, warmup=30, evaluate_every=75),
    ),
    presets={
        "base": Preset(
            Config(width=384, layers=6, heads=6, inner=1_536, dropout=0.1),
            Descent(steps=1_400, batch_size=32, learning_rate=5e-4, warmup=200, evaluate_every=100),
        ),
        "large": Preset(
            Config(context=512, width=512, layers=8, heads=8, inner=2_048, dropout=0.1),
            Descent(steps=12_000, batch_size=32, learning_rate=3e-4, warmup=1_000, evaluate_every=500),
        ),
    },
)
