"""Counts against a dictionary, smoothings against their formulas and against published figures."""

import math
from collections import Counter, defaultdict

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt.counting import FAMILY, Table, add_k, count, jelinek_mercer
from mlx_gpt.counting.counts import continuation_counts
from tests.conftest import SHARED

EOT, V = 0, 7


def stream(seed: int, documents: int = 12, length: int = 9) -> np.ndarray:
    """Documents over ids 1 … 6 with 0 between them, some tokens much more common than others."""
    chance = np.random.default_rng(seed)
    parts = [chance.choice(np.arange(1, V), length, p=[0.4, 0.2, 0.15, 0.15, 0.07, 0.03]) for _ in range(documents)]
    return np.concatenate([np.append([EOT], part) for part in parts] + [[EOT]])


def grams(ids: np.ndarray, k: int) -> Counter[tuple[int, ...]]:
    """k-grams inside documents, the marks before and after included (not the first mark alone)."""
    found: Counter[tuple[int, ...]] = Counter()
    for p in range(max(1, k - 1), len(ids)):
        gram = tuple(int(i) for i in ids[p - k + 1 : p + 1])
        if EOT not in gram[1:-1]:
            found[gram] += 1
    return found


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_a_dictionary(seed: int) -> None:
    ids = stream(seed)
    orders = count(ids, 4, V, EOT)
    spelled: list[list[tuple[int, ...]]] = [[(i,) for i in range(V)]]
    for order in orders[1:]:
        spelled.append([(*spelled[-1][key // V], int(key % V)) for key in order.keys])
    for k, order in enumerate(orders, 1):
        expected = grams(ids, k)
        assert {gram: int(c) for gram, c in zip(spelled[k - 1], order.counts, strict=True) if c} == dict(expected)
        if k > 1:
            for row, gram in enumerate(spelled[k - 1]):
                assert spelled[k - 2][order.suffixes[row]] == gram[1:]
                assert spelled[k - 2][order.contexts[row]] == gram[:-1]


def test_continuation_counts_are_distinct_left_neighbours() -> None:
    ids = stream(1)
    orders = count(ids, 3, V, EOT)
    left = defaultdict(set)
    for a, b in grams(ids, 2):
        left[b].add(a)
    assert continuation_counts(orders)[0].tolist() == [len(left[w]) for w in range(V)]


def kneser_ney_by_hand(ids: np.ndarray, n: int, context: tuple[int, ...], word: int) -> float:
    """Chen & Goodman 1999, equations 12 to 17, over dictionaries, down to the uniform distribution."""
    counts = {k: grams(ids, k) for k in range(1, n + 1)}
    for k in range(1, n):
        left: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for gram in grams(ids, k + 1):
            left[gram[1:]].add(gram[0])
        counts[k] = Counter({g: c if g[0] == EOT and k > 1 else len(left[g]) for g, c in counts[k].items()})

    def discounts(k: int) -> list[float]:
        m = [sum(c == j for c in counts[k].values()) for j in range(5)]
        if not (m[1] and m[2] and m[3]):
            return [0, 0.5, 1, 1.5]
        y = m[1] / (m[1] + 2 * m[2])
        d = [j - (j + 1) * y * m[j + 1] / m[j] for j in (1, 2, 3)]
        return [0, *d] if all(0 <= x <= j for j, x in enumerate(d, 1)) else [0, 0.5, 1, 1.5]

    def p(context: tuple[int, ...], word: int) -> float:
        k = len(context) + 1
        after = {g[-1]: c for g, c in counts[k].items() if g[:-1] == context and c}
        lower = 1 / V if k == 1 else p(context[1:], word)
        if not after:
            return lower
        d, total = discounts(k), sum(after.values())
        c = after.get(word, 0)
        gamma = sum(d[min(c, 3)] for c in after.values()) / total
        return (c - d[min(c, 3)]) / total + gamma * lower

    return p(context, word)


@pytest.mark.parametrize("seed", range(4))
def test_kneser_ney_equals_a_dictionary(seed: int) -> None:
    ids = stream(seed, documents=30)
    table = FAMILY["kneser-ney"](count(ids, 3, V, EOT), lambda message: None)
    text = stream(seed + 50, documents=3)
    rows = table.score(text[None])[0]
    for p in range(1, len(text)):
        context = [int(i) for i in text[max(0, p - 2) : p]]
        if EOT in context[1:]:
            context = context[context.index(EOT, 1) :]
        assert math.exp(rows[p - 1]) == pytest.approx(
            kneser_ney_by_hand(ids, 3, tuple(context), int(text[p])), rel=1e-5
        )


def tables(ids: np.ndarray) -> dict[str, Table]:
    orders = count(ids, 3, V, EOT)
    made = {name: smoothing(orders, lambda message: None) for name, smoothing in FAMILY.items()}
    made["add-k"] = add_k(orders[:1], 1.0)
    made["jelinek-mercer"] = jelinek_mercer(orders, stream(99), buckets=3, rounds=20)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_every_smoothing_is_a_distribution_and_scores_as_it_says(seed: int) -> None:
    text = stream(seed + 10)[None]
    for name, table in tables(stream(seed)).items():
        dense = table.dense(text)
        assert np.abs(np.exp(dense.astype(np.float64)).sum(-1) - 1).max() < 1e-6, name
        chosen = np.take_along_axis(dense[:, :-1], text[:, 1:, None], -1)[..., 0]
        assert np.allclose(table.score(text), chosen, atol=1e-5), name


def test_add_k_by_hand() -> None:
    # a a b: with k = 1 over V = 3 ids (end of text is the third): p(a) = (2 + 1) / (4 + 3)
    table = add_k(count(np.array([0, 1, 1, 2, 0]), 1, 3, 0), 1.0)
    assert table.levels[0].probabilities.tolist() == pytest.approx([2 / 7, 3 / 7, 2 / 7])


def test_witten_bell_by_hand() -> None:
    # 0 1 2 1 2 1 3 0: after 1 came 2 twice and 3 once, so p(2 | 1) = (2 + 2 p(2)) / (3 + 2);
    # unigram: 7 tokens of 4 kinds, p(2) = (2 + 4 / 4) / (7 + 4) = 3 / 11
    orders = count(np.array([0, 1, 2, 1, 2, 1, 3, 0]), 2, 4, 0)
    table = FAMILY["witten-bell"](orders, lambda message: None)
    assert math.exp(table.score(np.array([[0, 1, 2]]))[0, 1]) == pytest.approx((2 + 2 * 3 / 11) / 5, rel=1e-6)


def test_absolute_discounting_by_hand() -> None:
    # bigrams of 0 1 2 1 2 1 3 0: (1 2) and (2 1) twice, (0 1) (1 3) (3 0) once: D = 3 / (3 + 2 * 2) = 3/7
    # unigrams: 1 thrice, 2 twice, 0 and 3 once: D = 2 / (2 + 2) = 1/2, p(2) = (2 - 1/2)/7 + (4 * 1/2)/7 / 4 = 2/7
    orders = count(np.array([0, 1, 2, 1, 2, 1, 3, 0]), 2, 4, 0)
    table = FAMILY["absolute"](orders, lambda message: None)
    p = (2 - 3 / 7) / 3 + (2 * 3 / 7) / 3 * 2 / 7
    assert math.exp(table.score(np.array([[0, 1, 2]]))[0, 1]) == pytest.approx(p, rel=1e-6)


def test_the_weight_by_em_is_the_best_there_is() -> None:
    """Order 1: one weight between relative frequency and uniform; a fine grid cannot find a better one."""
    ids, heldout = stream(3, documents=3), stream(4, documents=2_000)
    table = jelinek_mercer(count(ids, 1, V, EOT), heldout, buckets=1, rounds=500)
    frequency = np.bincount(ids[1:], minlength=V) / (len(ids) - 1)
    grid = [np.log(w * frequency[heldout[1:]] + (1 - w) / V).sum() for w in np.linspace(0.001, 0.999, 999)]
    assert table.score(heldout[None]).sum() >= max(grid) - 0.01


def test_no_weight_reaches_one_so_everything_keeps_mass() -> None:
    """Held-out text in which each context is followed by what it was trained on: EM alone would go to 1."""
    ids = np.array([0, 1, 2, 3] * 50 + [0])
    table = jelinek_mercer(count(ids, 3, V, EOT), ids, buckets=2, rounds=100)
    assert np.isfinite(table.dense(np.array([[0, 1, 2, 3]]))).all()


def test_an_unseen_context_backs_off_to_the_shorter_one() -> None:
    ids = np.array([0, 1, 2, 0, 3, 2, 0])
    table = FAMILY["kneser-ney"](count(ids, 3, V, EOT), lambda message: None)
    assert table.score(np.array([[5, 3, 2]]))[0, 1] == pytest.approx(table.score(np.array([[3, 2]]))[0, 0])


def test_undefined_discounts_are_told_and_survive() -> None:
    said: list[str] = []
    table = FAMILY["kneser-ney"](count(np.array([0, 1, 0]), 3, V, EOT), said.append)
    assert len(said) == 3 and np.isfinite(table.dense(np.array([[0, 1]]))).all()


def names_stream() -> np.ndarray:
    path = SHARED / "names" / "names.txt"
    if not path.is_file():
        pytest.skip("the corpus of names is not here")
    return np.frombuffer(b"\0" + path.read_bytes().strip().replace(b"\n", b"\0") + b"\0", np.uint8).astype(np.int64)


def test_bigrams_of_names_reach_the_published_figure() -> None:
    """Maximum likelihood on all names: 2.45401 nats a character (nn-zero-to-hero, part 1)."""
    order = count(names_stream(), 2, 256, 0)[1]
    total = order.sums(order.counts, 256)[order.contexts]
    assert -(order.counts * np.log(order.counts / total)).sum() / order.counts.sum() == pytest.approx(2.45401, abs=1e-5)


def test_kneser_ney_on_tiny_shakespeare_reaches_the_published_figure() -> None:
    """Order 7 on nanoGPT's split: 1.5165 nats a character (KenLM's model, reference figures)."""
    folder = SHARED / "tinyshakespeare"
    if not folder.is_dir():
        pytest.skip("Tiny Shakespeare is not here")
    raw = [np.frombuffer((folder / name).read_bytes(), np.uint8).astype(np.int64) for name in ("train.txt", "val.txt")]
    letters = np.unique(raw[0])
    train, valid = (np.concatenate([[0], np.searchsorted(letters, each) + 1]) for each in raw)
    table = FAMILY["kneser-ney"](count(np.append(train, 0), 7, len(letters) + 1, 0), lambda message: None)
    assert -table.score(valid[None]).mean() == pytest.approx(1.5165, abs=0.004)


def test_the_state_is_the_last_tokens(trained) -> None:  # type: ignore[no-untyped-def]
    memory = trained(4).memory(2)
    trained(4).logprobs(mx.array([[5, 6, 7, 8, 9], [1, 2, 3, 4, 5]]), memory)
    assert memory.arrays[0].tolist() == [[7, 8, 9], [3, 4, 5]]  # order 4: three tokens
