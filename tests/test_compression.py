"""The compressor: the coder to the bit, any file to the byte, the size a model says, and every damaged file."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt import compress as compress_door
from mlx_gpt import decompress as decompress_door
from mlx_gpt import evaluate, stages, train
from mlx_gpt.compression import Codec, compress, decompress, elsewhere, read_header
from mlx_gpt.compression import alphabet as alphabet_module
from mlx_gpt.compression import codec as codec_module
from mlx_gpt.compression import header as header_module
from mlx_gpt.compression.alphabet import MARK, PIECE, Alphabet, documents, joined, pieces
from mlx_gpt.compression.arithmetic import LEAST, TOTAL, TOTAL_BITS, WHOLE, Decoder, Encoder, frequencies
from mlx_gpt.corpus import Corpus, encode_text
from mlx_gpt.corpus import documents as read_documents
from mlx_gpt.errors import CheckpointError, DataError
from mlx_gpt.measure import measure
from mlx_gpt.mixture import Mixture
from mlx_gpt.model import LanguageModel
from mlx_gpt.tokenizer import WORD, Tokenizer
from tests.conftest import attentive, with_slow
from tests.test_mixture import Scripted

DOORS = {"compress": compress_door, "decompress": decompress_door, "train": train, "evaluate": evaluate}
HEADER = 31  # bytes, of a file between 16 kB and 2 MB of 128 pieces or more


def quiet(done: int) -> None: ...


def walk(door: str, *args: object, piped: bytes | None = None) -> Result:
    return CliRunner().invoke(DOORS[door].main, [str(arg) for arg in args], input=piped, prog_name=door)


# the coder


@pytest.mark.parametrize("symbols", [1, 2, 3, 257, 8_192, 2**20 + 256])
def test_a_law_becomes_whole_numbers_that_lose_next_to_nothing(symbols: int) -> None:
    chance = np.random.default_rng(symbols)
    law = chance.dirichlet(np.full(symbols, 0.05), 3) + 1e-300
    law[1, : symbols // 2] = 0  # impossible ones too must be coded
    law[2] = 0
    law[2, -1] = 1e-9  # and a law need not add up to 1
    found = frequencies(law)
    assert found.min() >= 1 and (found.sum(axis=1) == TOTAL).all()
    share = law / law.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        extra = np.where(share > 0, share * np.log2(share / (found / TOTAL)), 0.0).sum(axis=1)
    # every symbol gives up its part of A / 2^32 and is rounded by less than 1: A symbols lose A / 2^32 twice at most
    assert (extra <= 2 * symbols / TOTAL / math.log(2) + 1e-12).all()


class Exact:
    """The same interval without letting a byte go: a rational number with a denominator that grows."""

    def __init__(self) -> None:
        self.low, self.width, self.bits = 0, WHOLE, 64

    def put(self, start: int, size: int) -> None:
        unit = self.width >> TOTAL_BITS
        self.low, self.width = self.low + start * unit, size * unit
        while self.width < LEAST:
            self.low, self.width, self.bits = self.low << 8, self.width << 8, self.bits + 8


def some_parts(seed: int) -> list[tuple[int, int]]:
    """Parts of 2^32: likely and hardly possible ones, and such as make bytes of ones that wait for a carry."""
    chance = random.Random(seed)
    found = []
    for _ in range(chance.choice([0, 1, 2, 30, 400])):
        size = chance.choice([1, 2, 2 ** chance.randrange(32), chance.randrange(1, TOTAL), TOTAL - 1, TOTAL])
        start = chance.choice([0, TOTAL - size, chance.randrange(TOTAL - size + 1), (TOTAL - size) // 2])
        found.append((start, size))
    return found


@pytest.mark.parametrize("seed", range(300))
def test_the_bytes_are_a_number_in_the_exact_interval_and_as_few_as_it_needs(seed: int) -> None:
    parts, encoder, exact = some_parts(seed), Encoder(), Exact()
    for part in parts:
        encoder.put(*part)
        exact.put(*part)
    data = encoder.bytes()
    assert 8 * len(data) <= exact.bits
    number = int.from_bytes(data, "big") << (exact.bits - 8 * len(data))
    assert exact.low <= number < exact.low + exact.width
    said = sum(TOTAL_BITS - math.log2(size) for _, size in parts)
    assert 8 * len(data) <= said + len(parts) * 2.0**-23 + 8 + 1  # whole bytes, and a bit to be inside
    decoder = Decoder(data)
    for start, size in parts:
        assert start <= decoder.place() < start + size
        decoder.take(start, size)
    assert decoder.left == 0


def test_a_carry_passes_through_bytes_of_ones() -> None:
    encoder, exact = Encoder(), Exact()
    for part in [(TOTAL // 2 - 1, 1)] + [(TOTAL - 1, 1)] * 9 + [(TOTAL - 2, 2)] + [(TOTAL // 2, TOTAL // 2)] * 40:
        encoder.put(*part)
        exact.put(*part)
    number = int.from_bytes(encoder.bytes(), "big")
    assert exact.low <= number << (exact.bits - 8 * len(encoder.bytes())) < exact.low + exact.width


def test_a_decoder_does_not_go_on_for_ever_behind_the_end() -> None:
    decoder = Decoder(b"\x80")  # eight bytes from the first on are looked at, seven of them zeros left out
    decoder.take(decoder.place(), TOTAL >> 8)  # now the width is at its least,
    decoder.take(decoder.place(), TOTAL >> 8)  # so one more is, an eighth behind the end,
    with pytest.raises(DataError, match="ends too early"):
        decoder.take(decoder.place(), TOTAL >> 8)  # and a ninth is too much
    impossible = Decoder(b"\xff" * 20)
    impossible.take(0, 3)
    with pytest.raises(DataError, match="no symbol"):
        impossible.place()


# bytes as symbols


@pytest.fixture(scope="module")
def tokenizers(corpus: Corpus) -> dict[str, Tokenizer]:
    words = Tokenizer(WORD, b"<unk>\n</s>\na\nword\nsaid\n<0x41>")
    return {
        "bpe": corpus.tokenizer,
        "char": Tokenizer.train("char", ["abc said"], 300),
        "byte": Tokenizer("byte"),
        "word": words,
    }


NASTY = [
    b"",
    b"x",
    b"\n",
    MARK,
    MARK[:-1],
    MARK[1:],
    MARK + b"\n",
    MARK + MARK,
    MARK + b"a" + MARK + b"\n<|endof",
    b"a\n",
]
NASTY += [
    b"a" + MARK + b"\n",
    b"\0",
    bytes(range(256)),
    "\u2581 \ufeff é 😀 <s> <0x41>".encode(),
    b"caf\xe9 said\r\n a word\xff",
]
NASTY += [b"a" * (PIECE - 1), b"b" * PIECE, b"c" * (PIECE + 1) + MARK + b"d" * 2 * PIECE, b" said <0x41> <unk> </s>  a"]


@pytest.mark.parametrize("kind", ["bpe", "char", "byte", "word"])
@settings(max_examples=100, deadline=None)
@given(
    raw=st.lists(st.one_of(st.sampled_from(NASTY), st.binary(max_size=40), st.text(max_size=20).map(str.encode))).map(
        b"".join
    )
)
def test_any_bytes_come_back_from_their_symbols(kind: str, raw: bytes, tokenizers: dict[str, Tokenizer]) -> None:
    alphabet = Alphabet(tokenizers[kind])
    found = [piece.tolist() for piece in pieces(raw, alphabet)]
    assert joined(found, alphabet, len(raw)) == raw
    assert all(0 < len(piece) <= PIECE and alphabet.end not in piece[:-1] for piece in found)
    assert all(alphabet.spelled[symbol] or symbol == alphabet.end for piece in found for symbol in piece)
    assert all(0 <= symbol < alphabet.size for piece in found for symbol in piece)


def test_documents_and_tokens_are_those_that_are_scored(corpus: Corpus, story_file: Path) -> None:
    raw, alphabet = story_file.read_bytes(), Alphabet(corpus.tokenizer)
    scored = list(read_documents([story_file]))
    assert [text.decode() for text in documents(raw)] == scored
    ids = encode_text(scored, corpus.tokenizer).ids
    assert np.concatenate(pieces(raw, alphabet)).tolist() == ids[1:].tolist()


# every stage


@pytest.fixture(scope="module")
def codec(corpus: Corpus, trained: Callable[[int], LanguageModel]) -> Callable[..., Codec]:
    def build(number: int, tokenizer: Tokenizer | None = None) -> Codec:
        return Codec(trained(number), tokenizer or corpus.tokenizer, number, [f"file {number}"])

    return build


@pytest.mark.parametrize("number", with_slow(stages.numbers(), (4, 5, 7, 11)))
def test_the_size_is_what_the_model_is_said_to_need(
    number: int, codec: Callable[..., Codec], corpus: Corpus, story_file: Path
) -> None:
    raw = MARK.join(story_file.read_bytes().split(MARK)[:16])
    score = measure(codec(number).law.model, encode_text([text.decode() for text in documents(raw)], corpus.tokenizer))
    made = compress(codec(number), raw, 32, quiet)
    said = float(score.nats.sum()) / math.log(2)
    assert made.model_bits == pytest.approx(said, rel=1e-4)
    assert (made.document_bytes, made.documents, made.tokens) == (score.bytes, 16, score.tokens)
    assert said > 8_000 and said * (1 - 1e-4) < 8 * (len(made.data) - made.header) < said * 1.002 + 16
    assert made.header <= HEADER
    assert decompress(codec(number), made.data, quiet) == raw


def mingled(story_file: Path) -> bytes:
    """Text longer than every context, bytes that are none, line ends of all kinds, and runs of one byte."""
    story = story_file.read_bytes()
    return (
        story[:1_200]
        + bytes(range(256))
        + b"caf\xe9\r\n\r\0"
        + story[:200]
        + b"\0" * 200
        + MARK
        + story[:400]
        + MARK
        + b"\xff"
    )


@pytest.mark.parametrize("number", with_slow(stages.numbers(), (1, 4, 7, 8, 11)))
def test_any_file_comes_back(number: int, codec: Callable[..., Codec], story_file: Path) -> None:
    for raw in (b"", b"\xff", b"A", b"\n", mingled(story_file)):
        made = compress(codec(number), raw, 32, quiet)
        assert decompress(codec(number), made.data, quiet) == raw
        assert len(made.data) <= 1.05 * len(raw) + 64


def test_several_stages_code_together(
    codec: Callable[..., Codec], trained: Callable[[int], LanguageModel], corpus: Corpus, story_file: Path
) -> None:
    raw = story_file.read_bytes()[:800] + b"\xff"
    both = Codec(Mixture([trained(number) for number in (4, 7, 11)]), corpus.tokenizer, 0, ["4", "7", "11"])
    made = compress(both, raw, 32, quiet)
    assert decompress(both, made.data, quiet) == raw
    assert len(made.data) < min(len(compress(codec(number), raw, 32, quiet).data) for number in (7, 11))


@pytest.mark.parametrize("streams", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 255])
def test_any_number_of_streams_is_read_without_being_told(
    streams: int, codec: Callable[..., Codec], story_file: Path
) -> None:
    raw = MARK.join(story_file.read_bytes().split(MARK)[:3])
    made, again = (compress(codec(11), raw, streams, quiet) for _ in range(2))
    assert made.data == again.data and read_header(made.data).streams == streams
    assert decompress(codec(11), made.data, quiet) == raw


def test_a_long_document_is_cut_at_little_cost(
    codec: Callable[..., Codec], corpus: Corpus, story_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (alphabet_module, codec_module):
        monkeypatch.setattr(module, "PIECE", 2_000)
    raw = story_file.read_bytes()[:30_000].replace(MARK, b"\n")
    made = compress(codec(2), raw, 32, quiet)
    assert made.tokens > 3 * 2_000 and made.documents == 1
    assert read_header(made.data).pieces == -(-made.tokens // 2_000)
    said = float(measure(codec(2).law.model, encode_text([raw.decode()], corpus.tokenizer)).nats.sum()) / math.log(2)
    assert 8 * (len(made.data) - made.header) < 1.002 * said
    assert decompress(codec(2), made.data, quiet) == raw


@pytest.mark.parametrize("kind", ["char", "byte", "word"])
def test_any_tokenizer_codes_any_file(kind: str, tokenizers: dict[str, Tokenizer], story_file: Path) -> None:
    tokenizer, chance = tokenizers[kind], np.random.default_rng(0)
    law = np.log(chance.dirichlet(np.ones(tokenizer.vocab_size), 97)).astype(np.float32)

    class Random(Scripted):
        vocab_size = tokenizer.vocab_size

        def __init__(self) -> None:
            self.context, self.table = 50, np.repeat(law[:, None], self.vocab_size, axis=1)

    own = Codec(Random(), tokenizer, 5, ["x"])
    for raw in (b"", mingled(story_file), b" a word said a\n said a word"):
        assert decompress(own, compress(own, raw, 3, quiet).data, quiet) == raw


def test_what_a_model_cannot_foretell_costs_what_its_bytes_hold(codec: Callable[..., Codec]) -> None:
    noise, zeros = random.Random(0).randbytes(4_000), bytes(8_000)
    for raw, share in ((noise, 1.06), (zeros, 0.03)):
        made = compress(codec(2), raw, 32, quiet)
        assert len(made.data) < share * len(raw)
        assert decompress(codec(2), made.data, quiet) == raw


def test_tokens_of_no_probability_are_coded_all_the_same(corpus: Corpus) -> None:
    class Certain(Scripted):
        vocab_size = corpus.tokenizer.vocab_size

        def __init__(self) -> None:
            self.context = 64
            self.table = np.full((97, self.vocab_size, self.vocab_size), -np.inf)
            self.table[..., corpus.tokenizer.eot] = 0

    own = Codec(Certain(), corpus.tokenizer, 5, ["x"])
    made = compress(own, b"the text", 4, quiet)
    assert decompress(own, made.data, quiet) == b"the text" and made.model_bits == math.inf


def test_a_law_that_is_none_is_refused(corpus: Corpus) -> None:
    class Broken(Scripted):
        vocab_size = corpus.tokenizer.vocab_size

        def __init__(self) -> None:
            self.context, self.table = 64, np.full((97, self.vocab_size, self.vocab_size), np.nan)

    with pytest.raises(CheckpointError, match="no numbers"):
        compress(Codec(Broken(), corpus.tokenizer, 5, ["x"]), b"text", 4, quiet)


# damage


@pytest.fixture(scope="module")
def sample(codec: Callable[..., Codec], story_file: Path) -> tuple[bytes, bytes]:
    raw = MARK.join(story_file.read_bytes().split(MARK)[:2])
    return raw, compress(codec(1), raw, 32, quiet).data


def test_another_model_or_tokenizer_is_refused_by_name(
    sample: tuple[bytes, bytes],
    codec: Callable[..., Codec],
    trained: Callable[[int], LanguageModel],
    corpus: Corpus,
    tokenizers: dict[str, Tokenizer],
) -> None:
    with pytest.raises(
        CheckpointError, match=r"model [0-9a-f]{8} \(stage 1 unigram\), not [0-9a-f]{8} \(stage 4 ngram-backoff\)"
    ):
        decompress(codec(4), sample[1], quiet)
    with pytest.raises(CheckpointError, match=r"not [0-9a-f]{8} \(a mixture\)"):
        decompress(Codec(Mixture([trained(1)]), corpus.tokenizer, 0, ["x"]), sample[1], quiet)
    with pytest.raises(CheckpointError, match=r"tokenizer [0-9a-f]{4}, not"):
        decompress(codec(1, tokenizers["byte"]), sample[1], quiet)


def test_what_computed_elsewhere_is_said(sample: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert elsewhere(read_header(sample[1])) == ""
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    assert "number of threads" in elsewhere(read_header(sample[1]))
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(header_module, "version", lambda name: "1.2.3rc4")
    assert re.search(r"MLX 0\.\d+\.\d+ on cpu", elsewhere(read_header(sample[1])))
    assert header_module.machine()[1:4] == bytes([1, 2, 34])


def test_every_truncation_is_one_clear_error(sample: tuple[bytes, bytes], codec: Callable[..., Codec]) -> None:
    data = sample[1]
    lengths = [*range(40), *range(40, len(data) - 12, 37), *range(len(data) - 12, len(data))]
    for length in lengths:
        with pytest.raises(DataError, match=r"damaged|cut off|not a file"):
            decompress(codec(1), data[:length], quiet)
    with pytest.raises(DataError, match="damaged"):
        decompress(codec(1), data + b"more bytes", quiet)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, 77 ^ 1, "not a file"),
        (3, 2, "version 2"),
        (25, 0, "header"),
        (26, 255, "damaged"),
        (28, 0, "damaged"),
        (28, 0x80, "header"),
    ],
)
def test_a_damaged_header_is_refused(
    place: int, value: int, said: str, sample: tuple[bytes, bytes], codec: Callable[..., Codec]
) -> None:
    data = bytearray(sample[1])
    data[place] = value
    with pytest.raises(DataError, match=said):
        decompress(codec(1), bytes(data), quiet)


def mutated(data: bytes, seed: int) -> bytes:
    chance, found = random.Random(seed), bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 20])):
        place = chance.randrange(len(found))
        what = chance.randrange(6)
        if what == 0:
            found[place] ^= 1 << chance.randrange(8)
        elif what == 1:
            found[place] = chance.randrange(256)
        elif what == 2:
            del found[place:]
        elif what == 3:
            del found[place : place + chance.randrange(1, 9)]
        elif what == 4:
            found[place:place] = chance.randbytes(chance.randrange(1, 9))
        else:
            found[chance.randrange(len(data)) % max(1, len(found)) % 31] = chance.choice([0, 1, 127, 128, 255])
        if not found:
            break
    return bytes(found)


def never_wrong(seeds: range, sample: tuple[bytes, bytes], own: Codec) -> None:
    raw, data = sample
    refused = 0
    for seed in seeds:
        try:
            assert decompress(own, mutated(data, seed), quiet) == raw, seed  # what is not looked at may be another
        except (DataError, CheckpointError) as error:
            refused += 1
            assert str(error) and "\n" not in str(error)
    assert refused > 0.8 * len(seeds)


def test_a_damaged_file_is_refused_and_never_wrong(sample: tuple[bytes, bytes], codec: Callable[..., Codec]) -> None:
    never_wrong(range(60), sample, codec(1))


@pytest.mark.slow
def test_a_thousand_damaged_files_are_refused_and_never_wrong(
    sample: tuple[bytes, bytes], codec: Callable[..., Codec]
) -> None:
    never_wrong(range(1_000), sample, codec(1))
    never_wrong(range(1_000, 1_100), (sample[0], compress(codec(11), sample[0], 32, quiet).data), codec(11))


# the doors


@pytest.fixture(scope="module")
def runs(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for number in (1, 4):
        result = walk(
            "train", "--stage", number, "--preset", "tiny", "--data", story_file, "--run", folder / str(number)
        )
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def some_stories(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("some") / "stories.txt"
    path.write_bytes(MARK.join(story_file.read_bytes().split(MARK)[:100]))
    return path


def test_the_doors_round_trip_and_say_what_evaluate_says(runs: Path, some_stories: Path, tmp_path: Path) -> None:
    small, back = tmp_path / "a.mgz", tmp_path / "a.txt"
    small.write_bytes(b"something that was there before")
    result = walk("compress", some_stories, "-o", small, "--run", runs / "4")
    assert result.exit_code == 0, result.output
    said = json.loads(walk("evaluate", "--run", runs / "4", "--data", some_stories, "--json").stdout)
    spent = 8 * small.stat().st_size / said["bytes"]
    assert said["bits_per_byte"] < spent < 1.005 * said["bits_per_byte"]
    assert f"alone {spent:.4f}, where the model says {said['bits_per_byte']:.4f}" in result.stdout
    assert "gzip -9" in result.stdout and "xz -9" in result.stdout
    command = [sys.executable, "-m", "mlx_gpt.decompress", small, "-o", back, "--run", runs / "4"]  # another process
    subprocess.run(command, check=True, capture_output=True)
    assert back.read_bytes() == some_stories.read_bytes()


def test_the_doors_take_a_mixture_and_pipes(runs: Path, story_file: Path) -> None:
    mix = ("--mix", runs / "1", "--mix", runs / "4")
    raw = story_file.read_bytes()[:5_000] + b"\xff\0"
    made = walk("compress", "-", "-o", "-", *mix, piped=raw)
    assert made.exit_code == 0 and "bits per byte" in made.stderr, made.output
    assert walk("decompress", "-", "-o", "-", *mix, piped=made.stdout_bytes).stdout_bytes == raw
    other = walk("decompress", "-", "-o", "-", "--mix", runs / "4", "--mix", runs / "1", piped=made.stdout_bytes)
    assert other.exit_code == 2 and "every --mix in order" in other.stderr and not other.stdout_bytes
    empty = walk("compress", "-", "-o", "-", "--run", runs / "1", piped=b"")
    assert walk("decompress", "-", "-o", "-", "--run", runs / "1", piped=empty.stdout_bytes).stdout_bytes == b""


def test_a_size_that_the_model_does_not_say_is_explained(runs: Path, some_stories: Path) -> None:
    """Letters that a tokenizer of stories spells byte by byte; one sentence, and a hundred stories."""
    foreign = "Слова, которых в сказках нет и не было. ".encode() * 40
    for raw, why in (
        (foreign, "smaller: where text is foreign to the model"),
        (b"Once upon a time there was a dog.", "larger: by the header"),
        (some_stories.read_bytes(), ""),
    ):
        lines = walk("compress", "-", "-o", "-", "--run", runs / "4", piped=raw).stderr.splitlines()
        differs = float(re.search(r"([+-][0-9.]+) %", lines[4])[1])
        assert (abs(differs) > 1) == bool(why) and (differs < 0) == why.startswith("smaller"), lines
        assert "".join(lines[5:]).startswith(why) and len(lines) == 5 + bool(why)
        assert max(map(len, lines)) <= 110


def test_a_mistake_writes_nothing(runs: Path, some_stories: Path, tmp_path: Path) -> None:
    small, out, own = tmp_path / "a.mgz", tmp_path / "out", ("--run", runs / "1")
    assert walk("compress", some_stories, "-o", small, *own).exit_code == 0
    damaged = tmp_path / "damaged.mgz"
    damaged.write_bytes(small.read_bytes()[:-9])
    out.write_text("kept")
    for door, *args, said in [
        ("compress", tmp_path / "nowhere", "-o", out, *own, "nowhere: cannot be read (No such file"),
        ("compress", tmp_path, "-o", out, *own, "Is a directory"),
        ("compress", some_stories, "-o", some_stories, *own, "the very file"),
        ("compress", some_stories, "-o", tmp_path, *own, "a folder"),
        ("compress", some_stories, "-o", tmp_path / "no" / "x", *own, "no such folder"),
        ("compress", some_stories, "-o", out, "either --stage"),
        ("compress", some_stories, "-o", out, *own, "--streams", 0, "--streams"),
        ("compress", some_stories, *own, "--out"),
        ("decompress", damaged, "-o", out, *own, "damaged.mgz: damaged"),
        ("decompress", some_stories, "-o", out, *own, "not a file that mlx_gpt.compress wrote"),
        ("decompress", small, "-o", out, "--run", runs / "4", "stage 1 unigram"),
    ]:
        result = walk(str(door), *args)
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert result.exit_code == 2 and len(errors) == 1 and str(said) in errors[0], result.output
    assert out.read_text() == "kept" and "Once" in some_stories.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mgz", "damaged.mgz", "out"]


def test_a_file_larger_than_memory_is_refused_with_a_remedy(
    runs: Path, some_stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(path: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", too_large)
    for door in ("compress", "decompress"):
        result = walk(door, some_stories, "-o", tmp_path / "out", "--run", runs / "1")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
        assert "stories.txt: larger than memory" in result.stderr and "in parts" in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing_half_written(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(os.urandom(400_000))
    (tmp_path / "out").write_text("kept")
    command = [sys.executable, "-m", "mlx_gpt.compress", tmp_path / "long", "-o", tmp_path / "out", "--run", runs / "1"]
    code = "import mlx_gpt.compress as door, mlx_gpt.compression as all; whole = all.compress\n"
    code += (
        "def told(codec, raw, streams, report): print('begun', flush=True); return whole(codec, raw, streams, report)\n"
    )
    code += "all.compress = told; door.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *command[3:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=attentive
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
    assert (tmp_path / "out").read_text() == "kept" and len(list(tmp_path.iterdir())) == 2
