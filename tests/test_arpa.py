"""ARPA text: what KenLM wrote is made again and read, what we write KenLM reads, and nothing else passes."""

import gzip
import io
import math
import random
import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from click.testing import CliRunner, Result
from conftest import SHARED

from mlx_gpt import arpa, evaluate, generate, train
from mlx_gpt.checkpoint import load
from mlx_gpt.counting import Level, Table, count, estimate
from mlx_gpt.counting.arpa import Arpa, Vocabulary, read_arpa, read_sentences, seen_ids, words_of, write_arpa
from mlx_gpt.counting.arpa.closure import Rows, table_of
from mlx_gpt.counting.packed import Starts
from mlx_gpt.counting.quantise import quantised
from mlx_gpt.counting.smoothing import Discounting, Katz, MaximumLikelihood, Smoothing, WittenBell
from mlx_gpt.counting.statistics import three_discounts
from mlx_gpt.errors import CheckpointError, TokenizerError
from mlx_gpt.tokenizer import LARGEST_MODEL, WORD, Tokenizer

GOLDEN = SHARED / "golden"  # lmplz's models and their texts; README.md there says how they were made
MODELS = [("words", 3, "", "words.o3"), ("words", 3, "0 1 1", "words.o3.prune011")]
MODELS += [("chars", 5, "", "chars.o5"), ("tiny", 3, "", "tiny.o3")]
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference models are not here")

SMALL = """\
\\data\\
ngram 1=5
ngram 2=5
ngram 3=2

\\1-grams:
-1.5\t<unk>\t0
0\t<s>\t-0.3
-0.8\t</s>\t0
-0.5\ta\t-0.25
-0.6\tb\t-0.125

\\2-grams:
-0.4\t<s> a\t-0.1
-0.7\ta b\t-0.2
-0.9\tb a\t0
-0.3\tb </s>\t0
-0.35\ta </s>\t0

\\3-grams:
-0.2\t<s> a b
-0.15\ta b a

\\end\\
"""


def silent(message: str) -> None:
    pass


def read(path: Path, text: str | bytes, vocabulary: Vocabulary | None = None) -> Arpa:
    file = path / "model.arpa"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_arpa(file, silent, vocabulary)


def walk(*args: object, text: str | None = None) -> Result:
    return CliRunner().invoke(arpa.main, [str(arg) for arg in args], input=text)


def entries(path: Path) -> dict[str, tuple[float, float]]:
    """log10 p and backoff of every n-gram of a file that is known to be sound, read as plainly as can be."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    found = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            found[fields[1]] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
    return found


def model(ids: np.ndarray, order: int, size: int, smoothing: Smoothing | None = None) -> Table:
    counts = count(ids, order, size, 1)
    return estimate(counts, smoothing or Discounting(three_discounts, continuation=True), silent)[0]


def stream(seed: int, size: int, sentences: int) -> np.ndarray:
    """Random sentences of ids 2 to size - 1, rare ones rarer, some of them empty; 1 is the mark, 0 never comes."""
    rng = np.random.default_rng(seed)
    rows = [np.minimum(rng.geometric(0.15, rng.integers(0, 12)) + 1, size - 1) for _ in range(sentences)]
    return np.concatenate([[1], *(np.append(row, 1) for row in rows)])


def same(one: Table, two: Table) -> bool:
    """Whether two tables are one to the bit."""
    if one.rows != two.rows:
        return False
    for a, b in zip(one.levels, two.levels, strict=True):
        pairs = [(a.tokens, b.tokens), (a.starts.part(0, len(a.starts)), b.starts.part(0, len(b.starts)))]
        pairs.append((a.probabilities[:], b.probabilities[:]))
        pairs += [] if a.backoffs is None or b.backoffs is None else [(a.backoffs[:], b.backoffs[:])]
        if (a.backoffs is None) != (b.backoffs is None) or not all(np.array_equal(x, y) for x, y in pairs):
            return False
    return True


# --- KenLM's models


@golden
@pytest.mark.parametrize(("text", "order", "prune", "name"), MODELS, ids=lambda part: str(part))
def test_what_lmplz_made_of_a_text_is_made_again(text: str, order: int, prune: str, name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.arpa"
    result = walk("build", GOLDEN / f"{text}.txt", "--order", order, "-o", out, "--prune", prune)
    assert result.exit_code == 0, result.output
    made, known = entries(out), entries(GOLDEN / f"{name}.arpa.gz")
    assert made.keys() == known.keys()
    ours, theirs = (np.array([values[ngram] for ngram in known]) for values in (made, known))
    assert np.abs(ours - theirs).max() < 1e-5
    if name == "words.o3":  # as lmplz printed it
        assert "1 5482 D1=0.678257 D2=1.09004 D3+=1.52291" in result.output


@golden
@pytest.mark.parametrize("name", [each[-1] for each in MODELS])
def test_what_lmplz_wrote_is_read_as_it_stands(name: str) -> None:
    path = GOLDEN / f"{name}.arpa.gz"
    found, known = read_arpa(path, silent), entries(path)
    assert sum(found.table.rows) == len(known) - 1  # <s> and </s> are one
    assert found.words[found.eot] == "</s>" and found.words[found.unknown] == "<unk>"  # type: ignore[index]
    ids = {word: number for number, word in enumerate(found.words)} | {"<s>": found.eot}
    for ngram, (p, backoff) in (
        random.Random(0).sample(sorted(known.items()), 300) if len(known) > 300 else known.items()
    ):
        words = [ids[word] for word in ngram.split(" ")]
        if ngram == "<s>":
            continue
        state = None if len(words) == 1 else found.table.advance(np.array([words[:-1]]))[:, :, -1]
        scores, lengths = found.table.score(np.array([words[-1:]]), state)
        assert scores[0, 0] / math.log(10) == pytest.approx(p, abs=1e-6) and lengths[0, 0] == len(words), ngram
        level = found.table.levels[len(words) - 1]
        if level.backoffs is not None and words[-1] != found.eot:
            row = found.table.advance(np.array([words]))[len(words) - 1, 0, -1]
            assert math.log10(level.backoffs[int(row)]) == pytest.approx(backoff, abs=1e-6), ngram


def kenlm_agrees(path: Path, found: Arpa, sentences: list[list[str]]) -> None:
    """KenLM's log10 p and length of match of every word, beside those of our table; begun by <s> and not."""
    kenlm = pytest.importorskip("kenlm")
    theirs = kenlm.Model(str(path))
    assert theirs.order == found.table.order
    ids = {word: number for number, word in enumerate(found.words)}
    for begun in (True, False):
        for words in sentences:
            known = list(theirs.full_scores(" ".join(words), bos=begun, eos=True))
            ours = [ids.get(word, found.unknown) for word in words]
            scores, lengths = found.table.score(np.array([[found.eot] * begun + ours + [found.eot]]))
            assert scores[0, begun:] / math.log(10) == pytest.approx([p for p, _, _ in known], abs=1e-5)
            assert lengths[0, begun:].tolist() == [length for _, length, _ in known]


@pytest.mark.parametrize("order", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("smoothing", [None, WittenBell, Katz])
def test_kenlm_scores_our_files_as_our_tables_do(
    order: int, smoothing: Callable[[], Smoothing] | None, tmp_path: Path
) -> None:
    size = 40
    table = model(stream(order, size, 300), order, size, None if smoothing is None else smoothing())
    words = ["<unk>", "</s>", *(f"{'▁' * (i % 3)}word{'x' * i}" for i in range(2, size))]
    seen = seen_ids(table, 0)
    assert seen.tolist() == (np.bincount(stream(order, size, 300), minlength=size) > 0).tolist()
    path = tmp_path / "ours.arpa"
    assert write_arpa(table, words, 1, 0, seen, path) == [int(seen.sum()) + 2, *table.rows[1:]]
    rng = random.Random(order)
    text = [[rng.choice([*words[2:], "strange", "words"]) for _ in range(rng.randrange(12))] for _ in range(60)]
    text += [[words[i] for i in row if i != 1] for row in np.array_split(stream(order, size, 300), 60)]
    kenlm_agrees(path, Arpa(table, words, 1, 0), text)


@golden
def test_kenlm_reads_what_was_pruned_and_zipped(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa.gz"
    result = walk("build", GOLDEN / "words.txt", "--order", 4, "--prune", "0 0 1", "-o", path)
    assert result.exit_code == 0, result.output
    lines = (GOLDEN / "words.txt").read_text().split("\n")
    kenlm_agrees(path, read_arpa(path, silent), [line.split() for line in lines[:200]])


def test_an_unseen_piece_is_as_likely_as_unknown(tmp_path: Path) -> None:
    # lmplz --vocab_pad: what is taken from the unigrams is shared by all ids, so each unseen one has p(<unk>)
    text = tmp_path / "text.txt"
    text.write_text("a b c a\nb b c\n")
    out = tmp_path / "out.arpa"
    assert walk("build", text, "--order", 2, "-o", out, "--vocab-pad", 1000).exit_code == 0
    found = entries(out)
    unigrams = {words: 10**p for words, (p, _) in found.items() if " " not in words and words != "<s>"}
    assert len(unigrams) == 5
    # 1000 ids of which a, b, c and </s> were seen
    assert sum(unigrams.values()) + (1000 - 4 - 1) * unigrams["<unk>"] == pytest.approx(1, abs=1e-6)


# --- there and back


@pytest.mark.parametrize(("order", "size"), [*((order, 40) for order in (1, 2, 3, 5, 10)), (3, 70_000), (7, 70_000)])
def test_out_and_in_is_the_same_table_to_the_bit(order: int, size: int, tmp_path: Path) -> None:
    """An order of 7 over 70,000 ids needs keys longer than 64 bits."""
    table = model(stream(order, 40, 200), order, size)
    words = ["<unk>", "</s>", *map(str, range(2, size))]
    for seen, name in ((None, "all.arpa"), (seen_ids(table, 0), "seen.arpa.gz")):
        write_arpa(table, words, 1, 0, seen, tmp_path / name)
        again = read_arpa(tmp_path / name, silent, Vocabulary(words, 1, 0))
        assert same(again.table, table)
        free = read_arpa(tmp_path / name, silent)
        assert free.table.rows[1:] == table.rows[1:]
        write_arpa(free.table, free.words, free.eot, free.unknown, None, tmp_path / "again.arpa")
        once_more = read_arpa(tmp_path / "again.arpa", silent)
        assert same(once_more.table, free.table) and once_more.words == free.words


def test_zeros_and_quantised_numbers_survive(tmp_path: Path) -> None:
    table = model(stream(0, 40, 200), 3, 45, MaximumLikelihood())
    words = ["<unk>", "</s>", *map(str, range(2, 45))]
    assert not table.unigram[44]
    write_arpa(table, words, 1, 0, None, tmp_path / "m.arpa")
    assert entries(tmp_path / "m.arpa")["44"] == (-99, 0)  # KenLM refuses an infinite logarithm
    assert same(read_arpa(tmp_path / "m.arpa", silent, Vocabulary(words, 1, 0)).table, table)
    eight = quantised(table)
    write_arpa(eight, words, 1, 0, None, tmp_path / "q.arpa")
    again = read_arpa(tmp_path / "q.arpa", silent, Vocabulary(words, 1, 0)).table
    assert np.array_equal(again.levels[2].probabilities[:], eight.levels[2].probabilities[:])


def test_every_float_has_its_own_decimals(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p = np.exp(-rng.random(5000) * 60).astype(np.float32)
    p[:4] = [1, np.nextafter(np.float32(1), np.float32(0)), 1e-38, 0]
    backoffs = np.exp(rng.normal(0, 20, 5000)).astype(np.float32)
    backoffs[[1, 2]] = 1  # the mark, and one more
    level = Level(np.arange(5000, dtype=np.uint16), Starts(np.array([0, 5000], np.int32)), p, backoffs)
    top = Level(np.array([7], np.uint16), Starts(np.append(np.zeros(5000), 1).astype(np.int32)), p[:1], None)
    words = ["<unk>", "</s>", *map(str, range(2, 5000))]
    write_arpa(Table([level, top]), words, 1, 0, None, tmp_path / "m.arpa")
    assert same(read_arpa(tmp_path / "m.arpa", silent, Vocabulary(words, 1, 0)).table, Table([level, top]))


def test_a_vocabulary_larger_than_the_model_shares_what_unknown_has(tmp_path: Path) -> None:
    words = ["<unk>", "</s>", "a", "b", "c", "d"]
    found = read(tmp_path, SMALL, Vocabulary(words, 1, 0)).table
    # the unigrams sum to 10^-0.8 + 10^-0.5 + 10^-0.6 = 0.7259, with <unk> once to 0.7575: <unk>, c and d fit in
    assert found.unigram == pytest.approx([10**-1.5, 10**-0.8, 10**-0.5, 10**-0.6, 10**-1.5, 10**-1.5])
    many = ["<unk>", "</s>", "a", "b", *map(str, range(96))]
    # 97 ids of 10^-1.5 would be too much: they share one
    assert read(tmp_path, SMALL, Vocabulary(many, 1, 0)).table.unigram[[0, 4]] == pytest.approx([10**-1.5 / 97] * 2)
    with pytest.raises(CheckpointError, match=r"line 11: 'b' is no piece"):
        read(tmp_path, SMALL, Vocabulary(["<unk>", "</s>", "a"], 1, 0))


def test_a_failed_write_leaves_nothing_and_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = model(stream(0, 40, 20), 2, 40)
    words = list(map(str, range(40)))
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_arpa(table, words, 1, 0, None, tmp_path / "missing" / "m.arpa")
    out = tmp_path / "m.arpa"
    out.write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="is the disk full"):
        write_arpa(table, words, 1, 0, None, out)
    assert [path.name for path in tmp_path.iterdir()] == ["m.arpa"] and out.read_text() == "before"


# --- what others write


def test_a_model_as_srilm_prunes_it_sums_to_one(tmp_path: Path) -> None:
    """Blanks for tabs, missing backoffs, <s> at -99, rows without their suffix, and no order among the rows."""
    a, b, c, end = 0.3, 0.3, 0.2, 0.2
    # p(b | a) = 0.6 and p(c | a b) = 0.5 are kept, p(c | b) was pruned: backoffs by the rest of the mass
    after_a = (1 - 0.6) / (1 - b)
    after_ab = (1 - 0.5) / (1 - c)
    log = math.log10
    text = f"""
# a comment
\\data\\
ngram 1=5
ngram  2 = 2
ngram 3=1

\\1-grams:
{log(b):.9e} b
{log(c):.9f}   c
-99 <s>
{log(end):.9f} </s>
{log(a):.9f} a {log(after_a):.9f}

\\2-grams:
{log(c):.9f} <s> c
{log(0.6):.9f} a b {log(after_ab):.9f}

\\3-grams:
{log(0.5):.9f}\ta  b  c\t

\\end\\

"""
    notices: list[str] = []
    (tmp_path / "m.arpa").write_bytes(text.replace("\n", "\r\n").encode())
    found = read_arpa(tmp_path / "m.arpa", notices.append)
    assert found.words == ["b", "c", "</s>", "a", "<unk>"] and found.eot == 2 and found.unknown == 4
    assert len(notices) == 1 and "no <unk>" in notices[0]
    assert found.table.rows == [5, 3, 1]  # "b c" was put in
    for context in ([3], [3, 0], [0], [2], [0, 1], [2, 3, 0]):
        p = found.table.distribution(found.table.advance(np.array([context]))[:, 0, -1])
        assert p.sum() == pytest.approx(1, abs=1e-6)
    abc = found.table.distribution(found.table.advance(np.array([[3, 0]]))[:, 0, -1])
    assert abc.tolist() == pytest.approx([b * after_ab, 0.5, end * after_ab, a * after_ab, 0], abs=1e-6)


def test_missing_contexts_and_suffixes_change_no_probability(tmp_path: Path) -> None:
    text = SMALL.replace("ngram 2=5", "ngram 2=1").replace("-0.4\t<s> a\t-0.1\n", "")
    text = text.replace("-0.9\tb a\t0\n-0.3\tb </s>\t0\n-0.35\ta </s>\t0\n", "")
    table = read(tmp_path, text).table  # left: "a b", and "<s> a b" and "a b a" without "<s> a" and "b a"
    assert table.rows == [4, 3, 2]
    begin, a, b = 1, 2, 3

    def log10(*ids: int) -> float:
        return float(table.score(np.array([ids]))[0][0, -1]) / math.log(10)

    assert log10(begin, a) == pytest.approx(-0.3 - 0.5, abs=1e-6)  # backoff(<s>) p(a)
    assert log10(b, a) == pytest.approx(-0.125 - 0.5, abs=1e-6)  # backoff(b) p(a)
    assert log10(begin, a, b) == pytest.approx(-0.2, abs=1e-6)
    assert log10(begin, a, a) == pytest.approx(-0.25 - 0.5, abs=1e-6)  # "<s> a" has no backoff of its own
    assert log10(a, b, a) == pytest.approx(-0.15, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_closing_leaves_all_scores_alone(seed: int, tmp_path: Path) -> None:
    """Rows are dropped at random from below; what scores then, by the definition of backing off, is what we read."""
    rng = random.Random(seed)
    table = model(stream(seed, 12, 60), 4, 12)
    words = ["<unk>", "</s>", *"cdefghijkl"]
    path = tmp_path / "m.arpa"
    write_arpa(table, words, 1, 0, None, path)
    kept = {k: v for k, v in entries(path).items() if len(k.split()) in (1, 4) or rng.random() < 0.5}
    rows: dict[int, list[str]] = {k: [] for k in range(1, 5)}
    for ngram, (p, backoff) in rng.sample(sorted(kept.items()), len(kept)):
        k = len(ngram.split())
        rows[k].append(f"{p}\t{ngram}\t{backoff}" if k < 4 else f"{p}\t{ngram}")
    text = "\\data\\\n" + "".join(f"ngram {k}={len(each)}\n" for k, each in rows.items())
    text += (
        "".join(f"\n\\{k}-grams:\n" + "".join(f"{row}\n" for row in each) for k, each in rows.items()) + "\n\\end\\\n"
    )
    found = read(tmp_path, text)
    ids = {word: number for number, word in enumerate(found.words)} | {"<s>": found.eot}

    def score(ngram: list[str]) -> float:
        known = kept.get(" ".join(ngram))
        if known is not None:
            return known[0]
        return kept.get(" ".join(ngram[:-1]), (0.0, 0.0))[1] + score(ngram[1:])

    for _ in range(300):
        ngram = [rng.choice(["<s>", *words[2:]]), *rng.choices(words[2:], k=rng.randrange(3)), rng.choice(words[1:])]
        ours = found.table.score(np.array([[ids[word] for word in ngram]]))[0][0, -1] / math.log(10)
        assert ours == pytest.approx(score(ngram), abs=1e-5), ngram


def test_long_keys_close_a_table_as_short_ones_do() -> None:
    """Six ids below 12 have room in an integer, six below 2^17 do not."""
    tables = []
    for size in (12, 2**17):
        rng = np.random.default_rng(0)
        orders = [Rows(np.arange(size)[:, None], np.full(size, 0.1, np.float32), np.full(size, 0.5, np.float32))]
        for k in range(2, 7):
            tokens = np.unique(rng.integers(0, 12, (150, k)), axis=0)
            tokens = rng.permutation(tokens).astype(np.uint32)
            p, backoffs = rng.random((2, len(tokens)), np.float32)
            orders.append(Rows(tokens, p, backoffs))
        tables.append(table_of(orders, size, None))  # type: ignore[arg-type]
    short, long = tables
    assert short.rows[1:] == long.rows[1:] and short.rows[4] > 150
    for a, b in zip(short.levels[1:], long.levels[1:], strict=True):
        assert np.array_equal(a.tokens, b.tokens) and np.array_equal(a.probabilities, b.probabilities)
    finder, level = short.finder, short.levels[5]
    contexts = np.repeat(np.arange(short.rows[4]), np.diff(level.starts.part(0, len(level.starts))))
    assert np.array_equal(finder.find(6, contexts, level.tokens.astype(np.int64)), np.arange(short.rows[5]))


def test_capital_unknown_and_other_freedoms(tmp_path: Path) -> None:
    text = "# by hand\n\n" + SMALL.replace("<unk>", "<UNK>").replace("-0.9\tb a\t0", "-.9\tb <UNK>\t-1e-3")
    found = read(tmp_path, text.removesuffix("\n").replace("-0.5\ta", "1e-7\ta"))
    assert found.words[found.unknown] == "<unk>"  # type: ignore[index]
    assert found.table.unigram[found.words.index("a")] == 1  # a rounding error above 0 is forgiven
    plain = read(tmp_path, SMALL)
    assert same(plain.table, read(tmp_path, gzip.compress(SMALL.encode())).table)  # by content, not by name
    assert same(plain.table, read(tmp_path, SMALL.replace("\n", "\r\n")).table)
    # a word may hold other blanks, as KenLM has it
    assert "\v\u00a0\f" in read(tmp_path, SMALL.replace("b", "\v\u00a0\f")).words


WRONG: list[tuple[str, Callable[[str], str | bytes], str]] = [
    ("empty", lambda text: "", r"line 1: the file ends here; expected \\data"),
    ("no data", lambda text: text.replace("\\data\\\n", ""), r"line 1: expected \\data\\, found 'ngram 1=5'"),
    ("other text", lambda text: "Once upon a time\n" * 9, r"line 1: .*not an ARPA file"),
    ("no counts", lambda text: text.replace("ngram 1=5\nngram 2=5\nngram 3=2\n", ""), "line 2: expected 'ngram 1='"),
    ("count words", lambda text: text.replace("2=5", "2=five"), "line 3: expected 'ngram 2=' and a number"),
    ("count negative", lambda text: text.replace("2=5", "2=-5"), "line 3: expected 'ngram 2='"),
    ("count skipped", lambda text: text.replace("ngram 2=5\n", ""), "line 3: expected 'ngram 2='"),
    ("count fewer", lambda text: text.replace("2=5", "2=4"), "line 18: more 2-grams than the 4"),
    ("count more", lambda text: text.replace("2=5", "2=6"), "line 19: only 5 2-grams, .* says 6"),
    ("count absurd", lambda text: text.replace("3=2", f"3={10**12}"), "line 4: .*at most"),
    ("count endless", lambda text: text.replace("3=2", f"3={'9' * 5000}"), "line 4: expected"),
    ("count large", lambda text: text.replace("3=2", f"3={2**31 - 1}"), "line 23: only 2"),
    ("vocabulary", lambda text: text.replace("1=5", f"1={2**20 + 1}"), "line 2: .*at most 1,048,576"),
    (
        "orders",
        lambda text: text.replace("\n\n", "\n" + "".join(f"ngram {k}=0\n" for k in range(4, 12)) + "\n", 1),
        "line 12: .*order 10",
    ),
    ("sections swapped", lambda text: text.replace("\\2-g", "\\4-g"), r"line 13: expected \\2-grams:, found"),
    ("section missing", lambda text: text[: text.index("\\3")] + "\\end\\\n", r"line 20: expected \\3-grams:, found"),
    ("end missing", lambda text: text.removesuffix("\\end\\\n"), r"line 23: the file ends here; expected \\end"),
    ("end other", lambda text: text.replace("\\end\\", "\\ende\\"), r"line 24: expected \\end\\"),
    ("text after", lambda text: text + "\nmore\n", r"line 26: text after \\end"),
    ("second end", lambda text: text + "\\end\\\n", r"line 25: text after \\end"),
    (
        "word missing",
        lambda text: text.replace("a b\t-0.2", "ab\t-0.2 x y"),
        "line 15: 5 fields; expected a number, 2 words",
    ),
    (
        "words too many",
        lambda text: text.replace("\ta b a", "\ta b a a b"),
        "line 22: 6 fields; expected a number, 3 words",
    ),
    ("words too few", lambda text: text.replace("\ta b a", "\ta b"), "line 22: 3 fields"),
    ("word unknown", lambda text: text.replace("\ta b a", "\ta c a"), "line 22: 'c' is not among the unigrams"),
    ("positive", lambda text: text.replace("-0.7\t", "0.7\t"), "line 15: '0.7' is a log-probability above 0"),
    ("nan", lambda text: text.replace("-0.7\t", "nan\t"), "line 15: 'nan' is no number"),
    ("inf", lambda text: text.replace("-0.7\t", "-inf\t"), "line 15: '-inf' is no number"),
    ("overflow", lambda text: text.replace("-0.7\t", "-1e999\t"), "line 15: '-1e999' is no number"),
    ("number odd", lambda text: text.replace("-0.7\t", "-0.7.1\t"), "line 15: .* is no number"),
    ("number python", lambda text: text.replace("-0.7\t", "-1_0\t"), "line 15: .* is no number"),
    ("number empty", lambda text: text.replace("-0.7\t", "-.\t"), "line 15: .* is no number"),
    ("backoff nan", lambda text: text.replace("\t-0.2\n", "\tnan\n"), "line 15: 'nan' is no number"),
    ("backoff large", lambda text: text.replace("\t-0.2\n", "\t99\n"), "line 15: '99' is too large"),
    (
        "backoff high",
        lambda text: text.replace("\ta b a", "\ta b a\t-0.1"),
        "line 22: '-0.1' is a backoff in the highest order",
    ),
    ("repeated", lambda text: text.replace("\tb a\t", "\ta b\t"), "line 16: this 2-gram was there before"),
    ("repeated word", lambda text: text.replace("\tb\t", "\ta\t"), "line 11: 'a' is there twice"),
    ("no begin", lambda text: text.replace("0\t<s>\t-0.3", "0\t<S>\t-0.3"), "line 12: no <s> among the unigrams"),
    ("no end of sentence", lambda text: text.replace("-0.8\t</s>", "-0.8\t<e>"), "line 12: no </s>"),
    ("begin inside", lambda text: text.replace("\ta b a", "\ta <s> a"), "line 22: '<s>' can only be the first word"),
    ("end inside", lambda text: text.replace("\ta b a", "\ta </s> a"), "line 22: '</s>' can only be the last word"),
    ("end first", lambda text: text.replace("\ta b a", "\t</s> b a"), "line 22: '</s>' can only be the last word"),
    ("blank line", lambda text: text.replace("-0.9\t", "\n-0.9\t"), "line 17: a 2-gram after a blank line"),
    ("nul", lambda text: text.replace("-0.9\tb", "-0.9\t\0"), "line 16: a NUL byte"),
    ("utf-8", lambda text: text.replace("-0.9\tb", "-0.9\té").encode("latin-1"), "line 16: not UTF-8"),
    ("utf-8 in header", lambda text: b"\xff\n" + text.encode(), "line 1: not UTF-8"),
    ("gzip cut", lambda text: gzip.compress(text.encode())[:-20], "line 1: damaged gzip"),
    ("gzip damaged", lambda text: gzip.compress(text.encode())[:30] + b"\0" * 50, "line 1: damaged gzip"),
    ("endless line", lambda text: text.encode() + b"x" * 2**23, "line 25: longer than"),
    ("endless word", lambda text: text.replace("\ta\t", f"\t{'a' * 2**20}\t"), "line 10: a word of 1,048,576 bytes"),
]


@pytest.mark.parametrize(("change", "said"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG])
def test_what_is_wrong_is_said_with_its_line(change: Callable[[str], str | bytes], said: str, tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=said) as caught:
        read(tmp_path, change(SMALL))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))
    assert time.perf_counter() - started < 1


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.arpa"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_arpa(path, silent)


def mutants(text: bytes, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for _ in range(500):
        whole = bytearray(text)
        for _ in range(rng.randint(1, 3)):
            whole[rng.randrange(len(whole))] = rng.choice([rng.randrange(256), *b" \t\n\\-.0"])
        yield bytes(whole)
    lines = text.splitlines(keepends=True)
    for _ in range(500):
        some = list(lines)
        kind, at, other = rng.randrange(5), rng.randrange(len(some)), rng.randrange(len(some))
        if kind == 0:
            del some[at]
        elif kind == 1:
            some.insert(at, some[other])
        elif kind == 2:
            some[at], some[other] = some[other], some[at]
        elif kind == 3:
            some[at:] = [some[at][: rng.randrange(len(some[at]) + 1)]]
        else:
            k = rng.randrange(2, 5)
            some[k - 1] = b"ngram %d=%d\n" % (k - 1, rng.choice([0, 1, 3, 4, 6, 10**6, 10**9, 10**12, 10**17]))
        yield b"".join(some)


def test_a_thousand_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    refused = 0
    for text in mutants(SMALL.encode(), 0):
        started = time.perf_counter()
        try:
            found = read(tmp_path, text)
            p = found.table.distribution(found.table.advance(np.array([[found.eot]]))[:, 0, 0])
            assert np.isfinite(p).all()
        except CheckpointError as error:
            assert "line " in str(error) and "\n" not in str(error), error
            refused += 1
        assert time.perf_counter() - started < 1
    assert refused > 500


# --- words


def test_every_piece_has_a_word_of_its_own() -> None:
    odd = "\\u{5c} \u00a0 \u3000 \x85 \x0b \x1c \u2028 \t <s> </S> <UNK> <unk> \u2581 x\n\r" * 20
    custom = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["plain words " * 9]),
        model_writer=custom,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        eos_id=1,
        bos_id=-1,
        user_defined_symbols=["<S>", "</S>", "<UNK>", "\\", "\\u{3c}S>", "a\tb", "\x0c"],
        minloglevel=2,
    )
    for tokenizer in (Tokenizer("byte"), Tokenizer.train("char", [odd], 0), Tokenizer("bpe", custom.getvalue())):
        words = words_of(tokenizer)
        assert len(words) == len(set(words)) == tokenizer.vocab_size
        assert words[tokenizer.eot] == "</s>" and "<0x0A>" in words
        for number, word in enumerate(words):
            assert word.split() == [word] and word.isprintable() and word.encode().split(b"\0") == [word.encode()]
            assert word.lower() not in ("<s>", "</s>", "<unk>") or number in (tokenizer.eot, tokenizer.unknown)
    pieces = dict(zip(tokenizer.pieces(), words, strict=True))
    assert pieces["<S>"] == "\\u{3c}S>" and pieces["\\u{3c}S>"] == "\\u{5c}u{3c}S>" and pieces["a\tb"] == "a\\u{9}b"


def test_a_tokenizer_of_words() -> None:
    tokenizer = Tokenizer(WORD, "<unk>\nthe\ncät\n</s>\nsat".encode())
    assert (tokenizer.vocab_size, tokenizer.eot, tokenizer.unknown) == (5, 3, 0)
    ids = tokenizer.encode("the  cät\n\tflew </s> <s> sat\0the")
    assert ids == [1, 2, 0, 0, 0, 4, 1]  # a mark that is typed is no mark
    assert tokenizer.decode_bytes([1]) == b" the" and tokenizer.decode([1, 2, 3]) == " the cät"
    assert words_of(tokenizer) == tokenizer.pieces() == ["<unk>", "the", "cät", "</s>", "sat"]
    assert [row.tolist() for row in tokenizer.encode_all(["", "sat the"])] == [[], [4, 1]]
    with pytest.raises(TokenizerError, match="token id 5"):
        tokenizer.decode([5])


@pytest.mark.parametrize(
    "words", [b"", b"a\nb", b"</s>\n<unk>\na\na", b"</s>\n<unk>\n\na", b"</s>\n<unk>\na b", b"\xff"]
)
def test_a_damaged_list_of_words_is_refused(words: bytes) -> None:
    with pytest.raises(TokenizerError, match="damaged list of words"):
        Tokenizer(WORD, words)
    with pytest.raises(TokenizerError, match="refused"):
        Tokenizer(WORD, b"a" * (LARGEST_MODEL + 1))
    with pytest.raises(TokenizerError, match="not learned"):
        Tokenizer.train(WORD, ["a b"], 10)


# --- the doors


def test_sentences_are_numbered_by_first_appearance(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"b a\r\n\nc \x0b b\x0cb \tb\nlast")
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"a\n"))
    ids, words = read_sentences([text, tmp_path / "more.txt.gz"], False)
    assert words == ["<unk>", "</s>", "b", "a", "c", "\x0b", "b\x0cb", "last"]
    assert ids.tolist() == [1, 2, 3, 1, 1, 4, 5, 6, 2, 1, 7, 1, 3, 1]


@pytest.mark.parametrize("size", [7, 100, 2**18])
def test_no_block_is_too_short(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_gpt.counting.arpa.sentences.BLOCK", size)
    monkeypatch.setattr("mlx_gpt.counting.arpa.lines.BLOCK", size)
    rng = random.Random(size)
    lines = [
        [rng.choice("äbc") * min(40, int(rng.expovariate(0.2))) for _ in range(rng.randrange(9))] for _ in range(400)
    ]
    (tmp_path / "text.txt").write_text("\n".join(" ".join(filter(None, line)) for line in lines))
    numbers = {"<unk>": 0, "</s>": 1}
    expected = [1]
    for line in lines[:-1] + [line for line in lines[-1:] if any(line)]:
        expected += [numbers.setdefault(word, len(numbers)) for word in line if word] + [1]
    ids, words = read_sentences([tmp_path / "text.txt"], False)
    assert ids.tolist() == expected and words == list(numbers)
    table = model(ids, 3, len(words))
    write_arpa(table, words, 1, 0, None, tmp_path / "m.arpa")
    assert same(read_arpa(tmp_path / "m.arpa", silent, Vocabulary(words, 1, 0)).table, table)


@pytest.fixture(scope="module")
def runs(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for stage, more in ((4, ("--order", 3)), (5, ("--steps", 2, "--warmup", 1))):
        line = (
            "--stage",
            stage,
            "--preset",
            "tiny",
            "--data",
            story_file,
            "--vocab-size",
            400,
            "--run",
            folder / str(stage),
        )
        result = CliRunner().invoke(train.main, [str(each) for each in (*line, *more)])
        assert result.exit_code == 0, result.output
    return folder


def test_a_run_goes_out_and_comes_back(runs: Path, tmp_path: Path) -> None:
    for ids in ([], ["--ids"]):
        file, back = tmp_path / f"m{len(ids)}.arpa.gz", tmp_path / f"back{len(ids)}"
        assert walk("export", "--run", runs / "4", file, *ids).exit_code == 0
        result = walk("import", file, "--run", back, "--tokenizer", runs / "4", *ids)
        assert result.exit_code == 0, result.output
        before, after = load(runs / "4"), load(back)
        assert after.card.stage == 4 and after.tokenizer.model == before.tokenizer.model
        assert same(before.model.table, after.model.table)  # type: ignore[attr-defined]
    trained = load(runs / "4")
    words = words_of(trained.tokenizer)
    texts = ["Once upon a time there was a dog.", "Zebra! \\ <s>", "", "two\nlines"]
    spelled = [[words[piece] for piece in trained.tokenizer.encode(text)] for text in texts]
    file = tmp_path / "plain.arpa"
    assert walk("export", "--run", runs / "4", file).exit_code == 0
    table, eot, unknown = trained.model.table, trained.tokenizer.eot, trained.tokenizer.unknown  # type: ignore[attr-defined]
    kenlm_agrees(file, Arpa(table, words, eot, unknown), spelled)


def test_an_imported_model_of_words_generates_and_scores(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog sat\na cat ran\n" * 3)
    file, run = tmp_path / "m.arpa", tmp_path / "run"
    assert walk("build", tmp_path / "text.txt", "--order", 3, "-o", file).exit_code == 0
    result = walk("import", file, "--run", run)
    assert result.exit_code == 0, result.output
    told = CliRunner().invoke(generate.main, ["--run", str(run), "--prompt", "the", "--tokens", "5"])
    assert told.exit_code == 0 and set(told.output.split()) <= {"the", "cat", "sat", "dog", "a", "ran", "<unk>"}
    (tmp_path / "new.txt").write_text("the dog ran")
    scored = CliRunner().invoke(evaluate.main, ["--run", str(run), "--data", str(tmp_path / "new.txt")])
    assert scored.exit_code == 0 and "bits per byte" in scored.output, scored.output
    again = tmp_path / "again.arpa"
    assert walk("export", "--run", run, again).exit_code == 0
    assert entries(again) == entries(file)
    failed = CliRunner().invoke(evaluate.main, ["--run", str(run)])  # the text it was made from is not known
    assert failed.exit_code == 2 and "was imported" in failed.stderr and "give --data FILE" in failed.stderr


def test_without_a_command_the_help_is_shown() -> None:
    result = walk()
    assert result.exit_code == 0 and "export" in result.output and "build" in result.output


MISTAKES = [
    ("exprot", "No such command 'exprot'"),
    ("export", "Missing argument 'OUT'"),
    ("export {tmp}/o.arpa", "give either --stage"),
    ("export --stage 44 {tmp}/o.arpa", "1 to 11"),
    ("export --run {runs}/5 {tmp}/o.arpa", r"stage 5 \(feed-forward\) has no n-grams"),
    ("export --run {runs}/4 {tmp}/no/o.arpa", "cannot be written"),
    ("export --run {runs}/4 {tmp}/o.arpa --id", "mlx_gpt.arpa export has no setting --id; the nearest is --ids|--ids"),
    ("import {tmp}/missing.arpa --run {tmp}/r", "cannot be read"),
    ("import {tmp}/text.txt --run {tmp}/r", "line 1: expected"),
    ("import {tmp}/small.arpa", "Missing option '--run'"),
    ("import {tmp}/small.arpa --run {runs}/4", "holds a run already"),
    ("import {tmp}/small.arpa --run {tmp}", "holds other files"),
    ("import {tmp}/small.arpa --run {tmp}/r --ids", "goes with --tokenizer"),
    ("import {tmp}/small.arpa --run {tmp}/r --tokenizer {runs}/4 --ids", "line 10: 'a' is no piece"),
    ("import {tmp}/small.arpa --run {tmp}/r --tokenizer {tmp}/nowhere", "nowhere: no such folder"),
    ("build -o {tmp}/o.arpa", "Missing argument 'TEXT...'"),
    ("build {tmp}/text.txt", "Missing option '-o'"),
    ("build {tmp}/missing.txt -o {tmp}/o.arpa", "no such file"),
    ("build {tmp}/empty.txt -o {tmp}/o.arpa", "0 bytes"),
    ("build {tmp}/marks.txt -o {tmp}/o.arpa", "line 3: <s> is no word; --skip-symbols"),
    ("build {tmp}/nul.txt -o {tmp}/o.arpa", "line 2: a NUL byte"),
    ("build {tmp}/latin.txt -o {tmp}/o.arpa", "line 2: not UTF-8"),
    ("build {tmp}/cut.gz -o {tmp}/o.arpa", "damaged gzip"),
    ("build {tmp}/text.txt -o {tmp}/o.arpa --order 0", "--order"),
    ("build {tmp}/text.txt -o {tmp}/o.arpa --order 2 --prune '0 0 1'", "more numbers than orders"),
    ("build {tmp}/text.txt -o {tmp}/o.arpa --prune '1 1'", "begins with 0"),
    ("build {tmp}/text.txt -o {tmp}/o.arpa --prune 'x'", "expected whole numbers"),
    ("build {tmp}/text.txt -o {tmp}/no/o.arpa", "cannot be written"),
]


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[each[0][:50] for each in MISTAKES])
def test_a_mistake_is_one_line(line: str, said: str, runs: Path, tmp_path: Path) -> None:
    contents = {"small.arpa": SMALL.encode(), "text.txt": b"a b\nc\n", "empty.txt": b"", "nul.txt": b"a\nb\0\n"}
    contents |= {"marks.txt": b"a\n\nb <s> c\n", "latin.txt": b"a\n\xe9\n", "cut.gz": gzip.compress(b"a b" * 99)[:-9]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    result = walk(*shlex.split(line.format(tmp=tmp_path, runs=runs)))
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    assert re.search(said, result.output), result.output
    errors = [each for each in result.stderr.splitlines() if each.startswith("Error: ")]
    assert not line or len(errors) == 1, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == contents.keys()


def test_marks_in_a_text_may_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_text("<s> a b </s>\na<s> <unk> b\n")
    (tmp_path / "plain.txt").write_text("a b\na<s> b\n")
    for name in ("marked", "plain"):
        line = ("build", tmp_path / f"{name}.txt", "--order", 2, "-o", tmp_path / f"{name}.arpa", "--skip-symbols")
        assert walk(*line).exit_code == 0
    assert (tmp_path / "marked.arpa").read_text() == (tmp_path / "plain.arpa").read_text()
    assert "a<s>" in entries(tmp_path / "plain.arpa")


@pytest.mark.parametrize("text", ["\n", "\n\n\n", "a\n", "a", "a b c d e f g h i j k\n"])
@pytest.mark.parametrize("order", [1, 2, 5, 10])
def test_the_smallest_texts_have_models(text: str, order: int, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(text)
    result = walk("build", tmp_path / "text.txt", "--order", order, "-o", tmp_path / "m.arpa")
    assert result.exit_code == 0, result.output
    found = read_arpa(tmp_path / "m.arpa", silent)
    assert found.table.order == order
    p = found.table.distribution(found.table.advance(np.array([[found.eot]]))[:, 0, 0])
    assert p.sum() == pytest.approx(1, abs=1e-5)
