"""TensorBoard reads what was written, a resumed run replaces what it repeats, and a crash costs one record."""

import math
import struct
import time

import pytest

from mlx_gpt.events import Events, crc32c

STARTED = 1_800_000_000.5


def records(path):
    """Messages of a file, by a decoder that shares no code with the writer; a torn last record is left out."""
    data, messages = path.read_bytes(), []
    while len(data) >= 12:
        (length, check), rest = struct.unpack("<QI", data[:12]), data[12:]
        assert unmasked(check) == bitwise(data[:8])
        if len(rest) < length + 4:
            break
        assert unmasked(*struct.unpack("<I", rest[length : length + 4])) == bitwise(rest[:length])
        messages.append(rest[:length])
        data = rest[length + 4 :]
    return messages


def unmasked(masked):
    """As in TensorFlow's crc32c.h: subtract the constant, rotate back."""
    rotated = (masked - 0xA282EAD8) % 2**32
    return (rotated >> 17 | rotated << 15) % 2**32


def bitwise(data):
    """CRC32C as polynomial division, most significant bit of the reflected message first."""
    bits = [byte >> i & 1 for byte in data for i in range(8)] + [0] * 32
    for i in range(32):
        bits[i] ^= 1
    remainder = 0
    for bit in bits:
        remainder = remainder << 1 | bit
        if remainder >> 32:
            remainder ^= 0x11EDC6F41
    return int(f"{remainder ^ 0xFFFFFFFF:032b}"[::-1], 2)


def only(folder):
    (path,) = folder.iterdir()
    return path


def read(path):
    """The events of a file, by TensorBoard."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    return list(loader.EventFileLoader(str(path)).Load())


def shown(folder, tag):
    """Step and value of a tag, as TensorBoard would show a run folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
    found = accumulator.EventAccumulator(str(folder), {"tensors": 0})
    found.Reload()
    return [(event.step, event.tensor_proto.float_val[0]) for event in found.Tensors(tag)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, B.4, and the check value of the catalogue of CRC algorithms
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_the_checksum_is_castagnolis(data, expected):
    assert crc32c(data) == expected
    assert not data or bitwise(data) == expected


def test_records_are_framed_and_hold_the_messages_worked_out_by_hand(tmp_path):
    events = Events(tmp_path, STARTED)
    events.scalars(300, 2.0, {"a": 1.0})
    events.close()
    version, start, scalar = records(only(tmp_path))
    at = b"\x09" + struct.pack("<d", STARTED)  # field 1, eight bytes
    assert version == at + b"\x10\x00" + b"\x1a\x0d" + b"brain.Event:2"
    assert start == at + b"\x10\x00" + b"\x3a\x02" + b"\x08\x01"
    # step 300 = 0b10_0101100; value: tag "a" in 3 bytes, 1.0 = 0x3f800000 in 5
    value = b"\x0a\x01a" + b"\x15\x00\x00\x80\x3f"
    two = b"\x09\x00\x00\x00\x00\x00\x00\x00\x40"
    assert scalar == two + b"\x10\xac\x02" + b"\x2a\x0a" + b"\x0a\x08" + value


def test_tensorboard_reads_what_was_written(tmp_path):
    events = Events(tmp_path, STARTED)
    for step in (0, 1, 127, 128, 10**12):
        events.scalars(step, STARTED + step, {"train/bits per byte": step / 7, "größe": -1.5})
    events.close()
    version, start, *scalars = read(only(tmp_path))
    assert (version.file_version, version.wall_time) == ("brain.Event:2", STARTED)
    assert start.session_log.status == start.session_log.START
    assert [event.step for event in scalars] == [0, 1, 127, 128, 10**12]
    assert [event.wall_time - STARTED for event in scalars] == [0, 1, 127, 128, 10**12]
    assert shown(tmp_path, "train/bits per byte") == [(s, pytest.approx(s / 7)) for s in (0, 1, 127, 128, 10**12)]
    assert shown(tmp_path, "größe") == [(s, -1.5) for s in (0, 1, 127, 128, 10**12)]


def test_a_report_is_in_the_file_before_it_is_closed(tmp_path):
    events = Events(tmp_path, STARTED)
    events.scalars(1, STARTED, {"a": 1.0})
    assert len(records(only(tmp_path))) == 3
    events.close()


def test_what_is_no_number_or_too_large_stays_what_it_is(tmp_path):
    events = Events(tmp_path, STARTED)
    for step, value in enumerate((math.nan, math.inf, -math.inf, 1e300, -1e300, 3e38, 1e-300)):
        events.scalars(step, STARTED, {"a": value})
    events.close()
    values = [value for _, value in shown(tmp_path, "a")]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, math.inf, -math.inf, pytest.approx(3e38), 0.0]


def test_a_resumed_run_replaces_the_steps_after_the_one_it_went_on_from(tmp_path):
    first = Events(tmp_path, STARTED)
    for step in (10, 20, 30, 40):
        first.scalars(step, STARTED, {"a": 1.0, "b": 1.0})
    first.close()
    second = Events(tmp_path, STARTED + 60, step=20)
    second.scalars(30, STARTED + 60, {"a": 2.0})
    second.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert shown(tmp_path, "a") == [(10, 1.0), (20, 1.0), (30, 2.0)]
    assert shown(tmp_path, "b") == [(10, 1.0), (20, 1.0)]


def test_a_run_that_begins_again_replaces_all_that_an_earlier_one_left(tmp_path):
    for value in (1.0, 2.0):
        events = Events(tmp_path, STARTED)
        events.scalars(int(10 / value), STARTED, {"a": value})
        events.close()
    assert shown(tmp_path, "a") == [(5, 2.0)]


def test_files_of_one_second_and_of_a_clock_set_back_keep_their_order(tmp_path):
    names = []
    for started in (STARTED, STARTED, STARTED - 3600):
        Events(tmp_path, started).close()
        names += {path.name for path in tmp_path.iterdir()} - set(names)
    assert len(names) == 3 and names == sorted(names)


@pytest.mark.parametrize("lost", [1, 4, 5, 20, 33])
def test_a_torn_last_record_costs_no_other(tmp_path, lost):
    events = Events(tmp_path, STARTED)
    events.scalars(1, STARTED, {"a": 1.0})
    events.scalars(2, STARTED, {"a": 2.0})
    events.close()
    path = only(tmp_path)
    path.write_bytes(path.read_bytes()[:-lost])
    assert len(records(path)) == 3
    assert len(read(path)) == 3
    resumed = Events(tmp_path, STARTED + 60, step=1)
    resumed.scalars(2, STARTED + 60, {"a": 3.0})
    resumed.close()
    assert shown(tmp_path, "a") == [(1, 1.0), (2, 3.0)]


def test_negative_steps_are_our_mistake(tmp_path):
    with pytest.raises(AssertionError, match="step -1"):
        Events(tmp_path, STARTED, step=-1)
    events = Events(tmp_path, STARTED)
    with pytest.raises(AssertionError, match="step -1"):
        events.scalars(-1, STARTED, {"a": 1.0})
    events.close()
    assert len(records(only(tmp_path))) == 2


def test_five_hundred_values_take_less_than_a_second(tmp_path):
    events = Events(tmp_path, STARTED)
    before = time.process_time()
    for step in range(100):
        events.scalars(step, STARTED, {f"some/longish name {i}": 1.0 for i in range(5)})
    assert time.process_time() - before < 1
    events.close()
