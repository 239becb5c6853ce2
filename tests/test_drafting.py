"""Drafting changes no law: greedy texts token by token, sampled ones by chi-square against the target's own law."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_gpt import stages
from mlx_gpt.corpus import Corpus
from mlx_gpt.counting import FAMILY, Wanted, count, estimate
from mlx_gpt.counting.counted import Counted
from mlx_gpt.decoding import generate
from mlx_gpt.descent import Neural
from mlx_gpt.drafting import LENGTHS, Draft, Lookup, Model, Reader, Tally, best_length, drafted, law, settle
from mlx_gpt.endless import Endless
from mlx_gpt.errors import TokenizerError
from mlx_gpt.memory import SPARE
from mlx_gpt.mixture import Mixture
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste
from tests.conftest import FAMILIES, with_slow

GREEDY = Taste(temperature=0)
PLAIN = Taste(temperature=1)
BENT = Taste(temperature=0.7, top_k=4, top_p=0.9)
TIRED = Taste(temperature=0.9, repetition_penalty=1.4, presence_penalty=0.3, frequency_penalty=0.2)
V = 5


@functools.cache
def tiny(number: int) -> LanguageModel:
    """An untrained stage over five ids with laws far from even: random weights, or counts of a random text."""
    model = stages.stage(number).model(stages.stage(number).tiny.config, V)
    chance = np.random.default_rng(number)
    if isinstance(model, Counted):
        ids = np.append(0, chance.choice(V, 60, p=[0.1, 0.4, 0.3, 0.15, 0.05]))
        counts = count(ids, 3, V, 0)
        model.table = estimate(counts, FAMILY["witten-bell"](Wanted(counts, ids, 1.0, 3, 5)), lambda message: None)[0]
    else:
        assert isinstance(model, Neural)
        model.update(tree_map(lambda each: mx.array(chance.normal(0, 0.4, each.shape)), model.parameters()))
    return model


def first(tokens: int, *args: object) -> list[int]:
    return list(itertools.islice(drafted(*args), tokens))  # type: ignore[arg-type]


def chi_square_fits(seen: np.ndarray, p: np.ndarray) -> bool:
    """Whether counts fit their law at one in 10,000; cells of less than 5 expected are put together.

    The quantile is Wilson and Hilferty's (1931): df (1 - 2 / (9 df) + z sqrt(2 / (9 df)))^3, with z = 3.72.
    """
    assert seen[p < 1e-12].sum() == 0, "a token that has no probability"
    expected = seen.sum() * p
    large = expected >= 5
    pairs = [*zip(seen[large], expected[large], strict=True), (seen[~large].sum(), expected[~large].sum())]
    pairs = [(s, e) for s, e in pairs if e > 0.5]
    df = len(pairs) - 1
    edge = df * (1 - 2 / (9 * df) + 3.72 * math.sqrt(2 / (9 * df))) ** 3 if df else 1e-9
    return sum((s - e) ** 2 / e for s, e in pairs) <= edge


def laws(model: LanguageModel, prompt: list[int], taste: Taste, tokens: int) -> list[np.ndarray]:
    """p(next | every way to go on): arrays (V,), (V, V), … after none, one, … tokens beyond the prompt."""
    found = []
    for more in range(tokens):
        ways = np.array(list(itertools.product(range(V), repeat=more)), np.int32).reshape(V**more, more)
        ids = np.concatenate([np.tile(np.array(prompt, np.int32), (len(ways), 1)), ways], axis=1)
        counts = mx.array((ways[:, :, None] == np.arange(V)).sum(axis=1))
        found.append(law(model.logprobs(mx.array(ids))[:, -1], taste, counts).reshape((V,) * (more + 1)))
    return found


def joint(steps: list[np.ndarray]) -> np.ndarray:
    """The law of whole sequences."""
    whole = steps[0]
    for step in steps[1:]:
        whole = whole[..., None] * step
    return whole


def pick(p: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    return (p.cumsum(-1) < chance.random((len(p), 1)) * p.sum(-1, keepdims=True)).sum(-1)


QUICK = [(4, 11), (11, 4), (7, 4), (8, 7), (5, 9), (11, 1), (10, 6), (3, 2)]
PAIRS = [
    pytest.param(target, draft, marks=() if (target, draft) in QUICK else pytest.mark.slow)
    for target, draft in itertools.product(range(1, 12), repeat=2)
]


@pytest.mark.parametrize("taste", [PLAIN, BENT], ids=["plain", "bent"])
@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_rounds_have_the_law_of_the_target(target: int, draft: int, taste: Taste) -> None:
    """100,000 rounds of two drafted tokens at once; where less than three came out, the target goes on by itself."""
    n, prompt, chance = 100_000, [1, 2, 1], np.random.default_rng(0)
    p, q = (laws(tiny(number), prompt, taste, 3) for number in (target, draft))
    one = pick(np.tile(q[0], (n, 1)), chance)
    two = pick(q[1][one], chance)
    drafts = np.stack([one, two], axis=1)
    of_target = np.stack([np.tile(p[0], (n, 1)), p[1][one], p[2][one, two]], axis=1)
    accepted, following = settle(of_target, np.stack([np.tile(q[0], (n, 1)), q[1][one]], axis=1), drafts, chance)
    out = np.concatenate([drafts, np.zeros((n, 1), np.int64)], axis=1)
    out[np.arange(n), accepted] = following
    for place in (1, 2):
        short = accepted < place
        out[short, place] = pick(p[place][tuple(out[short, :place].T)], chance)
    seen = np.bincount(np.ravel_multi_index(tuple(out.T), (V, V, V)), minlength=V**3)
    assert chi_square_fits(seen, joint(p).ravel())
    # Of first tokens accepted: 1 - total variation (Leviathan et al., 3.5); of a model with itself 1, but for rounding.
    share = min(1.0, np.minimum(p[0], q[0]).sum())
    assert (accepted > 0).mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n) + 1e-9)


@pytest.mark.parametrize("target", range(1, 12))
def test_certain_drafts_change_no_law(target: int) -> None:
    """100,000 rounds of the same two tokens, proposed without a law: the law of the first token written."""
    n, chance = 100_000, np.random.default_rng(0)
    p = laws(tiny(target), [1, 2, 1], PLAIN, 3)
    of_target = np.tile(np.stack([p[0], p[1][2], p[2][2, 1]]), (n, 1, 1))
    accepted, following = settle(of_target, None, np.tile([2, 1], (n, 1)), chance)
    seen = np.bincount(np.where(accepted > 0, 2, following), minlength=V)
    assert chi_square_fits(seen, p[0])
    after = np.where(accepted > 1, 1, following)[accepted > 0]
    assert chi_square_fits(np.bincount(after, minlength=V), p[1][2])


def cascade(drafts: tuple[int, ...], taste: Taste) -> Draft:
    """Each drafts for the one before it; 0 is the text itself."""
    draft: Draft | None = None
    for number in reversed(drafts):
        draft = Model(tiny(number), taste, draft) if number else Lookup(V)
    assert draft is not None
    return draft


LAWFUL = list(
    itertools.product([(4, (8,)), (9, (0,)), (11, (4,)), (7, (5,)), (11, (9, 4, 0))], ["plain", "bent", "tired"])
)


@pytest.mark.parametrize(("pair", "name"), with_slow(LAWFUL, [*LAWFUL[:3], LAWFUL[5]]), ids=str)
def test_texts_have_the_law_of_the_target(pair: tuple[int, tuple[int, ...]], name: str) -> None:
    """The generator itself, from 400 seeds: the law of its first three tokens."""
    (target, drafts), taste = pair, {"plain": PLAIN, "bent": BENT, "tired": TIRED}[name]
    model, prompt = tiny(target), [1, 2, 1]
    seen = np.zeros((V, V, V))
    for seed in range(400):
        seen[tuple(first(3, model, cascade(drafts, taste), prompt, taste, seed))] += 1
    assert chi_square_fits(seen.ravel(), joint(laws(model, prompt, taste, 3)).ravel())


@pytest.mark.parametrize("tokens", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "drafts",
    [(2, 0), *(pytest.param(drafts, marks=pytest.mark.slow) for drafts in [(0,), (5, 1), (7, 2, 0), (9, 4)])],
    ids=str,
)
def test_a_long_text_has_the_law_of_the_target(drafts: tuple[int, ...], tokens: int) -> None:
    """Many tokens of a trigram, by a cascade: every next token by the two before it."""
    tally = Tally()
    text = np.array(first(tokens + 2, tiny(3), cascade(drafts, PLAIN), [1], PLAIN, 0, tally))
    seen = np.bincount(np.ravel_multi_index((text[:-2], text[1:-1], text[2:]), (V, V, V)), minlength=V**3)
    p = joint(laws(tiny(3), [0], PLAIN, 3)) / joint(laws(tiny(3), [0], PLAIN, 2))[..., None]
    expected = p * seen.reshape(V, V, V).sum(-1, keepdims=True) / seen.sum()
    assert chi_square_fits(seen, expected.ravel())
    assert 0 < tally.accepted < tally.proposed


@functools.cache
def own_text(number: int, taste: Taste) -> list[int]:
    return list(itertools.islice(generate(tiny(number), [1, 2, 3], taste, 0), 70))


DRAFTED = [  # each stage as target and as draft at least twice in the quick suite
    pytest.param(target, draft, marks=() if (target - draft) % 4 == 1 else pytest.mark.slow)
    for target, draft in itertools.product(range(1, 12), range(12))
]


@pytest.mark.parametrize(("target", "draft"), DRAFTED)
def test_every_stage_drafts_for_every_stage(target: int, draft: int) -> None:
    """Greedy, over two ends of the context of 32 tokens; 0 is the text itself."""
    assert first(70, tiny(target), cascade((draft,), GREEDY), [1, 2, 3], GREEDY, 0) == own_text(target, GREEDY)


@pytest.mark.parametrize("target", with_slow([3, 6, 8, 11], [6, 11]))
@pytest.mark.parametrize("drafts", [(9, 4), (11, 0), (10, 7, 2, 0)], ids=str)
@pytest.mark.parametrize("taste", [GREEDY, dataclasses.replace(TIRED, temperature=0)], ids=["greedy", "tired"])
def test_a_cascade_changes_no_greedy_text(target: int, drafts: tuple[int, ...], taste: Taste) -> None:
    assert first(70, tiny(target), cascade(drafts, taste), [1, 2, 3], taste, 0) == own_text(target, taste)


def test_a_draft_that_is_drafted_for_takes_fewer_passes_and_knows_it() -> None:
    """It proposes what it would alone; here its draft is the model itself, and right each time."""
    alone, chance = Model(tiny(9), GREEDY), np.random.default_rng(0)
    middle = Model(tiny(9), GREEDY, Model(tiny(9), GREEDY))
    before = middle.work
    assert middle.propose([1, 2, 3], 15, chance) == alone.propose([1, 2, 3], 15, chance)
    assert middle.tally.rounds < alone.tally.rounds == 15 and middle.tally.accepted == middle.tally.proposed
    assert middle.work < before


@pytest.fixture(scope="module")
def alone(trained: Callable[[int], LanguageModel], corpus: Corpus) -> Callable[[int], list[int]]:
    start = corpus.test.ids[:4].tolist()
    return functools.cache(lambda number: list(itertools.islice(generate(trained(number), start, GREEDY, 0), 40)))


# each family twice as target, once or twice as draft; test_every_stage_drafts_for_every_stage has more pairs
TRAINED = list(itertools.product(FAMILIES, [*FAMILIES, 1, 0]))


@pytest.mark.parametrize(
    ("target", "draft"), with_slow(TRAINED, [TRAINED[8 * at + (at + shift) % 8] for at in range(6) for shift in (1, 5)])
)
def test_greedy_texts_are_the_targets_own(target: int, draft: int, trained, alone, corpus: Corpus) -> None:
    """Beyond the end of the context of 32 tokens, for every pair; 0 is the text itself."""
    proposer = Model(trained(draft), GREEDY) if draft else Lookup(corpus.tokenizer.vocab_size)
    assert first(40, trained(target), proposer, corpus.test.ids[:4].tolist(), GREEDY, 0) == alone(target)


@pytest.mark.parametrize("number", FAMILIES)
def test_a_draft_that_is_the_target_is_always_accepted(number: int, trained, corpus: Corpus) -> None:
    tally, model, taste = Tally(), trained(number), Taste(top_p=0.95)
    text = first(60, model, Model(model, taste), corpus.test.ids[:4].tolist(), taste, 0, tally)
    assert len(text) == 60 and tally.accepted == tally.proposed > 0
    assert tally.rounds <= 30 and tally.tokens_per_round >= 2  # drafts as dear as the target are short


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_what_counting_foresees_is_what_reading_finds(number: int, trained, corpus: Corpus) -> None:
    for length in (1, 2, 3, 20):
        past = corpus.test.ids[:length].tolist()
        assert trained(number).likeliest(past, 12) == Reader(trained(number), past).likeliest(past, 12, GREEDY)


def test_what_counting_foresees_is_not_taken_where_a_token_is_forbidden(trained, corpus: Corpus) -> None:
    past = corpus.test.ids[:20].tolist()
    first = trained(4).likeliest(past, 1)[0]
    draft = Model(trained(4), Taste(temperature=0, bias=f"{first}:-inf"))
    tokens, _ = draft.propose(past, 3, np.random.default_rng(0))
    assert len(tokens) == 3 and first not in tokens


@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_prompts_of_any_length_are_read_as_without_drafts(length: int, trained, corpus: Corpus) -> None:
    start = corpus.test.ids[:length].tolist()
    expected = list(itertools.islice(generate(trained(11), start, GREEDY, 0), 20))
    for draft in (Lookup(corpus.tokenizer.vocab_size), Model(trained(8), GREEDY), Model(trained(4), GREEDY)):
        assert first(20, trained(11), draft, start, GREEDY, 0) == expected


def test_a_mixture_drafts_and_is_drafted_for(trained, corpus: Corpus) -> None:
    start, model = corpus.test.ids[:4].tolist(), Mixture([trained(4), trained(11)])
    expected = list(itertools.islice(generate(model, start, GREEDY, 0), 40))
    assert first(40, model, Model(trained(4), GREEDY), start, GREEDY, 0) == expected
    own = list(itertools.islice(generate(trained(7), start, GREEDY, 0), 40))
    assert first(40, trained(7), Model(model, GREEDY), start, GREEDY, 0) == own


def test_the_same_seed_gives_the_same_text(trained, corpus: Corpus) -> None:
    one, again, other = (
        first(40, trained(11), Model(trained(4), Taste()), [corpus.tokenizer.eot], Taste(), seed) for seed in (1, 1, 2)
    )
    assert one == again != other


def test_the_text_is_looked_up_at_the_longest_repeated_end() -> None:
    def follow(past: list[int], most: int = 3) -> list[int]:
        return Lookup(10).propose(past, most, np.random.default_rng(0))[0]

    assert follow([1, 2, 3, 4, 5, 2, 9, 9, 1, 2]) == [3, 4, 5]  # 1 2 stands before 3; 2 alone last before 9
    assert follow([7, 2, 3, 8, 2, 4, 2], 1) == [4]  # of two places as long, the last
    assert follow([1, 2, 3]) == follow([1]) == []
    assert follow([6, 6]) == [6]


def test_the_length_of_a_draft_writes_most_for_its_cost() -> None:
    for acceptance, cost in itertools.product((0.0, 0.3, 0.6, 0.9, 0.99), (0.02, 0.2, 1.0)):
        gain = {g: (1 - acceptance ** (g + 1)) / (1 - acceptance) / (1 + (cost + 1 / 32) * g) for g in LENGTHS}
        length, price = best_length(acceptance, cost)
        assert gain[length] == pytest.approx(max(gain.values())) == pytest.approx(1 / price)
    assert max(LENGTHS) < SPARE
    assert best_length(0.0, 0.2)[0] == 1 and best_length(1.0, 0.2)[0] == 15


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(TokenizerError, match="a draft of 6 tokens for a model of 5"):
        next(drafted(tiny(4), Lookup(6), [1], PLAIN, 0))


@pytest.mark.parametrize("number", with_slow(range(1, 12)))
def test_what_is_taken_back_was_never_read(number: int, trained, corpus: Corpus) -> None:
    """Across the end of the context of 32 tokens, with one token of up to sixteen kept each time."""
    model, past, proposed = trained(number), corpus.test.ids[:4].tolist(), corpus.test.ids[100:115].tolist()
    reader, other, greedy = Reader(model, past), Model(model, PLAIN), Model(model, GREEDY)
    for at, token in enumerate(corpus.test.ids[4:84].tolist()):
        reader.after(past, proposed[: at % 16])
        other.propose(past, 1 + at % 4, np.random.default_rng(0))
        said = greedy.propose(past, 1 + at % 4, np.random.default_rng(0))[0]
        assert said[0] == mx.argmax(Endless(model).following(mx.array([past]))).item()
        past.append(token)
    again = Endless(model).logprobs(mx.array([past]))[0, -1]
    assert float(mx.abs(reader.after(past)[0] - again).max().item()) < 1e-4
    laws = other.propose(past, 1, np.random.default_rng(0))[1]
    assert np.allclose(laws[0], np.exp(np.array(again, np.float64)), atol=1e-4)
