"""The generate door: whatever is piped in, asked for or interrupted, it writes text or one clear line."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gpt import checkpoint, generate, stages
from mlx_gpt.checkpoint import Card
from mlx_gpt.corpus import Corpus
from mlx_gpt.model import LanguageModel
from tests.conftest import attentive


@pytest.fixture(scope="module")
def folder(rough: Callable[[int], LanguageModel], corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model files of stages 4, 7 and 11."""
    folder = tmp_path_factory.mktemp("runs")
    for number in (4, 7, 11):
        tiny = stages.stage(number).tiny
        facts = (corpus.tokenizer.vocab_size, corpus.source, corpus.digest, corpus.text, 1, True, {})
        card = Card(number, "tiny", tiny.config, tiny.recipe, *facts)
        checkpoint.save(folder / str(number), rough(number), corpus.tokenizer, card)
    return folder


def walk(*args: object, piped: bytes | None = None) -> Result:
    return CliRunner().invoke(generate.main, [str(arg) for arg in args], input=piped)


def error_of(result: Result) -> str:
    """The one line that says what was wrong."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    [line] = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("number", [4, 7, 11])
@pytest.mark.parametrize(
    "text",
    ["", " ", "<s>", "</s><unk><|endoftext|>", "a\0b", "\u2581 日本語 \U0001f600", "word " * 500, "\r\n\ttab\n"],
    ids=repr,
)
def test_any_text_is_a_prompt(number: int, text: str, folder: Path) -> None:
    piped = walk("--run", folder / str(number), "--prompt", "-", "--tokens", 5, piped=text.encode())
    assert piped.exit_code == 0 and piped.stdout_bytes.startswith(text.encode()) and not piped.stderr
    given = walk("--run", folder / str(number), "--prompt", text, "--tokens", 5)
    assert given.stdout_bytes == piped.stdout_bytes


def test_a_megabyte_is_a_prompt(folder: Path) -> None:
    text = "a tale of many words and of no end, " * 29_000
    for number in (4, 11):
        result = walk("--run", folder / str(number), "--prompt", "-", "--tokens", 3, piped=text.encode())
        assert result.exit_code == 0 and result.stdout.startswith(text)


def test_bytes_that_are_no_text_are_one_line(folder: Path) -> None:
    result = walk("--run", folder / "11", "--prompt", "-", piped=b"PNG\x89\xff\0")
    assert "standard input is not UTF-8 text (at byte 3)" in error_of(result)
    assert "not valid Unicode" in error_of(walk("--run", folder / "11", "--prompt", "a\udcff"))


def test_an_empty_stop_string_is_one_line(folder: Path) -> None:
    assert "--stop" in error_of(walk("--run", folder / "11", "--stop", "x", "--stop", ""))


def test_samples_are_those_that_are_written_alone_and_end_before_stop_strings(folder: Path) -> None:
    args = ("--run", folder / "4", "--prompt", "The", "--stop", "ing", "--stop", ".")
    alone = [walk(*args, "--seed", seed).stdout.removesuffix("\n") for seed in (5, 6, 7)]
    together = walk(*args, "--seed", 5, "--samples", 3).stdout.split("--- sample ")
    assert [each.partition("\n")[2].removesuffix("\n") for each in together[1:]] == alone
    assert all("." not in text and "ing" not in text for text in alone)
    free = [walk(*args[:4], "--seed", seed).stdout for seed in (5, 6, 7)]
    assert all(longer.startswith(text) for longer, text in zip(free, alone, strict=True)) and "".join(free) != "".join(
        alone
    )


def test_the_cache_is_written_used_and_refused(folder: Path, tmp_path: Path) -> None:
    args = ("--run", folder / "7", "--tokens", 20, "--prompt")
    cached = ("--cache", tmp_path / "m")
    first = walk(*args, "Once upon a time", *cached)
    assert (tmp_path / "m").is_file() and not first.stderr
    for prompt in ("Once upon a time", "Once upon a time there was"):
        result = walk(*args, prompt, *cached)
        assert result.stdout == walk(*args, prompt).stdout and not result.stderr
    other = walk(*args, "Another text", *cached)
    assert other.stdout == walk(*args, "Another text").stdout and "not used" in other.stderr
    assert "of another model" in error_of(walk("--run", folder / "11", *cached))
    assert "not a saved memory" in error_of(walk("--run", folder / "7", "--cache", folder / "11"))
    (tmp_path / "text").write_text("no memory")
    assert "not a checkpoint" in error_of(walk("--run", folder / "7", "--cache", tmp_path / "text"))
    nowhere = walk("--run", folder / "7", "--prompt", "Once upon", "--cache", tmp_path / "no" / "m")
    assert "cannot be written" in error_of(nowhere)


@pytest.mark.parametrize("number", [4, 11])
def test_an_interrupt_ends_it_without_a_traceback(number: int, folder: Path) -> None:
    code = "from mlx_gpt.generate import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "--run",
        str(folder / str(number)),
        "--tokens",
        "100000000",
        "--samples",
        "2",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=attentive,
    )
    assert process.stdout is not None
    process.stdout.read(200)  # it is writing
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == b"\nstopped\n"


@pytest.mark.parametrize("draft", ["4", "7", "prompt"])
def test_a_draft_changes_no_greedy_text_and_tells_what_it_was_worth(draft: str, folder: Path) -> None:
    own = ("--run", folder / "11", "--prompt", "One day, one day", "--temperature", 0, "--tokens", 40)
    drafted = walk(*own, "--draft", draft if draft == "prompt" else folder / draft)
    assert drafted.exit_code == 0, drafted.output
    assert drafted.stdout == walk(*own).stdout
    assert "tokens accepted" in drafted.stderr and "tokens a pass" in drafted.stderr


def test_drafts_make_a_cascade_and_the_text_is_its_end(folder: Path) -> None:
    own = ("--run", folder / "11", "--prompt", "One day, one day", "--tokens", 30, "--frequency-penalty", 0.5)
    greedy = (*own, "--temperature", 0)
    drafts = ("--draft", folder / "7", "--draft", folder / "4", "--draft", "prompt")
    assert walk(*greedy, *drafts).stdout == walk(*greedy).stdout
    assert walk(*own, *drafts).stdout == walk(*own, *drafts).stdout
    assert "name it last" in error_of(walk(*own, "--draft", "prompt", "--draft", folder / "4"))


def test_probabilities_are_shown_without_a_change_of_text(folder: Path) -> None:
    own = ("--run", folder / "11", "--prompt", "One day", "--tokens", 30)
    shown = walk(*own, "--show-probabilities")
    assert shown.exit_code == 0 and shown.stdout == walk(*own).stdout  # no colours in a pipe
    assert "bits a token" in shown.stderr


def test_what_does_not_go_together_is_one_line(folder: Path, tmp_path: Path) -> None:
    run = ("--run", folder / "11")
    assert "--cache" in error_of(walk(*run, "--draft", "prompt", "--cache", tmp_path / "x"))
    assert "--stop" in error_of(walk(*run, "--show-probabilities", "--stop", "a"))
    assert "no" in error_of(walk(*run, "--draft", tmp_path / "nothing"))
