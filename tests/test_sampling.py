"""Samplers against their definitions in NumPy, and one generator for all stages."""

import itertools
import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gpt import generate as door
from mlx_gpt import sampling, stages
from mlx_gpt.chosen import chosen, largest
from mlx_gpt.corpus import Corpus
from mlx_gpt.decoding import Writer, generate, stream
from mlx_gpt.errors import SettingError
from mlx_gpt.sampling import Taste, choose, distribution, draw, folded, read_bias, row_keys
from mlx_gpt.tokenizer import Tokenizer

Law = Callable[[np.ndarray, np.ndarray], np.ndarray]  # p (V,), counts (V,) -> weights (V,), float64
Sampler = Callable[[mx.array, mx.array], mx.array]
UNSURE = 1e-5  # what 32 bits cannot tell from equal; equals are exact in both


def distributions(rows: int = 200, vocabulary: int = 12) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(rows, vocabulary)).astype(np.float32) * 2
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def every_kind() -> list[np.ndarray]:
    """1,000 rows of log-probabilities: flat and peaked, with ties, with the impossible, certain, and of V = 1."""
    chance, rows = np.random.default_rng(5), []
    for index in range(1_000):
        size = 1 if index % 50 == 0 else int(chance.integers(2, 40))
        logits = chance.normal(size=size) * chance.choice([0.1, 1.0, 4.0])
        kind = index % 4
        if kind == 1:  # ties
            logits = np.round(logits)
        if kind == 2:  # impossible tokens
            logits[chance.random(size) < 0.4] = -np.inf
        if kind == 3 and index % 8 == 3:  # one-hot
            logits[:] = -np.inf
        if not np.isfinite(logits).any():
            logits[chance.integers(size)] = 0.0
        rows.append((logits - np.logaddexp.reduce(logits)).astype(np.float32))
    return rows


ROWS = every_kind()
COUNTS = [np.random.default_rng(i).integers(0, 4, len(row)).astype(np.int32) for i, row in enumerate(ROWS)]


def power(exponent: float) -> Law:
    return lambda p, counts: (p / p.max()) ** exponent


def mass_before(rank: np.ndarray, p: np.ndarray) -> np.ndarray:
    """For each token the probability of all that rank before it."""
    return np.array([p[rank < own].sum() for own in rank])


def greedy(p: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return (np.arange(len(p)) == np.flatnonzero(p == p.max())[0]).astype(float)


def top_k(k: int) -> Law:  # fewer than k tokens are likelier
    return lambda p, counts: np.array([own * (np.sum(p > own) < k) for own in p])


def top_p(share: float) -> Law:
    return lambda p, counts: p * (mass_before(-p, p) < share)


def min_p(share: float) -> Law:
    return lambda p, counts: p * (p >= share * p.max())


def distance(p: np.ndarray) -> np.ndarray:
    entropy = -sum(each * math.log(each) for each in p if each > 0)
    return np.array([abs(-math.log(each) - entropy) if each > 0 else np.inf for each in p])


def typical(share: float) -> Law:
    return lambda p, counts: p * (mass_before(distance(p), p) < share)


def biased(bias: dict[int, float]) -> Law:
    def law(p: np.ndarray, counts: np.ndarray) -> np.ndarray:
        moved = p * np.array([math.exp(bias.get(token, 0.0)) for token in range(len(p))])
        return moved if moved.any() else greedy(p, counts)

    return law


BIAS = {0: -math.inf, 1: 2.5}
LAWS: list[tuple[str, Sampler, Law]] = [
    ("greedy", lambda x, c: sampling.with_temperature(x, 0), greedy),
    *((f"temperature {t}", lambda x, c, t=t: sampling.with_temperature(x, t), power(1 / t)) for t in (0.7, 1.0, 50.0)),
    *((f"top-k {k}", lambda x, c, k=k: sampling.keep_top_k(x, k), top_k(k)) for k in (1, 3, 20, 2**31 - 1)),
    *((f"top-p {p}", lambda x, c, p=p: sampling.keep_top_p(x, p), top_p(p)) for p in (1e-9, 0.3, 0.9, 0.999)),
    *((f"min-p {p}", lambda x, c, p=p: sampling.keep_min_p(x, p), min_p(p)) for p in (0.0, 0.05, 0.5, 1.0)),
    *((f"typical {p}", lambda x, c, p=p: sampling.keep_typical(x, p), typical(p)) for p in (1e-9, 0.2, 0.9)),
    *(
        (
            f"repetition {t}",
            lambda x, c, t=t: sampling.penalise_repetition(x, c, t),
            lambda p, c, t=t: np.where(c > 0, p**t, p),
        )
        for t in (0.5, 1.2, 3.0)
    ),
    (
        "presence",
        lambda x, c: sampling.penalise_presence(x, c, 1.5),
        lambda p, c: p * np.where(c > 0, math.exp(-1.5), 1),
    ),
    ("frequency", lambda x, c: sampling.penalise_frequency(x, c, -0.7), lambda p, c: p * np.exp(0.7 * c)),
    ("bias", lambda x, c: sampling.with_bias(x, {i: b for i, b in BIAS.items() if i < x.shape[-1]}), biased(BIAS)),
]


def unsure(p: np.ndarray, name: str) -> bool:
    """Whether a token stands so near to the edge of a cut that 32 bits may see it on the other side."""
    kind, _, number = name.partition(" ")
    if kind not in ("top-p", "min-p", "typical") or float(number) < UNSURE:
        return False
    share, near = float(number), np.zeros(0)
    if kind == "min-p":
        edge = np.abs(p / p.max() - share)
        return bool((edge[edge > 0] < UNSURE).any())
    rank = -p if kind == "top-p" else distance(p)
    if kind == "typical":
        near = np.diff(np.sort(rank[np.isfinite(rank)]))
    edge = np.abs(mass_before(rank, p) - share)[p > 0]
    return bool((edge < UNSURE).any() or (near[near > 0] < UNSURE).any())


@pytest.mark.parametrize(("name", "sampler", "law"), LAWS, ids=[name for name, _, _ in LAWS])
def test_a_sampler_is_its_law(name: str, sampler: Sampler, law: Law) -> None:
    held = 0
    for row, counts in zip(ROWS, COUNTS, strict=True):
        p = np.exp(row.astype(np.float64))
        found = np.exp(np.array(sampler(mx.array(row), mx.array(counts)), np.float64))
        assert abs(found.sum() - 1) < 1e-5, row
        if not unsure(p, name):
            expected = law(p, counts)
            assert np.allclose(found, expected / expected.sum(), atol=2e-6, rtol=1e-4), (name, row)
            assert (found[p == 0] == 0).all()
            held += 1
    assert held > 950


@pytest.mark.parametrize(("name", "sampler", "law"), LAWS, ids=[name for name, _, _ in LAWS])
def test_a_sampler_treats_each_row_of_a_batch_alone(name: str, sampler: Sampler, law: Law) -> None:
    logprobs, counts = mx.array(distributions(6, 9)).reshape(2, 3, 9), mx.array(np.arange(54).reshape(2, 3, 9) % 3)
    together = np.array(sampler(logprobs, counts))
    for a, b in itertools.product(range(2), range(3)):
        alone = np.array(sampler(logprobs[a, b], counts[a, b]))
        assert np.allclose(np.exp(together[a, b]), np.exp(alone), atol=1e-6)


ALL = Taste(
    temperature=1.3,
    top_k=9,
    top_p=0.95,
    min_p=0.04,
    typical_p=0.97,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    bias="0:1.5 3:-inf",
)


def test_a_taste_applies_its_settings_in_the_order_it_says() -> None:
    steps: list[tuple[str, Law]] = [
        ("", lambda p, c: np.where(c > 0, p**1.2, p)),
        ("", lambda p, c: p * np.exp(-0.3 * (c > 0))),
        ("", lambda p, c: p * np.exp(-0.2 * c)),
        ("", biased({0: 1.5, 3: -math.inf})),
        ("", power(1 / 1.3)),
        ("", top_k(9)),
        ("typical 0.97", typical(0.97)),
        ("top-p 0.95", top_p(0.95)),
        ("min-p 0.04", min_p(0.04)),
    ]
    held = 0
    for row, counts in zip(ROWS, COUNTS, strict=True):
        if len(row) < 4:
            continue
        p, clear = np.exp(row.astype(np.float64)), True
        for name, law in steps:
            clear = clear and not unsure(p, name)
            p = law(p, counts)
            p /= p.sum()
        found = np.exp(np.array(distribution(mx.array(row)[None], ALL, mx.array(counts)[None]), np.float64))[0]
        assert abs(found.sum() - 1) < 1e-5
        if clear:
            assert np.allclose(found, p, atol=1e-5), row
            held += 1
    assert held > 800


def test_no_taste_empties_a_row() -> None:
    harsh = Taste(
        temperature=1e-50, top_k=1, top_p=1e-9, min_p=1.0, typical_p=1e-9, repetition_penalty=100.0,
        presence_penalty=100.0, frequency_penalty=100.0, bias="0:-inf",
    )  # fmt: skip
    for row, counts in zip(ROWS[:300], COUNTS, strict=False):
        for taste in (harsh, Taste(temperature=0, bias=" ".join(f"{token}:-inf" for token in range(len(row))))):
            found = np.array(distribution(mx.array(row)[None], taste, mx.array(counts * 1_000)[None]))
            assert np.isfinite(found).any() and not np.isnan(found).any()
            assert abs(np.exp(found).sum() - 1) < 1e-5
    everything = Taste(bias="0:-inf 1:-inf 2:-inf")
    assert mx.exp(distribution(mx.log(mx.array([[0.2, 0.5, 0.3]])), everything)).tolist() == [[0.0, 1.0, 0.0]]


def test_a_penalty_without_counts_finds_nothing() -> None:
    logprobs = mx.array(distributions())
    taste = Taste(repetition_penalty=2.0, presence_penalty=2.0, frequency_penalty=2.0)
    assert mx.array_equal(distribution(logprobs, taste), distribution(logprobs, Taste()))
    assert mx.allclose(
        distribution(logprobs, taste, mx.zeros(logprobs.shape)), distribution(logprobs, Taste()), atol=1e-5
    )


BEYOND = {5: 20.515, 7: 24.322, 15: 37.697}  # chi-square with so many degrees of freedom: 1 in 1,000 lies beyond


def chi_square(drawn: np.ndarray, p: np.ndarray) -> float:
    expected = p * len(drawn)
    return float(((np.bincount(drawn, minlength=len(p)) - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_draws_follow_the_distribution_along_seeds_and_along_positions(along: str) -> None:
    logprobs = mx.array(distributions(1, 6))
    many = mx.repeat(logprobs, 20_000, axis=0)
    if along == "seeds":
        keys = folded(row_keys(range(20_000)), 3)
    else:
        keys = folded(mx.repeat(row_keys([7]), 20_000, axis=0), mx.arange(20_000))
    drawn = np.array(choose(many, Taste(temperature=1.0), keys))
    assert chi_square(drawn, np.exp(np.array(logprobs[0], np.float64))) < BEYOND[5]


def test_draws_side_by_side_and_one_after_another_are_independent() -> None:
    even = mx.full((20_000, 4), -math.log(4.0))
    seeds = row_keys(range(20_000))
    here = np.array(draw(even, folded(seeds, 0)))
    after = np.array(draw(even, folded(seeds, 1)))
    for pairs in (here * 4 + after, here[:-1] * 4 + here[1:], after[:-1] * 4 + here[1:]):
        assert chi_square(pairs, np.full(16, 1 / 16)) < BEYOND[15]


def test_draws_with_every_setting_follow_their_distribution() -> None:
    logprobs, counts = mx.array(distributions(1, 16)), mx.array(np.arange(16)[None] % 3)
    p = np.exp(np.array(distribution(logprobs, ALL, counts), np.float64))[0]
    keys = row_keys(range(20_000))
    drawn = np.array(choose(mx.repeat(logprobs, 20_000, axis=0), ALL, keys, mx.repeat(counts, 20_000, axis=0)))
    kept = np.flatnonzero(p)
    assert set(drawn) <= set(kept) and 2 < len(kept) <= 8
    assert chi_square(np.searchsorted(kept, drawn), p[kept]) < BEYOND[7]  # fewer degrees lie beyond it more rarely


def test_a_row_draws_what_it_draws_alone_whatever_stands_beside_it() -> None:
    logprobs, taste = mx.array(distributions(9, 30)), Taste(temperature=1.5)
    positions = mx.array([0, 5, 0, 1, 2**31, 7, 7, 7, 3])
    together = choose(logprobs, taste, folded(row_keys(range(40, 49)), positions)).tolist()
    alone = [
        choose(logprobs[row : row + 1], taste, folded(row_keys([40 + row]), int(positions[row].item()))).item()
        for row in range(9)
    ]
    assert together == alone
    assert row_keys([0, 2**63 - 1, 2**64 - 1]).shape == (3, 2)


def test_an_impossible_token_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    # a uniform number of exactly 0 makes Gumbel noise of -inf, one time in 2^32
    monkeypatch.setattr(mx.random, "gumbel", lambda shape, key: mx.where(mx.arange(shape[0]) == 2, -mx.inf, 1.0))
    assert draw(mx.log(mx.array([[0.0, 0.0, 1.0]])), row_keys([0])).tolist() == [2]


def test_temperature_zero_takes_the_likeliest_and_the_lowest_id_of_equals() -> None:
    logprobs = distributions()
    keys = row_keys(range(len(logprobs)))
    assert choose(mx.array(logprobs), Taste(temperature=0), keys).tolist() == logprobs.argmax(-1).tolist()
    tied = mx.log(mx.array([[0.1, 0.4, 0.1, 0.4], [0.25, 0.25, 0.25, 0.25]]))
    assert choose(tied, Taste(temperature=0), row_keys([0, 1])).tolist() == [1, 0]


def test_what_was_chosen_is_told_with_its_alternatives() -> None:
    logprobs = mx.log(mx.array([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]]))
    one, two = chosen(logprobs, mx.array([2, 2]), 2)
    assert (one.token, one.bits) == (2, pytest.approx(2.0))
    assert [token for token, _ in one.alternatives] == [1, 0]  # of the equals 0 and 2 the lowest
    assert [math.exp(nats) for _, nats in one.alternatives] == pytest.approx([0.5, 0.25])
    assert two.bits == 0 and two.alternatives == ((2, 0.0), (0, -math.inf))
    assert chosen(logprobs, mx.array([0, 0]))[1].logprob == -math.inf
    assert len(chosen(logprobs, mx.array([0, 0]), 99)[0].alternatives) == 3


def test_the_largest_are_those_of_a_stable_sort() -> None:
    for row in ROWS:
        for count in (0, 1, 2, 7, 99):
            assert largest(row, count).tolist() == np.argsort(-row, kind="stable")[:count].tolist()


OUTSIDE = [
    ("temperature", -0.1, "at least 0"),
    ("temperature", 101.0, "at most 100"),
    ("temperature", math.nan, "finite"),
    ("top_k", -1, "at least 0"),
    ("top_p", 0.0, "at least"),
    ("top_p", 1.1, "at most 1"),
    ("min_p", -0.1, "at least 0"),
    ("min_p", 1.1, "at most 1"),
    ("typical_p", 0.0, "at least"),
    ("typical_p", 2.0, "at most 1"),
    ("repetition_penalty", 0.0, "at least 0.01"),
    ("repetition_penalty", math.inf, "finite"),
    ("presence_penalty", -101.0, "at least -100"),
    ("frequency_penalty", 101.0, "at most 100"),
    ("bias", "17", "id:value"),
    ("bias", "1:2 a:3", "id:value"),
    ("bias", "-1:2", "at least 0"),
    ("bias", "1:2 1:3", "once"),
    ("bias", "1:inf", "between"),
    ("bias", "1:nan", "between"),
    ("bias", "1:1e5", "between"),
]


@pytest.mark.parametrize(("name", "value", "said"), OUTSIDE, ids=lambda part: str(part)[:30])
def test_a_setting_out_of_range_is_one_clear_line(name: str, value: float | str, said: str) -> None:
    option = "--" + name.replace("_", "-")
    with pytest.raises(SettingError, match=f"^{option} .*{said}"):
        Taste(**{name: value})
    result = CliRunner().invoke(door.main, ["--stage", "1", f"{option}={value}"])
    assert result.exit_code == 2 and option in result.stderr and "no trained model" not in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr


def test_a_bias_is_read_from_its_text_and_its_ids_are_of_the_vocabulary() -> None:
    assert read_bias(" 17:-inf  42:2.5 ") == {17: -math.inf, 42: 2.5} and read_bias("") == {}
    with pytest.raises(SettingError, match=r"^--bias 12: the ids of this vocabulary are 0 to 11$"):
        distribution(mx.array(distributions()), Taste(bias="12:1"))


@pytest.mark.parametrize("number", stages.numbers())
def test_every_stage_generates_beyond_its_context_and_again_by_seed(number: int, trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    eot = corpus.tokenizer.eot
    first, again, other = (
        list(itertools.islice(generate(trained(number), [eot], Taste(), seed), 45)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert all(0 <= token < corpus.tokenizer.vocab_size for token in first)


@pytest.mark.parametrize("number", [4, 7, 11])
def test_a_batch_writes_what_its_seeds_write_alone(number: int, trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    model, taste = trained(number), Taste(temperature=1.0, frequency_penalty=0.5)
    memory, keys = model.memory(4), row_keys(range(20, 24))
    ids, counts = np.full((4, 1), corpus.tokenizer.eot), np.zeros((4, model.vocab_size), np.int32)
    for position in range(20):
        logprobs = model.logprobs(mx.array(ids[:, -1:]), memory)[:, -1]
        tokens = np.array(choose(logprobs, taste, folded(keys, position), mx.array(counts)))
        counts[np.arange(4), tokens] += 1
        ids = np.concatenate([ids, tokens[:, None]], axis=1)
    for row in range(4):
        alone = list(itertools.islice(generate(model, [corpus.tokenizer.eot], taste, 20 + row), 20))
        assert ids[row, 1:].tolist() == alone


def test_what_is_forbidden_or_penalised_is_not_written_again(trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    model, eot = trained(4), corpus.tokenizer.eot
    plain = list(itertools.islice(generate(model, [eot], Taste(temperature=0), 0), 60))
    assert len(set(plain)) < 60
    once = list(itertools.islice(generate(model, [eot], Taste(temperature=0, presence_penalty=100.0), 0), 60))
    assert len(set(once)) == 60
    without = Taste(temperature=0, bias=f"{plain[0]}:-inf")
    assert plain[0] not in itertools.islice(generate(model, [eot], without, 0), 60)


@pytest.mark.parametrize("number", [4, 7, 8, 11])
def test_greedy_generation_is_the_argmax_of_rereading(number: int, trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    ids = [corpus.tokenizer.eot]
    for token in itertools.islice(generate(trained(number), ids, Taste(temperature=0), 0), 20):
        expected = mx.argmax(trained(number).logprobs(mx.array([ids]))[0, -1]).item()
        assert token == expected
        ids.append(token)


def test_a_prompt_longer_than_the_context_is_read_at_its_end(trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    prompt = corpus.test.ids[:200].tolist()
    assert len(list(itertools.islice(generate(trained(11), prompt, Taste(), 0), 5))) == 5


def test_streaming_never_cuts_a_character_and_stops_at_the_end_of_text() -> None:
    tokenizer = Tokenizer("byte")
    tokens = [*tokenizer.encode("né 😀!"), tokenizer.eot, *tokenizer.encode("never")]
    pieces = list(stream(iter(tokens), Writer(tokenizer, 100)))
    assert "".join(pieces) == "né 😀!" and "\ufffd" not in "".join(pieces)
    assert "".join(stream(iter(tokens), Writer(tokenizer, 2))) == "n\ufffd"  # the most tokens end inside a character
