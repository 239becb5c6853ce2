"""RNN: one vector that is rewritten at every token.

    h_t = tanh(x_t + U h_{t-1} + b),   x_t = C(w_t)

Remembers: one vector, rewritten at every token.

Better than the feed-forward model: no window; the same weights read every place, and a trace of all the past
may survive.
Still wrong: the gradient fades or bursts on its way back, so in practice the trace is short.

Source: Elman 1990; Mikolov et al. 2010, trained by truncated back-propagation through time.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent import Neural
from mlx_gpt.descent.scan import rnn_scan
from mlx_gpt.memory import Memory, State
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Descent, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What a recurrent model is."""

    width: int = setting(256, "numbers in the state", low=1, high=65_536)


class RNN(Neural):
    """Elman's network over token vectors."""

    packable = ("recurrent",)

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.width = vocab_size, config.width
        bound = config.width**-0.5
        self.embed = nn.Embedding(vocab_size, config.width)
        self.recurrent = mx.random.uniform(-bound, bound, (config.width, config.width))  # U
        self.bias = mx.zeros((config.width,))
        self.output_head = nn.Linear(config.width, vocab_size)

    def memory(self, batch: int = 1) -> Memory:
        return State([mx.zeros((batch, self.width))])

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, D), one token after another."""
        state = self.memory(ids.shape[0]) if memory is None else memory
        x = self.embed(ids.T) + self.bias  # (T, B, D)
        every, last = rnn_scan(x, self.recurrent, state.arrays[0])
        state.arrays = [last]
        return every.swapaxes(0, 1)  # (B, T, D)

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.output_head.weight, self.output_head.bias


STAGE = Stage(
    model=RNN,
    config=Config(),
    recipe=Descent(steps=1_000, batch_size=16, length=64, learning_rate=5e-3, running=True, evaluate_every=200),
    tiny=Preset(
        Config(width=48),
        Descent(steps=80, batch_size=16, length=24, learning_rate=1e-2, warmup=5, running=True, evaluate_every=40),
    ),
    presets={
        "base": Preset(
            Config(width=512),
            Descent(steps=3_000, batch_size=64, length=64, learning_rate=1e-3, running=True, evaluate_every=300),
        ),
        "large": Preset(
            Config(width=1_024),
            Descent(
                steps=60_000,
                batch_size=128,
                length=64,
                learning_rate=5e-4,
                warmup=500,
                running=True,
                evaluate_every=2_000,
            ),
        ),
    },
)
