"""What --data takes, how it is split, that it is tokenised once, and that batches have a position."""

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from mlx_gpt import corpus as corpora
from mlx_gpt.corpus import Corpus, Overlap, Running, Shuffled, Source, Traces, documents, files, open_corpus
from mlx_gpt.corpus.corpus import _units, encode_text
from mlx_gpt.corpus.splits import cut, fingerprint
from mlx_gpt.errors import DataError, SettingError
from mlx_gpt.tokenizer import Tokenizer

BYTE = Tokenizer("byte")


def byte_source(*paths: Path, seed: int = 0) -> Source:
    return Source(tuple(map(str, paths)), "byte", 259, seed)


def texts_of(corpus: Corpus, split: str) -> list[str]:
    text = getattr(corpus, split)
    return [corpus.tokenizer.decode(text.document(index)) for index in range(len(text))]


def overlap(corpus: Corpus, texts: Iterable[str]) -> Overlap:
    traces = Traces()
    assert list(traces.of(texts))
    found = traces.in_training(corpus.digest, corpus.tokenizer)
    assert found is not None
    return found


def test_files_are_documents_and_marks_divide_them(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(b"whole file\r\nwith its end\n")
    (tmp_path / "two.md").write_text("first\nstory\n<|endoftext|>\nsecond\n<|endoftext|>\n\n<|endoftext|>\nthird\n")
    assert list(documents(files([tmp_path]))) == [
        "whole file\r\nwith its end\n",
        "first\nstory",
        "second",
        "third",
    ]


def test_json_lines_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one\\ntwo", "id": 3}\n\n"three"\n')
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("packed\n<|endoftext|>\ntext")
    assert list(documents(files([tmp_path]))) == ["one\ntwo", "three", "packed", "text"]


def test_folders_are_searched_and_hidden_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("deep/er/b.txt", "a.txt", ".git/c.txt", "d.png", ".e.txt"):
        (tmp_path / name).write_text("text")
    assert [path.name for path in files([tmp_path])] == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", b"text\nmore\0", "NUL byte in line 2"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 5}', "line 2"),
        ("a.jsonl", b"{bad", "line 1: not JSON"),
        ("a.txt.gz", b"not gzip", "damaged gzip"),
        ("a.txt.gz", gzip.compress(b"x" * 1000, mtime=0)[:-10], "damaged gzip"),
    ],
)
def test_what_is_no_text_is_refused_by_place(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(documents(files([tmp_path / name])))


def test_documents_are_dealt_out_by_seed_and_all_of_them(tmp_path: Path) -> None:
    stories = [f"story number {n} has its own words {n * n}" for n in range(200)]
    (tmp_path / "all.txt").write_text("\n<|endoftext|>\n".join(stories))
    corpus = open_corpus(byte_source(tmp_path / "all.txt"), lambda message: None)
    parts = {split: texts_of(corpus, split) for split in ("train", "valid", "test")}
    assert {split: len(texts) for split, texts in parts.items()} == {"train": 180, "valid": 10, "test": 10}
    assert sorted(sum(parts.values(), [])) == sorted(stories)
    other = open_corpus(byte_source(tmp_path / "all.txt", seed=1), lambda message: None)
    assert set(texts_of(other, "test")) != set(parts["test"])


def test_copies_stay_in_one_split(tmp_path: Path) -> None:
    stories = [f"story {n // 4}" + " " * (n % 4) + "!" for n in range(400)]  # four spellings of each
    (tmp_path / "all.txt").write_text("\n<|endoftext|>\n".join(stories))
    notices: list[str] = []
    corpus = open_corpus(byte_source(tmp_path / "all.txt"), notices.append)
    told = [{fingerprint(text.replace(" !", "!")) for text in texts_of(corpus, s)} for s in ("train", "valid", "test")]
    assert len(set.union(*told)) == 100 or sum(map(len, told)) >= 100
    assert overlap(corpus, texts_of(corpus, "test")).documents == 0
    assert overlap(corpus, texts_of(corpus, "train")).documents == 1


def test_one_long_document_is_cut_in_blocks_at_lines(tmp_path: Path) -> None:
    text = "".join(f"line {n}\n" for n in range(1000))
    (tmp_path / "book.txt").write_text(text)
    corpus = open_corpus(byte_source(tmp_path / "book.txt"), lambda message: None)
    parts = [texts_of(corpus, split) for split in ("train", "valid", "test")]
    assert "".join(part for each in parts for part in each) == text
    assert all(each[0].endswith("\n") for each in parts)
    assert abs(corpus.train.bytes / len(text) - 0.9) < 0.01


def test_a_book_that_was_cut_up_is_known_again(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("".join(f"line {n} of the book\n" for n in range(500)))
    corpus = open_corpus(byte_source(tmp_path / "book.txt"), lambda message: None)
    assert overlap(corpus, documents([tmp_path / "book.txt"])).documents == 1
    assert Traces().in_training("no such corpus", corpus.tokenizer) is None


def test_every_fifty_bytes_that_were_trained_on_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against Python's own search, wherever they stand in the training text and however that is read in parts."""
    chance = np.random.default_rng(0)
    book = "".join(chr(97 + letter) for letter in chance.integers(0, 26, 30_000))
    (tmp_path / "book.txt").write_text(book)
    corpus = open_corpus(byte_source(tmp_path / "book.txt"), lambda message: None)
    seen = texts_of(corpus, "train")[0]
    new = [seen[:70], seen[7_000:7_049], seen[-130:] + "x" * 40, seen[900:1_000][::-1], "é" * 60, seen[333:383]]
    windows = [raw[at : at + 50] for raw in map(str.encode, new) for at in range(0, len(raw) - 49, 50)]
    share = sum(window in seen.encode() for window in windows) / len(windows)
    assert 0.3 < share < 0.7 and overlap(corpus, new) == Overlap(0.0, share)
    for chunk in (7, 49, 1_000):
        monkeypatch.setattr(corpora.overlap, "CHUNK", chunk)
        assert overlap(corpus, new) == Overlap(0.0, share)
    assert overlap(corpus, texts_of(corpus, "test")) == Overlap(0.0, 0.0)
    assert overlap(corpus, ["too short"]) == Overlap(0.0, 0.0)


def test_one_long_line_can_be_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "line.txt").write_text("all in one line without an end " * 2_000)
    monkeypatch.setattr(corpora.corpus, "TOKENIZER_TEXT", 20_000)
    assert open_corpus(Source((str(tmp_path / "line.txt"),), "bpe", 280, 0), lambda message: None).train.tokens > 0


def test_a_line_that_is_longer_than_memory_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of one line is never in memory whole, and what looks like a mark within a line is none."""
    monkeypatch.setattr(sys.modules["mlx_gpt.corpus.documents"], "LONGEST", 20)
    line = "0123456789" * 2 + "<|endoftext|>" + "abcdefg" * 3
    (tmp_path / "one.txt").write_text(f"{line}\n<|endoftext|>\nshort\n<|endoftext|>\n")
    found = list(documents([tmp_path / "one.txt"]))
    assert "".join(found) == f"{line}short" and max(map(len, found)) <= 20 and found[-1] == "short"
    (tmp_path / "two.txt").write_text(f"{line}\n{line}\0\n")
    with pytest.raises(DataError, match="line 2,"):
        list(documents([tmp_path / "two.txt"]))


def test_notes_that_happen_to_be_called_test_or_train_are_all_read(tmp_path: Path) -> None:
    for name in ("train-journey.md", "test-drive.md", "other.md"):
        (tmp_path / name).write_text(f"words about {name}\n" * 200)
    corpus = open_corpus(byte_source(tmp_path), lambda message: None)
    assert sum(map(len, (corpus.train, corpus.valid, corpus.test))) == 9  # three documents, cut three ways each


def test_cut_loses_nothing() -> None:
    for text in ("", "a", "no newline at all" * 50, "x\n" * 7):
        assert "".join(cut(text, [0.9, 0.05, 0.05])) == text


def test_files_named_after_splits_keep_them(tmp_path: Path) -> None:
    for name in ("my.train.txt", "my.val.txt", "my.test.txt", "SOURCE.txt"):
        (tmp_path / name).write_text(f"words of {name}")
    notices: list[str] = []
    corpus = open_corpus(byte_source(tmp_path), notices.append)
    assert texts_of(corpus, "valid") == ["words of my.val.txt"]
    assert texts_of(corpus, "test") == ["words of my.test.txt"]
    assert any("left out: SOURCE.txt" in notice for notice in notices)


def test_without_a_test_file_the_validation_text_is_halved(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("some words to train on\n" * 20)
    (tmp_path / "val.txt").write_text("".join(f"held out {n}\n" for n in range(100)))
    corpus = open_corpus(byte_source(tmp_path), lambda message: None)
    assert texts_of(corpus, "valid")[0] + texts_of(corpus, "test")[0] == (tmp_path / "val.txt").read_text()


def test_a_leak_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("the same story\n<|endoftext|>\nanother")
    (tmp_path / "valid.txt").write_text("fresh words")
    (tmp_path / "test.txt").write_text("The  same story\n")
    notices: list[str] = []
    open_corpus(byte_source(tmp_path), notices.append)
    assert any("LEAK: 1 of 1 test documents" in notice for notice in notices)


def test_a_corpus_is_tokenised_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words and words\n" * 100)
    first, second = [], []
    one = open_corpus(byte_source(tmp_path / "a.txt"), first.append)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")  # the contents count, not the name
    two = open_corpus(byte_source(tmp_path / "b.txt"), second.append)
    assert any("tokenising" in notice for notice in first) and not second
    assert isinstance(two.train.ids, np.memmap) and one.digest == two.digest


def test_the_tokenizer_sees_the_training_text_only(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("abc abc abc abd\n" * 50)
    (tmp_path / "valid.txt").write_text("zzzz")
    (tmp_path / "test.txt").write_text("zzzz")
    corpus = open_corpus(Source((str(tmp_path),), "char", 259, 0), lambda message: None)
    assert len(corpus.tokenizer.encode("z")) == 1  # a byte, for the letter has no piece of its own
    assert corpus.tokenizer.vocab_size == 258 + len("abcd ")


def test_the_stream_is_marks_and_documents(corpus: Corpus) -> None:
    text = corpus.valid
    assert text.ids[0] == text.ids[-1] == corpus.tokenizer.eot
    assert (np.asarray(text.ids) == corpus.tokenizer.eot).sum() == len(text) + 1
    assert text.tokens == sum(len(text.document(n)) - 1 for n in range(len(text)))
    assert text.bytes == sum(len(corpus.tokenizer.decode_bytes(text.document(n))) for n in range(len(text)))


def test_long_documents_encode_in_parts_as_in_one(corpus: Corpus) -> None:
    long = "".join(f"The {n} cats sat on mats.\n" for n in range(12_000))
    assert len(_units(long)) > 3 and "".join(_units(long)) == long
    spaces = "The cats  sat on mats. " * 60_000
    assert len(_units(spaces)) > 1 and "".join(_units(spaces)) == spaces
    assert encode_text([spaces], corpus.tokenizer).document(0)[1:-1].tolist() == corpus.tokenizer.encode(spaces)
    text = encode_text([long], corpus.tokenizer)
    assert text.document(0)[1:-1].tolist() == corpus.tokenizer.encode(long)


def test_too_little_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="nothing left to"):
        open_corpus(byte_source(tmp_path / "a.txt"), lambda message: None)


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words that come and words that go\n" * 60)
    digest = open_corpus(byte_source(tmp_path / "a.txt"), lambda message: None).digest
    ids = corpora.corpus.cache_folder() / digest / "train.ids"
    ids.write_bytes(ids.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged cache"):
        open_corpus(byte_source(tmp_path / "a.txt"), lambda message: None)


def test_shuffled_batches_read_every_block_once_an_epoch_from_any_position() -> None:
    ids = np.arange(1001, dtype=np.uint16)
    batches = Shuffled(ids, batch_size=5, length=10, seed=3)
    epoch = np.concatenate([batches.at(step) for step in range(20)])  # 100 blocks of 10
    assert (np.diff(epoch, axis=1) == 1).all() and sorted(epoch[:, 0] % 10) == [epoch[0, 0] % 10] * 100
    assert len(set(epoch[:, 0])) == 100
    assert (Shuffled(ids, 5, 10, 3).at(13) == batches.at(13)).all()
    assert (Shuffled(ids, 5, 10, 4).at(13) != batches.at(13)).any()
    assert set(batches.at(20)[:, 0]) != set(epoch[:5, 0])


def test_running_batches_go_on_where_the_last_one_ended() -> None:
    batches = Running(np.arange(500), batch_size=4, length=7)
    for step in range(10):
        assert (batches.at(step)[:, -1] == batches.at(step + 1)[:, 0]).all()
    assert batches.at(0)[:, 0].tolist() == [0, 125, 250, 375]


def test_a_text_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(SettingError, match="only 10"):
        Shuffled(np.arange(10), 1, 10, 0)


def test_the_built_in_corpus_is_one_document_a_story(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(corpora.corpus, "STORIES", 60)
    monkeypatch.setenv("MLX_GPT_CACHE", str(tmp_path))
    corpus = open_corpus(Source((), "byte", 259, 0), lambda message: None)
    assert corpus.source.builtin and sum(map(len, (corpus.train, corpus.valid, corpus.test))) == 60


def test_a_json_string_with_a_lone_surrogate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps("ok ") + "\n" + '"\\ud800 broken"\n')
    from mlx_gpt.errors import MlxGptError

    with pytest.raises(MlxGptError):
        open_corpus(byte_source(tmp_path / "a.jsonl"), lambda message: None)
