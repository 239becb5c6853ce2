"""The generate door: whatever is piped in, asked for or interrupted, it writes text or one clear line."""

import itertools
import json
import os
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
from tests.conftest import attentive, with_slow


@pytest.fixture(scope="module")
def folder(rough: Callable[[int], LanguageModel], corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model files of every stage."""
    folder = tmp_path_factory.mktemp("runs")
    for number in stages.numbers():
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


def error_after_a_remark(result: Result) -> str:
    """The last of two lines, what was wrong; the first is a remark on the prompt."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    remark, line = result.stderr.splitlines()
    assert "of the prompt" in remark
    return line


PROMPTS = [
    "",
    " ",
    "\r\n\ttab\n",
    "<s>",
    "</s><unk><|endoftext|>",
    "a\0b",
    "\u2581 日本語 \U0001f600",
    "word " * 200,  # beyond the context of 32
]
MODES = {
    "alone": (),
    "draft": ("--draft", "prompt"),
    "draft by a run": ("--draft", "{folder}/2"),
    "mix": ("--mix", "{folder}/2"),
    "cache": ("--cache", "{new}"),
    "samples": ("--samples", "2"),
    "beam": ("--beam", "3"),
    "json": ("--json",),
    "alternatives": ("--alternatives", "2"),
    "probabilities": ("--show-probabilities",),
    "interactive": ("--interactive",),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", with_slow(stages.numbers(), (4, 7, 11)))
def test_any_text_is_a_prompt_of_every_stage_in_every_mode(
    number: int, mode: str, folder: Path, tmp_path: Path
) -> None:
    for at, text in enumerate(PROMPTS):
        run = "--mix" if mode == "mix" else "--run"
        words = [word.format(folder=folder, new=tmp_path / str(at)) for word in MODES[mode]]
        line = " ".join(text.splitlines())
        if mode == "interactive":
            result = walk(run, folder / str(number), "--tokens", 3, *words, piped=f"{line}\n".encode())
        else:
            result = walk(run, folder / str(number), "--tokens", 3, *words, "--prompt", "-", piped=text.encode())
        assert result.exit_code == 0 and result.exception is None, (text, result.output)
        if mode == "interactive":
            assert result.stdout.startswith(line)
        elif mode == "json":
            assert json.loads(result.stdout)["prompt"] == text
        elif mode == "alternatives":
            assert 1 <= len(result.stdout.splitlines()) <= 3
        elif mode == "samples":
            assert result.stdout_bytes.split(b"\n", 1)[1].startswith(text.encode())
        else:
            assert result.stdout_bytes.startswith(text.encode())
        over = len(text) > 900 and number >= 8 and mode != "mix"
        assert ("the context is 32" in result.stderr) == over


@pytest.mark.parametrize("number", with_slow(stages.numbers()))
def test_a_prompt_of_the_command_line_is_that_of_standard_input(number: int, folder: Path) -> None:
    for text in PROMPTS:
        if "\0" not in text:
            given = walk("--run", folder / str(number), "--prompt", text, "--tokens", 5)
            piped = walk("--run", folder / str(number), "--prompt", "-", "--tokens", 5, piped=text.encode())
            assert given.stdout_bytes == piped.stdout_bytes


LONG = [*itertools.product((1, 4, 5, 8, 11), ("--json", "--beam 2", "--draft prompt"))]


# the other stages read as one of these does, 6 and 7 for longer
@pytest.mark.parametrize(("number", "words"), with_slow(LONG, [(5, "--json"), *LONG[3:6], (8, "--json"), *LONG[12:]]))
def test_a_megabyte_is_a_prompt(number: int, words: str, folder: Path) -> None:
    text = "a tale of many words and of no end, " * 29_000
    result = walk("--run", folder / str(number), "--prompt", "-", "--tokens", 3, *words.split(), piped=text.encode())
    assert result.exit_code == 0
    assert json.loads(result.stdout)["prompt"] == text if words == "--json" else result.stdout.startswith(text)


def test_bytes_that_are_no_text_are_one_line(folder: Path) -> None:
    result = walk("--run", folder / "11", "--prompt", "-", piped=b"PNG\x89\xff\0")
    assert "standard input is not UTF-8 text (at byte 3)" in error_of(result)
    assert "not valid Unicode" in error_of(walk("--run", folder / "11", "--prompt", "a\udcff"))


def test_a_standard_output_that_cannot_show_the_text_is_one_line(folder: Path) -> None:
    code = "from mlx_gpt.generate import main; main()"
    words = ["--run", str(folder / "4"), "--prompt", "日", "--tokens", "3"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"}
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stderr == b"Error: standard output is latin-1 and cannot show '\\u65e5'; set PYTHONUTF8=1\n"


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


@pytest.mark.parametrize("number", with_slow(stages.numbers()))
def test_a_sample_is_the_text_of_its_seed_also_beyond_the_context(number: int, folder: Path) -> None:
    own = ("--run", folder / str(number), "--tokens", 70, "--stop", "q", "--temperature", 1, "--json")
    together = [json.loads(line) for line in walk(*own, "--seed", 3, "--samples", 5).stdout.splitlines()]
    alone = [json.loads(walk(*own, "--seed", seed).stdout) for seed in range(3, 8)]
    for one, other in zip(together, alone, strict=True):
        assert [one[name] for name in ("seed", "text", "finish_reason")] == [
            other[name] for name in ("seed", "text", "finish_reason")
        ]
        assert [token["id"] for token in one["tokens"]] == [token["id"] for token in other["tokens"]]
    lengths = [len(each["tokens"]) for each in together]
    assert max(lengths) == 70 and len(set(lengths)) > 1  # beyond the context of 32, and some end before


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


def test_a_cache_of_another_kind_is_written_through_or_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    args, kept = ("--run", folder / "11", "--prompt", "Once upon a time " * 20, "--tokens", 60), ("--keep-first", 4)
    moved = walk(*args, *kept)
    assert moved.exit_code == 0 and not moved.stderr and moved.stdout != walk(*args).stdout
    for extra in (("--cache", tmp_path / "m"), ("--cache", tmp_path / "m"), ("--interactive",)):
        assert walk(*args, *kept, *extra, piped=b"").stdout == moved.stdout
    assert (tmp_path / "m").is_file()
    other = ("--cache", tmp_path / "m")
    assert "of another model" in error_after_a_remark(walk(*args, *other))
    assert "of another model" in error_of(walk(*args, "--keep-first", 5, *other))
    assert "never fills" in error_of(walk("--run", folder / "7", *kept))
    assert "the context is 32 tokens" in error_of(walk(*args, "--keep-first", 32))
    assert "--cache-bits 8: no group" in error_of(walk(*args, "--cache-bits", 8))  # heads of 16 numbers
    assert "--cache-bits 4: this model keeps no keys" in error_of(walk("--run", folder / "4", "--cache-bits", 4))
    assert "'6' is not one of" in walk(*args, "--cache-bits", 6).stderr


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


@pytest.mark.parametrize("number", with_slow(stages.numbers()))
def test_json_tells_the_text_that_is_written_without_it(number: int, folder: Path, tmp_path: Path) -> None:
    own = ("--prompt", "Once upon", "--tokens", 40, "--seed", 3)
    for words in (("--samples", 3, "--stop", "e "), ("--draft", folder / "2"), ("--cache", tmp_path / "m"), ()):
        plain = walk("--run", folder / str(number), *own, *words).stdout
        result = walk("--run", folder / str(number), *own, *words, "--json", "--alternatives", 2)
        assert result.exit_code == 0, result.output
        found = [json.loads(line) for line in result.stdout.splitlines()]
        heads = len(found) > 1
        assert plain == "".join(
            f"--- sample {at} of 3, seed {each['seed']}\n" * heads + "Once upon" + each["text"] + "\n"
            for at, each in enumerate(found, 1)
        )
        assert [each["seed"] for each in found] == list(range(3, 3 + len(found)))
        for each in found:
            reasons = {"length": len(each["tokens"]) == 40, "stop": "--stop" in words}
            assert reasons.get(each["finish_reason"], each["tokens"][-1]["token"] == "<|endoftext|>")
            assert all(token["logprob"] <= token["top_logprobs"][0]["logprob"] for token in each["tokens"])
            assert all(len(token["top_logprobs"]) == 2 for token in each["tokens"])


@pytest.mark.parametrize("number", with_slow(stages.numbers()))
def test_a_beam_prints_the_best_with_what_they_are_worth(number: int, folder: Path) -> None:
    own = ("--run", folder / str(number), "--prompt", "Once upon", "--tokens", 6, "--beam", 4)
    found = [
        json.loads(line) for line in walk(*own, "--samples", 4, "--length-penalty", 1, "--json").stdout.splitlines()
    ]
    assert len(found) == 4 and [each["score"] for each in found] == sorted(each["score"] for each in found)[::-1]
    for each in found:
        logprob = sum(token["logprob"] for token in each["tokens"])
        assert logprob == pytest.approx(each["logprob"], abs=1e-3)
        assert each["score"] == pytest.approx(each["logprob"] * 6 / (5 + len(each["tokens"])), abs=1e-6)
    best = walk(*own, "--length-penalty", 1)
    assert best.stdout == "Once upon" + found[0]["text"] + "\n"
    assert best.stderr == f"logprob {found[0]['logprob']:.4f}, score {found[0]['score']:.4f}\n"
    assert (
        f"--- sample 2 of 2, logprob {found[1]['logprob']:.4f}"
        in walk(*own, "--samples", 2, "--length-penalty", 1).stdout
    )


def test_a_beam_reads_the_cache(folder: Path, tmp_path: Path) -> None:
    own = ("--run", folder / "11", "--prompt", "Once upon a time", "--tokens", 6, "--beam", 3)
    for _ in range(2):
        assert walk(*own, "--cache", tmp_path / "m").stdout == walk(*own).stdout
    assert (tmp_path / "m").is_file()


def test_what_does_not_go_together_is_one_line(folder: Path, tmp_path: Path) -> None:
    run = ("--run", folder / "11")
    assert "--cache" in error_of(walk(*run, "--draft", "prompt", "--cache", tmp_path / "x"))
    assert "--stop" in error_of(walk(*run, "--show-probabilities", "--stop", "a"))
    assert "no" in error_of(walk(*run, "--draft", tmp_path / "nothing"))
    assert "drop it, or --draft and --temperature" in error_of(
        walk(*run, "--beam", 2, "--temperature", 0.8, "--draft", "prompt")
    )
    assert "--stop and --seed" in error_of(walk(*run, "--beam", 2, "--stop", "a", "--seed", 1))
    assert "--beam 2 finds no more" in error_of(walk(*run, "--beam", 2, "--samples", 3))
    assert "--length-penalty" in error_of(walk(*run, "--length-penalty", 1))
    assert "--show-probabilities" in error_of(walk(*run, "--show-probabilities", "--json"))
    assert "--samples 2" in error_of(walk(*run, "--seed", 2**63 - 1, "--samples", 2))
    for words in (("--json",), ("--beam", 2), ("--alternatives", 0), ("--samples", 2), ("--draft", "prompt")):
        assert "--interactive" in error_of(walk(*run, "--interactive", *words))
