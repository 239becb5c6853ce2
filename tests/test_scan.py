"""The recurrent scans against a plain loop under autodiff, torch, mlx.nn, finite differences, and their own Metal code."""

import ctypes
import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_gpt.descent import scan
from mlx_gpt.descent.dropout import keyed
from mlx_gpt.descent.scan import lstm_scan, rnn_scan
from mlx_gpt.stages import s06_rnn, s07_lstm

SIZES = [(7, 3, 5), (1, 4, 6), (6, 1, 9), (1, 1, 1), (12, 16, 33)]  # T, B, D
Scan = Callable[..., tuple[mx.array, ...]]


def plain_rnn(inputs: mx.array, recurrent: mx.array, h: mx.array) -> tuple[mx.array, ...]:
    seen = []
    for t in range(len(inputs)):
        h = mx.tanh(inputs[t] + h @ recurrent.T)
        seen.append(h)
    return mx.stack(seen), h


def plain_lstm(inputs: mx.array, recurrent: mx.array, h: mx.array, c: mx.array) -> tuple[mx.array, ...]:
    seen = []
    for t in range(len(inputs)):
        i, f, g, o = mx.split(inputs[t] + h @ recurrent.T, 4, axis=-1)
        c = mx.sigmoid(f) * c + mx.sigmoid(i) * mx.tanh(g)
        h = mx.sigmoid(o) * mx.tanh(c)
        seen.append(h)
    return mx.stack(seen), h, c


KINDS = {"rnn": (rnn_scan, plain_rnn, 1, 1), "lstm": (lstm_scan, plain_lstm, 4, 2)}  # scan, loop, gates, states
every_kind = pytest.mark.parametrize("kind", KINDS)


def arguments(kind: str, size: tuple[int, int, int], seed: int = 0) -> list[mx.array]:
    """Inputs, recurrent and the states before, as random as to reach the flat ends of the gates."""
    (steps, batch, width), (_, _, gates, states) = size, KINDS[kind]
    chance = np.random.default_rng(seed)
    shapes = [(steps, batch, gates * width), (gates * width, width), *[(batch, width)] * states]
    scales = [2.0, 1.5 * width**-0.5, *[0.7] * states]
    made = (chance.normal(0, scale, shape) for scale, shape in zip(scales, shapes, strict=True))
    return [mx.array(each.astype(np.float32)) for each in made]


def differentiated(function: Scan, given: list[mx.array], weighed: tuple[int, ...]) -> tuple[list[mx.array], ...]:
    """The outputs, and the gradients in all that is given of a random sum of those outputs that are weighed."""

    def summed(*given: mx.array) -> tuple[mx.array, list[mx.array]]:
        outputs = list(function(*given))
        weights = [mx.random.normal(output.shape, key=mx.random.key(n)) for n, output in enumerate(outputs)]
        return sum((outputs[n] * weights[n]).sum() for n in weighed), outputs

    (_, outputs), gradients = mx.value_and_grad(summed, argnums=list(range(len(given))))(*given)
    return outputs, list(gradients)


def differs(a: mx.array, b: mx.array | np.ndarray) -> float:
    """The largest difference as a share of the largest number."""
    a, b = np.array(a.astype(mx.float32), np.float64), np.array(b, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / (np.abs(b).max() + 1e-12))


@every_kind
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("weighed", [(0,), (1,), (0, 1), (-1,), (0, 1, -1)], ids=str)
def test_values_and_gradients_are_those_of_a_plain_loop(
    kind: str, size: tuple[int, int, int], weighed: tuple[int, ...]
) -> None:
    ours, plain, *_ = KINDS[kind]
    given = arguments(kind, size)
    for mine, theirs in zip(differentiated(ours, given, weighed), differentiated(plain, given, weighed), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert differs(a, b) < 1e-5


@every_kind
def test_small_signals_keep_their_digits(kind: str) -> None:
    """Gates near their middle, where tanh as 2 σ - 1 has only absolute precision: 1e-7 of 0.03."""
    ours, plain, *_ = KINDS[kind]
    given = [0.02 * each for each in arguments(kind, (9, 3, 8))]
    for mine, theirs in zip(differentiated(ours, given, (0, 1)), differentiated(plain, given, (0, 1)), strict=True):
        assert max(differs(a, b) for a, b in zip(mine, theirs, strict=True)) < 3e-5


@every_kind
def test_shut_and_open_gates_leave_no_nan(kind: str) -> None:
    ours, plain, *_ = KINDS[kind]
    given = arguments(kind, (4, 3, 5))
    given[0] = given[0] * 200  # most gradients are what rounding leaves of 1 - tanh²
    for mine, theirs in zip(differentiated(ours, given, (0, 1)), differentiated(plain, given, (0, 1)), strict=True):
        assert max(mx.abs(a - b).max().item() for a, b in zip(mine, theirs, strict=True)) < 1e-4  # NaN is not


@every_kind
def test_gradients_are_finite_differences(kind: str) -> None:
    """(L(x + e d) - L(x - e d)) / 2 e = gradient . d for a random direction d, to e² and the rounding of L / e."""
    function, given = KINDS[kind][0], arguments(kind, (5, 2, 4))
    _, gradients = differentiated(function, given, (0, 1))
    for place, gradient in enumerate(gradients):
        direction = mx.random.normal(gradient.shape, key=mx.random.key(100 + place))
        sums = []
        for step in (1e-2, -1e-2):
            moved = [each + step * direction if n == place else each for n, each in enumerate(given)]
            outputs = function(*moved)
            weights = [mx.random.normal(each.shape, key=mx.random.key(n)) for n, each in enumerate(outputs)]
            sums.append(sum((outputs[n] * weights[n]).sum().item() for n in (0, 1)))
        assert (sums[0] - sums[1]) / 2e-2 == pytest.approx((gradient * direction).sum().item(), rel=2e-3, abs=2e-3)


@every_kind
def test_torch_has_the_same_values_and_gradients(kind: str) -> None:
    torch = pytest.importorskip("torch")
    steps, batch, width = 9, 3, 7
    function, _, _, states = KINDS[kind]
    reference = (torch.nn.RNN if kind == "rnn" else torch.nn.LSTM)(5, width)
    chance = np.random.default_rng(2)
    x, *before = (chance.normal(size=s).astype(np.float32) for s in ((steps, batch, 5), *[(1, batch, width)] * states))
    named = dict(reference.named_parameters())
    arrays = [mx.array(named[name].detach().numpy()) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")]
    with torch.no_grad():
        named["bias_hh_l0"].zero_()
    their_before = [torch.tensor(each, requires_grad=True) for each in before]
    every, after = reference(torch.tensor(x), their_before[0] if kind == "rnn" else tuple(their_before))
    ends = [after] if kind == "rnn" else list(after)
    ((every * every).sum() + sum((3 * end).sum() for end in ends)).backward()

    def summed(wide: mx.array, recurrent: mx.array, bias: mx.array, *before: mx.array) -> mx.array:
        every, *ends = function(mx.array(x) @ wide.T + bias, recurrent, *before)
        return (every * every).sum() + sum((3 * end).sum() for end in ends)

    given = [*arrays, *(mx.array(each[0]) for each in before)]
    outputs = function(mx.array(x) @ arrays[0].T + arrays[2], arrays[1], *given[3:])
    assert differs(outputs[0], every.detach().numpy()) < 1e-5
    for ours, theirs in zip(outputs[1:], ends, strict=True):
        assert differs(ours, theirs[0].detach().numpy()) < 1e-5
    expected = [named[name].grad.numpy() for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")]
    expected += [each.grad[0].numpy() for each in their_before]
    gradients = mx.grad(summed, argnums=list(range(len(given))))(*given)
    for gradient, theirs in zip(gradients, expected, strict=True):
        assert differs(gradient, theirs) < 1e-5


@every_kind
def test_mlx_nn_has_the_same_values_and_gradients(kind: str) -> None:
    layer = (nn.RNN if kind == "rnn" else nn.LSTM)(5, 6)
    function, _, _, states = KINDS[kind]
    x = mx.random.normal((3, 8, 5), key=mx.random.key(0))
    names = ("Wxh", "Whh", "bias") if kind == "rnn" else ("Wx", "Wh", "bias")
    given = [layer[name] for name in names]

    def theirs(*given: mx.array) -> mx.array:
        layer.update(dict(zip(names, given, strict=True)))
        every = layer(x) if kind == "rnn" else layer(x)[0]
        return (every * every).sum()

    def ours(wide: mx.array, recurrent: mx.array, bias: mx.array) -> mx.array:
        every = function(x.swapaxes(0, 1) @ wide.T + bias, recurrent, *[mx.zeros((3, 6))] * states)[0]
        return (every * every).sum()

    (one, g), (two, k) = (mx.value_and_grad(f, argnums=[0, 1, 2])(*given) for f in (theirs, ours))
    assert one.item() == pytest.approx(two.item(), rel=1e-5)
    for a, b in zip(g, k, strict=True):
        assert differs(b, np.array(a)) < 1e-5


@every_kind
def test_two_halves_are_the_whole_and_stopped_gradients_stop(kind: str) -> None:
    function, given = KINDS[kind][0], arguments(kind, (8, 3, 5))

    def halves(stopped: bool, inputs: mx.array, recurrent: mx.array, *before: mx.array) -> tuple[mx.array, ...]:
        first, *between = function(inputs[:5], recurrent, *before)
        between = [mx.stop_gradient(each) if stopped else each for each in between]
        second, *after = function(inputs[5:], recurrent, *between)
        return (second if stopped else mx.concatenate([first, second])), *after

    whole = differentiated(function, given, (0, 1))
    joined = differentiated(lambda *given: halves(False, *given), given, (0, 1))
    for one, two in zip(whole, joined, strict=True):
        assert max(differs(b, np.array(a)) for a, b in zip(one, two, strict=True)) < 1e-5
    _, gradients = differentiated(lambda *given: halves(True, *given), given, (0, 1))
    assert not gradients[0][:5].any().item() and gradients[0][5:].all().item()
    assert not any(each.any().item() for each in gradients[2:])


@every_kind
@pytest.mark.compiled
def test_compiled_is_eager(kind: str) -> None:
    function, given = KINDS[kind][0], arguments(kind, (3, 2, 4))
    eager = differentiated(function, given, (0, 1))
    mx.enable_compile()
    try:
        compiled = mx.compile(lambda *given: differentiated(function, list(given), (0, 1)))(*given)
        mx.eval(compiled)
    finally:
        mx.disable_compile()
    for one, two in zip(eager, compiled, strict=True):
        assert max(differs(b, np.array(a)) for a, b in zip(one, two, strict=True)) < 1e-5


@every_kind
@pytest.mark.parametrize(("dtype", "near"), [(mx.float16, 5e-3), (mx.bfloat16, 4e-2)], ids=str)
def test_16_bits_stay_16_bits_and_near(
    kind: str, dtype: mx.Dtype, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, given = KINDS[kind][0], arguments(kind, (6, 3, 5))
    expected = differentiated(function, given, (0, 1))
    low = [each.astype(dtype) for each in given[:2]] + given[2:]
    products, addmm = list[mx.Dtype](), mx.addmm

    def watched(*matrices: mx.array) -> mx.array:
        products.extend(matrix.dtype for matrix in matrices)
        return addmm(*matrices)

    monkeypatch.setattr(mx, "addmm", watched)
    outputs, gradients = differentiated(function, low, (0, 1))
    assert set(products) == {dtype}
    assert outputs[0].dtype == dtype and {each.dtype for each in outputs[1:]} == {mx.float32}  # as the states came
    assert [each.dtype for each in gradients] == [each.dtype for each in low]
    for one, two in zip(expected, (outputs, gradients), strict=True):
        assert max(differs(b, np.array(a)) for a, b in zip(one, two, strict=True)) < near


def test_the_protected_vector_loses_no_small_change_in_16_bits() -> None:
    """c = 256 with open gates and 0.5 a step: 260 after 8; bfloat16, whose next number is 258, would stay at 256."""
    z = mx.broadcast_to(mx.array([[20.0], [20.0], [float(np.arctanh(0.5))], [0.0]]), (4, 3)).reshape(12)
    inputs = mx.broadcast_to(z, (8, 2, 12)).astype(mx.bfloat16)
    *_, c = lstm_scan(inputs, mx.zeros((12, 3), mx.bfloat16), mx.zeros((2, 3)), mx.full((2, 3), 256.0))
    assert np.allclose(np.array(c), 260, atol=0.05)


# --- the Metal code: on a GPU against its twin, elsewhere as C++, of which it is nearly a part


def cell_in_and_out(dtype: mx.Dtype) -> list[list[mx.array]]:
    """What the cell takes and what its backward pass takes, (B, D) = (3, 37)."""
    z, c, d_h, d_c = (mx.random.normal((3, w), key=mx.random.key(w + n)) * 2 for n, w in enumerate((148, 37, 37, 37)))
    return [[z.astype(dtype), c], [d_h.astype(dtype), d_c]]


@pytest.mark.metal
@pytest.mark.skipif(not mx.is_available(mx.gpu), reason="needs a Metal GPU")
@pytest.mark.parametrize(("dtype", "near"), [(mx.float32, 1e-5), (mx.float16, 5e-3), (mx.bfloat16, 4e-2)], ids=str)
def test_the_metal_kernels_are_their_twins(dtype: mx.Dtype, near: float) -> None:
    (z, c), (d_h, d_c) = cell_in_and_out(dtype)
    with mx.stream(mx.cpu):
        h, after, gates = scan.written_out(37)(z, c)
        back = scan.written_out_back(d_h, d_c, gates, c, h)
        mx.eval(h, after, gates, back)
    with mx.stream(mx.gpu):
        found = [*scan._lstm_cell_on_metal(z, c), *scan._lstm_cell_back_on_metal(d_h, d_c, gates, c)]
        mx.eval(found)
    for a, b in zip(found, [h, after, gates, *back], strict=True):
        assert a.dtype == b.dtype
        assert differs(a, np.array(b.astype(mx.float32))) < near


CPP = """
#include <cmath>
typedef unsigned int uint;
typedef float T;
struct Position { uint x; };
namespace metal {
inline float abs(float x) { return std::fabs(x); }
namespace precise {
inline float tanh(float x) { return std::tanh(x); }
inline float exp(float x) { return std::exp(x); }
}
}
%s
static void one(Position thread_position_in_grid, const float* z, const float* c, const int* c_shape, float* h,
    float* after, float* gates) { %s }
static void one_back(Position thread_position_in_grid, const float* d_h, const float* d_c, const float* gates,
    const float* before, const int* before_shape, float* d_z, float* d_before) { %s }
extern "C" void cell(int n, const float* z, const float* c, const int* shape, float* h, float* after, float* gates) {
    for (uint at = 0; at < uint(n); ++at) one({at}, z, c, shape, h, after, gates);
}
extern "C" void cell_back(int n, const float* d_h, const float* d_c, const float* gates, const float* before,
    const int* shape, float* d_z, float* d_before) {
    for (uint at = 0; at < uint(n); ++at) one_back({at}, d_h, d_c, gates, before, shape, d_z, d_before);
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_metal_source_read_as_cpp_is_its_twin(tmp_path: Path) -> None:
    source, built = tmp_path / "cell.cpp", tmp_path / "cell.so"
    source.write_text(CPP % (scan.SIGMOID, scan.FORWARD, scan.BACKWARD))
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-Wall", "-Werror", "-fPIC", "-shared", source, "-o", built], check=True
    )
    library = ctypes.CDLL(str(built))
    (z, c), (d_h, d_c) = cell_in_and_out(mx.float32)
    h, after, gates = scan.written_out(37)(z, c)
    back = scan.written_out_back(d_h, d_c, gates, c, h)

    def ran(name: str, given: list[mx.array], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        size, guard = 3 * 37, 7  # more threads than numbers: what they write would be seen behind the end
        arrays = [np.ascontiguousarray(np.array(each)) for each in given] + [np.array([3, 37], np.int32)]
        room = [np.full(int(np.prod(shape)) + 4 * guard, 5, np.float32) for shape in shapes]
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (*arrays, *room)]
        getattr(library, name)(ctypes.c_int(size + guard), *pointers)
        assert all((each[-4 * guard :] == 5).all() for each in room)
        return [each[: -4 * guard].reshape(shape) for each, shape in zip(room, shapes, strict=True)]

    found = ran("cell", [z, c], [h.shape, c.shape, z.shape])
    found += ran("cell_back", [d_h, d_c, gates, c], [z.shape, c.shape])
    for theirs, ours in zip(found, [h, after, gates, *back], strict=True):
        assert differs(ours, theirs) < 1e-5


# --- stage 7's dropout

IDS = mx.array(np.random.default_rng(0).integers(0, 30, (4, 6)).astype(np.int32))


def lstm(**shares: float) -> s07_lstm.LSTM:
    mx.random.seed(3)
    return s07_lstm.LSTM(s07_lstm.Config(width=16, layers=2, **shares), 30)


def test_dropout_has_one_mask_for_all_of_a_sequence_and_one_for_each() -> None:
    with keyed(mx.random.key(1)):
        zeros = np.array(lstm(dropout=0.5).hidden(IDS) == 0)  # (B, T, D)
    assert (zeros == zeros[:, :1]).all()
    assert 0.3 < zeros.mean() < 0.7 and len({row.tobytes() for row in zeros[:, 0]}) == len(IDS)


def test_weight_drop_has_one_mask_for_all_of_a_sequence() -> None:
    model = lstm(weight_drop=0.5)
    with keyed(mx.random.key(2)):
        found = model.hidden(IDS)
    x = model.embed(IDS.T)
    with keyed(mx.random.key(2)):  # the same key gives the same masks, one a layer
        dropped = [layer.weight_drop(layer.recurrent) for layer in model.layers]
    assert all(0.4 < (each == 0).mean().item() < 0.6 for each in dropped)
    for layer, recurrent in zip(model.layers, dropped, strict=True):
        x = plain_lstm(x @ layer.input.T + layer.bias, recurrent, *[mx.zeros((4, 16))] * 2)[0]
    assert differs(found, np.array(x.swapaxes(0, 1))) < 1e-5


def test_embedding_dropout_drops_words_wherever_they_stand() -> None:
    model = lstm(embed_dropout=0.5)
    with keyed(mx.random.key(3)):
        read = np.array(model._embedded(IDS))  # (B, T, D)
    whole = np.array(model.embed(IDS))
    kept = (read != 0).any(axis=-1)
    assert np.allclose(read, np.where(kept[..., None], 2 * whole, 0))
    words = {int(word): {bool(k) for k in kept[np.array(IDS) == word]} for word in np.unique(np.array(IDS))}
    assert all(len(fates) == 1 for fates in words.values()) and 0 < kept.mean() < 1


def test_nothing_is_dropped_when_scoring() -> None:
    model, plain = lstm(dropout=0.5, embed_dropout=0.5, weight_drop=0.5), lstm()
    model.eval()
    assert mx.array_equal(model.hidden(IDS), plain.hidden(IDS))


def test_penalties_are_what_the_config_says_and_the_weights_keep_their_names() -> None:
    model = lstm(activation_penalty=2.0, slowness_penalty=1.0)
    assert (model.activation_penalty, model.slowness_penalty) == (2.0, 1.0)
    layers = {f"layers.{n}.{name}" for n in range(2) for name in ("input", "recurrent", "bias")}
    assert model.arrays().keys() == {"embed.weight", "output_bias"} | layers
    rnn = s06_rnn.RNN(s06_rnn.Config(width=4), 9)
    assert rnn.arrays().keys() == {"embed.weight", "recurrent", "bias", "output_head.weight", "output_head.bias"}


def test_the_small_presets_of_stage_7_have_no_such_settings() -> None:
    for config in (s07_lstm.STAGE.config, s07_lstm.STAGE.tiny.config):
        told = dataclasses.asdict(config)
        assert not any(told[name] for name in told.keys() - {"width", "layers"})
