"""Models between stages 9 and 10, made of the stages' own parts, and stage 11 beginning as stage 10 begins."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, final

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent import Neural
from mlx_gpt.kv_cache import KVCache, Layout
from mlx_gpt.memory import Memory
from mlx_gpt.recipe import Settings, setting
from mlx_gpt.stages import s10_advanced_gpt as ten
from mlx_gpt.stages import s11_m2_gpt as eleven


@dataclass(frozen=True)
class Parts(Settings):
    """What of stage 10 a model between it and stage 9 has; the rest is stage 9's."""

    context: int = setting(64, "tokens in the window", low=2)
    width: int = setting(64, "numbers in a token's vector", low=2)
    layers: int = setting(3, "blocks of attention and feed-forward", low=1)
    heads: int = setting(2, "attention heads", low=1, divides="width")
    kv_heads: int = setting(2, "heads of keys and values", low=1, divides="heads")
    inner: int = setting(256, "units of the feed-forward layer", low=1)
    rms: bool = setting(False, "RMSNorm, not LayerNorm")
    biases: bool = setting(True, "biases in linear layers and in LayerNorm")
    rotary: bool = setting(False, "rotary positions, not a learned vector for each place")
    gated: bool = setting(False, "SwiGLU, not GELU")
    normed: bool = setting(False, "queries and keys normed")
    rope_base: float = setting(10_000.0, "slowest rotation", low=1.0)


def _norm(parts: Parts) -> nn.Module:
    return ten.RMSNorm(parts.width) if parts.rms else nn.LayerNorm(parts.width, bias=parts.biases)


class _Attention(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        width, shared = parts.width, parts.kv_heads * (parts.width // parts.heads)
        self.query = nn.Linear(width, width, bias=parts.biases)
        self.key, self.value = (nn.Linear(width, shared, bias=parts.biases) for _ in range(2))
        self.output = nn.Linear(width, width, bias=parts.biases)
        if parts.normed:
            self.query_norm, self.key_norm = (ten.RMSNorm(width // parts.heads) for _ in range(2))

    def __call__(self, x: mx.array) -> mx.array:
        parts, tokens = self.parts, x.shape[1]
        q = mx.unflatten(self.query(x), -1, (parts.heads, -1))  # (B, T, H, E)
        k, v = (mx.unflatten(linear(x), -1, (parts.kv_heads, -1)) for linear in (self.key, self.value))
        if parts.normed:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))  # (B, H or K, T, E)
        if parts.rotary:
            q, k = (ten.rotate(each, mx.arange(tokens), parts.rope_base) for each in (q, k))
        k, v = (mx.repeat(each, parts.heads // parts.kv_heads, axis=1) for each in (k, v))
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, T)
        future = mx.arange(tokens)[:, None] < mx.arange(tokens)
        weights = mx.softmax(mx.where(future, -mx.inf, scores), axis=-1, precise=True)
        return self.output((weights @ v).swapaxes(1, 2).flatten(2))  # (B, T, D)


class _Block(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.attention = _Attention(parts)
        self.attention_norm, self.inner_norm = _norm(parts), _norm(parts)
        if parts.gated:
            self.gate = nn.Linear(parts.width, parts.inner, bias=parts.biases)
        self.expand = nn.Linear(parts.width, parts.inner, bias=parts.biases)
        self.contract = nn.Linear(parts.inner, parts.width, bias=parts.biases)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attention(self.attention_norm(x))
        h = self.inner_norm(x)
        inner = self.expand(h)
        return x + self.contract(nn.silu(self.gate(h)) * inner if "gate" in self else nn.gelu_approx(inner))


@final
class Between(Neural):
    """A GPT with some of stage 10's parts and some of stage 9's; it reads windows, and writes nothing."""

    def __init__(self, parts: Parts, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.context, self.parts = vocab_size, parts.context, parts
        self.embed = nn.Embedding(vocab_size, parts.width)
        if not parts.rotary:
            self.position = nn.Embedding(parts.context, parts.width)
        self.blocks = [_Block(parts) for _ in range(parts.layers)]
        self.norm = _norm(parts)
        self.restore({name: self._first(name, weight) for name, weight in self.arrays().items()})

    def _first(self, name: str, weight: mx.array) -> mx.array:
        """As both stages begin: normal with 0.02, less for what is added to the stream; gains of one, biases of 0."""
        if weight.ndim < 2:
            return mx.zeros_like(weight) if name.endswith("bias") else mx.ones_like(weight)
        added = name.endswith(("output.weight", "contract.weight"))
        return mx.random.normal(weight.shape, scale=0.02 / math.sqrt(2 * self.parts.layers) if added else 0.02)

    def memory(self, batch: int = 1) -> Memory:
        parts = self.parts
        return KVCache(batch, Layout(parts.layers, parts.kv_heads, parts.width // parts.heads, parts.context))

    def hidden(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, D)."""
        assert memory is None, "it reads windows only"
        x = self.embed(ids)
        if "position" in self:
            x = x + self.position(mx.arange(ids.shape[1]))
        for block in self.blocks:
            x = self.block(block, x)
        return self.norm(x)

    def head(self) -> tuple[mx.array, mx.array | None]:
        return self.embed.weight, None


def parts_of(config: ten.Config, **changes: Any) -> Parts:
    """All of stage 10's parts, but for these."""
    shape = {name: getattr(config, name) for name in ("context", "width", "layers", "heads", "kv_heads", "inner")}
    whole = Parts(**shape, rms=True, biases=False, rotary=True, gated=True, normed=True, rope_base=config.rope_base)
    return dataclasses.replace(whole, **changes)


def begun_as_ten(config: Any, vocab_size: int) -> eleven.M2GPT:
    """Stage 11 whose blocks do not begin as no change: what is added to the stream begins as stage 10's does."""
    model = eleven.M2GPT(config, vocab_size)
    added = 0.02 / math.sqrt(2 * config.layers)
    for block in model.blocks:
        for linear in (block.attention.output, block.contract):
            linear.weight = mx.random.normal(linear.weight.shape, scale=added)
    return model
