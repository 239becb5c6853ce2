"""A held-out text passes by document after document, however long it is."""

import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gpt import checkpoint, train
from mlx_gpt.corpus import units
from mlx_gpt.heldout import held_out, raw_bytes, reference_lines
from mlx_gpt.measure import measure


@pytest.mark.slow
def test_a_text_is_never_in_memory_whole(story_file: Path, tmp_path: Path) -> None:
    """60 MB, scored within 45 MB beyond the model; a mapped file and the compressors' own tables are not counted."""
    run = ["--stage", "1", "--tokenizer", "byte", "--preset", "tiny", "--data", str(story_file)]
    assert CliRunner().invoke(train.main, [*run, "--run", str(tmp_path / "run")], prog_name="train").exit_code == 0
    trained = checkpoint.load(tmp_path / "run")
    document = "".join(f"line {n} of a long text\n" for n in range(4_000))
    with (tmp_path / "long.txt").open("w") as file:
        for _ in range(600):
            file.write(f"{document}<|endoftext|>\n")
    tracemalloc.start()
    try:
        text = held_out(trained, [str(tmp_path / "long.txt")], lambda message: None)
        score = measure(trained.model, text, units=units(text, trained.tokenizer))
        passed = sum(map(len, raw_bytes(text, trained.tokenizer)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert passed == score.bytes
    lines = reference_lines(raw_bytes(text, trained.tokenizer))
    assert score.bytes == 600 * (len(document) - 1) > 58e6 and lines["xz -9"] < 1
    assert peak < 45e6
