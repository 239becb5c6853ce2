"""The neural stages written plainly in PyTorch, to be measured beside ours. Imported only where torch is installed."""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable
from typing import Any, final

import numpy as np
from bench_figures import in_turns
from bench_train_models import Trainer

from mlx_gpt.recipe import Descent

torch: Any = importlib.import_module("torch")  # optional and large: not for the type checker to follow
nn, F = torch.nn, torch.nn.functional
Module: Any = nn.Module
Tensor = Any


@final
class Torch(Trainer):
    """A torch module from ids (B, T) to logits (B, T, V), or ids and state to logits and state, with AdamW."""

    def __init__(self, model: Any, recipe: Descent) -> None:
        self.model, self.recipe = model, recipe
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        others = [p for p in model.parameters() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2))

    def take(self, batch: np.ndarray, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()

    def nats(self, rows: np.ndarray) -> float:
        with torch.no_grad():
            parts = [rows[start : start + 128] for start in range(0, len(rows), 128)]
            return sum(float(self._loss(part)) * len(part) for part in parts) / len(rows)

    def _loss(self, batch: np.ndarray) -> Tensor:
        ids = torch.from_numpy(batch.astype(np.int64))
        logits = self.model(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def settle(trainer: Torch, batch: np.ndarray, quick: bool) -> None:
    """Let torch use as many threads as are soonest here: on busy cores that is one, for threads wait for each other."""
    if quick:
        torch.set_num_threads(1)
        return

    def step(threads: int) -> None:
        torch.set_num_threads(threads)
        trainer.take(batch, 0.0)

    counts = {str(n): functools.partial(step, n) for n in {1, os.cpu_count() or 1}}
    took = in_turns(counts, 3)
    torch.set_num_threads(int(min(took, key=lambda n: min(took[n]))))


class FeedForward(Module):
    """Stage 5: the vectors of the last N - 1 tokens, one tanh layer, and a straight way past it."""

    def __init__(self, c: Any, vocab: int) -> None:
        super().__init__()
        self.places, self.vocab = c.order - 1, vocab
        self.embed = nn.Embedding(vocab + 1, c.width)
        self.inner = nn.Linear(self.places * c.width, c.hidden)
        self.head = nn.Linear(self.places * c.width + c.hidden, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        vectors = self.embed(F.pad(ids, (self.places - 1, 0), value=self.vocab))
        x = vectors.unfold(1, self.places, 1).transpose(2, 3).flatten(2)
        return self.head(torch.cat([x, torch.tanh(self.inner(x))], dim=-1))


class Recurrent(Module):
    """Stages 6 and 7 by torch's own recurrent layers; the LSTM's output is tied to its embedding."""

    def __init__(self, c: Any, vocab: int, lstm: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, c.width)
        self.scan = nn.LSTM(c.width, c.width, c.layers, batch_first=True) if lstm else nn.RNN(c.width, c.width, 1, batch_first=True)  # fmt: skip # noqa: E501
        self.head = nn.Linear(c.width, vocab)
        if lstm:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.scan(self.embed(ids))[0])


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(B, T, H E) -> (B, H, T, E)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, T, E) three times -> (B, T, H E), by torch's fused attention."""
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2).flatten(2)


class Block(Module):
    """Stages 8 (norms after the sums, ReLU) and 9 (norms before them, GELU)."""

    def __init__(self, width: int, inner: int, heads: int, before: bool, bias: bool) -> None:
        super().__init__()
        self.heads, self.before = heads, before
        self.qkv, self.output = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)
        self.expand, self.contract = nn.Linear(width, inner, bias), nn.Linear(inner, width, bias)
        self.first, self.second = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = x + self._attention(self.first(x))
            return x + self.contract(F.gelu(self.expand(self.second(x))))
        x = self.first(x + self._attention(x))
        return self.second(x + self.contract(F.relu(self.expand(x))))

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.output(attend(q, k, v))


class Convolution(Module):
    """x plus its last few tokens, channel by channel; sooner than a grouped nn.Conv1d, two thirds of its time."""

    def __init__(self, taps: int, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(taps, width))

    def forward(self, x: Tensor) -> Tensor:
        seen = F.pad(x, (0, 0, len(self.taps) - 1, 0))
        places = range(len(self.taps) - 1, -1, -1)
        return x + sum(tap * seen[:, at : at + x.shape[1]] for tap, at in zip(self.taps, places, strict=True))


class Turned(Module):
    """Stages 10 and 11: RMS norms, rotary positions, grouped queries, gated units; 11 convolves."""

    def __init__(self, c: Any) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.base = c.heads, c.kv_heads, c.rope_base
        width = c.width // c.heads
        self.query, self.output = nn.Linear(c.width, c.width, False), nn.Linear(c.width, c.width, False)
        self.key, self.value = (nn.Linear(c.width, c.kv_heads * width, False) for _ in range(2))
        self.query_norm, self.key_norm = nn.RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)
        self.first, self.second = nn.RMSNorm(c.width, 1e-6), nn.RMSNorm(c.width, 1e-6)
        self.gate, self.expand = nn.Linear(c.width, c.inner, False), nn.Linear(c.width, c.inner, False)
        self.contract = nn.Linear(c.inner, c.width, False)
        taps = getattr(c, "taps", 0)
        self.near, self.near_inner = (Convolution(taps, c.width) if taps else nn.Identity() for _ in range(2))
        half = width // 2
        angle = torch.arange(c.context)[:, None] * self.base ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, x: Tensor) -> Tensor:
        h = self.near(self.first(x))
        q = self._rotate(self.query_norm(heads_of(self.query(h), self.heads)))
        k = self._rotate(self.key_norm(heads_of(self.key(h), self.kv_heads)))
        x = x + self.output(attend(q, k, heads_of(self.value(h), self.kv_heads)))
        h = self.near_inner(self.second(x))
        return x + self.contract(F.silu(self.gate(h)) * self.expand(h))

    def _rotate(self, x: Tensor) -> Tensor:
        cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class GPT(Module):
    """Embedding, blocks and the embedding's transpose; places by `positions`: learned, fixed or none."""

    def __init__(self, c: Any, vocab: int, blocks: list[Any], positions: str, norm: Any) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = nn.Embedding(vocab, c.width), nn.ModuleList(blocks), norm
        self.scale = math.sqrt(c.width) if positions == "fixed" else 1.0
        places = torch.zeros(c.context, c.width)
        if positions == "fixed":
            angle = torch.arange(c.context)[:, None] * torch.exp(
                torch.arange(0, c.width, 2) * (-math.log(1e4) / c.width)
            )
            places = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
        self.places = nn.Parameter(places, requires_grad=positions == "learned")
        for name, weight in self.named_parameters():
            if weight.dim() == 2 and positions != "fixed":
                added = name.endswith(("output.weight", "contract.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * c.layers) if added else 0.02)
            elif name.endswith("bias") and positions != "fixed":
                nn.init.zeros_(weight)
        if positions == "none":
            self.places = None

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) * self.scale
        if self.places is not None:
            x = x + self.places[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embed.weight)


def trainer(number: int, config: Any, recipe: Descent, vocab_size: int, bias: bool = True) -> Torch:
    """The counterpart of a neural stage; 11 is 10 with its convolutions."""
    torch.manual_seed(recipe.seed)
    c, blocks = config, range(getattr(config, "layers", 0))
    makers: dict[int, Callable[[], Any]] = {
        5: functools.partial(FeedForward, c, vocab_size),
        6: functools.partial(Recurrent, c, vocab_size, False),
        7: functools.partial(Recurrent, c, vocab_size, True),
        8: lambda: GPT(
            c, vocab_size, [Block(c.width, c.inner, c.heads, False, bias) for _ in blocks], "fixed", nn.Identity()
        ),
        9: lambda: GPT(
            c,
            vocab_size,
            [Block(c.width, 4 * c.width, c.heads, True, bias) for _ in blocks],
            "learned",
            nn.LayerNorm(c.width, bias=bias),
        ),
        10: lambda: GPT(c, vocab_size, [Turned(c) for _ in blocks], "none", nn.RMSNorm(c.width, 1e-6)),
    }
    return Torch(makers[min(number, 10)](), recipe)
