"""Feed-forward: the n-gram's window, with every token a learned vector.

    x = [C(w_{t-n+2}); …; C(w_t)]
    y = b + W x + U tanh(d + H x)

Remembers: n-1 tokens, as vectors.

Better than backoff: similar tokens have similar vectors, so what is learned of one phrase serves its relatives.
Still wrong: each place of the window has weights of its own, and what falls out of the window is forgotten.

Source: Bengio, Ducharme, Vincent & Janvin 2003, equation 1, with the direct connections W.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent import Neural
from mlx_gpt.memory import Memory, Window
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Descent, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What a feed-forward model is."""

    order: int = setting(8, "tokens in the window, the predicted one included", low=2, high=1_024)
    width: int = setting(64, "numbers in a token's vector", low=1, high=65_536)
    hidden: int = setting(256, "units of the tanh layer", low=1, high=65_536)


class FeedForward(Neural):
    """Concatenated embeddings, one tanh layer, and a straight way past it."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.order = vocab_size, config.order
        seen = (config.order - 1) * config.width
        self.embed = nn.Embedding(vocab_size + 1, config.width)  # the last row: nothing stood here yet
        self.inner = nn.Linear(seen, config.hidden)
        self.output_head = nn.Linear(seen + config.hidden, vocab_size)

    def memory(self, batch: int = 1) -> Memory:
        return Window(batch, self.order - 1, self.vocab_size)

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """[x; tanh(d + H x)] for each position, (B, T) -> (B, T, D)."""
        window = self.memory(ids.shape[0]) if memory is None else memory
        assert isinstance(window, Window), "a memory of another model"
        tokens, places = ids.shape[1], self.order - 1
        vectors = self.embed(window.extend(ids)[:, 1:])  # (B, T + N - 2, width)
        x = mx.concatenate([vectors[:, place : place + tokens] for place in range(places)], axis=-1)
        return mx.concatenate([x, mx.tanh(self.inner(x))], axis=-1)

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.output_head.weight, self.output_head.bias


STAGE = Stage(
    model=FeedForward,
    config=Config(),
    recipe=Descent(steps=500, batch_size=32, length=64, learning_rate=5e-3, evaluate_every=150),
    tiny=Preset(
        Config(order=4, width=16, hidden=32),
        Descent(steps=60, batch_size=16, length=32, learning_rate=1e-2, warmup=5, evaluate_every=30),
    ),
    presets={
        "base": Preset(
            Config(order=10, width=128, hidden=1_024),
            Descent(steps=4_000, batch_size=64, length=128, learning_rate=1e-3, evaluate_every=400),
        ),
        "large": Preset(
            Config(order=16, width=256, hidden=4_096),
            Descent(steps=60_000, batch_size=64, length=256, learning_rate=6e-4, warmup=500, evaluate_every=2_000),
        ),
    },
)
