"""The mixture of all stages: its bound, its arithmetic, the promises of the contract, and its doors."""

import itertools
import json
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_gpt import compare, evaluate, generate, train
from mlx_gpt.corpus import Corpus
from mlx_gpt.decoding import generate as generated
from mlx_gpt.endless import Endless
from mlx_gpt.errors import SettingError, TokenizerError
from mlx_gpt.measure import measure, scored
from mlx_gpt.memory import Memory, Transcript
from mlx_gpt.mixture import BAYES, RATES, Mixture, weigh
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste

FAMILIES = (1, 4, 5, 7, 8, 11)  # counts, a window, a state, a transcript, a cache with sliding windows
V = 6


class Scripted:
    """Random log-probabilities that depend on the last token and on how many were read; a context if wanted."""

    vocab_size = V

    def __init__(self, seed: int, context: int = 10_000, impossible: int | None = None) -> None:
        self.context = context
        chance = np.random.default_rng(seed)
        table = chance.dirichlet(np.full(V, 0.3), (97, V))
        if impossible is not None:
            table[..., impossible] = 0
            table /= table.sum(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            self.table = np.log(table)

    def memory(self, batch: int = 1) -> Memory:
        return Transcript(batch, self.context)

    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        held = memory or self.memory(ids.shape[0])
        assert isinstance(held, Transcript) and ids.shape[1] <= held.room
        seen = held.extend(ids)
        places = np.arange(seen.shape[1] - ids.shape[1], seen.shape[1]) % 97
        return mx.array(self.table[places[None], np.array(ids)].astype(np.float32))

    def following(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        return self.logprobs(ids, memory)[:, -1]

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        if ids.shape[1] == 1:
            return mx.zeros((ids.shape[0], 0))
        table = self.logprobs(ids[:, :-1], memory)
        return mx.take_along_axis(table, ids[:, 1:, None], axis=-1)[..., 0]


def text(rows: int, tokens: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).integers(0, V, (rows, tokens)).astype(np.int32))


def differs(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max().item())


def total(scores: mx.array) -> np.ndarray:
    return np.array(scores, np.float64).sum(axis=1)


@pytest.mark.parametrize("members", [1, 2, 3, 7])
@pytest.mark.parametrize("rates", [BAYES, RATES])
def test_no_text_costs_more_than_the_best_member_and_the_choice_of_it(members: int, rates: tuple[float, ...]) -> None:
    ids = text(16, 300)
    models = [Scripted(seed) for seed in range(members)]
    best = np.max([total(model.score(ids)) for model in models], axis=0)
    choice = math.log(members * len(rates)) if members > 1 else 0.0
    assert (total(Mixture(models, rates).score(ids)) >= best - choice - 1e-3).all()


def test_the_bound_is_reached_where_one_member_is_right_and_the_others_hold_all_for_impossible() -> None:
    """Every id is 0; one member of 3 gives it probability 1 and the others 0: ln 3 nats in all."""
    models = [Scripted(0), Scripted(1, impossible=0), Scripted(2, impossible=0)]
    models[0].table[...] = np.where(np.arange(V) == 0, 0.0, -np.inf)
    score = Mixture(models, BAYES).score(mx.zeros((1, 50), mx.int32))
    assert total(score)[0] == pytest.approx(-math.log(3), rel=1e-5)
    assert np.allclose(np.array(score)[0, 1:], 0, atol=1e-6)


@pytest.mark.parametrize("rates", [BAYES, RATES])
def test_it_is_the_mixture_of_all_ways_of_passing_from_member_to_member(rates: tuple[float, ...]) -> None:
    """Every sequence of members has a prior probability by its rate; summed over all 3 ** 5 of them in float64."""
    ids = text(2, 6)
    models = [Scripted(seed) for seed in range(3)]
    p = np.exp([np.array(model.score(ids), np.float64) for model in models])  # (K, B, T - 1)
    for row in range(2):
        whole = 0.0
        for rate, path in itertools.product(rates, itertools.product(range(3), repeat=5)):
            steps = [rate / 3 + (1 - rate) * (a == b) for a, b in itertools.pairwise(path)]
            whole += np.prod(steps) / 3 / len(rates) * np.prod([p[k, row, t] for t, k in enumerate(path)])
        assert total(Mixture(models, rates).score(ids))[row] == pytest.approx(math.log(whole), rel=1e-5)


def test_weights_equal_bayes_rule_in_double_precision() -> None:
    """w_k proportional to the product of p_k so far, over 2,000 tokens where members fall behind by hundreds of nats."""
    told = np.log(np.random.default_rng(0).dirichlet([0.2] * 4, (3, 2_000)) + 1e-12)
    every, last = weigh(np.full((3, 1, 4), -math.log(4)), told, np.array(BAYES))
    summed = told.cumsum(axis=1)
    assert np.allclose(every, summed - np.logaddexp.reduce(summed, axis=2, keepdims=True), atol=1e-8)
    assert np.allclose(last[:, 0], every[:, -1])


@pytest.mark.parametrize("rates", [BAYES, RATES])
def test_a_probability_of_zero_poisons_nothing(rates: tuple[float, ...]) -> None:
    ids = mx.array([[1, 2, 0, 1, 3, 0, 0, 2, 5, 4]])
    mixed, other = Mixture([Scripted(0, impossible=0), Scripted(1)], rates), Scripted(1)
    found = np.array(mixed.score(ids))
    assert np.isfinite(found).all()
    assert total(mixed.score(ids))[0] >= total(other.score(ids))[0] - math.log(2 * len(rates)) - 1e-4
    sums = np.exp(np.array(mixed.logprobs(ids), np.float64)).sum(-1)
    assert np.allclose(sums, 1, atol=1e-5)
    nobody = Mixture([Scripted(0, impossible=0), Scripted(1, impossible=0)], rates)
    scores = np.array(nobody.score(ids))[0]
    assert np.isneginf(scores[np.array(ids)[0, 1:] == 0]).all()
    assert np.isfinite(scores[np.array(ids)[0, 1:] != 0]).all()
    assert not np.isnan(np.array(nobody.logprobs(ids))).any()


def test_a_full_member_is_renewed_alone_and_by_its_own_rule() -> None:
    """Each member costs what `measure`'s windows say, and the weights go on: a context of 8, of 20, and none."""
    ids = text(3, 100)
    models = [Scripted(0, 8), Scripted(1, 20), Scripted(2)]
    own = []
    for model in models:
        scores = []
        memory, half = model.memory(3), model.context - model.context // 2
        for place in range(99):
            unread = ids[:, place : place + 1]
            if memory.room == 0:
                memory, unread = model.memory(3), ids[:, place - half : place + 1]
            scores.append(mx.take_along_axis(model.logprobs(unread, memory)[:, -1], ids[:, place + 1, None], axis=-1))
        own.append(np.array(mx.concatenate(scores, axis=1), np.float64))
        assert np.allclose(np.array(Endless(model).score(ids)), own[-1])
    assert np.allclose(total(Mixture(models, BAYES).score(ids)), np.logaddexp.reduce(np.sum(own, axis=2)) - math.log(3))


@pytest.mark.parametrize("number", [4, 6, 8, 11])
def test_a_mixture_of_one_is_that_one(number: int, trained, corpus: Corpus) -> None:
    model = trained(number)
    ids = corpus.test.ids[:25][None].astype(np.int32)
    assert differs(Mixture([model]).logprobs(mx.array(ids)), model.logprobs(mx.array(ids))) < 1e-5
    some = corpus.test.head(1_500, corpus.tokenizer)
    alone, mixed = measure(model, some), measure(Mixture([model]), some)
    assert np.allclose(alone.nats, mixed.nats, rtol=1e-4)
    taste = Taste(temperature=0)
    start = corpus.test.ids[:5].tolist()
    first, second = (list(itertools.islice(generated(each, start, taste, 0), 70)) for each in (model, Mixture([model])))
    assert first == second


@pytest.fixture(scope="module")
def family(trained) -> list[LanguageModel]:
    return [trained(number) for number in FAMILIES]


@pytest.mark.parametrize("rates", [BAYES, RATES])
def test_trained_stages_together_keep_the_bound_on_every_document(
    rates: tuple[float, ...], family: list[LanguageModel], corpus: Corpus
) -> None:
    some = corpus.test.head(1_500, corpus.tokenizer)
    best = np.min([measure(model, some).nats for model in family], axis=0)
    mixed = measure(Mixture(family, rates), some)
    assert (mixed.nats <= best + math.log(len(family) * len(rates)) + 1e-2).all()


def test_a_text_scored_member_by_member_is_that_read_token_by_token(
    family: list[LanguageModel], corpus: Corpus
) -> None:
    some, model = corpus.test.head(1_500, corpus.tokenizer), Mixture(family)
    assert len(some) > 2 and len(set(np.diff(some.starts))) > 1  # of several lengths
    seen = np.zeros(some.tokens)
    for document, start, logprobs in scored(model, some):
        first = int(some.starts[document]) + start
        seen[first : first + len(logprobs)] = logprobs
    for document in range(len(some)):
        expected = np.array(model.score(mx.array(some.document(document)[None])))[0]
        assert np.allclose(seen[some.starts[document] : some.starts[document + 1]], expected, atol=2e-4)


def contexts(corpus: Corpus) -> mx.array:
    """(6, 70) ids, running text and noise, more than the tiny presets have room for."""
    ids = np.random.default_rng(0).integers(0, corpus.tokenizer.vocab_size, (6, 70))
    for row in range(3):
        ids[row] = corpus.test.ids[50 * row : 50 * row + 70]
    return mx.array(ids.astype(np.int32))


def test_the_promises_of_the_contract(family: list[LanguageModel], corpus: Corpus) -> None:
    ids, model = contexts(corpus), Mixture(family)
    whole = model.logprobs(ids)
    assert np.abs(np.exp(np.array(whole, np.float64)).sum(-1) - 1).max() < 1e-5
    gathered = mx.take_along_axis(whole[:, :-1], ids[:, 1:, None], axis=-1)[..., 0]
    assert differs(model.score(ids), gathered) < 1e-4
    assert model.score(ids[:, :1]).shape == (6, 0)
    changed = mx.concatenate([ids[:, :40], ids[::-1, 40:]], axis=1)
    after = model.logprobs(changed)
    assert differs(whole[:, :40], after[:, :40]) < 1e-5 and differs(whole[:, 40:], after[:, 40:]) > 1e-3
    for row in (0, 5):
        assert differs(whole[row : row + 1], model.logprobs(ids[row : row + 1])) < 1e-4


@pytest.mark.parametrize("cuts", [[1, 2, 3, 40], [31, 32, 33, 64], [69]])
def test_remembering_equals_rereading(cuts: list[int], family: list[LanguageModel], corpus: Corpus) -> None:
    ids, model = contexts(corpus), Mixture(family)
    spans = list(itertools.pairwise([0, *cuts, 70]))
    memory, whole = model.memory(6), model.logprobs(ids)
    assert memory.room is None
    assert differs(mx.concatenate([model.logprobs(ids[:, a:b], memory) for a, b in spans], axis=1), whole) < 1e-4
    memory, scores = model.memory(6), []
    for a, b in spans[:-1]:  # a score takes in all ids but the last, and what comes after may be another
        scores.append(model.score(ids[:, a : b + 1], memory))
    assert differs(mx.concatenate(scores, axis=1), model.score(ids[:, : cuts[-1] + 1])) < 1e-4
    assert differs(model.logprobs(ids[:, cuts[-1] :], memory), whole[:, cuts[-1] :]) < 1e-4


def test_saving_and_loading_changes_nothing(family: list[LanguageModel], corpus: Corpus) -> None:
    model, ids = Mixture(family), contexts(corpus)[:1, :5]
    before = model.logprobs(ids)
    model.restore({name: np.array(array[:]) for name, array in model.arrays().items()})
    assert mx.array_equal(before, model.logprobs(ids))


def test_what_a_mixture_refuses(corpus: Corpus) -> None:
    other = Scripted(0)
    other.vocab_size = V + 1
    with pytest.raises(TokenizerError, match="vocabularies of 6 and 7"):
        Mixture([Scripted(0), other])
    with pytest.raises(TokenizerError, match="token id 6"):
        Mixture([Scripted(0)]).score(mx.array([[1, 6]]))
    with pytest.raises(SettingError, match="train its members"):
        Mixture([Scripted(0)]).fit(corpus, None, None)


@pytest.fixture(scope="module")
def runs(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    base = ["--preset", "tiny", "--data", str(story_file)]
    for name, setting in {
        "2": ["--stage", "2"],
        "4": ["--stage", "4"],
        "byte": ["--stage", "2", "--tokenizer", "byte"],
    }.items():
        result = CliRunner().invoke(train.main, [*base, *setting, "--run", str(folder / name)], prog_name="train")
        assert result.exit_code == 0, result.output
    return folder


def walk(door, *args: object) -> Result:
    return CliRunner().invoke(door.main, [str(arg) for arg in args], prog_name="door")


def test_run_folders_are_mixed_at_the_doors(runs: Path) -> None:
    pair = ("--mix", runs / "2", "--mix", runs / "4")
    told = json.loads(walk(evaluate, *pair, "--json").stdout)
    each = [json.loads(walk(evaluate, "--run", runs / name, "--json").stdout)["bits_per_byte"] for name in ("2", "4")]
    assert told["name"] == "mixture" and told["bits_per_byte"] < min(each) * 1.01
    shown = walk(evaluate, *pair).stdout
    assert "2 bigram + 4 ngram-backoff" in shown and "each byte once; each member by its own rule" in shown
    assert told["context_rule"] == "each member by its own rule"
    written = walk(generate, *pair, "--prompt", "Once", "--tokens", 9)
    assert written.exit_code == 0 and written.output.startswith("Once")


def test_the_league_table_ends_with_the_mixture(runs: Path, tmp_path: Path) -> None:
    for name in ("2", "4"):
        (tmp_path / name).symlink_to(runs / name)
    rows = json.loads(walk(compare, "--runs", tmp_path, "--mixture", "--json").stdout)["runs"]
    assert [row["name"] for row in rows] == ["bigram", "ngram-backoff", "mixture"]
    assert rows[2]["bits_per_byte"] < rows[1]["bits_per_byte"] * 1.01
    table = walk(compare, "--runs", tmp_path, "--mixture").stdout.split("\n\n")[1]
    assert "mixture" in table.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--mix {runs}/2 --mix {runs}/byte", "different tokenizers"),
        ("--mix {runs}/2 --run {runs}/4", "not several"),
        ("--mix {runs}/nowhere", "no such folder"),
    ],
)
def test_a_mistake_is_one_clear_line(line: str, said: str, runs: Path) -> None:
    for door in (evaluate, generate):
        result = walk(door, *line.format(runs=runs).split())
        errors = [text for text in result.stderr.splitlines() if text]
        assert result.exit_code == 2 and len(errors) == 1 and said in errors[0]
