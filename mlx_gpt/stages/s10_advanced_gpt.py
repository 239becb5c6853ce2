"""Advanced GPT: what a decade of changes kept, each one plain to see.

    norm(x) = w x / sqrt(mean(x^2) + e),   ffn(x) = W2 (silu(W1 x) * W3 x),   q, k = rotate(norm(q)), rotate(norm(k))

Remembers: a key-value cache, full or windowed.

Better than the simplified GPT: rotary positions say how far apart two tokens are, queries share keys and values
so that the cache is smaller, gated units do more with their weights, and normed queries and keys keep attention
calm at high learning rates.
Still wrong: nothing about the model, everything about the machine: each line is an operation of its own.

Source: RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021), SwiGLU (Shazeer 2020), grouped queries
(Ainslie et al. 2023), query-key norm (Henry et al. 2020), sliding windows (Beltagy et al. 2020). Shaped like Qwen3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent import Neural
from mlx_gpt.descent.attention import attention_with_sinks
from mlx_gpt.errors import SettingError
from mlx_gpt.kv_cache import KVCache, Layout
from mlx_gpt.memory import Memory
from mlx_gpt.model import Preset, Stage
from mlx_gpt.recipe import Descent, Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """What an advanced GPT is."""

    context: int = setting(256, "tokens in the window", low=2, high=1_048_576)
    width: int = setting(128, "numbers in a token's vector", low=2, high=65_536)
    layers: int = setting(4, "blocks of attention and feed-forward", low=1, high=512)
    heads: int = setting(2, "attention heads", low=1, high=1_024, divides="width")
    kv_heads: int = setting(1, "heads of keys and values that the attention heads share", low=1, divides="heads")
    inner: int = setting(352, "units of a gated feed-forward layer", low=1, high=262_144)
    rope_base: float = setting(10_000.0, "slowest rotation of the rotary positions", low=1.0, high=1e9)
    window: int = setting(0, "tokens that a sparse layer sees; 0 makes every layer see all", low=0, high=1_048_576)
    dense_every: int = setting(2, "with a window: every so many layers one still sees all", low=1, high=512)


def head_width(config: Config) -> int:
    """Numbers in one head. Raises SettingError where they do not make pairs to rotate."""
    width = config.width // config.heads
    if width % 2:
        raise SettingError(f"--width {config.width} over --heads {config.heads}: heads of {width}, must be even")
    return width


class RMSNorm(nn.Module):
    """Scale to a root mean square of one, then by a learned weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = mx.ones((width,))

    def __call__(self, x: mx.array) -> mx.array:
        wide = x.astype(mx.float32)  # in float16 the squares would overflow
        scale = mx.rsqrt(mx.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)
        return self.weight * (wide * scale).astype(x.dtype)


def rotate(x: mx.array, places: mx.array, base: float) -> mx.array:
    """Turn each pair (x_i, x_{i + E/2}) of (B, H, T, E) by an angle that grows with its place, (T,) or (B, T)."""
    half = x.shape[-1] // 2
    rate = base ** (-mx.arange(half) / half)
    angle = mx.expand_dims(places[..., None] * rate, -3)  # (1, T, E / 2) or (B, 1, T, E / 2)
    cos, sin = mx.cos(angle), mx.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention: H heads ask, K heads of keys and values answer."""

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
        self.query_norm, self.key_norm = RMSNorm(width), RMSNorm(width)

    def __call__(self, x: mx.array, cache: KVCache | None, layer: int) -> mx.array:
        tokens = x.shape[1]
        places = mx.arange(tokens) if cache is None else cache.positions(tokens)
        q = self.query_norm(mx.unflatten(self.query(x), -1, (self.heads, -1))).swapaxes(1, 2)  # (B, H, T, E)
        k = self.key_norm(mx.unflatten(self.key(x), -1, (self.kv_heads, -1))).swapaxes(1, 2)  # (B, K, T, E)
        v = mx.unflatten(self.value(x), -1, (self.kv_heads, -1)).swapaxes(1, 2)
        unturned, q, k = q, rotate(q, places, self.base), rotate(k, places, self.base)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, K, S, E)
            sinks = cache.sinks(layer, tokens, self.window)
            if sinks is not None:
                far = rotate(unturned, sinks.places, self.base)
                heads = attention_with_sinks(q, far, k, v, sinks, cache.sight(self.window), cache.blank(k.shape[2]))
                return self.output(heads.swapaxes(1, 2).flatten(2))  # (B, T, D)
        share = self.heads // self.kv_heads
        k, v = mx.repeat(k, share, axis=1), mx.repeat(v, share, axis=1)  # (B, H, S, E)
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, S)
        hidden = self._hidden(tokens, k.shape[2], cache)
        weights = mx.softmax(mx.where(hidden, -mx.inf, scores), axis=-1, precise=True)
        return self.output((weights @ v).swapaxes(1, 2).flatten(2))  # (B, T, D)

    def _hidden(self, tokens: int, seen: int, cache: KVCache | None) -> mx.array:
        """Which of the `seen` places each of the last `tokens` may not look at: the future, what is beyond the
        window, and where no token stands."""
        ask, answer = mx.arange(seen - tokens, seen)[:, None], mx.arange(seen)
        hidden = ask < answer
        window = self.window if cache is None else cache.sight(self.window)
        hidden = hidden | (ask - answer >= window) if window else hidden
        blank = None if cache is None else cache.blank(seen)
        return hidden if blank is None else hidden | blank


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each fed by a norm and added to the stream."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        dense = (layer + 1) % config.dense_every == 0
        self.attention = Attention(config, 0 if dense else config.window)
        self.attention_norm, self.inner_norm = RMSNorm(config.width), RMSNorm(config.width)
        self.gate = nn.Linear(config.width, config.inner, bias=False)
        self.expand = nn.Linear(config.width, config.inner, bias=False)
        self.contract = nn.Linear(config.inner, config.width, bias=False)

    def __call__(self, x: mx.array, cache: KVCache | None, layer: int) -> mx.array:
        x = x + self.attention(self.attention_norm(x), cache, layer)
        h = self.inner_norm(x)
        gate = self.gate(h)
        return x + self.contract(gate * mx.sigmoid(gate) * self.expand(h))


class AdvancedGPT(Neural):
    """Embedding, blocks, a last norm, and the embedding's transpose."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.context, self.config = vocab_size, config.context, config
        self.embed = nn.Embedding(vocab_size, config.width)
        self.blocks = [Block(config, layer) for layer in range(config.layers)]
        self.norm = RMSNorm(config.width)
        self._initialise()

    def _initialise(self) -> None:
        """Normal with 0.02; what is added to the stream is divided by the root of the number of sums."""
        added = 0.02 / math.sqrt(2 * self.config.layers)
        self.embed.weight = mx.random.normal(self.embed.weight.shape, scale=0.02)
        for block in self.blocks:
            attention = block.attention
            for linear in (attention.query, attention.key, attention.value, block.gate, block.expand):
                linear.weight = mx.random.normal(linear.weight.shape, scale=0.02)
            for linear in (attention.output, block.contract):
                linear.weight = mx.random.normal(linear.weight.shape, scale=added)

    def memory(self, batch: int = 1) -> Memory:
        config = self.config
        shape = (config.layers, config.kv_heads, head_width(config), config.context)
        return KVCache(batch, Layout(*shape, rotary=True, dtype=self.norm.weight.dtype))

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, D)."""
        assert memory is None or isinstance(memory, KVCache), "a memory of another model"
        x = self.embed(ids)
        for layer, block in enumerate(self.blocks):
            x = self.block(block, x, memory, layer)
        if memory is not None:
            memory.advance(ids.shape[1])
        return self.norm(x)

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.embed.weight, None


STAGE = Stage(
    model=AdvancedGPT,
    config=Config(),
    recipe=Descent(steps=500, batch_size=8, learning_rate=7e-3, warmup=50, evaluate_every=100),
    tiny=Preset(
        Config(context=32, width=32, layers=2, heads=2, kv_heads=1, inner=64, window=8),
        Descent(steps=100, batch_size=16, learning_rate=1e-2, warmup=10, evaluate_every=50),
    ),
    presets={
        "base": Preset(
            Config(width=384, layers=6, heads=6, kv_heads=2, inner=1_024),
            Descent(steps=1_500, batch_size=32, learning_rate=1e-3, warmup=100, evaluate_every=100),
        ),
        "large": Preset(
            Config(context=512, width=512, layers=8, heads=8, kv_heads=4, inner=1_408),
            Descent(steps=14_000, batch_size=32, learning_rate=6e-4, warmup=500, evaluate_every=500),
        ),
    },
)
