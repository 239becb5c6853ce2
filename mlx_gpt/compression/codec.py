"""A model's law of every next token through an arithmetic coder: any file in as many bits as the model says.

Each document is read on its own from the end-of-text mark, as `measure` reads it, so the size agrees with the bits
per byte it says, but for the header. Both sides go through one loop, token by token, with several pieces side by side;
how many is part of the format. Nothing else would do: a matrix product of another shape may differ in its last bits,
and one bit of a probability can lose all that follows. Between machines, MLX versions or numbers of threads no two
products are promised to be the same, so a checksum has the last word.

With a small chance a document is, from some token on, no text but single bytes, each as frequent as it has been so
far; the model and these frequencies are weighed as the members of a mixture are (fixed share, Herbster & Warmuth
1998). What the model holds for next to impossible, such as a binary file, so costs little more than the entropy of its
bytes.

Sources: Rissanen & Langdon 1981 (the model apart from the coder); Krichevsky & Trofimov 1981 (frequencies of bytes).

B pieces side by side, V tokens, A symbols, K of them of one byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gpt import safetensors, stages
from mlx_gpt.checkpoint import MODEL, run_folder
from mlx_gpt.compression.alphabet import MARK, PIECE, Alphabet, documents, joined, pieces
from mlx_gpt.compression.arithmetic import Decoder, Encoder, frequencies
from mlx_gpt.compression.header import Header, digest, machine, read_header
from mlx_gpt.endless import Endless
from mlx_gpt.errors import CheckpointError, DataError
from mlx_gpt.mixture import chosen
from mlx_gpt.model import LanguageModel
from mlx_gpt.tokenizer import Tokenizer

STREAMS = 32  # pieces side by side
SHARE = 2.0**-14  # the chance, at every token, that text turns into bytes or bytes into text

Report = Callable[[int], None]  # is told how many bytes of the file are done
Code = Callable[[int, int, np.ndarray], int]  # piece, place in it, ends (A,) of the symbols' parts of 2^32 -> symbol


class Codec:
    """A model as both sides need it: its law, the symbols of its tokenizer, and what a header says of them."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, stage: int, files: Sequence[str]) -> None:
        """`files` are the SHA-256 of what the model was read from, `stage` is 0 for a mixture."""
        self.law, self.alphabet, self.stage = Endless(model), Alphabet(tokenizer), stage
        self.unspoken = tokenizer.eot if tokenizer.unknown is None else tokenizer.unknown
        self.model = digest(" ".join(files).encode())[:4]
        self.tokenizer = digest(tokenizer.kind.encode(), tokenizer.model)[:2]


@dataclass(frozen=True)
class Compressed:
    """A compressed file and what it was made of. `header` bytes of it are no code; `model_bits` are what the model
    alone says of all tokens, infinite where one of them is none or is held for impossible."""

    data: bytes
    header: int
    documents: int
    document_bytes: int
    tokens: int
    model_bits: float


def opened(stage: int | None, run: Path | None, mix: Sequence[Path]) -> Codec:
    """What --stage, --run or several --mix name; raises what `mixture.chosen` raises."""
    trained = chosen(stage, run, mix)
    folders = mix or [run_folder(stage, run)]
    files = [safetensors.digest(folder if folder.is_file() else folder / MODEL) for folder in folders]
    return Codec(trained.model, trained.tokenizer, trained.stage.number, files)


def compress(codec: Codec, raw: bytes, streams: int, report: Report) -> Compressed:
    """Any bytes, with 1 to 255 streams: so many pieces side by side, and so many times the memory."""
    cut, encoder = pieces(raw, codec.alphabet), Encoder()
    loop = _Loop(codec, len(raw), report)

    def put(piece: int, place: int, ends: np.ndarray) -> int:
        symbol = int(cut[piece][place])
        encoder.put(*_part(ends, symbol))
        return symbol

    loop.run(len(cut), streams, put)
    known = (codec.stage, codec.model, codec.tokenizer, machine(), digest(raw)[:8])
    header = Header(*known, streams, len(raw), len(cut)).bytes()
    texts, bits = documents(raw), loop.nats / math.log(2)
    size, tokens = sum(map(len, texts)), sum(map(len, cut))
    return Compressed(header + encoder.bytes(), len(header), len(texts), size, tokens, bits)


def decompress(codec: Codec, data: bytes, report: Report) -> bytes:
    """What `compress` was given, with the same model.

    Raises CheckpointError where the model or its tokenizer is another one, and DataError for a damaged file.
    """
    header = read_header(data)
    check(codec, header)
    decoder, loop = Decoder(data[len(header.bytes()) :]), _Loop(codec, header.length, report)

    def take(piece: int, place: int, ends: np.ndarray) -> int:
        symbol = int(np.searchsorted(ends, decoder.place(), side="right"))
        decoder.take(*_part(ends, symbol))
        return symbol

    raw = joined(loop.run(header.pieces, header.streams, take), codec.alphabet, header.length)
    if decoder.left or digest(raw)[:8] != header.digest:
        raise DataError("damaged: what comes out is not what was compressed, by its SHA-256")
    return raw


def check(codec: Codec, header: Header) -> None:
    """Raise CheckpointError where a file was compressed with another model or tokenizer."""
    if codec.tokenizer != header.tokenizer:
        what = f"tokenizer {header.tokenizer.hex()}, not {codec.tokenizer.hex()}"
    elif codec.model != header.model:
        what = f"model {header.model.hex()} ({_called(header.stage)}), not {codec.model.hex()} ({_called(codec.stage)})"
    else:
        return
    raise CheckpointError(f"compressed with {what}; name the run, or every --mix in order, that compressed it")


def _called(stage: int) -> str:
    if stage == 0:
        return "a mixture"
    known = stages.numbers()
    return f"stage {stage} {stages.stage(stage).name}" if stage in known else f"stage {stage}"


def _part(ends: np.ndarray, symbol: int) -> tuple[int, int]:
    """Where a symbol's part of 2^32 begins, and its size."""
    start = int(ends[symbol - 1]) if symbol else 0
    return start, int(ends[symbol]) - start


class _Loop:
    """The one way that pieces are gone through, whoever knows their symbols; `nats` is what the model alone says."""

    def __init__(self, codec: Codec, length: int, report: Report) -> None:
        self.nats = 0.0
        self._codec, self._report = codec, report
        self._done, self._most = 0, length + len(MARK)  # bytes
        short = codec.alphabet.short
        self._seen = np.full(len(short), 0.5)  # (K,) how often each came, and half a time more
        self._place = np.full(codec.alphabet.size, -1)  # (A,) of a symbol among the short ones
        self._place[short] = np.arange(len(short))

    def run(self, count: int, streams: int, code: Code) -> list[list[int]]:
        """The symbols of so many pieces; `code` knows or finds them, one by one, in an order that is always the same.

        Raises DataError for symbols that spell more bytes than there are, and CheckpointError for a law that is none.
        """
        found: list[list[int]] = []
        while len(found) < count:
            self._side_by_side(found, min(streams, count - len(found)), code)
        return found

    def _side_by_side(self, found: list[list[int]], rows: int, code: Code) -> None:
        """Add so many pieces. The row of one that is over is dragged along until half of the rows are such."""
        end, law = self._codec.alphabet.end, self._codec.law
        going = list(range(len(found), len(found) + rows))  # the piece of each row, -1 where it is over
        found += [[] for _ in range(rows)]
        last, doubt, memory = np.full(rows, end), np.full(rows, SHARE), law.memory(rows)
        while True:
            told = self._told(law.following(mx.array(last[:, None]), memory))
            often = self._seen / self._seen.sum()
            ends = frequencies(self._mixed(told, often, doubt)).cumsum(axis=1)
            for row, piece in enumerate(going):
                if piece < 0:
                    continue
                symbol = code(piece, len(found[piece]), ends[row])
                found[piece].append(symbol)
                doubt[row] = self._note(symbol, told[row], often, doubt[row])
                last[row] = symbol if symbol < law.vocab_size else self._codec.unspoken
                if symbol == end or len(found[piece]) == PIECE:
                    going[row] = -1
            self._report(self._done)
            kept = [row for row, piece in enumerate(going) if piece >= 0]
            if not kept:
                return
            if 2 * len(kept) <= len(going):
                memory, last, doubt = memory.rows(kept), last[kept], doubt[kept]
                going = [going[row] for row in kept]

    def _told(self, logprobs: mx.array) -> np.ndarray:
        """The model's probabilities (B, V) of its log-probabilities."""
        told = np.exp(np.array(logprobs.astype(mx.float32)).astype(np.float64))
        total = told.sum(axis=1, keepdims=True)
        if not (np.isfinite(total) & (total > 0)).all():
            raise CheckpointError("the model's probabilities are no numbers; train it again")
        return told / total

    def _mixed(self, told: np.ndarray, often: np.ndarray, doubt: np.ndarray) -> np.ndarray:
        """The law (B, A) of the model's probabilities (B, V) and of bytes (K,), by how much text is doubted (B,)."""
        law = np.zeros((len(told), self._codec.alphabet.size))
        law[:, : told.shape[1]] = told * (1 - doubt[:, None])
        law[:, self._codec.alphabet.short] += often * doubt[:, None]
        return law

    def _note(self, symbol: int, told: np.ndarray, often: np.ndarray, doubt: float) -> float:
        """Take in a symbol; returns how much its text is doubted from now on."""
        spelled, place = self._codec.alphabet.spelled[symbol], self._place[symbol]
        self._done += len(spelled)
        if self._done > self._most or not (spelled or symbol == self._codec.alphabet.end):
            raise DataError("damaged: its code says what no file of its length is")
        alone = float(told[symbol]) if symbol < len(told) else 0.0
        self.nats -= math.log(alone) if alone else -math.inf
        as_text, as_bytes = (1 - doubt) * alone, doubt * (often[place] if place >= 0 else 0.0)
        if place >= 0:
            self._seen[place] += 1
        if as_text + as_bytes == 0:  # both hold it for impossible, and it came all the same: nothing is learned
            return doubt
        return SHARE + (1 - 2 * SHARE) * as_bytes / (as_text + as_bytes)
