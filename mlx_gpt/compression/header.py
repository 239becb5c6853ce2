"""What a compressed file says of itself: of which model and tokenizer, computed by what, how long, with a checksum.

    bytes   3        MGZ
            1        version of the format
            1        stage, 0 for a mixture
            4, 2     model, tokenizer
            1, 3, 2  device (0 cpu, 1 gpu), MLX version, and all else that may change a probability's last bits
            8        the file
            1        pieces that were coded side by side
            1 …      bytes of the file, and pieces it was cut into, 7 bits a byte, the lowest first

Model, tokenizer, "all else" and file are the first bytes of a SHA-256: that of the file has the last word, so the
others are as short as a header may be that should not be seen in the size.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import mlx.core as mx

from mlx_gpt.device import description
from mlx_gpt.errors import DataError

MAGIC, VERSION = b"MGZ", 1
FIXED = struct.Struct("<3sBB4s2s6s8sB")
LONGEST_NUMBER = 8  # bytes of 7 bits


@dataclass(frozen=True)
class Header:
    """`machine` is what `machine` gave where the file was written; the digests are bytes as above."""

    stage: int
    model: bytes
    tokenizer: bytes
    machine: bytes
    digest: bytes
    streams: int
    length: int
    pieces: int

    def bytes(self) -> bytes:
        """As it stands in a file."""
        named = (self.stage, self.model, self.tokenizer, self.machine, self.digest, self.streams)
        return FIXED.pack(MAGIC, VERSION, *named) + _number(self.length) + _number(self.pieces)


def read_header(data: bytes) -> Header:
    """The header at the beginning of a compressed file. Raises DataError for a file that is none, or a damaged one."""
    if data[:3] != MAGIC:
        raise DataError("not a file that mlx_gpt.compress wrote")
    if len(data) > 3 and data[3] != VERSION:
        raise DataError(f"written in version {data[3]} of the format, not {VERSION}: another mlx_gpt wrote it")
    if len(data) < FIXED.size:
        raise DataError("cut off within its header")
    _, _, stage, model, tokenizer, machine, digest, streams = FIXED.unpack_from(data)
    length, at = _read_number(data, FIXED.size)
    pieces, _ = _read_number(data, at)
    header = Header(stage, model, tokenizer, machine, digest, streams, length, pieces)
    if not 1 <= pieces <= length + 1 or streams < 1 or not data.startswith(header.bytes()):
        raise DataError("damaged in its header")
    return header


def digest(*parts: bytes) -> bytes:
    """SHA-256 over parts, of which a header takes the first bytes."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.digest()


def machine() -> bytes:
    """What decides the last bits of a probability here, (6) bytes: device, MLX version, and a digest of the CPU, the
    BLAS and how many threads it may take."""
    told = [description(), str(mx.device_info().get("device_name")), str(os.cpu_count())]
    told += [os.environ.get(f"{name}_NUM_THREADS", "") for name in ("OMP", "MKL", "OPENBLAS", "VECLIB")]
    numbers = [int("".join(filter(str.isdecimal, part)) or 0) % 256 for part in version("mlx").split(".")[:3]]
    return bytes([mx.default_device() == mx.gpu, *numbers]) + digest("\n".join(told).encode())[:2]


def elsewhere(header: Header) -> str:
    """One line where a file was compressed by something that may compute other last bits, or ""."""
    if header.machine == machine():
        return ""
    device, numbers = "gpu" if header.machine[0] else "cpu", ".".join(map(str, header.machine[1:4]))
    return (
        f"compressed by MLX {numbers} on {device}, on a CPU, with a BLAS or with a number of threads that is not the "
        f"one here ({description()}): probabilities may differ in their last bits, and the checksum decides"
    )


def _number(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value % 128 + 128)
        value //= 128
    return bytes([*found, value])


def _read_number(data: Sequence[int], at: int) -> tuple[int, int]:
    """A number that begins at a place, and the place behind it."""
    value = 0
    for power, byte in enumerate(data[at : at + LONGEST_NUMBER]):
        value += byte % 128 << 7 * power
        if byte < 128:
            return value, at + power + 1
    raise DataError("damaged or cut off in its header")
