"""The doors as a user walks through them: train, generate, evaluate, compare, the ladder, and every mistake."""

import gzip
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_gpt import (
    __main__,
    acceptance,
    across,
    arpa,
    compare,
    compress,
    count,
    decompress,
    distill,
    download,
    evaluate,
    generate,
    ladder,
    merge,
    plot,
    quantize,
    report,
    skills,
    stages,
    train,
)
from mlx_gpt import run as run_module
from mlx_gpt.checkpoint import load

DOORS = {
    "across": across,
    "arpa": arpa,
    "train": train,
    "generate": generate,
    "evaluate": evaluate,
    "compare": compare,
    "compress": compress,
    "count": count,
    "decompress": decompress,
    "distill": distill,
    "merge": merge,
    "quantize": quantize,
    "report": report,
    "skills": skills,
    "download": download,
    "ladder": ladder,
}
ROOT = Path(__file__).parents[1]


def walk(door: str, *args: object, text: str | None = None) -> Result:
    return CliRunner().invoke(DOORS[door].main, [str(arg) for arg in args], input=text, prog_name=door)


@pytest.fixture(scope="module")
def run(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for number in (1, 4, 11):
        own = ("--preset", "tiny", "--data", story_file, "--run", folder / str(number))
        steps = ("--steps", 10, "--warmup", 2) if number == 11 else ()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_module, "draw_curve", plot.draw_curve)
            result = walk("train", "--stage", number, *own, *steps)
        assert result.exit_code == 0, result.output
    return folder


def test_training_writes_the_run_folder_and_says_how_to_go_on(run: Path) -> None:
    for number in ("1", "4", "11"):
        assert {"model.safetensors", "log.jsonl", "samples.txt"} <= {path.name for path in (run / number).iterdir()}
        lines = [json.loads(line) for line in (run / number / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["finished"] and lines[-1]["bits_per_byte"] > 0
    assert not list(run.glob("*/.*part*"))
    drawn = {path.parent.name for path in run.glob("*/curve.png")}  # where there is a curve, and what draws it
    assert drawn == ({"11"} if importlib.util.find_spec("matplotlib") else set())


def test_training_again_keeps_the_run_before(story_file: Path, tmp_path: Path) -> None:
    for _ in range(3):
        result = walk("train", "--stage", 1, "--preset", "tiny", "--data", story_file, "--run", tmp_path / "r")
        assert result.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "r.previous"]
    assert "python -m mlx_gpt.generate --run" in result.output


def test_a_run_takes_the_tokenizer_of_another_and_drafts_for_it(run: Path, story_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("\n<|endoftext|>\n".join(f"Zoë was {age} and knew it. ¿Qué?" for age in range(60)))
    own = ("train", "--stage", 4, "--data", text, "--run", tmp_path / "draft")
    result = walk(*own, "--tokenizer-of", run / "11")
    assert result.exit_code == 0, result.output
    made, target = load(tmp_path / "draft"), load(run / "11")
    assert made.tokenizer.model == target.tokenizer.model and made.card.corpus != target.card.corpus
    assert walk("evaluate", "--run", tmp_path / "draft").exit_code == 0
    greedy = ("generate", "--run", run / "11", "--prompt", "Once", "--tokens", 20, "--temperature", 0)
    assert walk(*greedy, "--draft", tmp_path / "draft").stdout == walk(*greedy).stdout
    for more, said in (
        (("--tokenizer-of", run / "11", "--vocab-size", 300), "--vocab-size"),
        (("--tokenizer-of", run / "11", "--tokenizer", "char"), "--tokenizer"),
        (("--tokenizer-of", run / "12"), "12"),
        (("--resume", "--tokenizer-of", run / "11"), "its own files"),
    ):
        refused = walk(*own, *more)
        assert refused.exit_code == 2 and said in refused.output.splitlines()[-1]


def test_a_run_that_fails_leaves_the_one_before_in_place(run: Path, story_file: Path) -> None:
    before = {path: path.read_bytes() for path in (run / "11").iterdir()}
    bad = ("train", "--stage", 11, "--preset", "tiny", "--data", story_file, "--run", run / "11", "--length", 32)
    assert walk(*bad, "--batch-size", 3, "--context", 16).exit_code == 2
    assert {path: path.read_bytes() for path in (run / "11").iterdir()} == before


def test_generate_begins_with_the_prompt_and_repeats_by_seed(run: Path) -> None:
    one, two, other = (
        walk("generate", "--run", run / "4", "--prompt", "Once", "--seed", s, "--tokens", 30) for s in (1, 1, 2)
    )
    assert one.output.startswith("Once") and one.output == two.output != other.output
    assert walk("generate", "--run", run / "11", "--samples", 2, "--tokens", 3).output.count("--- sample") == 2
    assert walk("generate", "--run", run / "1", "--prompt", "-", "--tokens", 3, text="piped in").output.startswith(
        "piped in"
    )


@pytest.mark.parametrize("prompt", ["", "\u2581 <s> <|endoftext|> \0 😀", "x" * 3000, "\n\n"])
def test_any_prompt_is_text(run: Path, prompt: str) -> None:
    assert walk("generate", "--run", run / "11", "--prompt", prompt, "--tokens", 3).exit_code == 0


def test_evaluate_prints_one_json_object(run: Path, story_file: Path) -> None:
    own = json.loads(walk("evaluate", "--run", run / "4", "--json").stdout)
    assert {"stage", "bits_per_byte", "perplexity", "tokens", "bytes", "tokens_per_second"} <= own.keys()
    logged = json.loads((run / "4" / "log.jsonl").read_text().splitlines()[-1])
    assert own["bits_per_byte"] == pytest.approx(logged["bits_per_byte"], rel=1e-6)
    whole = walk("evaluate", "--run", run / "4", "--json", "--data", story_file)
    raw = story_file.read_text().replace("\n<|endoftext|>\n", "")
    assert json.loads(whole.stdout)["bytes"] == len(raw.removesuffix("\n").encode())
    assert "LEAK" in whole.stderr


def test_evaluate_reads_standard_input(run: Path) -> None:
    result = CliRunner().invoke(evaluate.main, ["--run", str(run / "1"), "--data", "-", "--json"], input="A few words.")
    assert json.loads(result.stdout)["bytes"] == len("A few words.")


def test_compare_prints_the_league_table(run: Path) -> None:
    told = json.loads(walk("compare", "--runs", run, "--json").stdout)
    assert [row["stage"] for row in told["runs"]] == [1, 4, 11]
    assert told["reference_lines"]["uniform bytes"] == 8.0
    assert told["reference_lines"]["xz -9"] > 0 and told["reference_lines"]["gzip -9"] > 0
    table = walk("compare", "--runs", run).stdout
    assert "ngram-backoff" in table and "gzip -9" in table


def test_the_ladder_resumes_and_ends_in_the_table(story_file: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        ROOT / "scripts" / "train_all.py",
        "--preset",
        "tiny",
        "--stages",
        "1,2",
        "--runs",
        tmp_path / "l",
        "--data",
        story_file,
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bigram" in first.stdout and "finished already" not in first.stderr
    assert again.stderr.count("finished already") == 2


def test_the_table_of_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(__main__.main, [])
    assert result.exit_code == 0
    for number in stages.numbers():
        assert stages.stage(number).name in result.output
    for name in ("train", "generate", "evaluate", "compare", "download", "train-all"):
        assert CliRunner().invoke(__main__.main, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("number", stages.numbers())
def test_help_lists_the_settings_of_the_stage(number: int) -> None:
    told = walk("train", "--stage", number, "--help").output
    config = stages.stage(number).config
    for name in vars(config):
        assert "--" + name.replace("_", "-") in told
    assert stages.stage(number).title.split(":")[0] in told


def test_importing_the_package_is_light() -> None:
    code = "import sys, mlx_gpt; print('mlx.core' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == [
        "False",
        "False",
    ]


def readme_commands() -> list[list[str]]:
    pages = [(ROOT / name).read_text() for name in ("README.md", "docs/README.md")]
    blocks = [block for page in pages for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [shlex.split(part) for line in lines for part in line.split("&&") if part.strip()]


def test_the_readme_is_short_and_names_commands() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert len(readme_commands()) >= 8


@pytest.mark.parametrize("command", readme_commands(), ids=" ".join)
def test_the_commands_of_the_readme_are_understood(command: list[str]) -> None:
    if command[1:2] == ["scripts/train_all.py"]:
        command = ["python", "-m", "mlx_gpt.ladder", *command[2:]]
    if command[:2] == ["python", "-m"] and command[2] != "mlx_gpt":
        door, words = DOORS[command[2].removeprefix("mlx_gpt.")].main, command[3:]
        if isinstance(door, click.Group):
            door, words = door.commands[words[0]], words[1:]
        try:
            assert isinstance(door.make_context(command[2], words), click.Context)
        except click.exceptions.Exit as leave:  # --help
            assert leave.exit_code == 0
    elif command[0] == "python" and command[1].endswith(".py"):
        assert (ROOT / command[1]).is_file()


def test_compare_tells_what_every_run_is_worth_as_a_draft(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "WRITTEN", 6)
    told = json.loads(walk("compare", "--runs", run, "--drafting", "--json").stdout)["drafting"]
    names = ["1 1", "4 4", "11 11"]
    assert [(row["target"], row["draft"]) for row in told] == list(itertools.product(names, [*names, "prompt"]))
    assert all(row["accepted"] <= row["proposed"] and row["speedup"] > 0 for row in told)
    assert all(row["share_accepted"] == 1 for row in told if row["target"] == row["draft"] != "prompt")
    table = walk("compare", "--runs", run, "--drafting").stdout
    assert "prompt" in table and table.count("%") == 12


MISTAKES = [
    # data
    ("train", "--stage 1 --data {tmp}/missing.txt", "no such file"),
    ("train", "--stage 1 --data {tmp}/empty.txt", "0 bytes"),
    ("train", "--stage 1 --data {tmp}/blank.txt", "0 bytes"),
    ("train", "--stage 1 --data {tmp}/one_byte.txt", "nothing left"),
    ("train", "--stage 1 --data {tmp}/binary.bin", "NUL byte"),
    ("train", "--stage 1 --data {tmp}/picture.txt", "not UTF-8"),
    ("train", "--stage 1 --data {tmp}/latin1.txt", "not UTF-8"),
    ("train", "--stage 1 --data {tmp}/broken.jsonl", "line 2"),
    ("train", "--stage 1 --data {tmp}/number.jsonl", "line 1"),
    ("train", "--stage 1 --data {tmp}/fake.txt.gz", "damaged gzip"),
    ("train", "--stage 1 --data {tmp}/cut.txt.gz", "damaged gzip"),
    ("train", "--stage 1 --data {tmp}/no_text", "no .txt"),
    ("train", "--stage 1 --data", "requires an argument"),
    ("train", "--stage 1 --data {tmp}/loop", "loop"),
    # stages and settings
    ("train", "", "--stage"),
    ("train", "--stage 0", "1 to 11"),
    ("train", "--stage 12", "1 to 11"),
    ("train", "--stage -3", "1 to 11"),
    ("train", "--stage eleven", "not a valid integer"),
    ("train", "--stage 1 --steps 5", "no setting --steps; the nearest is"),
    ("train", "--stage 7 --heads 4", "no setting --heads"),
    ("train", "--stage 11 --contxt 5", "the nearest is --context"),
    ("train", "--stage 11 --steps 0", "--steps"),
    ("train", "--stage 11 --steps -5", "--steps"),
    ("train", "--stage 11 --steps many", "not a valid integer"),
    ("train", "--stage 11 --steps 99999999999999", "--steps"),
    ("train", "--stage 11 --learning-rate nan", "finite"),
    ("train", "--stage 11 --learning-rate inf", "--learning-rate"),
    ("train", "--stage 11 --learning-rate -1", "--learning-rate"),
    ("train", "--stage 11 --heads 3", "must divide --width"),
    ("train", "--stage 11 --kv-heads 5", "must divide --heads"),
    ("train", "--stage 11 --width 6 --heads 2 --kv-heads 2 --data {stories}", "must be even"),
    ("train", "--stage 9 --dropout 2", "--dropout"),
    ("train", "--stage 4 --smoothing magic", "magic"),
    ("train", "--stage 4 --order 99", "--order"),
    ("train", "--stage 11 --length 512 --data {stories}", "longer than --context"),
    ("train", "--stage 11 --preset huge", "huge"),
    ("train", "--stage 11 --tokenizer words", "words"),
    ("train", "--stage 11 --vocab-size 5", "--vocab-size"),
    ("train", "--stage 11 --seed -1", "--seed"),
    ("train", "--stage 11 extra words", "unexpected extra argument"),
    ("train", "--stage 10 --data {tmp}/short.txt", "only"),
    # run folders
    ("train", "--stage 1 --data {stories} --run {tmp}/short.txt", "a file stands in the way"),
    ("train", "--stage 1 --data {stories} --run {tmp}/short.txt/run", "cannot be written"),
    ("train", "--stage 1 --data {stories} --run {tmp}", "holds other files"),
    ("train", "--stage 1 --data {stories} --run {tmp}/elsewhere", "holds other files"),
    ("train", "--stage 1 --data {stories} --run /proc/run", "cannot be written"),
    # checkpoints
    ("generate", "", "--stage N"),
    ("generate", "--stage 1 --run {run}/1", "either --stage"),
    ("generate", "--stage 3", "no trained model"),
    ("generate", "--stage 44", "1 to 11"),
    ("generate", "--run {tmp}/nowhere", "nowhere: no such folder; name the folder a training run wrote"),
    ("generate", "--run {tmp}/no_text", "no_text: no trained model here"),
    ("generate", "--mix {run}/1 --mix {tmp}/nowhere", "nowhere: no such folder"),
    ("generate", "--run {run}/1 --draft {tmp}/nowhere", "nowhere: no such folder"),
    (
        "train",
        "--stage 1 --tokenizer-of {tmp}/nowhere",
        "nowhere: no such folder; name the folder a training run wrote",
    ),
    (
        "train",
        "--stage 4 --data {stories} --counted {tmp}/no.counts",
        "no.counts: no such file; python -m mlx_gpt.count",
    ),
    ("count", "--like {tmp}/nowhere --data {stories} -o c", "nowhere: no such folder"),
    ("merge", "{tmp}/no.counts -o c", "no.counts: no such file; python -m mlx_gpt.count writes one"),
    ("compare", "--runs {tmp}/nowhere", "nowhere: no such folder; python -m mlx_gpt.train"),
    ("generate", "--run {tmp}/short.txt", "not a checkpoint"),
    ("generate", "--run {tmp}/truncated.safetensors", "truncated"),
    ("generate", "--run {tmp}/foreign.safetensors", "not one of mlx_gpt's"),
    ("generate", "--run {tmp}/other_stage.safetensors", "damaged"),
    ("generate", "--run {run}/1 --temperature -1", "--temperature"),
    ("generate", "--run {run}/1 --temperature nan", "finite"),
    ("generate", "--run {run}/1 --top-p 0", "--top-p"),
    ("generate", "--run {run}/1 --tokens 0", "--tokens"),
    ("generate", "--run {run}/1 --tokens all", "not a valid integer"),
    ("generate", "--run {run}/1 --promt hello", "the nearest is --prompt"),
    ("evaluate", "--run {run}/1 --data {tmp}/empty.txt", "no text to score"),
    ("evaluate", "--run {run}/1 --data {tmp}/missing.txt", "no such file"),
    ("evaluate", "--run {run}/1 --data {tmp}/latin1.txt", "not UTF-8"),
    ("compare", "--runs {tmp}/no_text", "no trained runs"),
    ("skills", "--runs {tmp}/no_text", "no trained runs"),
    ("skills", "--runs {run} --data -", "only once"),
    ("skills", "--runs {run} --data {tmp}/missing.txt", "no such file"),
    ("report", "--runs {tmp}/no_text", "no trained runs"),
    ("report", "--runs {run} --data -", "only once"),
    ("report", "--runs {run} --output {tmp}/short.txt", "name another"),
    ("report", "--runs {run} --data {tmp}/missing.txt", "no such file"),
    ("train", "--stage 4 --stage 1 --buckets 2", "no setting --buckets"),
    ("train", "--stage 11 --data {stories} --run {run}/4 --length 512", "longer than --context"),
    ("compare", "--runs {run} --data -", "only once"),
    ("compare", "--runs {run} --drafting --mixture", "drop it or --mixture"),
    ("ladder", "--data -", "only once"),
    ("ladder", "--stages 1,x", "--stages"),
    ("ladder", "--preset enormous", "enormous"),
]


@pytest.fixture(scope="module")
def traps(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traps")
    (folder / "no_text").mkdir()
    (folder / "loop").symlink_to("loop")
    contents = {
        "empty.txt": b"",
        "blank.txt": b" \n\n ",
        "one_byte.txt": b"x",
        "short.txt": b"a few words only\n" * 9,
        "binary.bin": bytes(range(128)) * 9,
        "picture.txt": b"\x89PNG\r\n\x1a\n\xff\xfe",
        "latin1.txt": "café".encode("latin-1"),
        "broken.jsonl": b'{"text": "fine"}\n{broken',
        "number.jsonl": b"5\n",
        "fake.txt.gz": b"no gzip here",
        "cut.txt.gz": gzip.compress(b"words " * 999)[:-10],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    whole = (run / "1" / "model.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    mx.save_safetensors(str(folder / "foreign.safetensors"), {"a": mx.array(np.ones(3, np.float32))})
    (folder / "elsewhere").mkdir()  # as other programs keep a model
    shutil.copy(folder / "foreign.safetensors", folder / "elsewhere" / "model.safetensors")
    (folder / "other_stage.safetensors").write_bytes(whole.replace(b'\\"stage\\": 1', b'\\"stage\\": 7'))
    return folder


@pytest.mark.parametrize(("door", "line", "said"), MISTAKES, ids=lambda part: str(part)[:60])
def test_a_mistake_is_one_clear_line(
    door: str,
    line: str,
    said: str,
    traps: Path,
    run: Path,
    story_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in run.rglob("*"))
    result = walk(door, *shlex.split(line.format(tmp=traps, run=run, stories=story_file)))
    errors = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    assert result.exit_code == 2, result.output
    assert len(errors) == 1 and said in errors[0], result.output
    assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)
    assert sorted(path.name for path in run.rglob("*")) == before
    assert not list(tmp_path.iterdir())  # no folder of a run that was refused
    assert door != "train" or not any(text.startswith(("MLX ", "stage ")) for text in result.output.splitlines())


def test_an_unreadable_file_and_folder_are_named(tmp_path: Path, story_file: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads and writes everything")
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "a.txt").write_text("text")
    (locked / "a.txt").chmod(0)
    locked.chmod(0o500)
    for line in (f"--data {locked}/a.txt", f"--data {story_file} --run {locked}/run"):
        result = walk("train", "--stage", 1, *line.split())
        assert result.exit_code == 2 and "cannot be" in result.stderr


def test_a_mistake_through_the_module_is_one_line_too() -> None:
    result = subprocess.run([sys.executable, "-m", "mlx_gpt.train", "--stage", "99"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.strip() == "Error: --stage 99: the stages are 1 to 11"
