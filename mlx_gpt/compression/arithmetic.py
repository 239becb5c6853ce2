"""An arithmetic coder: symbols to bytes and back, at the cost that a law over them says, to a small part of a bit.

The interval [low, low + width) of a binary fraction is narrowed by each symbol to its share of it; any number in the
last interval tells all symbols. `low` is 64 bits wide: bytes that can no longer change, but for a carry, have left it.
The width is never below 2^56, so that rounding it to a multiple of 2^32 costs less than 2^-23 bits a symbol.

Source: Witten, Neal & Cleary 1987; by bytes and with carries as in Martin 1979; Moffat, Neal & Witten 1998.

B texts, A symbols.
"""

from __future__ import annotations

import numpy as np

from mlx_gpt.errors import DataError

TOTAL_BITS = 32
TOTAL = 1 << TOTAL_BITS  # what the frequencies of a law add up to
WHOLE, LEAST = 1 << 64, 1 << 56  # widths: at first, and at any time at least
SLACK = 8  # bytes that a decoder may look beyond the last one: the encoder leaves out zeros


def frequencies(law: np.ndarray) -> np.ndarray:
    """Probabilities (B, A) >= 0, each row's sum above 0, as whole numbers (B, A) >= 1 whose sum is 2^32.

    What is not given out by rounding down goes to the likeliest symbol, the first of equals. At most A / 2^32 of the
    probability is lost on symbols that the law holds for impossible.
    """
    share = law / law.sum(axis=1, keepdims=True)
    found = (share * (TOTAL - law.shape[1])).astype(np.int64) + 1
    found[np.arange(len(law)), law.argmax(axis=1)] += TOTAL - found.sum(axis=1)
    return found


class Encoder:
    """Symbols in, bytes out."""

    def __init__(self) -> None:
        self._low, self._width = 0, WHOLE
        self._out = bytearray()

    def put(self, start: int, size: int) -> None:
        """The symbol whose part of 2^32 is [start, start + size), size >= 1."""
        unit = self._width >> TOTAL_BITS
        self._low += start * unit
        self._width = size * unit
        if self._low >= WHOLE:
            self._low -= WHOLE
            self._carry()
        while self._width < LEAST:
            self._out.append(self._low >> 56)
            self._low = (self._low << 8) % WHOLE
            self._width <<= 8

    def bytes(self) -> bytes:
        """All that was put in, as the shortest bytes whose every continuation by zeros lies in the interval."""
        for count in range(SLACK + 1):
            unit = WHOLE >> (8 * count)
            inside = -(-self._low // unit) * unit
            if inside < self._low + self._width:
                break
        if inside >= WHOLE:
            inside -= WHOLE
            self._carry()
        return bytes(self._out) + inside.to_bytes(8, "big")[:count]

    def _carry(self) -> None:
        at = len(self._out) - 1
        while self._out[at] == 0xFF:
            self._out[at] = 0
            at -= 1
        self._out[at] += 1


class Decoder:
    """Bytes in, symbols out, if the same laws are given as to the encoder: `place`, then `take`."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._width = data, 8, WHOLE
        self._code = int.from_bytes(data[:8].ljust(8, b"\0"), "big")  # what was written, from the interval's low end

    def place(self) -> int:
        """A number in [start, start + size) of the next symbol. Raises DataError for bytes that no encoder wrote."""
        found = self._code // (self._width >> TOTAL_BITS)
        if found >= TOTAL:
            raise DataError("damaged: its bytes say what no symbol does")
        return found

    def take(self, start: int, size: int) -> None:
        """Go on behind the symbol whose part is [start, start + size). Raises DataError where the bytes have ended."""
        unit = self._width >> TOTAL_BITS
        self._code -= start * unit
        self._width = size * unit
        while self._width < LEAST:
            if self._at >= len(self._data) + SLACK:
                raise DataError("damaged or cut off: it ends too early")
            following = self._data[self._at] if self._at < len(self._data) else 0
            self._code = self._code << 8 | following
            self._at += 1
            self._width <<= 8

    @property
    def left(self) -> int:
        """How many bytes nobody has looked at."""
        return max(0, len(self._data) - self._at)
