"""Any bytes as the symbols of a tokenizer and back, cut into pieces that are coded side by side.

A document is what stands between lines of <|endoftext|>, as everywhere else; what a tokenizer cannot spell, such as
bytes that are no UTF-8, is spelled by bytes. V tokens, A symbols.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mlx_gpt.tokenizer import END_OF_TEXT, WORD, Tokenizer

MARK = f"\n{END_OF_TEXT}\n".encode()  # between two documents
PIECE = 8_192  # symbols: a longer document is cut, and what follows is read from an empty memory
FOREIGN = "\udc80-\udcff"  # what Python's surrogateescape makes of bytes that are no UTF-8
NO_TEXT = re.compile(f"([{FOREIGN}]+)")
SPACED = re.compile(rf"( [^ \t\r\n\0{FOREIGN}]+)")  # the words that a tokenizer of words gives back as they were


class Alphabet:
    """The tokens of a tokenizer, and behind them the 256 bytes where it has no token for each.

    size   A
    end    the symbol that ends a document, the one symbol that may be coded and spells nothing
    bytes  (256,) the symbol of each byte
    short  (K,) all symbols that spell a single byte: those, and letters that have a token of their own besides
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.end, tokens = tokenizer, tokenizer.eot, tokenizer.vocab_size
        named = {} if tokenizer.kind == WORD else {name: token for token, name in enumerate(tokenizer.pieces())}
        own = [named.get(f"<0x{byte:02X}>", -1) for byte in range(256)]
        lacking = min(own) < 0
        self.bytes = np.arange(tokens, tokens + 256) if lacking else np.array(own)
        self.size = tokens + 256 if lacking else tokens
        self.spelled = [tokenizer.decode_bytes([token]) for token in range(tokens)]
        self.spelled += [bytes([byte]) for byte in range(256 if lacking else 0)]
        self.short = np.array([symbol for symbol, spelled in enumerate(self.spelled) if len(spelled) == 1])

    def symbols(self, raw: bytes) -> np.ndarray:
        """Any bytes as symbols (T,); those of a text that the tokenizer can spell are its tokens."""
        cut = SPACED if self._tokenizer.kind == WORD else NO_TEXT
        parts = cut.split(raw.decode("utf-8", "surrogateescape"))
        readable = [NO_TEXT.search(part) is None for part in parts]
        coded = iter(self._tokenizer.encode_all([part for part, able in zip(parts, readable, strict=True) if able]))
        found = []
        for part, able in zip(parts, readable, strict=True):
            spelled = part.encode("utf-8", "surrogateescape")
            ids = next(coded) if able else None
            if ids is None or self.spell(ids) != spelled:
                ids = self.bytes[np.frombuffer(spelled, np.uint8)]
            found.append(ids.astype(np.int64))
        return np.concatenate(found)

    def spell(self, symbols: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of symbols; the end of a document spells none."""
        return b"".join([self.spelled[symbol] for symbol in np.asarray(symbols).tolist()])


def documents(raw: bytes) -> list[bytes]:
    """The documents of a file, at least one; `joined` makes the file of them.

    What the file ends with is left out if it is the beginning of a mark, as long as there are other marks.
    """
    found = raw.split(MARK)
    if len(found) > 1:
        last = found.pop()
        begun = next(size for size in range(len(MARK) - 1, -1, -1) if last.endswith(MARK[:size]))
        if last:
            found.append(last[: len(last) - begun] or last)
    return found


def pieces(raw: bytes, alphabet: Alphabet) -> list[np.ndarray]:
    """The symbols of a file, its documents in order, each with the end: pieces (T,) of at most PIECE symbols."""
    whole = (np.append(alphabet.symbols(document), alphabet.end) for document in documents(raw))
    return [symbols[start : start + PIECE] for symbols in whole for start in range(0, len(symbols), PIECE)]


def joined(found: Sequence[Sequence[int]], alphabet: Alphabet, length: int) -> bytes:
    """The file of so many bytes that `pieces` were made of."""
    parts = [alphabet.spell(piece) + (MARK if piece[-1] == alphabet.end else b"") for piece in found]
    return b"".join(parts)[:length]
