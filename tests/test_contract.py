"""Every promise of the contract, for every stage found in the folder."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import checkpoint, stages
from mlx_gpt.checkpoint import Card
from mlx_gpt.corpus import Corpus
from mlx_gpt.errors import SettingError, TokenizerError
from mlx_gpt.measure import measure
from mlx_gpt.model import PRESETS, LanguageModel
from mlx_gpt.recipe import Descent
from tests.conftest import train_tiny, with_slow

Trained = Callable[[int], LanguageModel]
every_stage = pytest.mark.parametrize("number", stages.numbers())
BATCH, TOKENS = 40, 25  # 1,000 contexts; the tiny presets have room for 32 tokens


def contexts(corpus: Corpus, seed: int = 0) -> mx.array:
    """(40, 25) ids: half of them running text, half of them noise."""
    chance = np.random.default_rng(seed)
    ids = chance.integers(0, corpus.tokenizer.vocab_size, (BATCH, TOKENS))
    for row in range(BATCH // 2):
        start = chance.integers(0, len(corpus.test.ids) - TOKENS)
        ids[row] = corpus.test.ids[start : start + TOKENS]
    return mx.array(ids.astype(np.int32))


def differs(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max().item())


def test_there_are_eleven_stages_numbered_from_one() -> None:
    assert stages.numbers() == list(range(1, 12))


@every_stage
def test_probabilities_sum_to_one(number: int, trained: Trained, corpus: Corpus) -> None:
    logprobs = np.array(trained(number).logprobs(contexts(corpus)), np.float64)
    assert logprobs.shape == (BATCH, TOKENS, corpus.tokenizer.vocab_size)
    assert np.abs(np.exp(logprobs).sum(axis=-1) - 1).max() < 1e-5
    assert np.isfinite(logprobs).all()


@every_stage
def test_the_future_does_not_change_the_past(number: int, trained: Trained, corpus: Corpus) -> None:
    ids = contexts(corpus)
    changed = mx.concatenate([ids[:, :15], contexts(corpus, seed=1)[:, 15:]], axis=1)
    before, after = trained(number).logprobs(ids), trained(number).logprobs(changed)
    assert differs(before[:, :15], after[:, :15]) < 1e-5
    if number > 1:
        assert differs(before[:, 15:], after[:, 15:]) > 1e-3  # and the change was one that can be seen


@every_stage
@pytest.mark.parametrize("cuts", [list(range(1, TOKENS)), [1, 7, 8, 20]])
def test_remembering_equals_rereading(number: int, cuts: list[int], trained: Trained, corpus: Corpus) -> None:
    ids, memory = contexts(corpus)[::5], trained(number).memory(8)
    parts = [trained(number).logprobs(ids[:, a:b], memory) for a, b in zip([0, *cuts], [*cuts, TOKENS], strict=True)]
    assert differs(mx.concatenate(parts, axis=1), trained(number).logprobs(ids)) < 1e-4


@every_stage
def test_rows_of_a_batch_do_not_meet(number: int, trained: Trained, corpus: Corpus) -> None:
    ids = contexts(corpus)
    together = trained(number).logprobs(ids)
    for row in (0, 17, 39):
        assert differs(together[row : row + 1], trained(number).logprobs(ids[row : row + 1])) < 1e-4


@every_stage
def test_training_beats_guessing_and_the_unigram(number: int, trained: Trained, corpus: Corpus) -> None:
    score = measure(trained(number), corpus.test)
    assert score.nats.sum() / score.tokens < math.log(corpus.tokenizer.vocab_size) - 0.5
    if number > 1:
        assert score.bits_per_byte < measure(trained(1), corpus.test).bits_per_byte


@pytest.mark.parametrize("steps", with_slow([16, 0], [16]))
@every_stage
def test_the_same_seed_gives_the_same_model(number: int, steps: int, trained: Trained, corpus: Corpus) -> None:
    """Over a few steps and two looks, or all of the preset's."""
    few = {"steps": steps, "evaluate_every": steps // 2, "warmup": 2} if steps and number > 4 else {}
    once = train_tiny(number, corpus, **few) if few else trained(number)
    again = train_tiny(number, corpus, **few).arrays()
    for name, array in once.arrays().items():
        assert np.array_equal(np.array(array[:]), np.array(again[name][:])), name


@every_stage
def test_saving_and_loading_changes_nothing_to_the_bit(
    number: int, trained: Trained, corpus: Corpus, tmp_path: Path
) -> None:
    stage = stages.stage(number)
    card = Card(
        number,
        "tiny",
        stage.tiny.config,
        stage.tiny.recipe,
        corpus.tokenizer.vocab_size,
        corpus.source,
        corpus.digest,
        corpus.text,
        1,
        True,
        {"bits_per_byte": 1.5},
    )
    checkpoint.save(tmp_path / checkpoint.MODEL, trained(number), corpus.tokenizer, card)
    loaded = checkpoint.load(tmp_path, number)
    assert loaded.card == card
    assert loaded.tokenizer.model == corpus.tokenizer.model
    ids = contexts(corpus)
    assert mx.array_equal(loaded.model.logprobs(ids), trained(number).logprobs(ids))


@every_stage
def test_score_equals_the_gathered_logprobs(number: int, trained: Trained, corpus: Corpus) -> None:
    ids, model = contexts(corpus), trained(number)
    gathered = mx.take_along_axis(model.logprobs(ids[:, :-1]), ids[:, 1:, None], axis=-1)[..., 0]
    assert differs(model.score(ids), gathered) < 1e-5
    assert model.score(ids[:, :1]).shape == (BATCH, 0)


@every_stage
def test_score_with_a_memory_takes_in_all_but_the_last(number: int, trained: Trained, corpus: Corpus) -> None:
    ids, model = contexts(corpus), trained(number)
    memory = model.memory(BATCH)
    parts = [model.score(ids[:, a : b + 1], memory) for a, b in ((0, 9), (9, 10), (10, TOKENS - 1))]
    assert differs(mx.concatenate(parts, axis=1), model.score(ids)) < 1e-4


@every_stage
@pytest.mark.parametrize("outside", [-1, 512, 2**31 - 1])
def test_ids_outside_the_vocabulary_are_refused(number: int, outside: int, trained: Trained) -> None:
    for ask in (trained(number).logprobs, trained(number).score):
        with pytest.raises(TokenizerError, match=f"token id {outside}"):
            ask(mx.array([[1, outside]]))


@every_stage
def test_a_context_that_is_full_refuses_more(number: int, trained: Trained) -> None:
    model = trained(number)
    room = model.memory().room
    if room is None:
        assert model.score(mx.ones((1, 200), mx.int32)).shape == (1, 199)
        return
    memory = model.memory()
    model.logprobs(mx.ones((1, room), mx.int32), memory)
    assert memory.room == 0
    for held in (memory, None):
        with pytest.raises(SettingError, match=f"the context of {room}"):
            model.logprobs(mx.ones((1, room + 1), mx.int32), held)


@every_stage
def test_every_setting_has_help_and_every_preset_exists(number: int) -> None:
    stage = stages.stage(number)
    assert stage.title
    assert stage.remembers
    for name in PRESETS:
        preset = stage.preset(name)
        assert type(preset.config) is type(stage.config)
        assert type(preset.recipe) is type(stage.recipe)
        for field in (*dataclasses.fields(preset.config), *dataclasses.fields(preset.recipe)):
            assert len(field.metadata["help"]) > 10, field.name
        if isinstance(preset.recipe, Descent):
            assert preset.recipe.warmup < preset.recipe.steps
