"""Text survives the tokenizer whole, and nothing outside its vocabulary passes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt.errors import TokenizerError
from mlx_gpt.tokenizer import LARGEST_MODEL, Tokenizer

TEXT = "The cat sat on the mat.\nThe dog saw the cat, and the cat saw 12 dogs!\n" * 30
TOKENIZERS = {kind: Tokenizer.train(kind, TEXT.split("\n"), 300) for kind in ("bpe", "char", "byte")}
every_kind = pytest.mark.parametrize("kind", list(TOKENIZERS))


@every_kind
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces  ",
        "a\nb\n\nc",
        "\n",
        "\ttab\t",
        "no end",
        "end\n",
        "\0",
        "a\0b",
        "\u2581",
        "a\u2581\u2581 b",
        "\u2581\n",
        "émoji 😀👩‍👩‍👧",
        "\r\n",
        "<|endoftext|>",
        "<unk>",
        "<s></s>",
        "<0x41>",
        "日本語",
        "\ufeff",
        "\u200b",
        "x" * 5000,
    ],
)
def test_text_comes_back_as_it_was(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.eot not in ids  # no text can spell the end of text


@every_kind
@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\u2581 \n\0\t<|>"))))
def test_every_unicode_text_comes_back(kind: str, text: str) -> None:
    assert TOKENIZERS[kind].decode(TOKENIZERS[kind].encode(text)) == text


@every_kind
def test_many_texts_encode_as_one_by_one(kind: str) -> None:
    texts = ["a\u2581b", "", "the cat", "\u2581", "dog\n"]
    rows = TOKENIZERS[kind].encode_all(texts)
    assert [row.tolist() for row in rows] == [TOKENIZERS[kind].encode(text) for text in texts]


@every_kind
def test_a_saved_model_is_the_same_tokenizer(kind: str) -> None:
    again = Tokenizer(kind, TOKENIZERS[kind].model)
    assert again.vocab_size == TOKENIZERS[kind].vocab_size
    assert again.encode(TEXT) == TOKENIZERS[kind].encode(TEXT)


@every_kind
@pytest.mark.parametrize("outside", [-1, 10**6, 2**40])
def test_ids_outside_the_vocabulary_are_named(kind: str, outside: int) -> None:
    with pytest.raises(TokenizerError, match=f"token id {outside}"):
        TOKENIZERS[kind].decode([1, outside])


def test_bpe_learns_words_and_chars_do_not() -> None:
    assert len(TOKENIZERS["bpe"].encode(" the cat")) < len(TOKENIZERS["char"].encode(" the cat"))
    assert len(TOKENIZERS["char"].encode("the cat")) == len("the cat")


def test_a_small_text_lowers_the_vocabulary() -> None:
    assert 258 < Tokenizer.train("bpe", ["ab ab ab"], 5_000).vocab_size < 300


def test_a_vocabulary_too_small_for_the_text_says_what_it_needs() -> None:
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 200)))
    with pytest.raises(TokenizerError, match=r"--vocab-size 300: this text needs at least \d+"):
        Tokenizer.train("bpe", [letters] * 50, 300)


def test_half_a_character_is_kept_as_bytes() -> None:
    ids = TOKENIZERS["byte"].encode("é")
    assert TOKENIZERS["byte"].decode_bytes(ids[:1]) == b"\xc3"
    assert TOKENIZERS["byte"].decode(ids[:1]) == "\ufffd"


@pytest.mark.parametrize("model", [b"", b"not a model", b"\0" * 100, TOKENIZERS["bpe"].model[:-200]])
def test_a_damaged_model_is_refused(model: bytes) -> None:
    with pytest.raises(TokenizerError):
        Tokenizer("bpe", model)


def test_a_model_over_16_megabytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="refused"):
        Tokenizer("bpe", b"\0" * (LARGEST_MODEL + 1))


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        TOKENIZERS["bpe"].encode("a\ud800b")


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(TokenizerError, match="nothing"):
        Tokenizer.train("bpe", ["", ""], 300)


def test_ids_are_integers_of_numpy() -> None:
    assert TOKENIZERS["bpe"].encode_all(["the"])[0].dtype == np.int32
