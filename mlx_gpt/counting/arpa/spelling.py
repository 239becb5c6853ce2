"""What the ids of a tokenizer are called in an ARPA file: words without blanks, each of them once."""

from __future__ import annotations

import unicodedata

from mlx_gpt.tokenizer import Tokenizer

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
MARKS = (BEGIN, END, UNKNOWN)
ESCAPE = "\\"


def words_of(tokenizer: Tokenizer) -> list[str]:
    r"""The word (V,) of every id; no two are alike.

    The end-of-text mark is </s> and the unknown piece <unk>, byte pieces are <0x0A> and the like, and a space is
    SentencePiece's U+2581. A piece that holds a blank, a control character or a backslash has \u{a} for it, in
    hexadecimal; of one that spells a mark of the format, in capitals or not, the first character is written so.
    """
    words = tokenizer.pieces()
    if tokenizer.kind != "word":
        words = [_escaped(piece) for piece in words]
    words[tokenizer.eot] = END
    if tokenizer.unknown is not None:
        words[tokenizer.unknown] = UNKNOWN
    return words


def _escaped(piece: str) -> str:
    if piece.lower() in MARKS:
        return _sign(piece[0]) + piece[1:]
    return "".join(_sign(letter) if _is_blank(letter) else letter for letter in piece) or f"{ESCAPE}u{{}}"


def _is_blank(letter: str) -> bool:
    return letter.isspace() or letter == ESCAPE or unicodedata.category(letter) == "Cc"


def _sign(letter: str) -> str:
    return f"{ESCAPE}u{{{ord(letter):x}}}"
