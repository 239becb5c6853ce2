"""AdamW, Muon, weight averaging and schedules against torch, closed forms and NumPy."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.descent import optimizers
from mlx_gpt.descent.optimizers import orthogonalised
from mlx_gpt.descent.schedule import learning_rate
from mlx_gpt.recipe import Descent

TRUE, FALSE = mx.array(True), mx.array(False)


def steps(recipe: Descent, weights: dict[str, np.ndarray], count: int, finite: mx.array = TRUE):
    """`count` updates with gradients drawn by step; yields the weights and the state after each."""
    ours = {name: mx.array(weight) for name, weight in weights.items()}
    state = optimizers.begin(recipe, ours)
    for step in range(count):
        gradient = {name: mx.array(g) for name, g in gradients(weights, step).items()}
        rate = mx.array(recipe.learning_rate)
        ours, state = optimizers.update(recipe, ours, state, gradient, rate, finite)
        yield {name: np.array(weight) for name, weight in ours.items()}, state


def gradients(weights: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(step)
    return {name: chance.normal(size=weight.shape).astype(np.float32) for name, weight in weights.items()}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("name", "decay"), [("inner.weight", 0.1), ("embed.weight", 0.1), ("norm.bias", 0.0)])
def test_adamw_follows_torch_step_by_step_and_decays_matrices_only(name: str, decay: float) -> None:
    torch = pytest.importorskip("torch")
    recipe = Descent(learning_rate=0.01, weight_decay=0.1, beta1=0.9, beta2=0.95)
    start = normal(6) if name.endswith("bias") else normal(5, 3)
    theirs = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=decay)
    for step, (ours, _) in enumerate(steps(recipe, {name: start}, 20)):
        theirs.grad = torch.tensor(gradients({name: start}, step)[name])
        reference.step()
        assert np.allclose(ours[name], theirs.detach().numpy(), atol=1e-6), step


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 6)])
def test_muon_follows_torch_step_by_step(shape: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    recipe = Descent(learning_rate=0.02, weight_decay=0.1, optimizer="muon", momentum=0.95)
    start = normal(*shape)
    theirs = torch.nn.Parameter(torch.tensor(start))
    # torch averages the gradient, m = mu m + (1 - mu) g; ours adds it up: the direction is the same
    reference = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True, ns_steps=5, adjust_lr_fn="match_rms_adamw"
    )
    for step, (ours, _) in enumerate(steps(recipe, {"inner.weight": start}, 10)):
        theirs.grad = torch.tensor(gradients({"inner.weight": start}, step)["inner.weight"])
        reference.step()
        # torch's Newton-Schulz runs in bfloat16, whose relative error is 2^-8; ours in float32
        moved = np.abs(ours["inner.weight"] - theirs.detach().numpy()).max()
        assert moved < 0.02 * 0.2 * math.sqrt(max(shape)) * (step + 1) * 2**-5, step


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 6)])
@pytest.mark.parametrize("row_memory", [0.0, 0.8])
def test_muon_follows_its_equations_in_numpy(shape: tuple[int, int], row_memory: float) -> None:
    recipe = Descent(learning_rate=0.02, weight_decay=0.1, optimizer="muon", momentum=0.9, row_memory=row_memory)
    rows = np.zeros((shape[0], 1))
    weight, momentum = normal(*shape).astype(np.float64), np.zeros(shape)
    for step, (ours, _) in enumerate(steps(recipe, {"inner.weight": normal(*shape)}, 6)):
        g = gradients({"inner.weight": weight}, step)["inner.weight"].astype(np.float64)
        momentum = 0.9 * momentum + g
        x = g + 0.9 * momentum  # Nesterov
        x = x.T if shape[0] > shape[1] else x
        x = x / np.linalg.norm(x)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        x = x.T if shape[0] > shape[1] else x
        if row_memory:  # NorMuon: rows of even size, the matrix as long as before
            rows = row_memory * rows + (1 - row_memory) * (x**2).mean(axis=1, keepdims=True)
            even = x / np.sqrt(rows / (1 - row_memory ** (step + 1)))
            x = even * np.linalg.norm(x) / np.linalg.norm(even)
        weight = weight * (1 - 0.02 * 0.1) - 0.02 * 0.2 * math.sqrt(max(shape)) * x
        assert np.allclose(ours["inner.weight"], weight, atol=2e-5), step


def test_orthogonalised_has_singular_values_near_one_and_the_same_vectors() -> None:
    found = orthogonalised({"a": mx.array(normal(8, 20)), "b": mx.array(normal(20, 8)), "c": mx.array(normal(4, 4))})
    for name, shape in (("a", (8, 20)), ("b", (20, 8))):
        step = np.array(found[name])
        assert step.shape == shape
        u, _, v = np.linalg.svd(normal(*shape), full_matrices=False)
        assert np.linalg.svd(step)[1].min() > 0.6 and np.linalg.svd(step)[1].max() < 1.3
        off = u.T @ step @ v.T
        assert np.abs(off - np.diag(np.diag(off))).max() < 1e-3


def test_matrices_of_a_shape_worked_on_together_are_those_worked_on_alone() -> None:
    matrices = {str(n): mx.random.normal(shape) for n, shape in enumerate([(6, 9), (9, 6), (6, 9), (4, 4)])}
    together = orthogonalised(matrices)
    for name, matrix in matrices.items():
        assert mx.allclose(together[name], orthogonalised({name: matrix})[name], atol=1e-5).item()


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    weights = {name: mx.zeros((2, 2)) for name in ("embed.weight", "blocks.0.gate.weight", "output_head.weight")}
    weights["norm.weight"] = mx.zeros((2,))
    muon, decayed, spared = optimizers.groups(Descent(optimizer="muon"), weights)
    assert muon == ["blocks.0.gate.weight"] and spared == ["norm.weight"]
    assert decayed == ["embed.weight", "output_head.weight"]
    assert optimizers.groups(Descent(), weights)[0] == []


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_not_finite_leaves_every_bit_as_it_was(optimizer: str) -> None:
    recipe = Descent(optimizer=optimizer, averaging=0.9, row_memory=0.9)
    weights = {"inner.weight": mx.array(normal(4, 3)), "embed.weight": mx.array(normal(5, 3)), "bias": mx.ones(3)}
    state = optimizers.begin(recipe, weights)
    gradient = {name: mx.array(g) for name, g in gradients({n: np.array(w) for n, w in weights.items()}, 0).items()}
    weights, state = optimizers.update(recipe, weights, state, gradient, mx.array(0.1), TRUE)
    for poison in (math.nan, math.inf):
        bad = {name: g * poison for name, g in gradient.items()}
        after, kept = optimizers.update(recipe, weights, state, bad, mx.array(0.1), FALSE)
        for mine, found in ((weights, after), (state, kept)):
            assert all(mx.array_equal(mine[name], found[name]).item() for name in mine)
    after, _ = optimizers.update(recipe, weights, state, gradient, mx.array(0.1), TRUE)
    assert not mx.array_equal(after["bias"], weights["bias"]).item()


def test_the_average_of_the_weights_is_the_exponential_one() -> None:
    recipe = Descent(averaging=0.8, learning_rate=0.1)
    start = {"inner.weight": normal(3, 3)}
    average = start["inner.weight"].astype(np.float64)
    for step, (ours, state) in enumerate(steps(recipe, start, 30), 1):
        share = min(0.8, step / (step + 9))  # a short memory at first
        average = share * average + (1 - share) * ours["inner.weight"]
        assert np.allclose(np.array(state["average.inner.weight"]), average, atol=1e-5)


def test_a_cosine_rises_and_falls_as_the_recipe_says() -> None:
    recipe = Descent(steps=110, warmup=10, learning_rate=1.0, decay_to=0.1)
    assert learning_rate(recipe, 0) == pytest.approx(0.1) and learning_rate(recipe, 9) == pytest.approx(1.0)
    assert learning_rate(recipe, 60) == pytest.approx(0.55)  # half way down the cosine
    assert learning_rate(recipe, 110) == pytest.approx(0.1)


def test_a_warm_up_takes_a_quarter_of_a_run_at_most() -> None:
    recipe = Descent(steps=20, warmup=500, learning_rate=1.0, decay_to=0.0, schedule="linear")
    assert [learning_rate(recipe, step) for step in (0, 4, 5, 20)] == pytest.approx([0.2, 1.0, 1.0, 0.0])


def test_a_line_falls_evenly_and_wsd_stays_level_first() -> None:
    line = Descent(steps=100, warmup=0, learning_rate=2.0, decay_to=0.0, schedule="linear")
    assert [learning_rate(line, step) for step in (0, 50, 75, 100)] == pytest.approx([2.0, 1.0, 0.5, 0.0])
    level = Descent(steps=100, warmup=0, learning_rate=2.0, decay_to=0.0, schedule="wsd", decay_share=0.2)
    assert [learning_rate(level, step) for step in (0, 50, 80, 90, 100)] == pytest.approx([2.0, 2.0, 2.0, 1.0, 0.0])


def test_by_the_clock_the_same_way_down_follows_the_share_of_the_time() -> None:
    recipe = Descent(steps=5, warmup=2, learning_rate=1.0, decay_to=0.0, schedule="linear", minutes=1.0)
    assert learning_rate(recipe, 0, 0.5) == pytest.approx(0.25)  # half way up, counted in steps, and half way down
    assert learning_rate(recipe, 1_000, 0.25) == pytest.approx(0.75)
    assert learning_rate(recipe, 1_000, 1.5) == 0.0
