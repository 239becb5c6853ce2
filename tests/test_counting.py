"""Counts against a dictionary, smoothings against worked examples and published figures, queries against each other."""

import itertools
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gpt.counting import FAMILY, Counts, Sampler, Table, Wanted, count, estimate, fitted, thresholds
from mlx_gpt.counting import merge as merging
from mlx_gpt.counting import table as table_module
from mlx_gpt.counting.columns import Shelf, whole
from mlx_gpt.counting.counts import NEVER
from mlx_gpt.counting.merge import count_in_shards, count_shard, merge
from mlx_gpt.counting.packed import Starts
from mlx_gpt.counting.quantise import quantise, quantised
from mlx_gpt.counting.statistics import good_turing, one_discount, three_discounts
from mlx_gpt.counting.tables import as_arrays, as_table
from mlx_gpt.errors import CheckpointError, SettingError
from tests.conftest import SHARED

EOT, V = 0, 7
Gram = tuple[int, ...]
STANDARD = [*FAMILY]


def silent(message: str) -> None:
    """Nobody to tell."""


def model(ids: np.ndarray, order: int, name: str, vocab_size: int = V, add: float = 1.0, prune: str = "") -> Table:
    """A smoothed table of a stream of ids; weights are fitted on another stream."""
    counts = count(np.asarray(ids), order, vocab_size, EOT)
    chosen = FAMILY[name](Wanted(counts, stream(99), add, buckets=3, em_rounds=20))
    return estimate(counts, chosen, silent, thresholds(prune))[0]


def stream(seed: int, documents: int = 12, length: int = 9) -> np.ndarray:
    """Documents over ids 1 … 6 with 0 between them, some tokens much more common than others."""
    chance = np.random.default_rng(seed)
    parts = [chance.choice(np.arange(1, V), length, p=[0.4, 0.2, 0.15, 0.15, 0.07, 0.03]) for _ in range(documents)]
    return np.concatenate([np.append([EOT], part) for part in parts] + [[EOT]])


def probability(table: Table, *ids: int) -> float:
    """p(last of ids | the others)."""
    return math.exp(table.score(np.array([ids]))[0][0, -1])


# --- counts and Kneser-Ney's probabilities against dictionaries


def grams(ids: np.ndarray, k: int) -> Counter[Gram]:
    """k-grams inside documents, the marks before and after included (not the first mark alone)."""
    found = (tuple(int(i) for i in ids[p - k + 1 : p + 1]) for p in range(max(1, k - 1), len(ids)))
    return Counter(gram for gram in found if EOT not in gram[1:-1])


def spelled(counts: Counts) -> list[list[Gram]]:
    """The n-gram of every row of every order."""
    found: list[list[Gram]] = [[(i,) for i in range(counts.vocab_size)]]
    for order in counts.orders[1:]:
        contexts = np.repeat(np.arange(len(order.starts) - 1), np.diff(whole(order.starts)))
        found.append([(*found[-1][c], int(t)) for c, t in zip(contexts, whole(order.tokens), strict=True)])
    return found


def by_dictionary(ids: np.ndarray, n: int) -> tuple[list[Counter[Gram]], list[list[float]]]:
    """Kneser & Ney's counts and Chen & Goodman's discounts of each order, with lmplz's one misfiled n-gram."""
    counts = [grams(ids, k) for k in range(1, n + 1)]
    raw = [Counter(each) for each in counts]
    for k in range(1, n):
        left = Counter(gram[1:] for gram in raw[k])
        counts[k - 1] = Counter({g: left[g] or c for g, c in raw[k - 1].items()})
    rank = {word: place for place, word in enumerate(dict.fromkeys(i for i in ids.tolist() if i != EOT), 1)} | {EOT: 0}

    def backwards(p: int) -> list[int]:
        stop = next((i for i in range(p - 1, -1, -1) if ids[i] == EOT), 0)
        return [int(i) for i in ids[max(stop, p - n + 1) : p + 1]][::-1]

    last = max((backwards(p) for p in range(1, len(ids))), key=lambda gram: [rank[i] for i in gram])[::-1]
    discounts = []
    for k in range(1, n + 1):
        filed = list(counts[k - 1].values())
        if k < n and len(last) >= k:  # lmplz files it by its occurrences
            filed.remove(counts[k - 1][tuple(last[-k:])])
            filed.append(raw[k - 1][tuple(last[-k:])])
        m = [filed.count(j) for j in range(5)]
        d = [-1.0]
        if m[1] and m[2] and m[3]:
            y = Fraction(m[1], m[1] + 2 * m[2])
            d = [float(j - (j + 1) * y * m[j + 1] / m[j]) for j in (1, 2, 3)]
        discounts.append([0.0, *(d if len(d) == 3 and all(0 <= x <= j for j, x in enumerate(d, 1)) else [0.5, 1, 1.5])])
    return counts, discounts


def p_by_dictionary(counts: list[Counter[Gram]], discounts: list[list[float]], gram: Gram, vocab_size: int) -> float:
    """Chen & Goodman 1999, equations 12 to 17, down to the uniform distribution."""
    k = len(gram)
    lower = 1 / vocab_size if k == 1 else p_by_dictionary(counts, discounts, gram[1:], vocab_size)
    after = {g[-1]: c for g, c in counts[k - 1].items() if g[:-1] == gram[:-1]}
    if not after:
        return lower
    d, c = discounts[k - 1], after.get(gram[-1], 0)
    gamma = sum(d[min(c, 3)] for c in after.values()) / sum(after.values())
    return (c - d[min(c, 3)]) / sum(after.values()) + gamma * lower


documents = st.lists(st.lists(st.integers(1, V - 1), max_size=12), min_size=1, max_size=8)


def joined(texts: list[list[int]]) -> np.ndarray:
    """Documents as one stream."""
    return np.concatenate([[EOT, *text] for text in texts] + [[EOT]])


def same(one: Counts, other: Counts) -> None:
    """Equal to the bit, types and all."""
    assert one.tokens == other.tokens and np.array_equal(one.first, other.first)
    for a, b in zip(one.orders, other.orders, strict=True):
        for name in ("tokens", "starts", "suffixes", "counts"):
            x, y = whole(getattr(a, name)), whole(getattr(b, name))
            assert x.dtype == y.dtype and np.array_equal(x, y), name


def same_table(one: Table, other: Table) -> None:
    """Equal to the bit."""
    a, b = as_arrays(one), as_arrays(other)
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(np.asarray(a[name]), np.asarray(b[name])), name


def check_against_dictionary(texts: list[list[int]], order: int) -> None:
    """Counts, discounts and probabilities of one small text."""
    ids = joined(texts)
    counts = count(ids, order, V, EOT)
    expected, discounts = by_dictionary(ids, order)
    rows = spelled(counts)
    for k in range(1, order + 1):
        found = whole(counts.orders[k - 1].counts)
        assert {g: int(c) for g, c in zip(rows[k - 1], found, strict=True) if c} == grams(ids, k)
        assert rows[k - 1] == sorted(rows[k - 1])
        for gram, suffix in zip(rows[k - 1], whole(counts.orders[k - 1].suffixes), strict=True):
            assert k == 1 or rows[k - 2][suffix] == gram[1:]
    chosen = FAMILY["modified-kneser-ney"](Wanted(counts, ids, 1.0, 1, 1))
    table, statistics = estimate(counts, chosen, silent)
    for each, wanted in zip(statistics, discounts, strict=True):
        assert each.discounts == pytest.approx(wanted[1:])
    for k in range(1, order + 1):
        for row in range(0, len(rows[k - 1]), 1 + len(rows[k - 1]) // 20):
            gram, level = rows[k - 1][row], table.levels[k - 1]
            if k == 1 or gram[0] == EOT or any(gram == g for g in expected[k - 1]):
                assert level.probabilities[row : row + 1][0] == pytest.approx(
                    p_by_dictionary(expected, discounts, gram, V), rel=1e-5, abs=1e-9
                )


@settings(max_examples=150, deadline=None)
@given(documents, st.integers(1, 6))
def test_kneser_ney_equals_a_dictionary(texts: list[list[int]], order: int) -> None:
    check_against_dictionary(texts, order)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents, st.integers(1, 6))
def test_kneser_ney_equals_a_dictionary_ten_thousand_times(texts: list[list[int]], order: int) -> None:
    check_against_dictionary(texts, order)


def check_shards(texts: list[list[int]], order: int, size: int, folder: Path | None) -> None:
    """In one piece, in shards, and in shards on disk."""
    ids = joined(texts)
    one = count(ids, order, V, EOT)
    with Shelf(folder) as shelf:
        parts = count_in_shards(ids, order, V, EOT, size, shelf)
        same(one, parts)
        chosen = FAMILY["modified-kneser-ney"](Wanted(one, ids, 1.0, 1, 1))
        through_files, _ = estimate(parts, chosen, silent, shelf=shelf, most=3)
        same_table(estimate(one, chosen, silent)[0], through_files)


@settings(max_examples=60, deadline=None)
@given(documents, st.integers(1, 7), st.integers(1, 40))
def test_shards_in_memory_are_one_run_to_the_bit(texts: list[list[int]], order: int, size: int) -> None:
    check_shards(texts, order, size, None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents, st.integers(1, 7), st.integers(1, 40))
def test_shards_on_disk_are_one_run_to_the_bit(tmp_path: Path, texts: list[list[int]], order: int, size: int) -> None:
    check_shards(texts, order, size, tmp_path)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents, st.integers(1, 7), st.integers(1, 40), st.booleans())
def test_shards_are_one_run_ten_thousand_times(
    tmp_path: Path, texts: list[list[int]], order: int, size: int, on_disk: bool
) -> None:
    check_shards(texts, order, size, tmp_path if on_disk else None)


def test_threads_and_parts_change_nothing() -> None:
    """A text long enough to be dealt out to threads, counted by one and by three."""
    ids = np.concatenate([stream(seed, documents=4, length=4_000) for seed in range(6)])
    one, three = count(ids, 4, V, EOT, threads=1), count(ids, 4, V, EOT, threads=3)
    same(one, three)
    assert {g: int(c) for g, c in zip(spelled(three)[2], three.orders[2].counts, strict=True)} == grams(ids, 3)


def test_more_threads_than_there_are_parts() -> None:
    ids = np.random.default_rng(0).integers(0, 300, 200_000)
    same(count(ids, 3, 300, EOT, threads=1), count(ids, 3, 300, EOT, threads=65))


def test_katz_sums_to_one_on_a_large_vocabulary() -> None:
    """Contexts after which nearly every likely word was seen, so that few words are left to take the rest."""
    chance = np.random.default_rng(5)
    ids = np.concatenate([[0], np.minimum(chance.zipf(1.5, 200_000), 1_999), [0]])
    table = model(ids, 4, "katz", 2_000)
    p = table.distributions(table.advance(ids[None, :1_000])[:, 0]).astype(np.float64)
    assert np.abs(p.sum(-1) - 1).max() < 1e-6


def test_rows_beyond_64_bits_are_sorted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of 2^20, whose keys are made too long by pretending that their parts need 64 bits."""
    chance = np.random.default_rng(0)
    ids = np.concatenate([[0], chance.integers(1, 2**20, 90_000) // chance.integers(1, 60_000, 90_000), [0]])
    plain = count(ids, 3, 2**20, 0, threads=2)

    from mlx_gpt.counting import sorting as module

    monkeypatch.setattr(module, "bits", lambda numbers: 20 if numbers == 2**20 else 30)
    same(plain, count(ids, 3, 2**20, 0, threads=2))


def test_merging_is_associative_and_keeps_first_appearances() -> None:
    ids = stream(5, documents=40)
    cuts = [0, 70, 71, 200, len(ids)]
    shards = [count_shard(ids, 4, V, EOT, a, b) for a, b in itertools.pairwise(cuts)]
    shelf = Shelf()
    left = merge([merge(shards[:2], shelf), merge(shards[2:], shelf)], shelf)
    same(left, count(ids, 4, V, EOT))
    same(merge(shards[::-1], shelf), left)
    assert left.first[1:].max() < NEVER


def test_a_group_too_large_for_one_merge_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "TOGETHER", 3)
    ids = stream(6, documents=20)
    same(count_in_shards(ids, 4, V, EOT, 50, Shelf()), count(ids, 4, V, EOT))


# --- every smoothing


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("prune", ["", "0 0 1"])
def test_every_smoothing_is_a_distribution_and_scores_as_it_says(name: str, prune: str) -> None:
    """1,000 contexts, half from the text and half noise, of a text with many unseen n-grams."""
    chance = np.random.default_rng(1)
    table = model(stream(2, documents=60), 4, name, prune=prune)
    text = np.concatenate([stream(10, 60, 9)[:500].reshape(20, 25), chance.integers(0, V, (20, 25))])
    states = table.advance(text).reshape(3, -1)
    p = table.distributions(states).astype(np.float64)
    assert np.abs(p.sum(-1) - 1).max() < 1e-6
    for row in range(0, 1_000, 50):
        assert np.allclose(table.distribution(states[:, row]), p[row], rtol=1e-5, atol=1e-9)
    scored, _ = table.score(text)
    chosen = np.take_along_axis(p.reshape(40, 25, V)[:, :-1], text[:, 1:, None], -1)[..., 0]
    assert np.allclose(np.exp(scored[:, 1:]), chosen, rtol=1e-5, atol=1e-9)


WORKED = np.array([0, 1, 2, 1, 2, 1, 3, 0])  # bigrams (1 2) (2 1) twice, (0 1) (1 3) (3 0) once; 7 tokens, 4 kinds


def test_maximum_likelihood_by_hand() -> None:
    # after 1 came 2 twice and 3 once; nothing came after 3 but the end; an unseen context asks the unigram
    table = model(WORKED, 2, "maximum-likelihood", 4)
    assert probability(table, 1, 2) == pytest.approx(2 / 3)
    assert probability(table, 3, 0) == 1.0 and probability(table, 3, 2) == 0.0
    assert probability(table, 0, 1) == 1.0


@pytest.mark.parametrize("add", [1.0, 0.1])
def test_add_k_by_hand(add: float) -> None:
    # Lidstone over V = 4: p(2 | 1) = (2 + k) / (3 + 4 k), p(0 | 1) = k / (3 + 4 k)
    table = model(WORKED, 2, "add-k", 4, add)
    assert probability(table, 1, 2) == pytest.approx((2 + add) / (3 + 4 * add))
    assert probability(table, 1, 0) == pytest.approx(add / (3 + 4 * add))
    assert probability(model(WORKED, 1, "add-k", 4, add), 2) == pytest.approx((2 + add) / (7 + 4 * add))


def test_witten_bell_by_hand() -> None:
    # unigram: p(2) = (2 + 4 / 4) / (7 + 4) = 3 / 11; two kinds after 1: p(2 | 1) = (2 + 2 p(2)) / (3 + 2)
    assert probability(model(WORKED, 2, "witten-bell", 4), 1, 2) == pytest.approx((2 + 2 * 3 / 11) / 5)


def test_absolute_discounting_by_hand() -> None:
    # bigrams: n1 = 3, n2 = 2, D = 3 / (3 + 2 * 2) = 3/7
    # unigrams: 1 thrice, 2 twice, 0 and 3 once: D = 2 / (2 + 2) = 1/2, p(2) = (2 - 1/2)/7 + (4 * 1/2)/7 / 4 = 2/7
    p = (2 - 3 / 7) / 3 + (2 * 3 / 7) / 3 * 2 / 7
    assert probability(model(WORKED, 2, "absolute", 4), 1, 2) == pytest.approx(p)


def test_kneser_ney_by_hand() -> None:
    # lower order: different tokens before 0, 1, 2, 3: 1 (3), 2 (0 and 2), 1 (1), 1 (1), 5 in all
    # lmplz's misfiled n-gram is 3, seen once after one kind: no change. n1 = 3, n2 = 1: D = 3 / (3 + 2) = 3/5
    # p(2) = (1 - 3/5)/5 + (4 * 3/5)/5 / 4 = 0.08 + 0.12 = 0.2; bigrams as above, D = 3/7
    p = (2 - 3 / 7) / 3 + (2 * 3 / 7) / 3 * 0.2
    assert probability(model(WORKED, 2, "kneser-ney", 4), 1, 2) == pytest.approx(p)


def test_modified_kneser_ney_by_hand() -> None:
    # n3 = 0 in both orders: the discounts fall back to 1/2, 1, 3/2. p(2) = (1 - 1/2)/5 + (3 * 1/2 + 1)/5 / 4 = 0.225
    # p(2 | 1) = (2 - 1)/3 + (1 + 1/2)/3 p(2)
    assert probability(model(WORKED, 2, "modified-kneser-ney", 4), 1, 2) == pytest.approx(1 / 3 + 0.5 * 0.225)


def test_discounts_by_hand() -> None:
    # Chen & Goodman, equation 26: Y = 100 / 160 = 5/8; D1 = 1 - 2 Y 30/100, D2 = 2 - 3 Y 12/30, D3 = 3 - 4 Y 6/12
    times = np.array([0, 100, 30, 12, 6, 4, 2])
    assert three_discounts(times) == pytest.approx((0.625, 1.25, 1.75))
    assert one_discount(times) == (0.625,) * 3
    assert three_discounts(np.array([0, 100, 30, 0, 6])) is None  # nothing was seen three times
    assert three_discounts(np.array([0, 10, 9, 9, 90])) is None  # a discount below zero


def test_katz_by_hand() -> None:
    # Good and Turing's r* = (r + 1) n_{r+1} / n_r with k = 5: common = 6 n_6 / n_1 = 12/100
    # d_1 = (2 * 30 / 100 - 0.12) / 0.88 = 0.48 / 0.88
    ratios = good_turing(np.array([0, 100, 30, 12, 6, 4, 2]))
    assert ratios is not None and ratios[1] == pytest.approx(0.48 / 0.88)
    assert ratios[0] == ratios[6] == 1.0
    # 0 1 2 1 2 1 3 0: too few counts, so 1/2 is taken from each: p(2 | 1) = 1.5/3, and the last 2 * 0.5/3 go to
    # what did not follow 1, by the unigram: p(0) : p(1) = 1 - 1/2 + 2/4 : 3 - 1/2 + 2/4 over 7 = 1/7 : 3/7
    table = model(WORKED, 2, "katz", 4)
    assert probability(table, 1, 2) == pytest.approx(1.5 / 3)
    assert probability(table, 1, 0) == pytest.approx(1 / 3 * 1 / (1 + 3))


def test_the_weight_by_em_is_the_best_there_is() -> None:
    """Order 1: one weight between relative frequency and uniform; a fine grid cannot find a better one."""
    ids, heldout = stream(3, documents=3), stream(4, documents=2_000)
    counts = count(ids, 1, V, EOT)
    table, _ = estimate(counts, fitted(counts, heldout, classes=1, rounds=500), silent)
    frequency = np.bincount(ids[1:], minlength=V) / (len(ids) - 1)
    grid = [np.log(w * frequency[heldout[1:]] + (1 - w) / V).sum() for w in np.linspace(0.001, 0.999, 999)]
    assert table.score(heldout[None])[0][0, 1:].sum(dtype=float) >= max(grid) - 0.01


def test_no_weight_reaches_one_so_everything_keeps_mass() -> None:
    """Held-out text in which each context is followed by what it was trained on: EM alone would go to 1."""
    ids = np.array([0, 1, 2, 3] * 50 + [0])
    counts = count(ids, 3, V, EOT)
    table, _ = estimate(counts, fitted(counts, ids, classes=2, rounds=100), silent)
    assert (table.distributions(table.advance(np.array([[0, 1, 2, 3]]))[:, 0]) > 0).all()


def test_an_unseen_context_backs_off_to_the_shorter_one() -> None:
    table = model(np.array([0, 1, 2, 0, 3, 2, 0]), 3, "modified-kneser-ney")
    assert probability(table, 5, 3, 2) == pytest.approx(probability(table, 3, 2))


def test_undefined_discounts_are_told_in_one_line_and_survive() -> None:
    said: list[str] = []
    counts = count(np.array([0, 1, 0]), 3, V, EOT)
    table, _ = estimate(counts, FAMILY["modified-kneser-ney"](Wanted(counts, counts.first, 1, 1, 1)), said.append)
    assert len(said) == 1 and "orders 1, 2, 3" in said[0] and "0.5, 1, 1.5" in said[0]
    assert np.isfinite(table.score(np.array([[0, 1, 5]]))[0]).all()


@pytest.mark.parametrize("ids", [[0, 0], [0, 1, 0], [0, 1, 1, 1, 1, 0], [0, 0, 0, 0], [0]], ids=str)
@pytest.mark.parametrize("name", STANDARD)
def test_the_smallest_texts_give_distributions(ids: list[int], name: str) -> None:
    """No words, one word, one type; orders larger than the text."""
    if len(ids) == 1 and name == "maximum-likelihood":
        pytest.skip("nothing was seen, so nothing has mass")
    table = model(np.array(ids), 10, name)
    text = np.array([[0, 1, 1, 0, 5]])
    p = table.distributions(table.advance(text).reshape(9, -1)).astype(np.float64)
    assert np.abs(p.sum(-1) - 1).max() < 1e-6


def test_pruning_drops_rows_and_gives_their_mass_to_the_backoff() -> None:
    ids = stream(7, documents=60)
    full, pruned = model(ids, 4, "modified-kneser-ney"), model(ids, 4, "modified-kneser-ney", prune="0 0 1 3")
    seen = [sum(c > limit for c in grams(ids, k).values()) for k, limit in ((2, 0), (3, 1), (4, 3))]
    assert pruned.rows[1:] == seen and full.rows[1] == pruned.rows[1]
    assert full.rows[3] > pruned.rows[3]


@pytest.mark.parametrize("text", ["1", "0 2 1", "0 x", "0 -1", "0 99999999999"])
def test_contradictory_pruning_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="--prune"):
        thresholds(text)


# --- queries


@pytest.fixture(scope="module")
def large() -> Table:
    """A model of order 5 with a vocabulary of 300, of a text that repeats itself here and there."""
    chance = np.random.default_rng(3)
    words = np.minimum(chance.zipf(1.3, 60_000), 299)
    return model(np.concatenate([[0], words, [0], words[:20_000], [0]]), 5, "modified-kneser-ney", 300)


def text_of(length: int, seed: int = 4) -> np.ndarray:
    """Ids below 300, common ones first."""
    return np.minimum(np.random.default_rng(seed).zipf(1.3, length), 299)


def test_the_index_finds_what_bisection_finds(large: Table) -> None:
    text = np.concatenate([text_of(4_000), np.random.default_rng(0).integers(0, 300, 4_000)])[None]
    fresh = Table(large.levels)
    fresh.finder.may_index = False
    before = fresh.score(text)
    large.finder.build()
    after = large.score(text)
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])
    assert {1, 2, 3, 4, 5} <= set(after[1].ravel().tolist())
    assert np.array_equal(fresh.advance(text), large.advance(text))


def test_a_large_vocabulary_is_hashed_from_bigrams_on(large: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_gpt.counting import index

    monkeypatch.setattr(index, "PAIRS", 10)
    hashed = Table(large.levels)
    hashed.finder.build()
    text = text_of(5_000)[None]
    assert np.array_equal(hashed.score(text)[0], large.score(text)[0])


def test_the_index_is_built_once_enough_was_asked(large: Table) -> None:
    table = Table(large.levels)
    table.score(text_of(10)[None])
    assert not table.finder.indexed
    table.score(text_of(sum(table.rows))[None])
    assert table.finder.indexed


def test_threads_tiles_and_steps_change_no_score(large: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(9_000)
    one = large.score(text[None], threads=1)
    for rows in (1, 3, 9_000 // 4):
        cut = text[: 9_000 // rows * rows].reshape(rows, -1)
        assert np.array_equal(large.score(cut)[0][:, 8:], one[0][0, : cut.size].reshape(cut.shape)[:, 8:])
    monkeypatch.setattr(table_module, "SPAN", 100)
    monkeypatch.setattr(table_module, "MANY", 0)
    for threads in (1, 2):
        again = large.score(text[None], threads=threads)
        assert np.array_equal(again[0], one[0]) and np.array_equal(again[1], one[1])
    state = large.empty(1)
    for place in range(50):  # token by token
        score, _ = large.score(text[None, place : place + 1], state if place else None)
        assert score[0, 0] == one[0][0, place]
        state = large.advance(text[None, place : place + 1], state)[:, :, -1]
    assert np.array_equal(state, large.advance(text[None, :50])[:, :, -1])


def test_a_batch_of_distributions_is_each_of_them(large: Table) -> None:
    states = large.advance(text_of(700)[None])[:, 0]
    states[:, ::50] = -1
    together = large.distributions(states)
    for row in range(0, 700, 7):
        assert np.allclose(together[row], large.distribution(states[:, row]), rtol=1e-5, atol=0)
    assert np.abs(together.sum(-1, dtype=np.float64) - 1).max() < 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_the_likeliest_ids_are_those_of_the_distributions(large: Table, packed: bool) -> None:
    table = quantised(large) if packed else large
    text = [*text_of(200).tolist(), *range(290, 300)]
    for length in (1, 2, 3, 50, 209):
        ids = text[:length]
        found = table.likeliest(ids, 30)
        for token in found:
            p = table.distributions(table.advance(np.array([ids]))[:, :, -1])[0]
            assert p[token] == p.max()
            ids = [*ids, token]
        assert len(found) == 30


@pytest.mark.parametrize("name", ["modified-kneser-ney", "witten-bell", "jelinek-mercer"])
def test_drawing_in_batches_follows_the_distribution(name: str) -> None:
    """Chi-square over 100,000 draws from each of four states; 6 degrees of freedom, p = 10^-6 at 38.3."""
    table = model(stream(2, documents=60), 4, name)
    chance = np.random.default_rng(0)
    for context in ([1, 2, 1], [0], [6, 6, 6], [3, 1]):
        state = table.advance(np.array([context]))[:, :, -1]
        drawn = np.bincount(Sampler(table).draw(np.repeat(state, 100_000, axis=1), chance), minlength=V)
        expected = table.distribution(state[:, 0]).astype(np.float64) * 100_000
        assert ((drawn - expected) ** 2 / expected).sum() < 38.3


def test_a_model_that_is_no_mixture_is_not_drawn_from_as_one() -> None:
    with pytest.raises(ValueError, match="interpolated"):
        Sampler(model(stream(2, documents=60), 3, "katz"))


def test_samples_are_what_the_model_expects() -> None:
    table = model(stream(2, documents=200), 3, "modified-kneser-ney")
    drawn = Sampler(table).sample(400, 50, EOT, seed=1)
    began = np.concatenate([np.full((400, 1), EOT), drawn], axis=1)
    entropy = table.distributions(table.advance(began[:, :-1]).reshape(2, -1)).astype(np.float64)
    expected = -(entropy * np.log(entropy)).sum(-1).mean()
    assert -table.score(began)[0][:, 1:].mean(dtype=float) == pytest.approx(expected, rel=0.02)


# --- small and saved tables


def test_eight_bits_cost_little_and_take_half(large: Table) -> None:
    small = quantised(large)
    text = text_of(20_000)[None]
    loss = large.score(text)[0].mean(dtype=float) - small.score(text)[0].mean(dtype=float)
    assert abs(loss) < 0.005
    sums = small.distributions(small.advance(text[:, :500])[:, 0]).sum(-1, dtype=np.float64)
    assert np.abs(sums - 1).mean() < 0.01

    def size(table: Table) -> int:
        return sum(np.asarray(array).nbytes for array in as_arrays(table).values())

    assert size(small) < 0.55 * size(large)


@given(st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=1, max_size=600))
@settings(max_examples=50, deadline=None)
def test_codes_keep_few_values_exactly_and_many_nearly(values: list[float]) -> None:
    array = np.array(values, np.float32)
    back = quantise(array)[0 : len(array)]
    assert np.array_equal(back == 0, array == 0)
    if len(np.unique(array)) <= 255:
        assert np.allclose(back, array, rtol=1e-5)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=2_000), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_short_starts_are_the_long_ones(sizes: list[int], big: int) -> None:
    sizes[0] += big * 70_000
    starts = Starts(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    packed = starts.pack()
    every = np.arange(len(starts))
    assert np.array_equal(packed.take(every), starts.take(every))
    assert packed.span(0) == (0, sizes[0]) and packed.contexts == len(sizes)
    assert big == 0 or packed.bases is None or packed.block == 1 or big * 70_000 < 2**16


def test_a_damaged_table_is_refused(large: Table) -> None:
    for small in (large, quantised(large)):
        sound = {name: np.asarray(array) for name, array in as_arrays(small).items()}
        same_table(as_table(sound, 300), small)
        for name, array in sound.items():
            for broken in (array[:-1], np.concatenate([array, array[:1]])):
                with pytest.raises(CheckpointError):
                    as_table({**sound, name: broken}, 300)
            with pytest.raises(CheckpointError):
                as_table({other: sound[other] for other in sound if other != name}, 300)
        with pytest.raises(CheckpointError):
            as_table({**sound, "3.tokens": sound["3.tokens"] + 300}, 300)
        with pytest.raises(CheckpointError):
            as_table({**sound, "3.starts": sound["3.starts"][::-1].copy()}, 300)
        with pytest.raises(CheckpointError):
            as_table(sound, 301)
        begins = as_table(sound, 300).levels[2].starts.part(0, 300)
        wide = int(np.argmax(np.diff(begins)))
        swapped = sound["3.tokens"].copy()
        swapped[begins[wide] : begins[wide] + 2] = swapped[begins[wide] : begins[wide] + 2][::-1]
        for strange in (swapped, sound["3.tokens"].astype(np.float32), sound["3.tokens"].astype(np.int64)):
            with pytest.raises(CheckpointError):
                as_table({**sound, "3.tokens": strange}, 300)
        with pytest.raises(CheckpointError):
            as_table({**sound, "3.probabilities": sound["3.probabilities"][:, None]}, 300)


# --- published figures


def names_stream(file: str) -> np.ndarray:
    """Names, one a document, over 26 letters."""
    path = SHARED / "names" / file
    if not path.is_file():
        pytest.skip("the corpus of names is not here")
    letters = np.frombuffer(b"\n" + path.read_bytes().strip() + b"\n", np.uint8).astype(np.int64)
    return np.where(letters == 10, 0, letters - 96)


def test_bigrams_of_names_reach_the_published_figure() -> None:
    """Maximum likelihood on all names: 2.45401 nats a character (nn-zero-to-hero, part 1)."""
    ids = names_stream("names.txt")
    scores, _ = model(ids, 2, "maximum-likelihood", 27).score(ids[None])
    assert -scores[0, 1:].mean(dtype=float) == pytest.approx(2.45401, abs=1e-5)


def test_kneser_ney_on_names_reaches_the_published_figure() -> None:
    """Order 6 on Eureka's split: 1.950 validation, 1.941 test (nats a character, reference figures)."""
    table = model(names_stream("eureka_train.txt"), 6, "modified-kneser-ney", 27)
    for file, published in (("eureka_val.txt", 1.950), ("eureka_test.txt", 1.941)):
        scores, _ = table.score(names_stream(file)[None])
        assert -scores[0, 1:].mean(dtype=float) == pytest.approx(published, abs=0.0006)


def test_kneser_ney_on_tiny_shakespeare_reaches_the_published_figure() -> None:
    """Order 7 on nanoGPT's split: 1.5165 nats a character (KenLM's model, reference figures)."""
    folder = SHARED / "tinyshakespeare"
    if not folder.is_dir():
        pytest.skip("Tiny Shakespeare is not here")
    raw = [np.frombuffer((folder / name).read_bytes(), np.uint8).astype(np.int64) for name in ("train.txt", "val.txt")]
    letters = np.unique(raw[0])
    train, valid = (np.concatenate([[0], np.searchsorted(letters, each) + 1]) for each in raw)
    table = model(np.append(train, 0), 7, "modified-kneser-ney", len(letters) + 1)
    assert -table.score(valid[None])[0][0, 1:].mean(dtype=float) == pytest.approx(1.5165, abs=5e-5)


def test_the_state_is_a_row_for_each_length_of_context(trained) -> None:  # type: ignore[no-untyped-def]
    memory, table = trained(4).memory(2), trained(4).table
    ids = np.array([[5, 6, 7, 8, 9], [1, 2, 3, 4, 5]])
    trained(4).logprobs(mx.array(ids), memory)
    assert memory.arrays[0].shape == (3, 2)  # order 4
    assert np.array_equal(np.array(memory.arrays[0]), table.advance(ids)[:, :, -1])
    assert memory.arrays[0][0].tolist() == [9, 5]  # row of the last token: the token
