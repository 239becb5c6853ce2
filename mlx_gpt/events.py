"""A run's figures as TensorBoard reads them: an append-only file of framed records, one a report.

Written here because the `tensorboard` package is 300 MB of dependencies for one file format of three messages.

    record   length: 8 bytes, its checksum: 4, the message, its checksum: 4; little-endian throughout
    message  protocol buffers: Event, and in it a SessionLog or a Summary of (tag, value) pairs

Layout and field numbers are those of TensorFlow's record_writer.cc, event.proto and summary.proto.
"""

from __future__ import annotations

import math
import os
import platform
import struct
from collections.abc import Mapping
from pathlib import Path

PREFIX = "events.out.tfevents."
VERSION = b"brain.Event:2"  # from 2 on a reader goes by the START messages of a session log
START = 1
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # wire types of protocol buffers
LARGEST: float = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]  # of single precision


class Events:
    """One file of a run's scalars; `scalars` appends to it and every report is flushed.

    A run that goes on where another ended names the `step` it goes on from: TensorBoard then forgets what the
    other one wrote after it (its default loader tag by tag, when a tag is next written). A crash leaves at most a
    torn last record, at which readers stop.
    Raises OSError where the disk refuses.
    """

    def __init__(self, folder: Path, started: float, step: int | None = None) -> None:
        """Open a file of its own in `folder`; `started` in Unix seconds, `step` the last one that still holds."""
        assert step is None or step >= 0, f"step {step}"
        # files are read in the order of their names: a clock set back must not put this one before an earlier one
        earlier = (path.name.removeprefix(PREFIX)[:10] for path in folder.glob(f"{PREFIX}*"))
        second = max([int(started), *(int(digits) + 1 for digits in earlier if digits.isdecimal())])
        host = platform.node().replace("/", "-") or "localhost"
        self._file = (folder / f"{PREFIX}{second:010d}.{host}.{os.getpid()}").open("xb")
        restart = 0 if step is None else step + 1  # a reader drops this step and all later ones
        self._write(_bytes(3, VERSION), started, 0)
        self._write(_bytes(7, _varint(1, START)), started, restart)

    def scalars(self, step: int, wall_time: float, values: Mapping[str, float]) -> None:
        """Append a value for each tag, in single precision; `wall_time` in Unix seconds."""
        assert step >= 0, f"step {step}"
        pairs = (_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in values.items())
        self._write(_bytes(5, b"".join(pairs)), wall_time, step)

    def close(self) -> None:
        """Close the file; nothing can be appended any more."""
        self._file.close()

    def _write(self, what: bytes, wall_time: float, step: int) -> None:
        message = _key(1, DOUBLE) + struct.pack("<d", wall_time) + _varint(2, step) + what
        length = struct.pack("<Q", len(message))
        self._file.write(length + _masked(length) + message + _masked(message))
        self._file.flush()


def crc32c(data: bytes) -> int:
    """Castagnoli's cyclic redundancy check (RFC 3720, appendix B.4), a byte at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # the polynomial 0x1EDC6F41, bits reversed
    return byte


TABLE = [_remainder(byte) for byte in range(256)]


def _masked(data: bytes) -> bytes:
    """The checksum as records carry it: rotated and shifted, for a checksum of data that holds checksums is weak."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _key(field: int, wire: int) -> bytes:
    return bytes([field << 3 | wire])


def _number(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _varint(field: int, value: int) -> bytes:
    return _key(field, VARINT) + _number(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, BYTES) + _number(len(value)) + value


def _float(field: int, value: float) -> bytes:
    single = math.copysign(math.inf, value) if abs(value) > LARGEST else value  # struct refuses to round to infinity
    return _key(field, FLOAT) + struct.pack("<f", single)
