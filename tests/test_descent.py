"""The loss, the optimisers and the loop against closed forms and references."""

import dataclasses
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_gpt import stages
from mlx_gpt.corpus import Corpus
from mlx_gpt.descent.cross_entropy import chunked_cross_entropy, cross_entropy
from mlx_gpt.descent.loop import emptied
from mlx_gpt.descent.optimizers import Muon, learning_rate, optimizer, orthogonalised
from mlx_gpt.errors import SettingError, TrainingError
from mlx_gpt.recipe import Descent
from tests.conftest import Silent


@pytest.mark.parametrize("chunk", [1, 3, 10, 64])
@pytest.mark.parametrize("biased", [True, False])
def test_the_chunked_loss_has_the_gradients_of_the_plain_one(chunk: int, biased: bool) -> None:
    mx.random.seed(1)
    hidden, weight = mx.random.normal((10, 4)), mx.random.normal((7, 4)) * 3
    bias = mx.random.normal((7,))
    targets = mx.array([0, 6, 3, 3, 3, 1, 2, 0, 5, 4])

    def plain(h: mx.array, w: mx.array, b: mx.array) -> mx.array:
        return 2 * cross_entropy(h @ w.T + (b if biased else 0), targets).sum()

    def chunked(h: mx.array, w: mx.array, b: mx.array) -> mx.array:
        return 2 * chunked_cross_entropy(h, w, b if biased else None, targets, chunk)

    (one, g), (two, k) = (mx.value_and_grad(f, argnums=(0, 1, 2))(hidden, weight, bias) for f in (plain, chunked))
    assert one.item() == pytest.approx(two.item(), rel=1e-6)
    for a, b in zip(g, k, strict=True):
        assert mx.allclose(a, b, atol=1e-5).item()


def test_the_chunked_loss_never_holds_all_logits() -> None:
    mx.random.seed(0)
    n, v, d = 1_024, 4_096, 16  # all logits: 16 MB; a chunk of 32: half a megabyte
    hidden, weight = mx.random.normal((n, d)), mx.random.normal((v, d))
    targets = mx.random.randint(0, v, (n,))
    mx.eval(hidden, weight, targets)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.value_and_grad(lambda h: chunked_cross_entropy(h, weight, None, targets, 32))(hidden))
    assert mx.get_peak_memory() - before < 0.5 * n * v * 4


def test_orthogonalised_has_singular_values_near_one_and_the_same_vectors() -> None:
    for shape in ((8, 20), (20, 8)):
        matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        found = np.array(orthogonalised(mx.array(matrix)))
        u, _, v = np.linalg.svd(matrix, full_matrices=False)
        assert np.linalg.svd(found)[1].min() > 0.6 and np.linalg.svd(found)[1].max() < 1.3
        off = u.T @ found @ v.T
        assert np.abs(off - np.diag(np.diag(off))).max() < 1e-3


def test_muon_decays_apart_from_the_gradient() -> None:
    muon = Muon(0.1, momentum=0.95, weight_decay=0.5)
    weight, gradient = mx.random.normal((4, 4)), mx.random.normal((4, 4))
    moved = muon.apply_gradients({"w": gradient}, {"w": weight})["w"]
    step = 0.2 * math.sqrt(4) * orthogonalised(gradient * 1.95)
    assert mx.allclose(moved, weight * (1 - 0.1 * 0.5) - 0.1 * step, atol=1e-5).item()


def test_adamw_equals_its_paper_and_spares_vectors_the_decay() -> None:
    recipe = Descent(learning_rate=0.1, weight_decay=0.5, beta1=0.9, beta2=0.99)
    tree = {"layer": {"weight": mx.ones((2, 2)), "bias": mx.ones((2,))}}
    gradient = {"layer": {"weight": mx.full((2, 2), 3.0), "bias": mx.full((2,), 3.0)}}
    opt = optimizer(recipe)
    opt.init(tree)
    moved = opt.apply_gradients(gradient, tree)["layer"]
    # the first step of Adam with bias correction is the sign of the gradient: w - lr d w - lr
    assert np.allclose(np.array(moved["weight"]), 1 - 0.1 * 0.5 - 0.1, atol=1e-4)
    assert np.allclose(np.array(moved["bias"]), 1 - 0.1, atol=1e-4)


def test_adamw_follows_torch_step_by_step() -> None:
    torch = pytest.importorskip("torch")
    recipe = Descent(learning_rate=0.01, weight_decay=0.1, beta1=0.9, beta2=0.95)
    ours = {"weight": mx.array(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3))}
    theirs = torch.nn.Parameter(torch.tensor(np.array(ours["weight"])))
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    opt = optimizer(recipe)
    opt.init(ours)
    for step in range(10):
        gradient = np.random.default_rng(step).normal(size=(2, 3)).astype(np.float32)
        ours = opt.apply_gradients({"weight": mx.array(gradient)}, ours)
        theirs.grad = torch.tensor(gradient)
        reference.step()
        assert np.allclose(np.array(ours["weight"]), theirs.detach().numpy(), atol=1e-6)


def test_the_learning_rate_rises_and_falls_as_the_recipe_says() -> None:
    recipe = Descent(steps=110, warmup=10, learning_rate=1.0, decay_to=0.1)
    assert learning_rate(recipe, 0) == pytest.approx(0.1) and learning_rate(recipe, 9) == pytest.approx(1.0)
    assert learning_rate(recipe, 60) == pytest.approx(0.55)  # half way down the cosine
    assert learning_rate(recipe, 110) == pytest.approx(0.1)


@pytest.mark.parametrize("number", [7, 11])
@pytest.mark.compiled
def test_compiled_and_plain_steps_lose_the_same(number: int, corpus: Corpus) -> None:
    stage = stages.stage(number)
    losses = []
    for compiled in (False, True):
        recipe = dataclasses.replace(stage.tiny.recipe, steps=3, warmup=1, compiled=compiled, length=8)
        mx.random.seed(0)
        model, report = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size), Silent()
        mx.enable_compile()
        try:
            model.fit(corpus, recipe, report)
        finally:
            mx.disable_compile()
        losses.append([*report.losses, *report.bits])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_rows_of_the_memory_are_emptied_by_turns() -> None:
    carried, empty = [mx.ones((4, 3)), mx.ones((4, 2, 2))], [mx.zeros((4, 3)), mx.zeros((4, 2, 2))]
    for step, row in ((0, 0), (1, 3), (2, 2), (3, 1), (4, 0)):
        for array in emptied(carried, empty, step, every=4):
            assert [array[r].sum().item() == 0 for r in range(4)] == [r == row for r in range(4)]
    assert emptied(carried, empty, 0, every=0) is carried


def test_an_lstm_that_reads_on_and_on_can_still_begin(trained, corpus: Corpus) -> None:
    """The first tokens of a document, scored from an empty memory, cost no more than guessing by frequency."""
    ids = mx.array(np.stack([corpus.test.document(n)[:12] for n in range(len(corpus.test))]).astype(np.int32))
    assert trained(7).score(ids).mean().item() > trained(1).score(ids).mean().item()


def test_the_best_weights_on_the_validation_text_are_kept(corpus: Corpus) -> None:
    stage = stages.stage(5)
    recipe = dataclasses.replace(stage.tiny.recipe, steps=60, evaluate_every=10)
    model, report = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size), Silent()
    model.fit(corpus, recipe, report)
    from mlx_gpt.descent.loop import VALIDATED
    from mlx_gpt.measure import measure

    again = measure(model, corpus.valid.head(VALIDATED, corpus.tokenizer)).bits_per_byte
    assert again == pytest.approx(min(report.bits), rel=1e-6)


def test_dropout_is_off_when_scoring(corpus: Corpus) -> None:
    stage = stages.stage(9)
    config = dataclasses.replace(stage.tiny.config, dropout=0.5)
    model = stage.model(config, corpus.tokenizer.vocab_size)
    model.fit(corpus, dataclasses.replace(stage.tiny.recipe, steps=2, warmup=1), Silent())
    ids = mx.array(np.asarray(corpus.test.ids[:20], np.int32))[None]
    assert mx.array_equal(model.logprobs(ids), model.logprobs(ids))
    assert isinstance(model, nn.Module) and not model.training


@pytest.mark.parametrize(
    ("number", "changes", "said"),
    [
        (11, {"length": 64}, "longer than --context 32"),
        (6, {"length": 0}, "--length 0"),
        (9, {"running": True}, "--running"),
        (10, {"learning_rate": 100.0, "clip": 0.0, "warmup": 0, "steps": 30}, "the loss is"),
    ],
)
def test_runs_that_cannot_go_on_say_why(number: int, changes: dict[str, object], said: str, corpus: Corpus) -> None:
    stage = stages.stage(number)
    model = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size)
    if said == "the loss is":
        model.embed.weight = model.embed.weight * float("nan")
    with pytest.raises((SettingError, TrainingError), match=said):
        model.fit(corpus, dataclasses.replace(stage.tiny.recipe, **changes), Silent())


@pytest.mark.metal
@pytest.mark.skipif(not mx.is_available(mx.gpu), reason="needs a Metal GPU")
def test_the_gpu_gives_the_numbers_of_the_cpu(trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    ids = mx.array(np.asarray(corpus.test.ids[:20], np.int32))[None]
    for number in range(5, 12):
        model = trained(number)
        with mx.stream(mx.cpu):
            cpu = model.logprobs(ids)
            mx.eval(cpu)
        with mx.stream(mx.gpu):
            gpu = model.logprobs(ids)
            mx.eval(gpu)
        assert mx.abs(cpu - gpu).max().item() < 1e-3, number
