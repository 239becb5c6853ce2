"""LSTM: a second vector that gates protect, so that what matters stays.

    i, f, g, o = split(W x_t + U h_{t-1} + b)
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)

Remembers: two vectors a layer, one protected.

Better than the RNN: the cell changes only where a gate lets it, so gradients and facts last for long.
Still wrong: everything must fit into those vectors, and the tokens can only be read one after another.

Source: Hochreiter & Schmidhuber 1997, forget gate of Gers et al. 2000; dropout between layers and never through
time (Zaremba et al. 2014), with one mask for a whole sequence (Gal & Ghahramani 2016); output tied to the embedding,
dropped recurrent weights, and a price on large and on restless activations (AWD-LSTM, Merity et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent import Dropout, Neural
from mlx_gpt.descent.packed import linear
from mlx_gpt.descent.scan import lstm_scan
from mlx_gpt.memory import Memory, State
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Descent, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What an LSTM is."""

    width: int = setting(192, "numbers in each vector of a layer", low=1, high=65_536)
    layers: int = setting(2, "LSTM layers, one above the other", low=1, high=64)
    dropout: float = setting(
        0.0, "share of the numbers between layers dropped in training, the same ones at every token", low=0.0, high=0.9
    )
    embed_dropout: float = setting(0.0, "share of the vocabulary read as zeros in a training step", low=0.0, high=0.9)
    weight_drop: float = setting(
        0.0, "share of the weights from state to state dropped in a training step", low=0.0, high=0.9
    )
    activation_penalty: float = setting(
        0.0, "alpha of AWD-LSTM: price of the mean square of the last layer's output", low=0.0, high=100.0
    )
    slowness_penalty: float = setting(
        0.0, "beta of AWD-LSTM: price of the mean square of its change from token to token", low=0.0, high=100.0
    )


class Layer(nn.Module):
    """One LSTM layer of width D."""

    def __init__(self, width: int, weight_drop: float) -> None:
        super().__init__()
        bound = width**-0.5
        self.input = mx.random.uniform(-bound, bound, (4 * width, width))  # W
        self.recurrent = mx.random.uniform(-bound, bound, (4 * width, width))  # U
        open_gate = mx.concatenate([mx.zeros((width,)), mx.ones((width,)), mx.zeros((2 * width,))])
        self.bias = open_gate  # the forget gate starts open (Jozefowicz et al. 2015)
        self.weight_drop = Dropout(weight_drop)

    def __call__(self, x: mx.array, h: mx.array, c: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """x (T, B, D), h and c (B, D) -> every h (T, B, D), the last h and c."""
        inputs = linear(x, self.input, self.bias)  # (T, B, 4 D)
        return lstm_scan(inputs, self.weight_drop(self.recurrent), h, c)


class LSTM(Neural):
    """Layers of LSTM between an embedding and its transpose."""

    packable = ("input", "recurrent")

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.width = vocab_size, config.width
        self.embed = nn.Embedding(vocab_size, config.width)
        self.layers = [Layer(config.width, config.weight_drop) for _ in range(config.layers)]
        self.dropout, self.embed_dropout = Dropout(config.dropout), Dropout(config.embed_dropout)
        self.activation_penalty, self.slowness_penalty = config.activation_penalty, config.slowness_penalty
        self.output_bias = mx.zeros((vocab_size,))

    def memory(self, batch: int = 1) -> Memory:
        """h and c of every layer, (B, D) each."""
        return State([mx.zeros((batch, self.width)) for _ in range(2 * len(self.layers))])

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, D), one token after another."""
        state = self.memory(ids.shape[0]) if memory is None else memory
        x, after = self._locked(self._embedded(ids.T)), []  # (T, B, D)
        for layer, h, c in zip(self.layers, state.arrays[::2], state.arrays[1::2], strict=True):
            x, h, c = layer(x, h, c)
            x = self._locked(x)
            after += [h, c]
        state.arrays = after
        return x.swapaxes(0, 1)  # (B, T, D)

    def _embedded(self, ids: mx.array) -> mx.array:
        """ids (T, B) -> their vectors (T, B, D), in training zeros for some words wherever they stand."""
        x = self.embed(ids)
        if not self.training or not self.embed_dropout.share:
            return x
        return x * self.embed_dropout(mx.ones((self.vocab_size, 1), x.dtype))[ids]

    def _locked(self, x: mx.array) -> mx.array:
        """Dropout of (T, B, D) with one mask for all T."""
        return self.dropout(x, (1, *x.shape[1:]))

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.embed.weight, self.output_bias


STAGE = Stage(
    model=LSTM,
    config=Config(),
    recipe=Descent(
        steps=1_000, batch_size=16, length=64, learning_rate=8e-3, running=True, afresh=16, evaluate_every=200
    ),
    tiny=Preset(
        Config(width=48, layers=1),
        Descent(
            steps=80, batch_size=16, length=24, learning_rate=1e-2, warmup=5, running=True, afresh=16, evaluate_every=40
        ),
    ),
    presets={
        "base": Preset(
            Config(width=512, dropout=0.1, weight_drop=0.1),
            Descent(
                steps=1_500, batch_size=64, length=64, learning_rate=2e-3, running=True, afresh=16, evaluate_every=150
            ),
        ),
        "large": Preset(
            Config(
                width=1_024,
                layers=3,
                dropout=0.2,
                embed_dropout=0.05,
                weight_drop=0.2,
                activation_penalty=1.0,
                slowness_penalty=0.5,
            ),
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
