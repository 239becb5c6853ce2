"""Writing by turns: every command, mistake, interrupt and end, through pipes and at a terminal."""

import contextlib
import errno
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gpt import checkpoint, generate, stages
from mlx_gpt.checkpoint import Card
from mlx_gpt.corpus import Corpus, Source, open_corpus
from mlx_gpt.model import LanguageModel, Silent
from tests.conftest import attentive

DOOR = [sys.executable, "-c", "from mlx_gpt.generate import main; main()"]
WITHOUT_READLINE = [sys.executable, "-c", "import sys; sys.modules['readline'] = None; " + DOOR[2]]


@pytest.fixture(scope="module")
def folder(
    rough: Callable[[int], LanguageModel], corpus: Corpus, story_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Model files of stages 4 and 11, and one of stage 4 over bytes."""
    folder = tmp_path_factory.mktemp("runs")
    stage = stages.stage(4)
    other = open_corpus(Source((str(story_file),), "byte", 257, 0), lambda message: None)
    counted = stage.model(stage.tiny.config, other.tokenizer.vocab_size)
    counted.fit(other, stage.tiny.recipe, Silent())
    for name, number, model, text in (
        ("4", 4, rough(4), corpus),
        ("11", 11, rough(11), corpus),
        ("bytes", 4, counted, other),
    ):
        tiny = stages.stage(number).tiny
        facts = (text.tokenizer.vocab_size, text.source, text.digest, text.text, 1, True, {})
        checkpoint.save(folder / name, model, text.tokenizer, Card(number, "tiny", tiny.config, tiny.recipe, *facts))
    return folder


def command(run: Path, *args: object) -> list[str]:
    return ["--run", str(run), "--interactive", "--tokens", "12", *map(str, args)]


def talk(run: Path, typed: str | bytes, *args: object) -> tuple[str, list[str]]:
    """What a session of typed lines writes, and its lines on standard error."""
    result = CliRunner().invoke(generate.main, command(run, *args), input=typed)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes.decode(), result.stderr.splitlines()


def talk_through_pipes(run: Path, typed: str | bytes, *args: object) -> tuple[str, list[str]]:
    """The same, in a process of its own."""
    typed = typed.encode() if isinstance(typed, str) else typed
    done = subprocess.run([*DOOR, *command(run, *args)], input=typed, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(), done.stderr.decode().splitlines()


def alone(run: Path, prompt: str, *args: object) -> str:
    """What the door writes after one prompt."""
    words = ["--run", str(run), "--tokens", "12", "--prompt", prompt, *map(str, args)]
    result = CliRunner().invoke(generate.main, words)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes.decode()


@pytest.mark.parametrize("name", ["4", "11"])
def test_each_line_is_a_prompt_until_the_end_of_file(name: str, folder: Path) -> None:
    run = folder / name
    prompts = ["Once upon", " \ttwo  blanks ", "日本語", "The last has no end of line"]
    written, said = talk_through_pipes(run, "\n".join(prompts), "--temperature", 0.5, "--seed", 3)
    assert written == "".join(alone(run, each, "--temperature", 0.5, "--seed", 3) for each in prompts) and not said
    assert talk(run, "\r\n".join(prompts), "--temperature", 0.5, "--seed", 3) == (written, [])
    assert talk(run, "") == ("", [])


def test_again_takes_the_next_seed_and_seed_any(folder: Path) -> None:
    run = folder / "4"
    written, said = talk(run, "The\n/again\n/again\n/seed 0\nThe\n/seed 9223372036854775807\nThe\n")
    assert written == "".join(alone(run, "The", "--seed", seed) for seed in (0, 1, 2, 0, 2**63 - 1)) and not said


def test_an_empty_line_goes_on_with_the_text_and_again_does_that_anew(folder: Path) -> None:
    run = folder / "4"
    first = alone(run, "The").removesuffix("\n")
    rest = [alone(run, first, "--seed", seed).removeprefix(first) for seed in (1, 2)]
    written, said = talk(run, "The\n\n/again\n")
    assert written == f"{first}\n" + "".join(rest) and not said
    assert talk(run, "\n") == (alone(run, ""), [])


def test_settings_tokens_and_stops_change_what_follows(folder: Path) -> None:
    run = folder / "4"
    lines = "/set temperature 0\n/set top-k 7\n/set bias 40:-inf 41:2\n/tokens 30\n/stop ing\n/stop  \n/stop \\n"
    taste = ("--temperature", 0, "--top-k", 7, "--bias", "40:-inf 41:2", "--tokens", 30)
    written, said = talk(run, f"{lines}\n/settings\nOnce upon\n/stop\n/set bias\n/set min_p 1\nOnce upon\n")
    shown, texts = written.split(f"run                 4 ngram-backoff, {run}\ncompare\n")
    told = {line[:20].rstrip(): line[20:] for line in shown.splitlines()}
    assert (told["temperature"], told["top_k"], told["bias"]) == ("0.0", "7", "40:-inf 41:2")
    assert (told["tokens"], told["seed"], told["stop"]) == ("30", "0", r"'ing' ' ' '\n'")
    free = ("--temperature", 0, "--top-k", 7, "--min-p", 1, "--tokens", 30)
    stopped = alone(run, "Once upon", *taste, "--stop", "ing", "--stop", " ", "--stop", "\n")
    assert texts == stopped + alone(run, "Once upon", *free) and not said


def test_two_slashes_are_a_prompt_with_one(folder: Path) -> None:
    run = folder / "11"
    assert talk(run, "//help me\n//\n///\n") == ("".join(alone(run, each) for each in ("/help me", "/", "//")), [])
    assert talk(run, "", "--prompt", "/quit") == (alone(run, "/quit"), [])


def test_two_runs_go_on_from_the_same_prompts_each_with_its_own_tokenizer(folder: Path) -> None:
    one, two = folder / "11", folder / "bytes"
    heads = [f"--- 11 m2-gpt, {one}, seed ", f"--- 4 ngram-backoff, {two}, seed "]
    typed = f"/compare {two}\nThe 日\n\n/again\n/compare\n/seed 0\nThe 日\n"
    texts = [alone(run, "The 日").removesuffix("\n") for run in (one, two)]
    expected = [f"{head}0\n{text}\n" for head, text in zip(heads, texts, strict=True)]
    for seed in (1, 2):
        for run, head, text in zip((one, two), heads, texts, strict=True):
            expected.append(f"{head}{seed}\n" + alone(run, text, "--seed", seed).removeprefix(text))
    written, said = talk(one, typed)
    assert written == "".join(expected) + texts[0] + "\n" and not said
    joined, said = talk(one, f"The 日\n/compare {two}\n/seed 4\n/again\n")  # the second takes up the first one's text
    assert joined.endswith(f"{heads[1]}5\n" + alone(two, "The 日", "--seed", 5)) and not said


def test_save_writes_the_last_text_to_a_new_file(folder: Path, tmp_path: Path) -> None:
    one, two, saved = folder / "11", folder / "4", tmp_path / "a text.txt"
    typed = f"/save {saved}\nThe 日\n/save {saved}\n/save {saved}\n/save {tmp_path}/no/where\n/save\n"
    _, said = talk(one, typed + f"/compare {two}\nThe\n/save {saved}.both\n")
    assert saved.read_bytes().decode() == alone(one, "The 日")
    both = (f"--- 11 m2-gpt, {one}\n", alone(one, "The"), f"--- 4 ngram-backoff, {two}\n", alone(two, "The"))
    assert Path(f"{saved}.both").read_bytes().decode() == "".join(both)
    reasons = ("nothing is written yet", "is there already", "cannot be written", "expected the name of a file")
    assert len(said) == 4 and all(reason in line for reason, line in zip(reasons, said, strict=True))


def test_help_names_every_command_and_quit_leaves(folder: Path) -> None:
    written, said = talk(folder / "4", "/help\n/quit\nThe\n")
    for name in ("again", "set", "settings", "seed", "tokens", "stop", "compare", "save", "help", "quit"):
        assert f"\n/{name} " in "\n" + written
    assert "The\n" not in written and not said


MISTAKES = {
    "/again": "nothing is written yet",
    "/agian": "no command /agian; the nearest is /again",
    "/": "no command /",
    "/usr/bin is": "/help tells the commands",
    "/set": "they are temperature, top_k",
    "/set temprature 1": "the nearest is temperature",
    "/set temperature": "expected float",
    "/set temperature hot": "temperature 'hot': expected float",
    "/set temperature 500": "temperature 500.0: must be at most 100",
    "/set temperature nan": "finite",
    "/set top_k 1.5": "expected int",
    "/set bias 3": "expected id:value",
    "/seed": "expected a whole number",
    "/seed -1": "expected a whole number",
    "/seed 9223372036854775808": "expected a whole number",
    "/seed " + "9" * 5_000: "expected a whole number",
    "/tokens 0": "1 or more",
    "/tokens many": "1 or more",
    "/settings now": "nothing follows",
    "/compare nowhere": "no such folder",
    "/compare a\0b": "expected the name of a folder",
    "caf\udce9": "not UTF-8 text (at byte 3)",
}


def test_a_mistake_is_one_clear_line_and_the_session_goes_on(folder: Path) -> None:
    typed = "".join(f"{line}\n" for line in MISTAKES) + "The\n"
    written, said = talk_through_pipes(folder / "4", typed.encode(errors="surrogateescape"))
    assert written == alone(folder / "4", "The")
    assert len(said) == len(MISTAKES)
    for line, reason in zip(said, MISTAKES.values(), strict=True):
        assert line.startswith("Error: ") and reason in line


def test_a_setting_that_only_the_vocabulary_refuses_is_a_mistake_too(folder: Path) -> None:
    written, said = talk(folder / "4", "/set bias 99999:1\nThe\n/set bias\nThe\n")
    assert "the ids of this vocabulary" in said[0] and len(said) == 1
    assert written.endswith(alone(folder / "4", "The"))


@pytest.mark.parametrize("words", [("--samples", 2), ("--cache", "m"), ("--prompt", "-")])
def test_options_of_single_texts_are_refused(words: tuple[object, ...], folder: Path) -> None:
    result = CliRunner().invoke(generate.main, command(folder / "4", *words))
    assert result.exit_code == 2 and "--interactive" in result.stderr


def test_an_interrupt_while_writing_stops_that_text_and_two_leave(folder: Path) -> None:
    process = subprocess.Popen(
        [*DOOR, *command(folder / "4", "--tokens", 10**8)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        preexec_fn=attentive,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"The\n")
    process.stdout.read(200)
    process.send_signal(signal.SIGINT)
    time.sleep(1.1)
    process.stdin.write(b"/tokens 1\n/set\n//begins\n/tokens 100000000\n//again\nThe\nThe\n")
    written = b""
    while b"\n/again" not in written:
        written += process.stdout.read(1)
    assert b"\n/begins" in written
    process.stdout.read(200)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # it writes the next one
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.endswith(b"\nstopped\n") and said.count(b"Error: ") == 1


def test_an_interrupt_between_texts_leaves(folder: Path) -> None:
    process = subprocess.Popen(
        [*DOOR, *command(folder / "4")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=attentive,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"/help\n")
    process.stdin.flush()
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == b"\nstopped\n"


class Terminal:
    """A session at a terminal: what it shows, and what is typed."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process, self.side, self.seen = process, side, ""

    def type(self, keys: str) -> None:
        os.write(self.side, keys.encode())

    def wait(self, text: str = "> ") -> str:
        """All that was shown since the last wait, up to a text."""
        until = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < until, self.seen
            if select.select([self.side], [], [], 0.1)[0]:
                self.seen += self._read()
        shown, _, self.seen = self.seen.partition(text)
        return shown.replace("\r\n", "\n")

    def _read(self) -> str:
        try:
            return os.read(self.side, 1_000).decode(errors="replace")
        except OSError as error:  # the other side is closed
            assert error.errno == errno.EIO
            raise AssertionError(self.seen) from error

    def interrupt(self) -> None:
        time.sleep(0.5)  # Python's readline overlooks a signal that comes just before it waits for a key
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        return self.process.wait(60)


@contextlib.contextmanager
def terminal(run: Path, cache: Path, door: list[str] = DOOR, **files: int) -> Iterator[Terminal]:
    side, other = pty.openpty()
    environment = os.environ | {"MLX_GPT_CACHE": str(cache), "TERM": "dumb", "INPUTRC": os.devnull}
    streams = {"stdin": other, "stdout": other, "stderr": other} | files
    process = subprocess.Popen([*door, *command(run)], env=environment, preexec_fn=attentive, **streams)
    os.close(other)
    try:
        yield Terminal(process, side)
    finally:
        process.kill()
        process.wait()
        os.close(side)


def test_lines_are_edited_and_remembered_at_a_terminal(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("readline")
    for _ in range(2):
        with terminal(folder / "4", tmp_path / "cache") as session:
            assert "/help tells the commands" in session.wait()
            session.type("Tje\x02\x7fh\n")  # one to the left, erase, h: The
            assert alone(folder / "4", "The") in session.wait()
            session.type("/nothing\n")
            assert "Error: no command /nothing" in session.wait()
            session.type("\x04")
            assert session.end() == 0
    assert (tmp_path / "cache" / "generate_history").is_file()
    with terminal(folder / "4", tmp_path / "cache") as session:
        session.wait()
        session.type("\x10\x10\n")  # the last line but one
        session.wait("\n" + alone(folder / "4", "The").splitlines()[0])


def test_an_interrupt_takes_back_a_line_or_a_text_and_leaves_an_empty_prompt(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("readline")
    with terminal(folder / "4", tmp_path) as session:
        session.wait()
        session.type("half a li")
        session.wait("half a li")
        session.interrupt()
        session.wait()
        session.type("/tokens 100000000\n")
        session.wait()
        session.type("The\n")
        session.wait("The")  # the echo
        session.wait("The")
        session.interrupt()
        session.wait("\n> ")
        session.interrupt()
        session.wait("stopped")
        assert session.end() == 130


def test_a_terminal_without_readline_and_a_place_for_history_will_do(folder: Path) -> None:
    for door, cache in ((WITHOUT_READLINE, Path(os.devnull)), (DOOR, Path(os.devnull) / "none")):
        with terminal(folder / "4", cache, door) as session:
            session.wait()
            session.type("The\n")
            assert alone(folder / "4", "The") in session.wait()
            session.type("/quit\n")
            assert session.end() == 0


def test_only_texts_go_down_a_pipe_from_a_terminal(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, terminal(folder / "4", tmp_path, stdout=out.fileno()) as session:
        session.wait()
        session.type("The\n")
        session.wait()
        session.type("\x04")
        assert session.end() == 0
    assert (tmp_path / "out").read_bytes().decode() == alone(folder / "4", "The")
