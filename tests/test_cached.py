"""A cache without an end, and one in few bits, are what a pass over the whole text by definition says.

The definition is in NumPy, in float64, and knows no cache: for each token it lists what StreamingLLM would hold then
(Xiao et al. 2023, section 3.2), numbers that from 0 on, and turns keys and query by these numbers.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_gpt import prompt_cache, stages
from mlx_gpt.beam import beam_search
from mlx_gpt.cached import Cached, cached
from mlx_gpt.decoding import Batch, generate, read
from mlx_gpt.descent import Neural
from mlx_gpt.drafting import Lookup, drafted
from mlx_gpt.endless import Endless
from mlx_gpt.errors import CheckpointError, SettingError
from mlx_gpt.kv_cache import KVCache
from mlx_gpt.memory import SPARE, Memory
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste
from tests.conftest import with_slow

VOCABULARY, CONTEXT = 97, 24
GREEDY = Taste(temperature=0)
Weights = dict[str, np.ndarray]


def build(number: int, **config: int) -> Neural:
    """A stage with random weights, none zero or like another. Two layers, the second of which is never sparse."""
    tiny = dataclasses.replace(stages.stage(number).tiny.config, context=CONTEXT, width=64, **config)
    mx.random.seed(number)
    model = stages.stage(number).model(tiny, VOCABULARY)
    assert isinstance(model, Neural)
    model.update(tree_map(lambda weight: weight + 0.2 * mx.random.normal(weight.shape), model.parameters()))
    mx.eval(model.parameters())
    return model


def text(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, length).tolist()


# the definition


def turned(x: np.ndarray, places: np.ndarray, base: float) -> np.ndarray:
    """x (H, S, E) with each pair (i, i + E / 2) turned by place * base^(-2 i / E)."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * places[:, None] * base ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag], axis=-1)


def rounded(x: np.ndarray, bits: int | None) -> np.ndarray:
    """x as s q + b with q of few bits: of each group of 32 or 64, the end farther from 0 is met exactly, and 0, too."""
    if bits is None:
        return x
    group = 64 if x.shape[-1] % 64 == 0 else 32
    rows, most = x.astype(np.float32).reshape(-1, group), np.float32(2**bits - 1)
    low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
    from_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / most, np.float32(1e-7)) * np.where(from_low, 1, -1).astype(np.float32)
    end = np.where(from_low, low, high)
    steps = np.round(end / scale)
    scale = np.where(steps != 0, end / np.where(steps != 0, steps, 1), scale).astype(np.float32)
    bias = np.where(steps != 0, end, 0).astype(np.float32)
    q = np.clip(np.round((rows - bias) / scale), 0, most)
    return (q.astype(np.float64) * scale + bias).reshape(x.shape)


def attended(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, base: float | None, keep: int | None, window: int, bits: int | None
) -> np.ndarray:
    """q (H, T, E), k and v (K, T, E) -> (H, T, E). The keys are rounded as they are kept: turned by their place."""
    tokens, width = q.shape[1:]
    every = np.arange(tokens)
    k = turned(rounded(turned(k, every, base), bits), -every, base) if base is not None else rounded(k, bits)
    k, v = (np.repeat(x, q.shape[0] // k.shape[0], axis=0) for x in (k, rounded(v, bits)))
    out = np.zeros_like(q)
    for t in range(tokens):
        held = every[: t + 1]
        if keep is not None and t >= CONTEXT:
            held = np.concatenate([every[:keep], every[t + 1 - (CONTEXT - keep) : t + 1]])
        places = np.arange(len(held))
        keys, query = k[:, held], q[:, t : t + 1]
        if base is not None:
            keys, query = turned(keys, places, base), turned(query, places[-1:], base)
        scores = (query @ keys.swapaxes(1, 2))[:, 0] / np.sqrt(width)  # (H, held)
        scores[:, places[-1] - places >= (window or tokens)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        out[:, t] = (weights[:, None] @ v[:, held])[:, 0]
    return out


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)


def layer_norm(x: np.ndarray, norm: Callable[[str], np.ndarray]) -> np.ndarray:
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return norm("weight") * (x - mean) / np.sqrt(variance + 1e-5) + norm("bias")


def convolved(x: np.ndarray, taps: np.ndarray | None) -> np.ndarray:
    if taps is None:
        return x
    seen = np.concatenate([np.zeros((len(taps) - 1, x.shape[1])), x])
    return x + sum(tap * seen[len(taps) - 1 - k : len(seen) - k] for k, tap in enumerate(taps))


def heads_of(x: np.ndarray, width: int) -> np.ndarray:
    return x.reshape(len(x), -1, width).swapaxes(0, 1)


def reference(model: Neural, ids: list[int], keep: int | None = None, bits: int | None = None) -> np.ndarray:
    """Logarithms of the probabilities (T, V) after each of ids, in one pass."""
    w = {name: np.array(array, np.float64) for name, array in model.arrays().items()}
    config = model.config  # type: ignore[attr-defined]
    width = config.width // config.heads
    forward = _gpt2 if "position.weight" in w else _llama
    x = forward(w, ids, config, width, keep, bits)
    logits = x @ w["embed.weight"].T
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def _gpt2(w: Weights, ids: list[int], config: object, width: int, keep: int | None, bits: int | None) -> np.ndarray:
    assert keep is None
    x = w["embed.weight"][ids] + w["position.weight"][: len(ids)]
    for layer in range(config.layers):  # type: ignore[attr-defined]
        at = f"blocks.{layer}."
        norms = [lambda name, n=f"{at}{norm}.": w[n + name] for norm in ("attention_norm", "inner_norm")]

        def linear(name, h, at=at):
            return h @ w[f"{at}{name}.weight"].T + w[f"{at}{name}.bias"]

        q, k, v = (heads_of(part, width) for part in np.split(linear("qkv", layer_norm(x, norms[0])), 3, axis=-1))
        x = x + linear("output", attended(q, k, v, None, None, 0, bits).swapaxes(0, 1).reshape(len(ids), -1))
        h = linear("expand", layer_norm(x, norms[1]))
        x = x + linear("contract", h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))))
    return layer_norm(x, lambda name: w[f"norm.{name}"])


def _llama(w: Weights, ids: list[int], config: object, width: int, keep: int | None, bits: int | None) -> np.ndarray:
    x = w["embed.weight"][ids]
    for layer in range(config.layers):  # type: ignore[attr-defined]
        at = f"blocks.{layer}."
        window = 0 if (layer + 1) % config.dense_every == 0 else config.window  # type: ignore[attr-defined]
        h = convolved(rms(x, w[f"{at}attention_norm.weight"]), w.get(f"{at}attention_convolution.taps"))
        q, k, v = (heads_of(h @ w[f"{at}attention.{name}.weight"].T, width) for name in ("query", "key", "value"))
        q, k = rms(q, w[f"{at}attention.query_norm.weight"]), rms(k, w[f"{at}attention.key_norm.weight"])
        out = attended(q, k, v, config.rope_base, keep, window, bits)  # type: ignore[attr-defined]
        x = x + out.swapaxes(0, 1).reshape(len(ids), -1) @ w[f"{at}attention.output.weight"].T
        h = convolved(rms(x, w[f"{at}inner_norm.weight"]), w.get(f"{at}inner_convolution.taps"))
        gate, expanded = (h @ w[f"{at}{name}.weight"].T for name in ("gate", "expand"))
        x = x + (gate / (1 + np.exp(-gate)) * expanded) @ w[f"{at}contract.weight"].T
    return rms(x, w["norm.weight"])


def differs(found: mx.array, expected: np.ndarray) -> float:
    return float(np.abs(np.array(found, np.float64) - expected).max())


def agree(errors: list[float], bits: int | None) -> bool:
    """Whether found numbers are the expected ones; of those in few bits some hang on the last digit: those of a number
    that lies between two."""
    return max(errors) < 1e-4 if bits is None else max(errors) < 0.02 and float(np.median(errors)) < 1e-4


def in_parts(model: LanguageModel, ids: list[int], sizes: list[int]) -> mx.array:
    """Log-probabilities (T, V) after each of ids, read so many at a time, the last size again and again."""
    memory, parts, start = model.memory(), [], 0
    for size in itertools.chain(sizes, itertools.repeat(sizes[-1])):
        if start >= len(ids):
            return mx.concatenate(parts, axis=1)[0]
        parts.append(model.logprobs(mx.array([ids[start : start + size]]), memory))
        mx.eval(parts)
        start += size
    raise AssertionError


# without an end

rotary = pytest.mark.parametrize("number", [10, 11])


@rotary
@pytest.mark.parametrize(
    ("keep", "window"),
    [(0, 0), (1, 0), (4, 0), (CONTEXT - 1, 0), (4, 8), (4, CONTEXT - 2)],  # the last sees only some of those kept
)
def test_a_moved_window_is_one_pass_over_the_text(number: int, keep: int, window: int) -> None:
    model, ids = build(number, window=window), text(110)
    expected = reference(model, ids, keep)
    model_with = Cached(model, keep, None)
    for sizes in ([110], [1], [20, 7, 1, 30], [CONTEXT, CONTEXT + 1]):
        assert differs(in_parts(model_with, ids, sizes), expected) < 1e-4
    assert differs(model_with.logprobs(mx.array([ids]))[0], expected) < 1e-4
    picked = expected[np.arange(109), ids[1:]]
    assert differs(model_with.score(mx.array([ids]))[0], picked) < 1e-4
    # within the context nothing is new, beyond it the text is not what it would be without its first tokens
    assert differs(model.logprobs(mx.array([ids[:CONTEXT]]))[0], expected[:CONTEXT]) < 1e-4
    if keep > 1:
        assert np.abs(expected[CONTEXT:] - reference(model, ids, keep - 1)[CONTEXT:]).max() > 1e-2


@rotary
def test_long_reads_go_block_by_block(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(number), text(100)
    expected = reference(model, ids, 4)
    for block in (1, 7, 64):
        monkeypatch.setattr("mlx_gpt.descent.attention.BLOCK", block)
        assert differs(Cached(model, 4, None).logprobs(mx.array([ids]))[0], expected) < 1e-4


GIVEN = list(itertools.product((10, 11), (1, 3, 23, 24, 25, 120)))


@pytest.mark.parametrize(("number", "length"), with_slow(GIVEN, [(10, 3), (10, 25), *GIVEN[6:]]))
@pytest.mark.parametrize("keep", [0, 4])
def test_greedy_tokens_are_those_of_whole_passes(number: int, keep: int, length: int) -> None:
    model, prompt = build(number), text(length, 1)
    found = list(itertools.islice(generate(Cached(model, keep, None), prompt, GREEDY, 0), 90))
    expected = reference(model, prompt + found, keep)[length - 1 : -1].argmax(axis=-1)
    assert found == expected.tolist()


@rotary
@pytest.mark.parametrize("step", [4, 64])
@pytest.mark.parametrize(("keep", "bits"), [(4, None), (0, None), (4, 8)])
def test_texts_that_begin_at_several_places(
    number: int, keep: int, bits: int | None, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined at different lengths, gone on with, picked and reordered: each says what it would alone."""
    monkeypatch.setattr(KVCache, "step", step)
    plain = build(number, window=8)
    model, texts = Cached(plain, keep, bits), [text(200, seed) for seed in range(4)]
    expected = [reference(plain, ids, keep, bits) for ids in texts]
    at, errors = [2, 50, 1, 21], list[float]()
    memories: list[Memory] = [read(model, [*ids[:length], 0]).memory for ids, length in zip(texts, at, strict=True)]
    merged = memories[0].joined(memories[1]).joined(memories[2].joined(memories[3]))
    order = [0, 1, 2, 3]
    for turn, size in enumerate([1, 1, 2, 1, 5, 1, 1, 30, 1, 1, 1, 40, 1, 1]):
        if turn == 4:
            merged, order = merged.rows([3, 0, 2, 2]), [3, 0, 2, 2]
        if turn == 9:
            merged, order = merged.rows([1, 3]).joined(merged.rows([0])), [0, 2, 3]
        more = mx.array([texts[row][at[row] : at[row] + size] for row in order])
        found = model.logprobs(more, merged)
        for place, row in enumerate(order):
            errors += [differs(found[place, t], expected[row][at[row] + t]) for t in range(size)]
        for row in set(order):
            at[row] += size
    assert agree(errors, bits)


@rotary
def test_what_is_kept_does_not_grow(number: int) -> None:
    model, sizes = Cached(build(number), 4, None), list[int]()
    memory, ids = model.memory(), text(400)
    for start in range(400):
        model.logprobs(mx.array([ids[start : start + 1]]), memory)
        sizes.append(sum(array.nbytes for array in memory.arrays))
    layout = memory.layout
    each = 2 * layout.layers * layout.heads * layout.head_width * 4  # bytes of a token
    tails = sum((k + SPARE) * d for k, d in layout.tails) * 4
    assert max(sizes) <= (CONTEXT + SPARE + KVCache.step) * each + tails and sizes[-1] in sizes[200:300]
    assert memory.room is None and memory.length == 400


SAVED = [(number, *how) for number in (10, 11) for how in ((4, None), (0, None), (4, 4), (None, 8))]


@pytest.mark.parametrize(("number", "keep", "bits"), with_slow(SAVED, [(10, 4, None), *SAVED[4:]]))
@pytest.mark.parametrize("length", [3, 20, 140])
def test_a_saved_memory_is_the_live_one(
    number: int, keep: int | None, bits: int | None, length: int, tmp_path: Path
) -> None:
    model, prompt = Cached(build(number), keep, bits), text(length, 2)
    live = read(model, prompt)
    if not live.ids:  # longer than the context, which has an end
        return
    prompt_cache.save(tmp_path / "m", live, "a")
    loaded = prompt_cache.load(tmp_path / "m", model, "a")
    assert loaded.ids == prompt[:-1]
    memories = [live.memory.rows([0]), loaded.memory.rows([0])]
    for token in text(70, 3)[: None if keep is not None else CONTEXT - length]:
        a, b = (model.logprobs(mx.array([[token]]), memory) for memory in memories)
        assert mx.array_equal(a, b)
    batch = Batch(model, Taste())
    batch.add(prompt, 5, loaded)
    found = [batch.step()[0] for _ in range(40)]
    assert found == list(itertools.islice(generate(model, prompt, Taste(), 5), 40))


@rotary
def test_drafts_beams_and_batches_write_the_same_text(number: int) -> None:
    model, prompt = Cached(build(number), 4, None), text(30, 4) * 2
    alone = list(itertools.islice(generate(model, prompt, GREEDY, 0), 80))
    assert list(itertools.islice(drafted(model, Lookup(VOCABULARY), prompt, GREEDY, 0), 80)) == alone
    assert list(beam_search(model, prompt, 1, 40)[0].ids) == alone[:40]
    batch, others = Batch(model, GREEDY), [prompt, text(3, 5), prompt, text(1, 6)]
    for seed, each in enumerate(others):
        batch.add(each, seed)
    steps = [batch.step() for _ in range(80)]
    for seed, each in enumerate(others):
        expected = list(itertools.islice(generate(model, each, GREEDY, 0), 80))
        assert [tokens[seed] for tokens in steps] == expected
    ids = mx.array([[*prompt, *alone]])
    assert mx.array_equal(Endless(model).score(ids), model.score(ids))


# in few bits


@pytest.mark.parametrize(("number", "heads"), [(9, 2), (10, 2), (11, 2), (11, 1)])
@pytest.mark.parametrize("bits", [8, 4])
def test_keys_and_values_are_rounded_by_definition(number: int, heads: int, bits: int) -> None:
    model, ids = build(number, heads=heads), text(CONTEXT)
    expected = reference(model, ids, None, bits)
    for sizes in ([CONTEXT], [1], [5, 1, 9]):
        found = in_parts(Cached(model, None, bits), ids, sizes)
        assert agree([differs(found[t], expected[t]) for t in range(CONTEXT)], bits)
    exact = reference(model, ids)
    assert np.abs(expected - exact).max() > 1e-4  # it is not the cache as it was


@pytest.mark.parametrize("number", [9, 10, 11])
def test_few_bits_are_few_bytes(number: int) -> None:
    plain = build(number, heads=1)  # of 64 numbers, one group
    sizes = {}
    for bits in (None, 8, 4):
        memory = KVCache(3, plain.memory().layout, None, bits)
        for array in memory.arrays[: memory._tails]:
            sizes[bits] = sizes.get(bits, 0) + array.nbytes
    # 64 numbers: 256 bytes in float32; 64 or 32 bytes and a scale and a bias of 4 bytes each
    assert sizes[8] / sizes[None] == 72 / 256 and sizes[4] / sizes[None] == 40 / 256


@pytest.mark.parametrize("number", [9, 11])
def test_texts_of_a_batch_in_few_bits_are_those_of_single_ones(number: int) -> None:
    model, given = Cached(build(number), None, 4), [text(3), text(20, 1), text(1, 2), text(40, 3)]
    batch = Batch(model, GREEDY)
    for seed, prompt in enumerate(given):
        batch.add(prompt, seed)
    steps = [batch.step() for _ in range(40)]
    for seed, prompt in enumerate(given):
        assert [each[seed] for each in steps] == list(itertools.islice(generate(model, prompt, GREEDY, 0), 40))


# both


def test_a_token_is_stored_without_a_copy_of_the_others() -> None:
    """Only every 64th token makes the arrays longer; the others are written into them."""
    layout = dataclasses.replace(build(11).memory().layout, layers=1, heads=4, head_width=64, context=8_192, tails=())
    new = mx.random.normal((1, 4, 1, 64))
    mx.eval(new)
    for keep, bits in ((None, None), (None, 8), (4, None)):
        memory = KVCache(1, layout, keep, bits)
        memory.extend(0, mx.zeros((1, 4, 8_010, 64)), mx.zeros((1, 4, 8_010, 64)))
        memory.advance(8_010)
        memory.extend(0, new, new)  # grows by some places
        memory.advance(1)
        mx.eval(memory.arrays)
        smallest = min(array.nbytes for array in memory.arrays[: memory._firsts])
        for _ in range(3):
            before = mx.get_active_memory()
            mx.reset_peak_memory()
            memory.extend(0, new, new)
            memory.advance(1)
            mx.eval(memory.arrays)
            assert mx.get_peak_memory() - before < smallest / 2, (keep, bits)


@pytest.mark.parametrize("number", [9, 10, 11])
def test_a_memory_has_the_type_of_the_model(number: int, tmp_path: Path) -> None:
    model = build(number)
    model.set_dtype(mx.float16)
    reading = read(model, text(20))
    assert {array.dtype for array in reading.memory.arrays} == {mx.float16}
    prompt_cache.save(tmp_path / "m", reading, "a")
    loaded = prompt_cache.load(tmp_path / "m", model, "a")
    more = mx.array([[5]])
    assert mx.array_equal(model.logprobs(more, loaded.memory), model.logprobs(more, reading.memory))


@pytest.mark.parametrize(
    ("number", "keep", "bits", "said"),
    [
        (2, 4, None, "--keep-first 4: this model's memory never fills"),
        (7, 4, None, "--keep-first 4: this model's memory never fills"),
        (8, 0, None, "--keep-first 0: .* none beyond; drop it, or take stage 10 or 11"),
        (9, 4, None, "--keep-first 4: .* none beyond; drop it, or take stage 10 or 11"),
        (11, 32, None, "--keep-first 32: the context is 32 tokens"),
        (11, None, 4, "--cache-bits 4: .*heads of 16"),
        (8, None, 8, "--cache-bits 8: this model keeps no keys and values of its own"),
        (7, None, 8, "--cache-bits 8: this model keeps no keys and values of its own"),
    ],
)
def test_what_a_stage_cannot_have_is_refused(number: int, keep: int | None, bits: int | None, said: str, rough) -> None:
    with pytest.raises(SettingError, match=said):
        cached(rough(number), keep, bits)


def test_a_memory_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = build(11)
    prompt_cache.save(tmp_path / "m", read(Cached(model, 4, None), text(30)), "a")
    for other in (model, Cached(model, 5, None), Cached(model, 4, 8)):
        with pytest.raises(CheckpointError):
            prompt_cache.load(tmp_path / "m", other, "a")
