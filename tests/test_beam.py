"""Beam search against every text there is, for every family, and memories whose rows are taken."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import stages
from mlx_gpt.beam import beam_search
from mlx_gpt.corpus import Corpus, Text
from mlx_gpt.decoding import read
from mlx_gpt.errors import SettingError, TokenizerError
from mlx_gpt.model import LanguageModel, Silent
from mlx_gpt.recipe import Counting

every_stage = pytest.mark.parametrize("number", stages.numbers())
V, TOKENS, END = 4, 4, 0
PROMPT = [END, 2, 1]


def little(number: int) -> LanguageModel:
    """A model of four tokens: counted from a short text, or of random weights made decided."""
    stage = stages.stage(number)
    mx.random.seed(number)
    model = stage.model(stage.tiny.config, V)
    if isinstance(stage.recipe, Counting):
        ids = np.random.default_rng(3).choice(V, 400, p=[0.1, 0.2, 0.3, 0.4]).astype(np.uint16)
        ids[0] = ids[-1] = END
        text = Text(ids, np.array([0, len(ids) - 1]), np.array([len(ids)]))
        text_like = SimpleNamespace(train=text, valid=text, test=text, tokenizer=SimpleNamespace(eot=END, vocab_size=V))
        model.fit(text_like, stage.tiny.recipe, Silent())  # type: ignore[arg-type]
    else:
        model.restore({name: np.array(array) * 2 for name, array in model.arrays().items()})
        model.eval()  # type: ignore[attr-defined]
    return model


def every_text(model: LanguageModel, length_penalty: float) -> list[tuple[float, float, tuple[int, ...]]]:
    """(-score, log p, ids) of all texts of at most TOKENS tokens that end with END or are full, the best first."""
    whole = np.array(list(itertools.product(range(V), repeat=TOKENS)))
    read = mx.array(np.concatenate([np.tile(PROMPT, (len(whole), 1)), whole], axis=1))
    nats = np.array(model.score(read), np.float64)[:, len(PROMPT) - 1 :]
    texts = {}
    for ids, each in zip(whole.tolist(), nats, strict=True):
        size = ids.index(END) + 1 if END in ids else TOKENS
        logprob = each[:size].sum()
        texts[tuple(ids[:size])] = (-logprob * 6**length_penalty / (5 + size) ** length_penalty, logprob)
    return sorted((cost, logprob, ids) for ids, (cost, logprob) in texts.items())


@every_stage
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 5.0])
def test_a_beam_as_wide_as_all_texts_finds_them_in_their_order(number: int, length_penalty: float) -> None:
    model = little(number)
    expected = every_text(model, length_penalty)
    found = beam_search(model, PROMPT, V**TOKENS, TOKENS, end=END, length_penalty=length_penalty)
    assert len(found) == len(expected) == 81 + 27 + 9 + 3 + 1  # 3^4 full texts without END, and those it ends
    assert [each.score for each in found] == pytest.approx([-cost for cost, _, _ in expected], abs=1e-4)
    costs = {ids: (cost, logprob) for cost, logprob, ids in expected}
    for each in found:
        assert (-each.score, each.logprob) == pytest.approx(costs[each.ids], abs=1e-4)
    narrow = beam_search(model, PROMPT, V ** (TOKENS - 1), TOKENS, end=END, length_penalty=length_penalty)
    assert narrow == found[: len(narrow)] and len(narrow) == V ** (TOKENS - 1)


@every_stage
def test_without_an_end_all_texts_are_full(number: int) -> None:
    found = beam_search(little(number), PROMPT, V**3, 3)
    assert {each.ids for each in found} == set(itertools.product(range(V), repeat=3))
    assert math.fsum(math.exp(each.logprob) for each in found) == pytest.approx(1, abs=1e-4)


@every_stage
def test_what_a_beam_finds_has_the_probability_it_says(number: int, trained, corpus: Corpus) -> None:
    model, prompt = trained(number), corpus.test.ids[:6].tolist()
    found = beam_search(model, prompt, 5, 12, end=corpus.tokenizer.eot)
    assert len(found) == 5 and len({each.ids for each in found}) == 5
    assert found == sorted(found, key=lambda each: -each.score)
    for each in found:
        score = model.score(mx.array([[*prompt, *each.ids]]))[0, len(prompt) - 1 :]
        assert each.logprob == each.score == pytest.approx(float(score.sum().item()), abs=1e-3)
    assert found[0].logprob >= beam_search(model, prompt, 1, 12, end=corpus.tokenizer.eot)[0].logprob - 1e-6


@pytest.mark.parametrize("number", [4, 7, 8, 11])
def test_a_beam_of_one_is_greedy_also_beyond_the_context(number: int, trained, corpus: Corpus) -> None:
    from mlx_gpt.decoding import generate
    from mlx_gpt.sampling import Taste

    for prompt in ([corpus.tokenizer.eot], corpus.test.ids[:100].tolist()):
        greedy = tuple(itertools.islice(generate(trained(number), prompt, Taste(temperature=0), 0), 50))
        assert beam_search(trained(number), prompt, 1, 50)[0].ids == greedy


@every_stage
def test_taking_rows_is_having_read_them(number: int, trained, corpus: Corpus) -> None:
    model = trained(number)
    ids, after = mx.array(corpus.test.ids[:24].astype(np.int32)).reshape(3, 8), mx.array([[5], [9], [30], [5]])
    memory, rows = model.memory(3), [2, 0, 0, 1]
    model.logprobs(ids, memory)
    taken = memory.rows(rows)
    assert taken.room == memory.room and type(taken) is type(memory)
    expected = model.logprobs(mx.concatenate([ids[mx.array(rows)], after], axis=1))[:, -1:]
    assert mx.allclose(model.logprobs(after, taken), expected, atol=1e-4)
    own = model.logprobs(mx.concatenate([ids, after[:3]], axis=1))[:, -1:]
    assert mx.allclose(model.logprobs(after[:3], memory), own, atol=1e-4)  # the taken one has gone on without it


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 0}, "--width 0: must be"),
        ({"tokens": 0}, "--tokens 0: must be"),
        ({"length_penalty": -1.0}, "--length-penalty -1.0: must be"),
        ({"length_penalty": math.nan}, "--length-penalty nan: must be"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, float], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        beam_search(little(5), PROMPT, **{"width": 2, "tokens": 2, **changes})  # type: ignore[arg-type]


@every_stage
@pytest.mark.parametrize("outside", [-1, V])
def test_a_prompt_of_ids_outside_the_vocabulary_is_refused(number: int, outside: int) -> None:
    with pytest.raises(TokenizerError, match=f"token id {outside}"):
        beam_search(little(number), [1, outside], 2, 2)


@every_stage
def test_a_beam_goes_on_from_what_was_read(number: int) -> None:
    model, prompt = little(number), [*PROMPT, 3, 1]
    found = beam_search(model, prompt, 5, 4, end=END, reading=read(model, prompt))
    expected = beam_search(model, prompt, 5, 4, end=END)
    assert [each.ids for each in found] == [each.ids for each in expected]
    assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-4)


class Told:
    """A model of three tokens that says what it is told after each number of tokens."""

    vocab_size = 3

    def __init__(self, *rows: list[float]) -> None:
        self.rows = rows

    def memory(self, batch: int = 1) -> object:
        return dataclasses.make_dataclass("Nothing", ["room", "rows"])(None, lambda rows: self.memory())

    def following(self, ids: mx.array, memory: object) -> mx.array:
        now, self.rows = self.rows[0], self.rows[1:]
        return mx.log(mx.broadcast_to(mx.array(now), (ids.shape[0], 3)))


def test_impossible_texts_are_left_out_and_equals_stand_by_their_ids() -> None:
    found = beam_search(Told([0.0, 0.5, 0.5], [0.0, 0.0, 1.0]), [0], 9, 2)  # type: ignore[arg-type]
    assert [each.ids for each in found] == [(1, 2), (2, 2)]
    assert beam_search(Told([1.0, 0.0, 0.0]), [1], 3, 5, end=0)[0].ids == (0,)  # type: ignore[arg-type]


def test_a_search_ends_when_nothing_can_be_better() -> None:
    # one token: "0" has 0.9; what is read on has 0.1 and can only lose. A second question would find no answer
    assert beam_search(Told([0.9, 0.06, 0.04]), [1], 1, 50, end=0)[0].ids == (0,)  # type: ignore[arg-type]


def test_the_length_penalty_prefers_the_longer_of_two() -> None:
    # log 0.4 = -0.92 at one token; log (0.6 * 0.5 ^ 1) = -1.20 at two: divided by (7 / 6)^2 = 1.36, -0.88
    rows = ([0.4, 0.6, 0.0], [0.5, 0.5, 0.0])
    assert beam_search(Told(*rows), [1], 2, 2, end=0)[0].ids == (0,)  # type: ignore[arg-type]
    found = beam_search(Told(*rows), [1], 2, 2, end=0, length_penalty=2.0)  # type: ignore[arg-type]
    assert found[0].ids == (1, 0) and found[0].score == pytest.approx(math.log(0.3) * 36 / 49)
