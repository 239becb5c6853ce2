"""The loss, the optimisers and the loop against closed forms and references."""

import dataclasses

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_gpt import stages
from mlx_gpt.corpus import Corpus
from mlx_gpt.descent.cross_entropy import chunked_cross_entropy, cross_entropy
from mlx_gpt.descent.loop import emptied, looked_at
from mlx_gpt.errors import SettingError, TrainingError
from mlx_gpt.model import Silent
from tests.conftest import Listener


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
    model, report = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size), Listener()
    model.fit(corpus, recipe, report)
    from mlx_gpt.measure import measure

    again = measure(model, looked_at(corpus)).bits_per_byte
    assert again == pytest.approx(min(report.bits), rel=1e-6)


def test_dropout_is_off_when_scoring(corpus: Corpus) -> None:
    stage = stages.stage(9)
    config = dataclasses.replace(stage.tiny.config, dropout=0.5)
    model = stage.model(config, corpus.tokenizer.vocab_size)
    model.fit(corpus, dataclasses.replace(stage.tiny.recipe, steps=2, warmup=1), Silent())
    ids = mx.array(np.asarray(corpus.test.ids[:20], np.int32))[None]
    assert mx.array_equal(model.logprobs(ids), model.logprobs(ids))
    assert isinstance(model, nn.Module) and not model.training
    loaded = stage.model(config, corpus.tokenizer.vocab_size)  # and in a model that was never trained here
    loaded.restore(model.arrays())
    assert mx.array_equal(loaded.logprobs(ids), model.logprobs(ids))


@pytest.mark.parametrize(
    ("number", "changes", "said"),
    [
        (11, {"length": 64}, "longer than --context 32"),
        (6, {"length": 0}, "--length 0"),
        (9, {"running": True}, "--running"),
        (5, {"running": True}, "--running"),
        (10, {}, "the loss or its gradient is"),
    ],
)
def test_runs_that_cannot_go_on_say_why(number: int, changes: dict[str, object], said: str, corpus: Corpus) -> None:
    stage = stages.stage(number)
    model = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size)
    if said.startswith("the loss"):
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
