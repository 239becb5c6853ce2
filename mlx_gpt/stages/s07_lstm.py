"""LSTM: a second vector that gates protect, so that what matters stays.

    i, f, g, o = split(W x_t + U h_{t-1} + b)
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)

Remembers: two vectors a layer, one protected.

Better than the RNN: the cell changes only where a gate lets it, so gradients and facts last for long.
Still wrong: everything must fit into those vectors, and the tokens can only be read one after another.

Source: Hochreiter & Schmidhuber 1997, forget gate of Gers et al. 2000; dropout between layers and never through
time (Zaremba et al. 2014); output tied to the embedding (Merity et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent import Neural
from mlx_gpt.memory import Memory, State
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Descent, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What an LSTM is."""

    width: int = setting(192, "numbers in each vector of a layer", low=1, high=65_536)
    layers: int = setting(2, "LSTM layers, one above the other", low=1, high=64)
    dropout: float = setting(0.0, "share of the numbers between layers dropped in training", low=0.0, high=0.9)


class Layer(nn.Module):
    """One LSTM layer of width D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.input = mx.random.uniform(-bound, bound, (4 * width, width))  # W
        self.recurrent = mx.random.uniform(-bound, bound, (4 * width, width))  # U
        open_gate = mx.concatenate([mx.zeros((width,)), mx.ones((width,)), mx.zeros((2 * width,))])
        self.bias = open_gate  # the forget gate starts open (Jozefowicz et al. 2015)

    def __call__(self, x: mx.array, h: mx.array, c: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """x (B, T, D), h and c (B, D) -> every h (B, T, D), the last h and c."""
        inputs = mx.addmm(self.bias, x, self.input.T)  # (B, T, 4 D)
        seen = []
        for t in range(x.shape[1]):
            i, f, g, o = mx.split(mx.addmm(inputs[:, t], h, self.recurrent.T), 4, axis=-1)
            c = mx.sigmoid(f) * c + mx.sigmoid(i) * mx.tanh(g)
            h = mx.sigmoid(o) * mx.tanh(c)
            seen.append(h)
        return mx.stack(seen, axis=1), h, c


class LSTM(Neural):
    """Layers of LSTM between an embedding and its transpose."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.width = vocab_size, config.width
        self.embed = nn.Embedding(vocab_size, config.width)
        self.layers = [Layer(config.width) for _ in range(config.layers)]
        self.dropout = nn.Dropout(config.dropout)
        self.output_bias = mx.zeros((vocab_size,))

    def memory(self, batch: int = 1) -> Memory:
        """h and c of every layer, (B, D) each."""
        return State([mx.zeros((batch, self.width)) for _ in range(2 * len(self.layers))])

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, D), one token after another."""
        state = self.memory(ids.shape[0]) if memory is None else memory
        x, after = self.dropout(self.embed(ids)), []
        for layer, h, c in zip(self.layers, state.arrays[::2], state.arrays[1::2], strict=True):
            x, h, c = layer(x, h, c)
            x = self.dropout(x)
            after += [h, c]
        state.arrays = after
        return x

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.embed.weight, self.output_bias


STAGE = Stage(
    model=LSTM,
    config=Config(),
    recipe=Descent(
        steps=500, batch_size=32, length=64, learning_rate=2e-3, running=True, afresh=16, evaluate_every=100
    ),
    tiny=Preset(
        Config(width=48, layers=1),
        Descent(
            steps=80, batch_size=16, length=24, learning_rate=1e-2, warmup=5, running=True, afresh=16, evaluate_every=40
        ),
    ),
    presets={
        "base": Preset(
            Config(width=512, dropout=0.1),
            Descent(
                steps=1_500, batch_size=64, length=64, learning_rate=2e-3, running=True, afresh=16, evaluate_every=150
            ),
        ),
        "large": Preset(
            Config(width=1_024, layers=3, dropout=0.2),
            Descent(
                steps=30_000,
                batch_size=128,
                length=64,
                learning_rate=1e-3,
                warmup=500,
                running=True,
                afresh=16,
                evaluate_every=1_000,
            ),
        ),
    },
)
