"""Text to token ids and back without loss: SentencePiece BPE (the default) or characters, or plain bytes.

A fourth kind, the words of an imported model, is never trained and not without loss.

Source: Sennrich et al. 2016 (BPE); Kudo & Richardson 2018 (SentencePiece).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece

from mlx_gpt.errors import TokenizerError

KINDS = ("bpe", "char", "byte")
WORD = "word"
LOADABLE = (*KINDS, WORD)
GIVEN = "given"  # of a corpus whose tokenizer was not learned from it
END_OF_TEXT = "<|endoftext|>"
LARGEST_MODEL = 16 * 2**20  # bytes: a SentencePiece model beyond it is an attack or a mistake
LARGEST_VOCABULARY = 2**20
VOCABULARY = {"tiny": 512, "small": 2_048, "base": 4_096, "large": 8_192}  # entries of BPE, by preset
LONGEST_LINE = 1_000  # characters; SentencePiece leaves out training lines over 4,192 bytes
END_OF_SENTENCE, UNKNOWN = "</s>", "<unk>"
WORDS = re.compile(r"[^ \t\r\n\0]+")  # what KenLM takes for a word: other blanks may stand inside it
SPACE_SIGN = "\u2581"  # SentencePiece's stand-in for a space, so it cannot carry the sign itself


class Tokenizer:
    """One vocabulary of `vocab_size` ids; `decode(encode(text)) == text` for every valid Unicode text.

    `eot` is the id of the end-of-text mark, which stands before and after every document and which no
    text can spell. `unknown` is the id of what the vocabulary lacks, None where it lacks nothing.

    Of kind "word", `model` holds the words of the vocabulary in UTF-8, one a line in the order of their ids, </s> (the
    end of text) and <unk> among them. A text is cut at blanks, which are all alike, and comes back with one space
    before each word.
    """

    def __init__(self, kind: str, model: bytes = b"") -> None:
        """From a kind and, but for bytes, a serialised SentencePiece model or a list of words.

        Raises TokenizerError for an unknown kind, a damaged model, or one over 16 MB.
        """
        if kind not in LOADABLE:
            raise TokenizerError(f"tokenizer {kind!r}: choose one of {', '.join(KINDS)}")
        self.kind, self.model = kind, model
        self.unknown: int | None = None
        if kind == "byte":
            self.vocab_size, self.eot = 257, 256
            return
        if len(model) > LARGEST_MODEL:
            raise TokenizerError(f"tokenizer of {len(model):,} bytes: more than {LARGEST_MODEL:,} is refused")
        if kind == WORD:
            self._read_words()
            return
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise TokenizerError(f"damaged SentencePiece model ({error}); train again") from error
        self.vocab_size, self.eot = self._pieces.get_piece_size(), self._pieces.eos_id()
        self.unknown = self._pieces.unk_id()
        spelled = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SIGN.encode()]
        if self.eot < 0 or len(set(spelled)) < len(spelled):
            raise TokenizerError("SentencePiece model without end-of-text or byte pieces; train one here")
        self._space_sign = spelled
        self._spelling = [self._spell(piece) for piece in range(self.vocab_size)]

    @classmethod
    def train(cls, kind: str, lines: Iterable[str], vocab_size: int) -> Tokenizer:
        """A tokenizer for `lines`, which should come from the training split only.

        A text too small for `vocab_size` gets the largest vocabulary it can fill: compare `vocab_size`.
        Raises TokenizerError when the text needs more ids than `vocab_size`, or there is no text.
        """
        if kind == WORD:
            raise TokenizerError("the words of an imported model are not learned from a text; name one with --data")
        if kind == "byte":
            return cls(kind)
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(piece for line in lines for piece in short_lines(line)),
                model_writer=model,
                model_type=kind,
                vocab_size=vocab_size if kind == "bpe" else LARGEST_VOCABULARY,
                hard_vocab_limit=False,
                byte_fallback=True,
                character_coverage=0.9999 if kind == "bpe" else 1.0,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                split_digits=True,
                unk_id=0,
                eos_id=1,
                bos_id=-1,
                pad_id=-1,
                eos_piece=END_OF_TEXT,
                num_threads=os.cpu_count() or 1,
                minloglevel=2,
            )
        except RuntimeError as error:
            needed = re.search(r"smaller than required_chars. \d+ vs (\d+)", str(error))
            if needed:
                raise TokenizerError(
                    f"--vocab-size {vocab_size}: this text needs at least {needed[1]} "
                    "(256 bytes, 2 marks and its characters)"
                ) from error
            raise TokenizerError("the training text holds nothing a tokenizer could learn from") from error
        return cls(kind, model.getvalue())

    def encode(self, text: str) -> list[int]:
        """The ids of a text; marks such as <|endoftext|> typed in it are text. Raises TokenizerError on
        lone surrogates, the one thing a Python string can hold that is not Unicode."""
        return self.encode_all([text])[0].tolist()

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of many texts, each (T,) int32, on all cores."""
        try:
            raw = [text.encode() for text in texts]
        except UnicodeEncodeError as error:
            raise TokenizerError(f"not valid Unicode: {error.reason} at character {error.start}") from error
        if self.kind == "byte":
            return [np.frombuffer(each, np.uint8).astype(np.int32) for each in raw]
        if self.kind == WORD:
            return [self._word_ids(text) for text in texts]
        plain = [part for text in texts for part in text.split(SPACE_SIGN)]
        coded = iter(self._pieces.encode(plain, num_threads=os.cpu_count() or 1))
        rows = []
        for text in texts:
            row = list(next(coded))
            for _ in range(text.count(SPACE_SIGN)):
                row += self._space_sign
                row += next(coded)
            rows.append(np.array(row, np.int32))
        return rows

    def agrees(self, other: Tokenizer) -> bool:
        """Whether both make the same ids of every text."""
        return (self.kind, self.model) == (other.kind, other.model)

    def unknown_in(self, ids: Sequence[int] | np.ndarray) -> int:
        """How many of these ids stand for what the vocabulary lacks."""
        return 0 if self.unknown is None else int(np.count_nonzero(np.asarray(ids) == self.unknown))

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The raw UTF-8 of ids, which may end inside a character; end-of-text marks spell nothing.

        Raises TokenizerError for an id outside the vocabulary.
        """
        array = np.asarray(ids, np.int64).reshape(-1)
        self.check(array)
        if self.kind == "byte":
            return bytes(array[array != self.eot].astype(np.uint8))
        return b"".join([self._spelling[piece] for piece in array.tolist()])

    def lengths(self) -> np.ndarray:
        """How many raw bytes each id spells, (V,)."""
        if self.kind == "byte":
            return (np.arange(self.vocab_size) < self.eot).astype(np.int64)
        return np.array([len(spelled) for spelled in self._spelling])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def pieces(self) -> list[str]:
        """What each id (V,) is called: a piece with U+2581 for a space, <0x41> for a byte, a word, or a mark."""
        if self.kind == WORD:
            return self.model.decode().split("\n")
        return [self._piece(piece) for piece in range(self.vocab_size)]

    def spelled(self, token: int) -> str:
        """The text of one id; where that is half a character or none, its name: <0xE6>, <|endoftext|>.

        Raises TokenizerError for an id outside the vocabulary.
        """
        raw = self.decode_bytes([token])
        try:
            return raw.decode() or self._piece(token)
        except UnicodeDecodeError:
            return self._piece(token)

    def _piece(self, token: int) -> str:
        if self.kind == WORD:
            return self.pieces()[token]
        if self.kind == "byte":
            return END_OF_TEXT if token == self.eot else f"<0x{token:02X}>"
        piece: str = self._pieces.id_to_piece(token)
        return piece

    def check(self, ids: np.ndarray) -> None:
        """Raise TokenizerError naming the first id outside the vocabulary."""
        outside = (ids < 0) | (ids >= self.vocab_size)
        if outside.any():
            raise TokenizerError(f"token id {int(ids[outside][0])}: the vocabulary is 0 to {self.vocab_size - 1}")

    def _read_words(self) -> None:
        try:
            words = self.model.decode().split("\n")
        except UnicodeDecodeError as error:
            raise TokenizerError("damaged list of words (not UTF-8); import the model again") from error
        self._ids = {word: number for number, word in enumerate(words)}
        marked = END_OF_SENTENCE in self._ids and UNKNOWN in self._ids
        if not marked or len(self._ids) < len(words) or not all(map(WORDS.fullmatch, words)):
            raise TokenizerError("damaged list of words; import the model again")
        self.vocab_size, self.unknown = len(words), self._ids[UNKNOWN]
        self.eot = self._ids.pop(END_OF_SENTENCE)
        self._spelling = [f" {word}".encode() for word in words]
        self._spelling[self.eot] = b""

    def _word_ids(self, text: str) -> np.ndarray:
        return np.array([self._ids.get(word, self.unknown) for word in WORDS.findall(text)], np.int32)

    def _spell(self, piece: int) -> bytes:
        if self._pieces.is_byte(piece):
            return bytes([int(self._pieces.id_to_piece(piece)[1:-1], 16)])
        if self._pieces.is_control(piece) or self._pieces.is_unknown(piece):
            return b""
        spelled: str = self._pieces.id_to_piece(piece)
        return spelled.replace(SPACE_SIGN, " ").encode()


def short_lines(text: str) -> Iterable[str]:
    """Pieces of line that SentencePiece will take: no newline, no NUL, no sign of its own, not too long."""
    for line in re.split(f"[\n\0{SPACE_SIGN}]", text):
        for start in range(0, len(line), LONGEST_LINE):
            yield line[start : start + LONGEST_LINE]
