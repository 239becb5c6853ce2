"""The file format: what is written is read again to the bit, by others too, and nothing else is ever believed."""

import errno
import fcntl
import hashlib
import itertools
import json
import os
import threading
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mlx_gpt.errors import CheckpointError
from mlx_gpt.safetensors import PIECE, Array, check_header, read, verify, write
from mlx_gpt.stages import s06_rnn

PLAIN = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
SHAPES = st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
ARRAYS = st.sampled_from(PLAIN).flatmap(lambda code: st_numpy.arrays(code, SHAPES))
NAMES = st.text(max_size=8).filter(lambda name: name != "__metadata__")
quick = settings(max_examples=60, deadline=None)


class Ramp:
    """A column that is nowhere: 0, 1, 2, …, made when asked for. Fails at row `until`, as a disk would."""

    dtype = np.dtype(np.int64)

    def __init__(self, rows: int, until: int | None = None, failure: BaseException | None = None) -> None:
        self.shape, self.until, self.failure, self.largest = (rows,), until, failure, 0

    def __getitem__(self, part: slice) -> np.ndarray:
        assert 0 <= part.start < part.stop <= self.shape[0] and part.step is None
        self.largest = max(self.largest, part.stop - part.start)
        if self.failure is not None and part.stop > (self.until or 0):
            raise self.failure
        return np.arange(part.start, part.stop)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("format") / "model.safetensors"


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit, whatever is no number."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def written(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    write(path, arrays, metadata or {})
    return path.read_bytes()


# what is written is read


@quick
@given(st.dictionaries(NAMES, ARRAYS, max_size=5), st.dictionaries(st.text(max_size=8), st.text(max_size=20)))
def test_arrays_of_every_type_come_back_to_the_bit(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    write(path, arrays, metadata)
    found, told = read(path)
    assert told == metadata == check_header(path)
    assert found.keys() == arrays.keys()
    assert all(same(found[name], arrays[name]) for name in arrays)


@quick
@given(st_numpy.arrays("u2", SHAPES))
def test_bfloat16_comes_back_as_the_float32_it_is(path: Path, bits: np.ndarray) -> None:
    write(path, {"a": mx.array(bits).view(mx.bfloat16)}, {})
    found = read(path)[0]["a"]
    assert found.dtype == np.float32 and not found.flags.writeable
    assert same(found.view(np.uint32), np.asarray(bits.astype(np.uint32) * np.uint32(2**16)))


@pytest.mark.parametrize("kind", [str(np.dtype(code)) for code in PLAIN[:-1]])
def test_the_types_of_mlx_are_numpys(path: Path, kind: str) -> None:
    array = mx.arange(12).reshape(3, 4).astype(getattr(mx, kind.replace("bool", "bool_")))
    write(path, {"a": array, "turned": array.T, "one": array[1, 1], "none": array[:0]}, {})
    found, _ = read(path)
    assert same(found["a"], np.array(array)) and same(found["turned"], np.ascontiguousarray(np.array(array).T))
    assert found["one"].shape == () and found["one"] == np.array(array)[1, 1] and found["none"].shape == (0, 4)


def test_arrays_that_lie_otherwise_in_memory_are_written_in_order(path: Path) -> None:
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    others = {"turned": a.T, "stepped": a[:, ::2, 1:], "backwards": a[::-1], "big-endian": a.astype(">f4")}
    write(path, others, {})
    found, _ = read(path)
    assert all(np.array_equal(found[name], others[name]) and found[name].dtype == np.float32 for name in others)


def test_every_array_begins_at_a_multiple_of_its_items(path: Path) -> None:
    arrays = {f"{code}{n}": np.ones(n, code) for code, n in itertools.product(PLAIN, (1, 3))}
    for extra in range(8):  # whatever the length of the header
        write(path, arrays, {"x" * extra: ""})
        assert all(array.flags.aligned and array.ctypes.data % array.itemsize == 0 for array in read(path)[0].values())


def test_the_bytes_do_not_depend_on_who_holds_the_array(path: Path) -> None:
    numbers = np.arange(PIECE // 8 + 5)
    assert (
        written(path, {"a": numbers})
        == written(path, {"a": mx.array(numbers)})
        == written(path, {"a": Ramp(len(numbers))})
    )


def test_a_column_is_never_held_whole(path: Path) -> None:
    column = Ramp(5 * PIECE // 8 + 3)  # 5 pieces of 8-byte integers, and 3
    tracemalloc.start()
    write(path, {"small": np.ones(3, np.float32), "ramp": column}, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert column.largest * 8 <= PIECE and peak < 3 * PIECE
    found, _ = read(path)
    assert same(found["ramp"], np.arange(*column.shape)) and found["small"].sum() == 3


def test_a_column_that_is_not_what_it_says_is_our_mistake(path: Path) -> None:
    column = Ramp(5)
    column.dtype = np.dtype(np.int32)
    with pytest.raises(AssertionError):
        write(path, {"a": column}, {})
    with pytest.raises(ValueError):
        write(path, {"\ud800": np.ones(3)}, {})
    with pytest.raises(ValueError):
        write(path, {"__metadata__": np.ones(3)}, {})


def test_what_is_read_is_mapped_and_read_only(path: Path) -> None:
    write(path, {"a": np.arange(5), "b": mx.ones((2,), mx.bfloat16)}, {})
    found, _ = read(path)
    for array in found.values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert not found["a"].flags.owndata
    write(path, {"a": np.arange(5) + 1, "b": mx.ones((2,), mx.bfloat16)}, {})
    assert list(found["a"]) == [0, 1, 2, 3, 4] and list(read(path)[0]["a"]) == [1, 2, 3, 4, 5]


def test_a_file_larger_than_memory_is_read_at_once(tmp_path: Path) -> None:
    size = 2**36  # 64 GB that take no place: a file with a hole
    path = tmp_path / "large"
    path.write_bytes(crafted({"a": ["U64", [size // 8], [0, size]]}, b""))
    try:
        os.truncate(path, path.stat().st_size + size)
    except OSError:
        pytest.skip("this disk has no files with holes")
    assert read(path)[0]["a"][-1] == 0


# the library that the format comes from, and MLX


def test_the_safetensors_library_reads_what_is_written(path: Path) -> None:
    library, theirs = pytest.importorskip("safetensors"), pytest.importorskip("safetensors.numpy")
    arrays = {code: np.arange(6).reshape(2, 3).astype(code) for code in PLAIN}
    arrays |= {"none": np.ones((0, 3), np.float32), "one": np.array(7, np.int16), "ramp": Ramp(PIECE // 8 + 1)}
    write(path, arrays, {"a": "ü\n", "": ""})
    found = theirs.load_file(path)
    assert found.keys() == arrays.keys()
    assert all(same(found[name], np.asarray(arrays[name][:] if name in PLAIN else found[name])) for name in arrays)
    assert same(found["ramp"], np.arange(PIECE // 8 + 1)) and found["one"] == 7 and found["none"].shape == (0, 3)
    with library.safe_open(path, "numpy") as file:
        digest = file.metadata().pop("sha256")
        assert file.metadata() == {"a": "ü\n", "": "", "sha256": digest} and len(digest) == 64
    ((_, brain),) = library.deserialize(written(path, {"b": mx.array([1.0, -2.5], mx.bfloat16)}))
    assert brain["dtype"] == "BF16" and bytes(brain["data"]) == b"\x80\x3f\x20\xc0"  # the upper halves of the float32


def test_what_the_safetensors_library_writes_is_read(path: Path) -> None:
    theirs = pytest.importorskip("safetensors.numpy")
    arrays = {code: np.arange(6).reshape(2, 3).astype(code) for code in PLAIN}
    arrays |= {"none": np.ones((0, 3), np.float32), "one": np.array(7, np.int16)}
    theirs.save_file(arrays, path, {"format": "np"})
    found, metadata = read(path)
    assert metadata == {"format": "np"}
    assert found.keys() == arrays.keys() and all(same(found[name], arrays[name]) for name in arrays)


def test_mlx_reads_what_is_written_and_is_read(path: Path) -> None:
    arrays = {kind: mx.arange(6).reshape(2, 3).astype(getattr(mx, kind)) for kind in ("float32", "bfloat16", "int64")}
    write(path, arrays, {"format": "mlx"})
    found, metadata = mx.load(str(path), return_metadata=True)
    assert metadata.keys() == {"format", "sha256"} and metadata["format"] == "mlx"
    assert all(mx.array_equal(found[name], arrays[name]) and found[name].dtype == arrays[name].dtype for name in arrays)
    mx.save_safetensors(str(path), arrays, {"format": "mlx"})
    again, metadata = read(path)
    assert metadata == {"format": "mlx"}
    assert all(np.array_equal(again[name], np.arange(6).reshape(2, 3)) for name in arrays)


# the digest


def test_the_digest_is_of_the_file_with_zeros_in_its_place(path: Path) -> None:
    content = written(path, {"a": np.arange(5), "b": mx.ones((2, 2), mx.bfloat16), "c": Ramp(PIECE)}, {"x": "y"})
    assert content[8:].startswith(b'{"__metadata__": {"sha256": "')
    digest = content[37 : 37 + 64]  # 8 bytes of length, 29 before it
    assert hashlib.sha256(content[:37] + b"0" * 64 + content[101:]).hexdigest().encode() == digest
    verify(path)
    assert read(path, verify=True)[1] == {"x": "y"} == check_header(path)


@quick
@given(st.dictionaries(NAMES, ARRAYS, max_size=3), st.data())
def test_any_turned_bit_is_found(path: Path, arrays: dict[str, np.ndarray], data: st.DataObject) -> None:
    content = bytearray(written(path, arrays, {"a": "b"}))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    for look in (verify, lambda path: read(path, verify=True)):
        with pytest.raises(CheckpointError) as caught:
            look(path)
        assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable()


def test_a_digest_that_is_gone_in_any_way_is_missed(path: Path) -> None:
    whole = written(path, {"a": np.arange(5)}, {"x": "y"})
    digest, entry = whole[37:101], whole[9 : whole.index(b'"a"')]
    ways = [
        whole.replace(b'"sha256"', b'"sha257"'),
        whole.replace(b'{"__metadata__"', b'{ "__metadata__"').replace(b" \t\n", b"\t\n"),
        whole.replace(digest, digest.upper()) if digest != digest.upper() else whole.replace(digest, b"0" * 64),
        whole.replace(b'"sha256": "' + digest + b'", "x": "y"', b'"x": "y", "sha256": "' + digest + b'"'),
        whole.replace(b'"sha256": "' + digest + b'"', b'"sha256": ""' + b" " * 64),
        whole.replace(entry, b" " * len(entry)),
        whole.replace(b"\t\n", b"\n\n"),
    ]
    for content in ways:
        assert content != whole and len(content) == len(whole)
        path.write_bytes(content)
        assert read(path)[1] in ({"x": "y"}, {"sha257": digest.decode(), "x": "y"}, {})  # only the digest is wrong
        with pytest.raises(CheckpointError, match="SHA-256 is not the one it was written with; take an earlier copy"):
            verify(path)


def test_files_that_never_named_a_digest_pass(path: Path) -> None:
    for content in GOOD.values():
        path.write_bytes(content)
        verify(path)
    mx.save_safetensors(str(path), {"a": mx.ones((3,))}, {"format": "mlx"})
    assert read(path, verify=True)[1] == {"format": "mlx"}


def test_verifying_holds_no_more_than_a_piece(path: Path) -> None:
    write(path, {"ramp": Ramp(4 * PIECE // 8)}, {})
    tracemalloc.start()
    verify(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3 * PIECE


def test_a_pipe_is_given_the_same_bytes(tmp_path: Path) -> None:
    arrays = {"a": np.arange(5), "ramp": Ramp(PIECE // 4)}
    whole = written(tmp_path / "m", arrays, {"x": "y"})
    os.mkfifo(tmp_path / "pipe")
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / "pipe", arrays, {"x": "y"})
    reader.join(60)
    assert heard == [whole]


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for look in (read, check_header, verify):
        with pytest.raises(CheckpointError, match=r"pipe: cannot be read \(not a file\)"):
            look(tmp_path / "pipe")


# whole or not at all


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FAILURES = [
    (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "No space left on device; is the disk full?"),
    (OSError(errno.EIO, "Input/output error"), CheckpointError, r"cannot be written \(Input/output error\)"),
    (KeyboardInterrupt(), KeyboardInterrupt, None),
]


@pytest.mark.parametrize(("failure", "raised", "said"), FAILURES, ids=["full", "broken", "stopped"])
def test_a_disk_that_refuses_midway_leaves_the_file_before(
    failure: BaseException, raised: type[BaseException], said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    before = written(path, {"a": np.arange(9)}, {"step": "1"})
    with pytest.raises(raised, match=said) as caught:
        write(path, {"ramp": Ramp(PIECE, until=PIECE // 2, failure=failure)}, {"step": "2"})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and names_in(tmp_path) == ["model.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    before = written(path, {"a": np.arange(9)})
    (tmp_path / f".model.safetensors.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=f"^{path}: cannot be written .*; is the disk full\\?\\)$"):
        write(path, {"a": mx.arange(100_000)}, {})
    assert path.read_bytes() == before and names_in(tmp_path) == ["model.safetensors"]


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("nowhere", "file"):
        with pytest.raises(CheckpointError, match=f"{folder}/m: cannot be written"):
            write(tmp_path / folder / "m", {"a": np.arange(9)}, {})
    with pytest.raises(CheckpointError, match=r"cannot be read \(No such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"cannot be read \(Is a directory"):
        read(tmp_path)


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file))[1])
    monkeypatch.setattr(Path, "replace", lambda *names: (done.append("rename"), replace(*names))[1])
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    write(tmp_path / "m", {"a": np.arange(9)}, {})
    assert done == ["sync", "rename", "sync"]  # the file, its name, the folder
    done.clear()
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda file, command: done.append(f"full {command}"))
    write(tmp_path / "m", {"a": np.arange(9)}, {})
    assert done == ["full 51", "rename", "sync"]
    done.clear()

    def unknown(file: int, command: int) -> None:
        raise OSError(errno.ENOTSUP, "a network drive")

    monkeypatch.setattr(fcntl, "fcntl", unknown)
    write(tmp_path / "m", {"a": np.arange(9)}, {})
    assert done == ["sync", "rename", "sync"]


# nothing else is believed


def crafted(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """A file of these parts; a header's arrays may be written [dtype, shape, data_offsets]."""
    if isinstance(header, dict):
        entries = {
            name: dict(zip(("dtype", "shape", "data_offsets"), told, strict=True)) if isinstance(told, list) else told
            for name, told in header.items()
        }
        header = json.dumps(entries).encode()
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(**changed: object) -> bytes:
    """A file with one array of 4 float32, but for what is changed."""
    return crafted({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changed}})


GOOD = {
    "plain": entry(),
    "no metadata": crafted({"__metadata__": None, "a": ["F32", [4], [0, 16]]}),
    "no arrays": crafted({}, b""),
    "one number": crafted({"a": ["F64", [], [0, 8]]}, bytes(8)),
    "nothing in it": crafted({"a": ["F32", [4], [0, 16]], "b": ["F32", [3, 0, 9], [16, 16]]}),
    "nothing between": crafted({"c": ["U8", [8], [8, 16]], "b": ["F32", [0], [8, 8]], "a": ["U8", [8], [0, 8]]}),
    "not in order": crafted({"b": ["I32", [2], [8, 16]], "a": ["F64", [1], [0, 8]]}),
    "padded": crafted(json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode() + b" \n\t "),
}
REPEATED = (
    b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
)
BAD = {
    "empty file": b"",
    "seven bytes": bytes(7),
    "eight zeros": bytes(8),
    "a text": b"Once upon a time there was a file that was no checkpoint.",
    "header of one byte": crafted(b"{"),
    "header beyond the file": crafted({}, b"", length=3),
    "header of 2^63 bytes": crafted({}, length=2**63),
    "header of all ones": crafted({}, length=2**64 - 1),
    "header over 16 MB": crafted(b"{}" + b" " * (16 * 2**20), b""),
    "not UTF-8": crafted(b'{"\xff": 1}'),
    "a byte order mark": crafted(b"\xef\xbb\xbf{}", b""),
    "no JSON": crafted(b"{]"),
    "half a JSON": crafted(b'{"a": {"dtype": "F32"'),
    "two JSONs": crafted(b"{}{}", b""),
    "NULs after the header": crafted(b"{}\0\0", b""),
    "a space before it": crafted(b" {}", b""),
    "a list": crafted([1, 2]),
    "a number": crafted(b"17", b""),
    "a string": crafted(b'"{}"', b""),
    "null": crafted(b"null", b""),
    "deep lists": crafted(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep objects": crafted(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "deep metadata": crafted(b'{"__metadata__":' + b"[" * 5_000 + b"]" * 5_000 + b"}", b""),
    "an array twice": crafted(REPEATED),
    "metadata twice": crafted(b'{"__metadata__":{},"__metadata__":{}}', b""),
    "a key twice": crafted(b'{"a":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "a metadata name twice": crafted(b'{"__metadata__":{"x":"1","x":"1"}}', b""),
    "metadata of numbers": crafted({"__metadata__": {"a": 1}}, b""),
    "metadata within metadata": crafted({"__metadata__": {"a": {}}}, b""),
    "metadata that is a list": crafted(b'{"__metadata__":[]}', b""),
    "metadata that is false": crafted(b'{"__metadata__":false}', b""),
    "metadata that is a text": crafted(b'{"__metadata__":""}', b""),
    "half a surrogate in a name": crafted(b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "half a surrogate in metadata": crafted(b'{"__metadata__":{"a":"\\udc00"}}', b""),
    "an array that is a list": crafted(b'{"a":[]}', b""),
    "an array that is null": crafted(b'{"a":null}', b""),
    "an array that is a text": crafted(b'{"a":"dtype"}', b""),
    "no type": crafted(b'{"a":{"shape":[4],"data_offsets":[0,16]}}'),
    "no shape": crafted(b'{"a":{"dtype":"F32","data_offsets":[0,16]}}'),
    "no place": crafted(b'{"a":{"dtype":"F32","shape":[4]}}'),
    "one key more": entry(pickle="gASV"),
    "an unknown type": entry(dtype="F7"),
    "a type in small letters": entry(dtype="f32"),
    "a type that is a number": entry(dtype=32),
    "a type that is a list": entry(dtype=["F32"]),
    "a type that is null": entry(dtype=None),
    "a shape that is a number": entry(shape=4),
    "a shape that is a text": crafted({"a": ["F32", "", [0, 4]]}, bytes(4)),
    "a shape that is an object": crafted({"a": ["F32", {}, [0, 4]]}, bytes(4)),
    "a shape that is null": entry(shape=None),
    "a float as size": entry(shape=[4.0]),
    "an exponent as size": crafted(b'{"a":{"dtype":"F32","shape":[4e0],"data_offsets":[0,16]}}'),
    "a truth as size": crafted({"a": ["F32", [True], [0, 4]]}, bytes(4)),
    "a text as size": entry(shape=["4"]),
    "NaN as size": entry(shape=[float("nan")]),
    "infinity as size": entry(shape=[float("inf")]),
    "a negative size": entry(shape=[-4]),
    "two negative sizes": entry(shape=[-2, -2]),
    "minus zero": crafted(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[-0,16]}}'),
    "a size of 2^64": entry(shape=[2**64 + 4]),
    "a size of 5,000 digits": crafted(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5_000 + b'],"data_offsets":[0,16]}}'),
    "a product that overflows to 4": entry(shape=[2**32, 2**32 + 1, 4]),
    "a huge product times nothing": crafted({"a": ["F32", [2**47, 2**47, 0], [0, 0]]}, b""),
    "nothing times a huge product": crafted({"a": ["F32", [0, 2**40, 2**40], [0, 0]]}, b""),
    "ninety dimensions": entry(shape=[4] + [1] * 89),
    "a place that is a number": entry(data_offsets=16),
    "a place that is a text": entry(data_offsets="ab"),
    "a place of one": entry(data_offsets=[16]),
    "a place of three": entry(data_offsets=[0, 8, 16]),
    "a place of floats": entry(data_offsets=[0.0, 16.0]),
    "a place of truths": crafted({"a": ["U8", [1], [False, True]]}, b"x"),
    "a place of 4,000 digits": entry(data_offsets=[0, 10**4_000]),
    "a place before the file": entry(data_offsets=[-16, 0]),
    "a place that runs backwards": entry(data_offsets=[16, 0]),
    "a place too small": entry(data_offsets=[0, 12]),
    "a place too large": crafted({"a": ["F32", [4], [0, 20]]}, bytes(20)),
    "a hole before": crafted({"a": ["F32", [3], [4, 16]]}),
    "a hole between": crafted({"a": ["U8", [4], [0, 4]], "b": ["U8", [8], [8, 16]]}),
    "an overlap": crafted({"a": ["U8", [8], [0, 8]], "b": ["U8", [12], [4, 16]]}),
    "twice the same place": crafted({"a": ["F32", [4], [0, 16]], "b": ["F32", [4], [0, 16]]}),
    "an empty array in another": crafted({"a": ["U8", [16], [0, 16]], "b": ["U8", [0], [8, 8]]}),
    "an empty array beyond": crafted({"a": ["U8", [16], [0, 16]], "b": ["U8", [0], [99, 99]]}),
    "bytes missing": entry()[:-1],
    "bytes left": entry() + b"x",
    "ten thousand and one arrays": crafted({f"{n}": ["U8", [0], [0, 0]] for n in range(10_001)}, b""),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_a_sound_file_is_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    found, metadata = read(tmp_path / "m")
    assert metadata == {}
    assert all(not array.any() for array in found.values())


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_file_that_is_none_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    for look in (read, check_header):
        with pytest.raises(CheckpointError) as caught:
            look(path)
        said = str(caught.value)
        assert said.startswith(f"{path}: not a checkpoint, or a ") and len(said) < len(str(path)) + 200
        assert said.isprintable() and said.encode()


def test_names_that_are_no_words_are_shown_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(crafted({"\n\x1b[31m" + "x" * 999: ["F7", [4], [0, 16]]}))
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path / "m")
    assert str(caught.value).isprintable() and len(str(caught.value)) < len(str(tmp_path)) + 200


# weights


def test_weights_are_copied_out_of_the_file(path: Path) -> None:
    mx.random.seed(0)
    model = s06_rnn.RNN(s06_rnn.Config(width=8), 20)
    saved = {name: np.array(array) for name, array in model.arrays().items()}
    write(path, model.arrays(), {})
    other = s06_rnn.RNN(s06_rnn.Config(width=8), 20)
    other.restore(read(path)[0])
    held = {name: array.copy() for name, array in saved.items()}
    for own in (other, model):
        own.restore(held)
    for array in held.values():
        array[:] = 7
    for own in (other, model):
        assert all(same(np.array(array), saved[name]) for name, array in own.arrays().items())
    other.restore(model.arrays())
    assert all(same(np.array(array), saved[name]) for name, array in other.arrays().items())


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int32, np.bool_])
def test_weights_of_another_type_shape_or_name_are_refused(kind: type) -> None:
    model = s06_rnn.RNN(s06_rnn.Config(width=8), 20)
    saved = {name: np.array(array) for name, array in model.arrays().items()}
    first = next(iter(saved))
    with pytest.raises(CheckpointError, match=f"^{first} holds {np.dtype(kind)}, this model wants float32$"):
        model.restore({**saved, first: saved[first].astype(kind)})
    with pytest.raises(CheckpointError, match=f"^{first} has shape"):
        model.restore({**saved, first: saved[first][:1]})
    with pytest.raises(CheckpointError, match="without"):
        model.restore({name: array for name, array in saved.items() if name != first})
    with pytest.raises(CheckpointError, match="unknown extra"):
        model.restore({**saved, "extra": saved[first]})
    assert all(same(np.array(array), saved[name]) for name, array in model.arrays().items())
