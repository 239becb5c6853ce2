"""Saving: killed or refused by the disk at every single step, there is a whole checkpoint, and one writer a folder."""

import contextlib
import errno
import fcntl
import io
import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_gpt import safetensors
from mlx_gpt.errors import CheckpointError, SettingError
from mlx_gpt.replacing import alone, replacing, sweep

ROOT = Path(__file__).parents[1]
MODEL, PREVIOUS = "last.safetensors", "last.previous.safetensors"


class Killed(BaseException):
    """What a process notices of kill -9: nothing; no clean-up after it reaches the disk."""


class Disk:
    """Everything a save asks of the disk, in order; call number `at` fails, or is the one before which it is killed.

    lasting  all later calls fail as well, but for those that give room back: a disk that is full stays full
    links    without them the folder is one of a drive that has no hard links
    """

    def __init__(
        self, at: int = -1, failure: int | type[Killed] = errno.EIO, lasting: bool = False, links: bool = True
    ) -> None:
        self.at, self.failure, self.lasting, self.links = at, failure, lasting, links
        self.done: list[str] = []
        self.dead = False

    def step(self, name: str) -> None:
        if self.dead:
            raise Killed
        self.done.append(name)
        late = self.lasting and len(self.done) - 1 > self.at >= 0 and name not in ("unlink", "close", "close folder")
        if len(self.done) - 1 == self.at or late:
            if isinstance(self.failure, int):
                raise OSError(self.failure, os.strerror(self.failure))
            self.dead = True
            raise Killed

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Between here and the end every call of a save goes through `step`."""
        with pytest.MonkeyPatch.context() as patch:
            fsync, opened, close, replace, link, unlink = (
                os.fsync,
                os.open,
                os.close,
                os.replace,
                os.link,
                os.unlink,
            )
            patch.delattr(fcntl, "F_FULLFSYNC", raising=False)  # on macOS it stands where fsync does
            patch.setattr(pathlib.Path, "open", lambda path, mode: Page(self, path))
            patch.setattr(os, "fsync", lambda file: (self.step("fsync"), fsync(file)))
            patch.setattr(os, "open", lambda path, flags: (self.step("open folder"), opened(path, flags))[1])
            patch.setattr(os, "close", lambda file: (close(file), self.step("close folder")))  # the kernel closes too
            patch.setattr(os, "replace", lambda a, b: (self.step("replace"), replace(a, b)))
            patch.setattr(os, "unlink", lambda path: (self.step("unlink"), unlink(path)))

            def linking(a: Path, b: Path) -> None:
                self.step("link")
                if not self.links:
                    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
                link(a, b)

            patch.setattr(os, "link", linking)
            yield


class Page:
    """A file as Python buffers it: what is written reaches the disk at a flush, and half of it at one that fails."""

    def __init__(self, disk: Disk, path: Path) -> None:
        disk.step("open")
        self.disk, self.held, self.raw = disk, b"", io.FileIO(path, "w")

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            self.flush()
            self.disk.step("close")
        finally:
            self.raw.close()

    def write(self, data: bytes | memoryview) -> None:
        self.disk.step("write")
        self.held += bytes(data)

    def flush(self) -> None:
        alive = not self.disk.dead
        try:
            self.disk.step("flush")
        except BaseException:
            if alive:
                self.raw.write(self.held[: len(self.held) // 2])
            raise
        self.raw.write(self.held)
        self.held = b""

    def seek(self, at: int) -> None:
        self.flush()
        self.disk.step("seek")
        self.raw.seek(at)

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()


SCENARIOS = {
    # name: saves before, whether the one before is kept, whether there are hard links
    "the first save": (0, True, True),
    "over another": (1, True, True),
    "over two": (2, True, True),
    "over one that is kept already": (1, True, True),
    "over another without hard links": (1, True, False),
    "over two without hard links": (2, True, False),
    "over another, keeping none": (1, False, True),
}
ERRORS = [
    (errno.ENOSPC, False),
    (errno.ENOSPC, True),
    (errno.EIO, False),
    (errno.EIO, True),
    (errno.EACCES, False),
]
scenarios = pytest.mark.parametrize("scenario", SCENARIOS)


def save(folder: Path, number: int, keep: bool = True) -> None:
    """A checkpoint of three writes, its number in its name and in its numbers."""
    arrays = {"a": np.full(1_000, number), "b": np.full(500, number, np.float32)}
    safetensors.write(folder / MODEL, arrays, {"step": f"{number}"}, folder / PREVIOUS if keep else None)


def prepared(scenario: str, folder: Path) -> int:
    """Make the saves before; returns how many."""
    before, keep, _ = SCENARIOS[scenario]
    folder.mkdir()
    for number in range(before):
        save(folder, number, keep)
    if scenario == "over one that is kept already":  # as a kill between two steps leaves it
        os.link(folder / MODEL, folder / PREVIOUS)
    return before


def held(folder: Path) -> dict[str, int]:
    """The number of every checkpoint in a folder; fails where one is not whole, or something else is there."""
    found = {}
    for path in folder.iterdir():
        assert path.name in (MODEL, PREVIOUS)
        arrays, metadata = safetensors.read(path, verify=True)
        found[path.name] = int(metadata["step"])
        assert (arrays["a"] == found[path.name]).all() and (arrays["b"] == found[path.name]).all()
    return found


def steps(scenario: str, folder: Path) -> list[str]:
    """The calls of a save that nothing disturbs."""
    number = prepared(scenario, folder)
    disk = Disk(links=SCENARIOS[scenario][2])
    with disk.watched():
        save(folder, number, SCENARIOS[scenario][1])
    expected = {MODEL: number}
    if number and SCENARIOS[scenario][1]:
        expected[PREVIOUS] = number - 1
    assert held(folder) == expected
    return disk.done


def test_a_save_keeps_the_one_before_and_no_other(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path, number)
        assert held(tmp_path) == ({MODEL: number, PREVIOUS: number - 1} if number else {MODEL: 0})


def test_there_are_enough_steps_to_fail_at(tmp_path: Path) -> None:
    counts = {scenario: len(steps(scenario, tmp_path / scenario)) for scenario in SCENARIOS}
    done = steps("over two", tmp_path / "again")
    assert {"open", "write", "flush", "seek", "fsync", "close", "link", "replace", "unlink"} <= set(done)
    assert done.count("fsync") == 2 and done.count("replace") == 2
    assert min(counts.values()) >= 12 and sum(counts.values()) >= 36


@scenarios
def test_killed_at_any_step_a_whole_checkpoint_is_there(scenario: str, tmp_path: Path) -> None:
    before, keep, links = SCENARIOS[scenario]
    for at in range(len(steps(scenario, tmp_path / "clean"))):
        folder = tmp_path / f"{at}"
        prepared(scenario, folder)
        disk = Disk(at, Killed, links=links)
        with disk.watched(), contextlib.suppress(Killed):
            save(folder, before, keep)
        assert disk.dead, "a save that did not notice"
        whole = [safetensors.read(path, verify=True)[1]["step"] for path in folder.iterdir() if path.suffix != ".part"]
        assert not before or str(before) in whole or str(before - 1) in whole
        if links and before:
            assert (folder / MODEL).exists()
        sweep(folder)  # a process that was killed had another number, but this is the one case where ours is swept
        found = held(folder)
        assert found.get(MODEL, before) in (before, before - 1)
        save(folder, before + 1, keep)
        after = held(folder)
        assert after[MODEL] == before + 1
        assert after.get(PREVIOUS) == (found.get(MODEL, found.get(PREVIOUS)) if keep else None)


@scenarios
@pytest.mark.parametrize(
    ("number", "lasting"), ERRORS, ids=["full", "full for good", "broken", "broken for good", "denied"]
)
def test_refused_at_any_step_a_whole_checkpoint_is_there_and_nothing_else(
    scenario: str, number: int, lasting: bool, tmp_path: Path
) -> None:
    before, keep, links = SCENARIOS[scenario]
    refused, done = 0, steps(scenario, tmp_path / "clean")
    for at, step in enumerate(done):
        folder = tmp_path / f"{at}"
        prepared(scenario, folder)
        earlier = held(folder)
        said = ""
        disk = Disk(at, number, lasting, links)
        try:
            with disk.watched():
                save(folder, before, keep)
        except CheckpointError as error:
            said, refused = str(error), refused + 1
        if step == "unlink":
            sweep(folder)  # who cannot clean up leaves that to the next
        found = held(folder)  # no temporary among them
        if not said:  # a link or a clean-up that failed is no reason to give up
            assert step in ("unlink", "link", "replace") and found[MODEL] == before
            assert not (keep and before) or found[PREVIOUS] == before - 1
            continue
        full = "; is the disk full?" if number == errno.ENOSPC else ""
        assert said == f"{folder / MODEL}: cannot be written ({os.strerror(number)}{full})"
        in_place = "replace" in done[:at] if links else "replace" not in done[at:]
        if in_place:  # and whole, but perhaps not after a power cut
            assert found[MODEL] == before
        elif lasting and not links and step == "replace":  # nothing could be put back either
            assert found.get(MODEL, found.get(PREVIOUS)) == earlier[MODEL]
        elif before:
            assert found[MODEL] == earlier[MODEL]
        else:
            assert found == {}
    assert refused >= 10


def test_a_folder_that_cannot_be_synchronised_is_no_reason_to_stop(tmp_path: Path) -> None:
    done = steps("over another", tmp_path / "clean")
    last = len(done) - 1 - done[::-1].index("fsync")
    for number in (errno.EINVAL, errno.ENOTSUP):  # network drives
        folder = tmp_path / str(number)
        prepared("over another", folder)
        with Disk(last, number).watched():
            save(folder, 1)
        assert held(folder) == {MODEL: 1, PREVIOUS: 0}


def test_something_that_is_no_file_is_never_moved_away(tmp_path: Path) -> None:
    (tmp_path / MODEL).mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path, 1)
    assert (tmp_path / MODEL).is_dir() and len(list(tmp_path.iterdir())) == 1
    (tmp_path / MODEL).rmdir()
    (tmp_path / PREVIOUS).mkdir()
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path, 2)
    assert (tmp_path / PREVIOUS).is_dir() and len(list(tmp_path.iterdir())) == 2
    assert safetensors.read(tmp_path / MODEL, verify=True)[1] == {"step": "2"}


def test_killed_at_any_step_over_a_damaged_one_the_one_before_is_still_there(tmp_path: Path) -> None:
    for at in range(len(steps("over two", tmp_path / "clean"))):
        folder = tmp_path / f"{at}"
        prepared("over two", folder)
        os.truncate(folder / MODEL, 99)
        with Disk(at, Killed).watched(), contextlib.suppress(Killed):
            save(folder, 2)
        sweep(folder)
        whole = set()
        for path in folder.iterdir():
            with contextlib.suppress(CheckpointError):
                whole.add(safetensors.read(path, verify=True)[1]["step"])
        assert whole & {"0", "2"}, at


def test_a_save_through_a_link_leaves_the_link(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / MODEL).symlink_to(tmp_path / "else" / "model")
    for number in range(2):
        save(tmp_path, number)
    assert (tmp_path / MODEL).is_symlink()
    assert safetensors.read(tmp_path / "else" / "model", verify=True)[1] == {"step": "1"}
    assert safetensors.read(tmp_path / PREVIOUS, verify=True)[1] == {"step": "0"}


# processes that are really killed

DYING = """
import os, sys
from pathlib import Path
from mlx_gpt.replacing import replacing
folder, number, left = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def dying(call):
    def called(*given, **named):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return call(*given, **named)
    return called
for name in ("fsync", "open", "close", "replace", "link", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
for number in range(number, number + 1 if left else 10**9):
    with replacing(folder / "model", folder / "before") as file:
        for _ in range(20):
            file.write(bytes([number % 256]) * 50_000)
    print(number, flush=True)
"""


def child(code: str, *given: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, given)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


def numbers(folder: Path) -> dict[str, int]:
    """What each file of a dying process holds: one million times the same byte, or the test fails."""
    found = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        assert len(content) == 1_000_000 and len(set(content)) == 1, path.name
        found[path.name] = content[0]
    return found


def test_a_process_that_dies_between_any_two_calls_leaves_a_whole_file(tmp_path: Path) -> None:
    for name, number in (("model", 1), ("before", 0)):
        (tmp_path / name).write_bytes(bytes([number]) * 1_000_000)
    for at in itertools.count(1):
        process = child(DYING, tmp_path, 2, at)
        process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == 9
        sweep(tmp_path)
        found = numbers(tmp_path)
        assert found["model"] in (1, 2) and found["before"] in (0, 1), at
        if found["model"] == 2:
            (tmp_path / "model").write_bytes(bytes([1]) * 1_000_000)
        if at > 20:
            pytest.fail("it never ends")
    assert at > 8  # fsync, unlink, link, replace, unlink, replace, open, fsync, close


def test_a_process_killed_at_random_leaves_a_whole_file(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(6):
        process = child(DYING, tmp_path, 1, 0)
        assert process.stdout is not None
        first = int(process.stdout.readline())
        time.sleep(chance.random() / 20)
        process.kill()
        process.communicate(timeout=60)
        sweep(tmp_path)
        found = numbers(tmp_path)
        assert found.keys() >= {"model"} and len(found) <= 2 and found["model"] >= first % 256


def test_only_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    ended = child("")
    ended.communicate(timeout=60)
    with contextlib.ExitStack() as stack:
        lives = child("input()", stdin=subprocess.PIPE)
        stack.callback(lives.communicate)
        dead = [f".model.{ended.pid}.part", f".a.b.{ended.pid}.part", f".\n.{ended.pid}.part", f".m.{os.getpid()}.part"]
        others = [
            f".model.{lives.pid}.part",
            f"model.{ended.pid}.part",
            ".model.part",
            ".model.0.part",
            ".model.x.part",
            f".model.{10**12}.part",
            f".model.{ended.pid}.part.txt",
            f".model.{ended.pid}.part.part",
            "model",
        ]
        for name in (*dead, *others):
            (tmp_path / name).write_text("")
        (tmp_path / f".folder.{ended.pid}.part").mkdir()
        sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*others, f".folder.{ended.pid}.part"}
    sweep(tmp_path / "nowhere")


# one writer a folder

HOLDING = """
import sys
from pathlib import Path
from mlx_gpt.replacing import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has a folder for itself until it is told to end."""
    process = child(HOLDING, folder, stdin=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate(timeout=60)


def taken(folder: Path, process: int) -> None:
    with pytest.raises(SettingError) as caught, alone(folder):
        pytest.fail("two at a time")
    remedy = "wait for it or name another folder"
    assert str(caught.value) == f"--run {folder}: another training writes here (process {process}); {remedy}"


def test_two_processes_exclude_each_other(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        taken(tmp_path, process.pid)
        taken(tmp_path, process.pid)  # being refused changes nothing
    assert process.returncode == 0 and list(tmp_path.iterdir()) == []
    with alone(tmp_path):
        taken(tmp_path, os.getpid())
        other = child(HOLDING, tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = other.communicate(timeout=60)[1]
        assert other.returncode == 1 and f"(process {os.getpid()})" in said
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        with alone(tmp_path):
            taken(tmp_path, os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_an_earlier_process_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("123456789\n")
    with alone(tmp_path):
        taken(tmp_path, os.getpid())


def test_no_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    opened = len(os.listdir("/dev/fd"))
    with alone(tmp_path / "other"):
        for _ in range(5):
            with alone(tmp_path):
                taken(tmp_path, os.getpid())
                taken(tmp_path / "other", os.getpid())
            save(tmp_path, 1)
    assert len(os.listdir("/dev/fd")) == opened


def test_the_folder_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path):
        raise ZeroDivisionError
    with alone(tmp_path):
        pass


def test_a_folder_that_is_renamed_stays_locked_and_one_in_its_place_is_free(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"
    run.mkdir()
    with alone(run):
        run.rename(kept)
        run.mkdir()
        taken(kept, os.getpid())
        with alone(run):
            taken(run, os.getpid())
    assert list(kept.iterdir()) == list(run.iterdir()) == []


def test_never_two_at_a_time_whoever_leaves_and_comes(tmp_path: Path) -> None:
    inside, most, times = [0], [0], [0]
    count = threading.Lock()

    def come_and_go() -> None:
        for _ in range(150):
            with contextlib.suppress(SettingError), alone(tmp_path):
                with count:
                    inside[0], times[0] = inside[0] + 1, times[0] + 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0)
                with count:
                    inside[0] -= 1

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and times[0] > 10 and list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_before_it_was_taken_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()  # by the process that had it
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with alone(tmp_path):
        taken(tmp_path, os.getpid())
    assert len(calls) == 3


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK, errno.EBADF])
def test_a_file_system_without_locks_keeps_nobody_from_training(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(file: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refusing)
    with alone(tmp_path), alone(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with alone(tmp_path), pytest.raises(SettingError, match="another training writes here; wait"), alone(tmp_path):
            pass


def test_a_folder_that_is_none_or_a_lock_that_leads_elsewhere_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere: cannot be written .*; name another folder$"):
        alone(tmp_path / "nowhere").__enter__()
    (tmp_path / "victim").write_text("text")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(SettingError, match="cannot be written"):
        alone(tmp_path).__enter__()
    assert (tmp_path / "victim").read_text() == "text"
    with pytest.raises(SettingError, match="cannot be written"):
        alone(tmp_path / "victim").__enter__()


def test_a_device_is_written_to_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with replacing(tmp_path / "pipe", tmp_path / "before") as file:
        file.write(b"through")
    reader.join(60)
    assert heard == [b"through"] and [path.name for path in tmp_path.iterdir()] == ["pipe"]
