"""Stages 1, 4, 7, 9 and 11 once more, in NumPy and double precision, from nothing but the arrays of a checkpoint.

Written from the papers' equations and the file format, with none of the package's code. Every model is a function of
ids (T,) to log-probabilities (T, V) of what follows each of them.
"""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

Model = Callable[[list[int]], np.ndarray]
KINDS = {"F32": np.float32, "U8": np.uint8, "U16": np.uint16, "I32": np.int32, "U32": np.uint32}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """A safetensors file: eight bytes of length, a JSON header, the arrays one after another."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    card = json.loads(header.pop("__metadata__")["mlx_gpt"])
    arrays = {}
    for name, told in header.items():
        begin, stop = told["data_offsets"]
        array = np.frombuffer(body[begin:stop], KINDS[told["dtype"]]).reshape(told["shape"])
        arrays[name.removeprefix("model.")] = array.astype(np.float64) if told["dtype"] == "F32" else array
    return arrays, card


def model(path: Path) -> tuple[Model, int | None]:
    """The model of a checkpoint, and its context."""
    arrays, card = read(path)
    config = card["config"]
    if card["stage"] <= 4:
        return ngram(arrays), None
    if card["stage"] == 7:
        return lstm(arrays, config["layers"]), None
    return (gpt2 if card["stage"] == 9 else canon)(arrays, config), config["context"]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def ngram(arrays: dict[str, np.ndarray]) -> Model:
    """Every stored n-gram in a dictionary; what is not there backs off: p(w | h) = b(h) p(w | h without its first)."""
    order = sum(name.endswith(".tokens") for name in arrays)
    levels: list[list[tuple[int, ...]]] = [[()]]
    p: dict[tuple[int, ...], float] = {}
    backoff: dict[tuple[int, ...], float] = {}
    for k in range(1, order + 1):
        starts = arrays[f"{k}.starts"].astype(np.int64)
        if f"{k}.bases" in arrays:
            starts = starts + np.repeat(arrays[f"{k}.bases"], int(arrays[f"{k}.block"][0]))[: len(starts)]
        tokens, found = arrays[f"{k}.tokens"].tolist(), []
        for context, begin, stop in zip(levels[-1], starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            found += [(*context, token) for token in tokens[begin:stop]]
        levels.append(found)
        p |= dict(zip(found, arrays[f"{k}.probabilities"].tolist(), strict=True))
        if k < order:
            backoff |= dict(zip(found, arrays[f"{k}.backoffs"].tolist(), strict=True))

    def chance(gram: tuple[int, ...]) -> float:
        if gram in p:
            return p[gram]
        return backoff.get(gram[:-1], 1.0) * chance(gram[1:])

    def after(ids: list[int]) -> np.ndarray:
        vocabulary = len(arrays["1.tokens"])
        rows = [tuple(ids[max(0, at + 2 - order) : at + 1]) if order > 1 else () for at in range(len(ids))]
        return np.array([[math.log(chance((*row, token))) for token in range(vocabulary)] for row in rows])

    return after


def lstm(w: dict[str, np.ndarray], layers: int) -> Model:
    """i, f, g, o = W x + U h + b;  c = f c + i g;  h = o tanh(c); the embedding is the output layer, too."""

    def after(ids: list[int]) -> np.ndarray:
        xs = w["embed.weight"][ids]
        for layer in range(layers):
            name, width = f"layers.{layer}.", xs.shape[1]
            h, c, out = np.zeros(width), np.zeros(width), []
            for x in xs:
                gates = w[name + "input"] @ x + w[name + "recurrent"] @ h + w[name + "bias"]
                i, f, g, o = np.split(gates, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
                out.append(h)
            xs = np.array(out)
        return log_softmax(xs @ w["embed.weight"].T + w["output_bias"])

    return after


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int = 0) -> np.ndarray:
    """One head, (T, E) each: softmax(q k / sqrt(E)) v over the last `window` places, or over all before."""
    out = np.empty_like(q)
    for t in range(len(q)):
        first = max(0, t + 1 - window) if window else 0
        scores = k[first : t + 1] @ q[t] / math.sqrt(q.shape[1])
        out[t] = np.exp(log_softmax(scores)) @ v[first : t + 1]
    return out


def gpt2(w: dict[str, np.ndarray], config: dict) -> Model:
    """Radford et al. 2019, GELU by its tanh formula (Hendrycks & Gimpel 2016)."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def after(ids: list[int]) -> np.ndarray:
        x = w["embed.weight"][ids] + w["position.weight"][: len(ids)]
        for layer in range(config["layers"]):
            name = f"blocks.{layer}."
            parts = np.split(linear(norm(x, name + "attention_norm"), name + "qkv"), 3, axis=1)
            heads = zip(*(np.split(part, config["heads"], axis=1) for part in parts), strict=True)
            x = x + linear(np.concatenate([attention(*head) for head in heads], axis=1), name + "output")
            h = linear(norm(x, name + "inner_norm"), name + "expand")
            h = h / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
            x = x + linear(h, name + "contract")
        return log_softmax(norm(x, "norm") @ w["embed.weight"].T)

    return after


def canon(w: dict[str, np.ndarray], config: dict) -> Model:
    """Qwen3's block with a convolution before attention and before the feed-forward layer (Allen-Zhu 2025)."""
    heads, share = config["heads"], config["heads"] // config["kv_heads"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * w[name + ".weight"]

    def mixed(x: np.ndarray, name: str) -> np.ndarray:
        if name + ".taps" not in w:
            return x
        out = x.copy()
        for back, tap in enumerate(w[name + ".taps"]):
            out[back:] += tap * x[: len(x) - back]
        return out

    def turned(x: np.ndarray) -> np.ndarray:
        half = x.shape[1] // 2
        turn = np.exp(1j * np.arange(len(x))[:, None] * config["rope_base"] ** (-np.arange(half) / half))
        z = (x[:, :half] + 1j * x[:, half:]) * turn
        return np.concatenate([z.real, z.imag], axis=1)

    def after(ids: list[int]) -> np.ndarray:
        x = w["embed.weight"][ids]
        for layer in range(config["layers"]):
            name = f"blocks.{layer}."
            dense = (layer + 1) % config["dense_every"] == 0
            h = mixed(norm(x, name + "attention_norm"), name + "attention_convolution")
            made = []
            for head in range(heads):
                parts = []
                for kind, own in (("query", head), ("key", head // share), ("value", head // share)):
                    width = config["width"] // heads
                    matrix = w[f"{name}attention.{kind}.weight"][own * width : (own + 1) * width]
                    part = h @ matrix.T
                    parts.append(part if kind == "value" else turned(norm(part, f"{name}attention.{kind}_norm")))
                made.append(attention(*parts, window=0 if dense else config["window"]))
            x = x + np.concatenate(made, axis=1) @ w[name + "attention.output.weight"].T
            h = mixed(norm(x, name + "inner_norm"), name + "inner_convolution")
            gate = h @ w[name + "gate.weight"].T
            x = x + (gate * sigmoid(gate) * (h @ w[name + "expand.weight"].T)) @ w[name + "contract.weight"].T
        return log_softmax(norm(x, "norm") @ w["embed.weight"].T)

    return after
