"""Intervals cover what they promise, and their parts are what their definitions say."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from mlx_gpt import bootstrap
from mlx_gpt.bootstrap import detectable, estimate, holm, judged, student_p
from mlx_gpt.corpus import Text, Units, units
from mlx_gpt.tokenizer import Tokenizer

CORPORA = 1_000


def documents(chance: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits and bytes of documents of heavy-tailed lengths. Short ones cost more a byte, all tokens of one share its
    difficulty, which is skewed, and its end costs 5 bits."""
    sizes = np.maximum(20, chance.lognormal(6.5, 1.0, count)).round()
    level = 0.8 + 0.15 * chance.normal(size=count) + 0.1 * chance.exponential(size=count) - 0.05 * np.log(sizes / 665)
    return sizes * level + 1.5 * np.sqrt(sizes) * chance.normal(size=count) + 5, sizes


def covered(truth: float, corpora: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """In what share of corpora the interval holds the truth."""
    found = [estimate(bits, sizes, seed) for seed, (bits, sizes) in enumerate(corpora)]
    return float(np.mean([abs(each.value - truth) <= each.margin for each in found if each]))


@pytest.mark.parametrize("count", [20, 100])
def test_the_interval_over_documents_covers_in_93_to_97_of_100_corpora(count: int) -> None:
    """The truth is the ratio of the expectations, from four million documents."""
    bits, sizes = documents(np.random.default_rng(99), 4_000_000)
    drawn = [documents(np.random.default_rng(seed), count) for seed in range(CORPORA)]
    assert 0.93 <= covered(bits.sum() / sizes.sum(), drawn) <= 0.97


def test_the_interval_of_a_paired_difference_covers_too() -> None:
    """The second model saves 0.03 bits a byte on average, unlike from document to document, and 1 bit at each end."""

    def pair(chance: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        bits, sizes = documents(chance, count)
        other = bits - sizes * (0.03 + 0.02 * chance.standard_t(5, count)) - 1
        return other - bits, sizes

    bits, sizes = pair(np.random.default_rng(99), 4_000_000)
    drawn = [pair(np.random.default_rng(seed), 60) for seed in range(CORPORA)]
    assert 0.93 <= covered(bits.sum() / sizes.sum(), drawn) <= 0.97


def test_the_interval_over_blocks_of_one_document_covers_with_autocorrelated_losses() -> None:
    """One document of 4,000 bytes; the loss of each is 0.9 of the one before, about its mean of 0.8, and a skewed
    surprise. Over bytes instead of blocks the same interval covers in about a third."""
    length = 4_000
    chance = np.random.default_rng(0)
    losses, level = np.empty((CORPORA, length)), np.zeros(CORPORA)
    for at in range(-200, length):
        level = 0.9 * level + 0.1 * (chance.standard_exponential(CORPORA) - 1)
        losses[:, max(at, 0)] = 0.8 + level
    byte = Tokenizer("byte")
    parts = units(one_document(length), byte)
    assert len(parts) == 20 and str(parts) == "blocks of 200 bytes"
    blocks = [(np.add.reduceat(each, parts.starts[:-1]), parts.sizes) for each in losses]
    assert 0.93 <= covered(0.8, blocks) <= 0.97
    assert covered(0.8, [(each, np.ones(length)) for each in losses[:30]]) < 0.6


def one_document(length: int) -> Text:
    ids = np.concatenate([[256], np.full(length, 97), [256]])
    return Text(ids, np.array([0, length + 1]), np.array([length]))


def test_the_standard_error_of_equal_documents_is_that_of_a_mean() -> None:
    bits = np.random.default_rng(0).normal(size=50)
    found = estimate(bits, np.full(50, 4))
    assert found is not None and found.value == pytest.approx(bits.mean() / 4)
    assert found.error == pytest.approx(bits.std(ddof=1) / math.sqrt(50) / 4)


def test_margin_and_p_value_are_their_definition() -> None:
    """Resampled one by one in plain Python, with the same draws."""
    chance = np.random.default_rng(3)
    sizes = chance.integers(10, 100, 30).astype(float)
    bits = sizes * 0.05 + chance.normal(size=30) * 5
    found = estimate(bits, sizes, seed=7)
    assert found is not None
    drawn = np.random.default_rng(7).integers(0, 30, (bootstrap.RESAMPLES, 30))
    strayed = []
    for row in drawn.tolist():
        y, x = [bits[u] for u in row], [sizes[u] for u in row]
        ratio = sum(y) / sum(x)
        error = math.sqrt(30 / 29 * sum((a - ratio * b) ** 2 for a, b in zip(y, x, strict=True))) / sum(x)
        strayed.append(abs(ratio - bits.sum() / sizes.sum()) / error)
    strayed.sort()
    # with 2,000 draws, the 1,901st smallest is the quantile at 0.95 of 2,001 ranks
    assert found.margin == pytest.approx(strayed[1_900] * found.error)
    beyond = sum(each >= found.value / found.error for each in strayed)
    assert 0.001 < found.p < 0.9 and found.p == pytest.approx((1 + beyond) / 2_001)


def test_beyond_every_resample_students_tail_tells_p() -> None:
    """Else no more than 100 differences of one family could be found, however sure: 101 / 2,001 > 0.05."""
    sizes = np.full(30, 50.0)
    bits = np.random.default_rng(3).normal(size=30)
    far, further = (estimate(bits - bits.mean() + 50 * more, sizes) for more in (0.025, 0.5))
    assert far is not None and further is not None
    assert far.p == pytest.approx(student_p(far.value / far.error, 29), rel=1e-6) and 1e-9 < far.p < 1e-5
    assert further.p == bootstrap.LEAST  # sooner than its sum can tell


def test_an_interval_reaches_zero_where_p_is_five_per_cent() -> None:
    chance = np.random.default_rng(0)
    sizes, noise = np.full(40, 10.0), chance.normal(size=40)
    for shift in np.linspace(0, 1, 41):
        found = estimate(noise - noise.mean() + shift, sizes)
        assert found is not None and (found.p < 0.05) == (found.margin < abs(found.value))


def test_many_documents_are_put_together_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    bits, sizes = documents(np.random.default_rng(0), 3_000)
    whole = estimate(bits, sizes)
    monkeypatch.setattr(bootstrap, "MOST", 200)
    monkeypatch.setattr(bootstrap, "DRAWN", 1_000)
    fewer = estimate(bits, sizes)
    assert whole and fewer and fewer.value == pytest.approx(whole.value)
    assert fewer.margin == pytest.approx(whole.margin, rel=0.15)  # documents here know nothing of each other


def test_what_tells_nothing_has_no_interval() -> None:
    assert estimate(np.array([1.0]), np.array([2])) is None
    assert estimate(np.array([1.0, math.inf, 1.0]), np.array([2, 2, 2])) is None
    two = estimate(np.array([1.0, 3.0]), np.array([2, 2]))
    assert two is not None and two.value == 1 and math.isinf(two.margin)
    same = estimate(np.zeros(30), np.arange(1, 31))
    assert same is not None and (same.value, same.margin, same.p) == (0, 0, 1)


def test_holms_correction() -> None:
    """R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"): 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9]) and holm([]) == []
    statsmodels = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).random(10) ** 3
    assert np.allclose(holm(p.tolist()), statsmodels.multipletests(p, method="holm")[1])


def test_a_detectable_difference_is_found_four_times_in_five() -> None:
    """The power of the two-sided z-test: 1 - F(1.96 - d / s) + F(-1.96 - d / s)."""
    normal, shift = NormalDist(), detectable(0.02) / 0.02
    assert 1 - normal.cdf(1.959964 - shift) + normal.cdf(-1.959964 - shift) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("count", [20, 100])
def test_the_verdict_of_few_units_finds_it_four_times_in_five_too(count: int) -> None:
    """By the test that is made, not by the normal one, whose answer for 20 units is found in 0.73 of cases."""
    corpora = np.random.default_rng(0).normal(size=(CORPORA, count))
    sizes = np.ones(count)
    told = [judged(found, []).detectable for found in (estimate(bits, sizes) for bits in corpora) if found]
    least = float(np.mean(told))
    found = [estimate(bits + least, sizes) for bits in corpora]
    assert 0.76 <= np.mean([each.p < 0.05 for each in found if each]) <= 0.84


def test_two_units_find_nothing() -> None:
    two = estimate(np.array([1.0, 3.0]), np.array([2, 2]))
    assert two is not None and math.isinf(judged(two, []).detectable)


@pytest.mark.parametrize("lengths", [[5_000], [900, 4_000, 150], [250] * 19])
def test_blocks_are_the_same_bytes_whatever_the_tokenizer(lengths: list[int], story_file) -> None:
    """Every token is in the block in which its first byte stands, and the end of a document in its last."""
    pieces = story_file.read_text()
    texts = [pieces[start : start + length] for start, length in zip(range(0, 99_999, 7_000), lengths, strict=False)]
    texts += [pieces[-length:] for length in lengths[len(texts) :]]
    byte = Tokenizer("byte")
    bpe = Tokenizer.train("bpe", pieces.splitlines(), 400)
    sizes = {}
    for tokenizer in (byte, bpe):
        text = encoded(texts, tokenizer)
        parts = units(text, tokenizer)
        assert isinstance(parts, Units) and parts.starts[0] == 0 and parts.starts[-1] == len(text.ids) - 1
        assert set(text.starts.tolist()) <= set(parts.starts.tolist())
        edges = np.append(0, parts.sizes.cumsum())
        before, unit = 0, 0
        for place, token in enumerate(text.ids[1:].tolist()):
            unit = int(np.searchsorted(parts.starts, place, side="right")) - 1
            end = token == tokenizer.eot
            assert edges[unit] <= before < edges[unit + 1] or (end and before == edges[unit + 1])
            before += len(tokenizer.decode_bytes([token]))
        assert len(parts) - 20 in range(-2, 3) and parts.sizes.sum() == text.bytes
        sizes[tokenizer.kind] = parts.sizes.tolist()
    assert sizes["byte"] == sizes["bpe"]


def encoded(texts: list[str], tokenizer: Tokenizer) -> Text:
    rows = tokenizer.encode_all(texts)
    ids = np.concatenate([[tokenizer.eot], *(np.append(row, tokenizer.eot) for row in rows)])
    starts = np.append(0, np.cumsum([len(row) + 1 for row in rows]))
    return Text(ids, starts, np.array([len(text.encode()) for text in texts]))


def test_twenty_documents_are_units_themselves() -> None:
    byte = Tokenizer("byte")
    text = encoded(["some words"] * 20, byte)
    parts = units(text, byte)
    assert parts.starts is text.starts and parts.sizes is text.sizes and str(parts) == "20 documents"
