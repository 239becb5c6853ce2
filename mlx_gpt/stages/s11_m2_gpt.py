"""M2-optimised GPT: the advanced GPT, learning from less text, sooner and in less memory.

    norm, rotation and attention as one fused kernel each; one compiled graph a step; logits in chunks
    h + causal convolution of h over a few tokens, before attention and before the feed-forward layer

Remembers: as the advanced GPT, a key-value cache; and the last few vectors before each convolution.

Better than the advanced GPT: a GPU is asked a few large things instead of many small ones, the table of scores
(T x T) and the logits of a batch never exist; Muon, averaged weights and the convolutions, which bring what is next
to each other together where attention would have to look for it, reach the same loss with a fraction of the text.
Still wrong: it is as big as it is trained; a small model knows little, however fast it runs.

Source: the architecture of stage 10 on `mlx.fast`; FlashAttention (Dao et al. 2022) for the fused attention; Canon
layers A and C (Allen-Zhu 2025, "Physics of Language Models 4.1"; So et al. 2021, "Primer", for depthwise convolution
in attention); Muon (Jordan et al. 2024; Liu et al. 2025). With `--taps 0` it takes stage 10's weights unchanged and
gives its numbers; with taps of zero, as they begin, its numbers are stage 10's, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent import Neural
from mlx_gpt.descent.attention import attention, attention_with_sinks
from mlx_gpt.descent.convolution import convolved
from mlx_gpt.descent.exponential import sigmoid
from mlx_gpt.descent.rotary import Rotation, turned_to
from mlx_gpt.errors import SettingError
from mlx_gpt.kv_cache import KVCache, Layout
from mlx_gpt.memory import Memory
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Descent, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What an M2-optimised GPT is: the settings of the advanced GPT, and its convolutions."""

    context: int = setting(256, "tokens in the window", low=2, high=1_048_576)
    width: int = setting(128, "numbers in a token's vector", low=2, high=65_536)
    layers: int = setting(4, "blocks of attention and feed-forward", low=1, high=512)
    heads: int = setting(2, "attention heads", low=1, high=1_024, divides="width")
    kv_heads: int = setting(1, "heads of keys and values that the attention heads share", low=1, divides="heads")
    inner: int = setting(352, "units of a gated feed-forward layer", low=1, high=262_144)
    rope_base: float = setting(10_000.0, "slowest rotation of the rotary positions", low=1.0, high=1e9)
    window: int = setting(0, "tokens that a sparse layer sees; 0 makes every layer see all", low=0, high=1_048_576)
    dense_every: int = setting(2, "with a window: every so many layers one still sees all", low=1, high=512)
    taps: int = setting(
        4, "tokens that the convolutions mix; 0 leaves them out: stage 10's weights", low=0, high=64, before=0
    )


def head_width(config: Config) -> int:
    """Numbers in one head. Raises SettingError where they do not make pairs to rotate."""
    width = config.width // config.heads
    if width % 2:
        raise SettingError(f"--width {config.width} over --heads {config.heads}: heads of {width}, must be even")
    return width


class Attention(nn.Module):
    """Grouped-query attention in three fused kernels: norm, rotation, attention."""

    def __init__(self, config: Config, window: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.base, self.window = (
            config.heads,
            config.kv_heads,
            config.rope_base,
            window,
        )
        width = head_width(config)
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, self.kv_heads * width, bias=False)
        self.value = nn.Linear(config.width, self.kv_heads * width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)
        self.query_norm, self.key_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)

    def __call__(self, x: mx.array, turn: Rotation, cache: KVCache | None, layer: int) -> mx.array:
        q = self.query_norm(mx.unflatten(self.query(x), -1, (self.heads, -1))).swapaxes(1, 2)  # (B, H, T, E)
        k = self.key_norm(mx.unflatten(self.key(x), -1, (self.kv_heads, -1))).swapaxes(1, 2)  # (B, K, T, E)
        v = mx.unflatten(self.value(x), -1, (self.kv_heads, -1)).swapaxes(1, 2)
        unturned, (q, k) = q, turn.of(q, k)
        if cache is None:
            heads = attention(q, k, v, self.window)  # (B, H, T, E)
        else:
            k, v = cache.extend(layer, k, v)  # (B, K, S, E)
            window, blank = cache.sight(self.window), cache.blank(k.shape[2])
            sinks = cache.sinks(layer, x.shape[1], self.window)
            if sinks is None:
                heads = attention(q, k, v, window, blank)
            else:
                far = turned_to(unturned, sinks.places, self.base)
                heads = attention_with_sinks(q, far, k, v, sinks, window, blank)
        return self.output(heads.swapaxes(1, 2).flatten(2))  # (B, T, D)


class Convolution(nn.Module):
    """x plus its last few tokens, channel by channel: what is next to each other need not be looked for."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.taps = mx.zeros((config.taps, config.width))  # the first is of the token itself

    def __call__(self, x: mx.array, cache: KVCache | None, place: int) -> mx.array:
        behind = self.taps.shape[0] - 1
        seen = mx.pad(x, [(0, 0), (behind, 0), (0, 0)]) if cache is None else cache.behind(place, x)
        return x + convolved(seen, self.taps)


@mx.custom_function
def gated(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) * x. Its backward pass makes the sigmoid again: only gate and x are kept."""
    return gate * sigmoid(gate) * x


@gated.vjp
def _gated_back(primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
    gate, x = primals
    open_ = sigmoid(gate)
    silu = gate * open_
    return cotangent * x * (open_ + silu * (1 - open_)), cotangent * silu


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each fed by a norm and added to the stream."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        dense = (layer + 1) % config.dense_every == 0
        self.attention = Attention(config, 0 if dense else config.window)
        self.attention_norm, self.inner_norm = (
            nn.RMSNorm(config.width, eps=1e-6),
            nn.RMSNorm(config.width, eps=1e-6),
        )
        self.gate = nn.Linear(config.width, config.inner, bias=False)
        self.expand = nn.Linear(config.width, config.inner, bias=False)
        self.contract = nn.Linear(config.inner, config.width, bias=False)
        if config.taps:
            self.attention_convolution, self.inner_convolution = Convolution(config), Convolution(config)

    def __call__(self, x: mx.array, turn: Rotation, cache: KVCache | None, layer: int) -> mx.array:
        h = self.attention_norm(x)
        if "attention_convolution" in self:
            h = self.attention_convolution(h, cache, 2 * layer)
        x = x + self.attention(h, turn, cache, layer)
        h = self.inner_norm(x)
        if "inner_convolution" in self:
            h = self.inner_convolution(h, cache, 2 * layer + 1)
        return x + self.contract(gated(self.gate(h), self.expand(h)))


class M2GPT(Neural):
    """Embedding, blocks, a last norm, and the embedding's transpose."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.context, self.config = vocab_size, config.context, config
        self.embed = nn.Embedding(vocab_size, config.width)
        self.blocks = [Block(config, layer) for layer in range(config.layers)]
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self._initialise()

    def _initialise(self) -> None:
        """Normal with 0.02; what is added to the stream begins with nothing: every block starts as no change."""
        self.embed.weight = mx.random.normal(self.embed.weight.shape, scale=0.02)
        for block in self.blocks:
            attention = block.attention
            for linear in (attention.query, attention.key, attention.value, block.gate, block.expand):
                linear.weight = mx.random.normal(linear.weight.shape, scale=0.02)
            for linear in (attention.output, block.contract):
                linear.weight = mx.zeros_like(linear.weight)

    def memory(self, batch: int = 1) -> Memory:
        config = self.config
        tails = ((config.taps - 1, config.width),) * (2 * config.layers if config.taps else 0)
        shape = (config.layers, config.kv_heads, head_width(config), config.context)
        return KVCache(batch, Layout(*shape, tails, rotary=True, dtype=self.norm.weight.dtype))

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, D)."""
        assert memory is None or isinstance(memory, KVCache), "a memory of another model"
        before = 0 if memory is None else memory.before
        turn = Rotation(before, ids.shape[1], head_width(self.config), self.config.rope_base)
        x = self.embed(ids)
        for layer, block in enumerate(self.blocks):
            x = self.block(block, x, turn, memory, layer)
        if memory is not None:
            memory.advance(ids.shape[1])
        return self.norm(x)

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.embed.weight, None


# fewer tokens: Muon with even rows, a rate that falls in a line, and the average of the weights on the way; less time
# and memory: one compiled graph, logits in chunks
SOONER: dict[str, Any] = {"optimizer": "muon", "row_memory": 0.95, "averaging": 0.9999}
SOONER |= {"schedule": "linear", "compiled": True, "loss_chunk": 256}

STAGE = Stage(
    model=M2GPT,
    config=Config(),
    recipe=Descent(steps=500, batch_size=8, learning_rate=1e-2, warmup=10, evaluate_every=100, **SOONER),
    tiny=Preset(
        Config(context=32, width=32, layers=2, heads=2, kv_heads=1, inner=64, window=8),
        Descent(steps=100, batch_size=16, learning_rate=1e-2, warmup=10, evaluate_every=50, **SOONER),
    ),
    presets={
        "base": Preset(
            Config(width=384, layers=6, heads=6, kv_heads=2, inner=1_024),
            Descent(steps=1_500, batch_size=32, learning_rate=2e-3, warmup=100, evaluate_every=100, **SOONER),
        ),
        "large": Preset(
            Config(context=512, width=512, layers=8, heads=8, kv_heads=4, inner=1_408),
            Descent(steps=14_000, batch_size=32, learning_rate=1e-3, warmup=500, evaluate_every=500, **SOONER),
        ),
    },
)
