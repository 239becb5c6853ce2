"""The neural stages against implementations that are not ours, on copied random weights."""

import dataclasses
import itertools
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.descent.convolution import convolved
from mlx_gpt.stages import s06_rnn, s07_lstm, s08_transformer, s09_simple_gpt, s10_advanced_gpt, s11_m2_gpt

V, B, T = 50, 3, 24
IDS = np.random.default_rng(0).integers(0, V, (B, T))


def largest_difference(a: mx.array, b: np.ndarray) -> float:
    return float(np.abs(np.array(a) - b).max())


def test_the_rnn_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    model = s06_rnn.RNN(s06_rnn.Config(width=16), V)
    reference = torch.nn.RNN(16, 16, batch_first=True)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(torch.eye(16))
        reference.weight_hh_l0.copy_(torch.tensor(np.array(model.recurrent)))
        model.bias = mx.random.normal((16,))
        reference.bias_ih_l0.copy_(torch.tensor(np.array(model.bias)))
        reference.bias_hh_l0.zero_()
        expected, last = reference(torch.tensor(np.array(model.embed(mx.array(IDS)))))
    memory = model.memory(B)
    assert largest_difference(model.hidden(mx.array(IDS), memory), expected.numpy()) < 1e-5
    assert largest_difference(memory.arrays[0], last[0].numpy()) < 1e-5


def test_the_lstm_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    model = s07_lstm.LSTM(s07_lstm.Config(width=16, layers=2), V)
    reference = torch.nn.LSTM(16, 16, num_layers=2, batch_first=True)
    with torch.no_grad():
        for number, layer in enumerate(model.layers):
            getattr(reference, f"weight_ih_l{number}").copy_(torch.tensor(np.array(layer.input)))
            getattr(reference, f"weight_hh_l{number}").copy_(torch.tensor(np.array(layer.recurrent)))
            getattr(reference, f"bias_ih_l{number}").copy_(torch.tensor(np.array(layer.bias)))
            getattr(reference, f"bias_hh_l{number}").zero_()
        expected, (h, c) = reference(torch.tensor(np.array(model.embed(mx.array(IDS)))))
    memory = model.memory(B)
    assert largest_difference(model.hidden(mx.array(IDS), memory), expected.numpy()) < 1e-5
    for held, theirs in zip(memory.arrays, (h[0], c[0], h[1], c[1]), strict=True):
        assert largest_difference(held, theirs.numpy()) < 1e-5


def test_the_attention_of_the_transformer_is_its_equation() -> None:
    config = s08_transformer.Config(context=16, width=12, heads=3)
    attention = s08_transformer.Attention(config)
    x = np.random.default_rng(1).normal(size=(2, 7, 12))

    def project(linear: object) -> np.ndarray:
        return x @ np.array(linear.weight, np.float64).T + np.array(linear.bias, np.float64)  # type: ignore[attr-defined]

    q, k, v = project(attention.query), project(attention.key), project(attention.value)
    joined = np.zeros_like(x)
    for b, head, t in itertools.product(range(2), range(3), range(7)):
        part = slice(4 * head, 4 * head + 4)
        scores = [q[b, t, part] @ k[b, s, part] / math.sqrt(4) for s in range(t + 1)]
        weights = np.exp(scores) / np.exp(scores).sum()
        joined[b, t, part] = sum(w * v[b, s, part] for s, w in enumerate(weights))
    out = joined @ np.array(attention.output.weight, np.float64).T + np.array(attention.output.bias, np.float64)
    assert largest_difference(attention(mx.array(x.astype(np.float32))), out) < 1e-5


def test_sinusoidal_positions_are_section_3_5() -> None:
    table = np.array(s08_transformer.positions(20, 6))
    for place, i in itertools.product(range(20), range(3)):
        angle = place / 10_000 ** (2 * i / 6)
        assert table[place, 2 * i : 2 * i + 2] == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-5)


def test_the_simplified_gpt_is_gpt_2_and_loads_its_weights(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=32, n_embd=24, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    reference = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        expected = reference(torch.tensor(IDS)).logits.numpy()
    reference.save_pretrained(tmp_path)
    model = s09_simple_gpt.load_gpt2(tmp_path)
    model.eval()
    assert largest_difference(model.logits(model.hidden(mx.array(IDS))), expected) < 1e-4


@pytest.mark.parametrize("window", [0, 8])
def test_the_advanced_gpt_is_qwen3(window: int) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    ours = s10_advanced_gpt.Config(context=32, width=24, layers=2, heads=4, kv_heads=2, inner=40, window=window)
    model = s10_advanced_gpt.AdvancedGPT(ours, V)
    config = transformers.Qwen3Config(
        vocab_size=V,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        intermediate_size=40,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=False,
        max_position_embeddings=32,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        use_sliding_window=bool(window),
        sliding_window=window or None,
        layer_types=["sliding_attention" if window else "full_attention", "full_attention"],
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=0,
    )
    reference = transformers.Qwen3ForCausalLM(config).eval()
    names = {
        "embed": "model.embed_tokens",
        "blocks": "model.layers",
        "norm": "model.norm",
        "attention_norm": "input_layernorm",
        "inner_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "expand": "mlp.up_proj",
        "contract": "mlp.down_proj",
        "attention": "self_attn",
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "output": "o_proj",
        "query_norm": "q_norm",
        "key_norm": "k_norm",
    }
    theirs = dict(reference.named_parameters())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        expected = reference(torch.tensor(IDS)).logits.numpy()
    copied = {}
    for name in model.arrays():
        their_name = ".".join(names.get(part, part) for part in name.split("."))
        copied[name] = mx.array(theirs[their_name].detach().numpy())
    model.restore(copied)
    assert largest_difference(model.logits(model.hidden(mx.array(IDS))), expected) < 1e-4


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_stage_11_is_stage_10_on_the_same_weights(window: int, kv_heads: int) -> None:
    told = {
        "context": 32,
        "width": 32,
        "layers": 3,
        "heads": 4,
        "kv_heads": kv_heads,
        "inner": 48,
        "window": window,
    }
    plain = s10_advanced_gpt.AdvancedGPT(s10_advanced_gpt.Config(**told), V)
    fused = s11_m2_gpt.M2GPT(s11_m2_gpt.Config(**told, taps=0), V)
    plain.restore({name: array + 0.1 * mx.random.normal(array.shape) for name, array in plain.arrays().items()})
    fused.restore(plain.arrays())
    ids = mx.array(IDS)
    assert mx.abs(plain.logprobs(ids) - fused.logprobs(ids)).max().item() < 1e-4
    memory = fused.memory(B)
    parts = [fused.logprobs(ids[:, a:b], memory) for a, b in ((0, 7), (7, 8), (8, 9), (9, T))]
    assert mx.abs(plain.logprobs(ids) - mx.concatenate(parts, axis=1)).max().item() < 1e-4


def test_stage_11_is_stage_10_where_its_convolutions_do_nothing() -> None:
    """As they are made: with all taps at zero."""
    config = s11_m2_gpt.Config(context=32, width=32, layers=2, heads=4, kv_heads=2, inner=48)
    told = dataclasses.asdict(config)
    del told["taps"]
    plain = s10_advanced_gpt.AdvancedGPT(s10_advanced_gpt.Config(**told), V)
    fused = s11_m2_gpt.M2GPT(config, V)
    fused.restore(fused.arrays() | plain.arrays())
    ids = mx.array(IDS)
    assert mx.abs(plain.logprobs(ids) - fused.logprobs(ids)).max().item() < 1e-4


def test_stages_10_and_11_have_the_same_settings() -> None:
    """But for the convolutions, which 11 alone has."""
    ten, eleven = dataclasses.asdict(s10_advanced_gpt.Config()), dataclasses.asdict(s11_m2_gpt.Config())
    assert ten == {name: value for name, value in eleven.items() if name != "taps"}


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_the_convolution_is_torchs(taps: int) -> None:
    """Depthwise, causal: values and both gradients; the first tap here is torch's last."""
    torch = pytest.importorskip("torch")
    chance = np.random.default_rng(taps)
    x, weight, back = (chance.normal(size=shape).astype(np.float32) for shape in ((B, T, 12), (taps, 12), (B, T, 12)))
    theirs, kernel = torch.tensor(x, requires_grad=True), torch.tensor(weight, requires_grad=True)
    behind = torch.nn.functional.pad(theirs.transpose(1, 2), (taps - 1, 0))
    found = torch.nn.functional.conv1d(behind, kernel.flip(0).T[:, None], groups=12).transpose(1, 2)
    found.backward(torch.tensor(back))

    def ours(x: mx.array, weight: mx.array) -> mx.array:
        return convolved(mx.pad(x, [(0, 0), (taps - 1, 0), (0, 0)]), weight)

    (out,), gradients = mx.vjp(ours, [mx.array(x), mx.array(weight)], [mx.array(back)])
    assert largest_difference(out, found.detach().numpy()) < 1e-5
    for gradient, parameter in zip(gradients, (theirs, kernel), strict=True):
        assert largest_difference(gradient, parameter.grad.numpy()) < 1e-5
