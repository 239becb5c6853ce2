"""The tokens benchmark scores all held-out text, tells crossings between looks, and runs to its end."""

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import stages
from mlx_gpt.corpus import Corpus, Source, open_corpus
from mlx_gpt.model import LanguageModel

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_tokens.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_tokens", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_crossing_lies_in_a_line_between_two_looks(script: ModuleType) -> None:
    points = [{"tokens": 100.0, "loss": 3.0}, {"tokens": 200.0, "loss": 2.0}, {"tokens": 300.0, "loss": 1.0}]
    assert script.crossing(points, "loss", 1.25) == "200 to 300 (about 275)"
    assert script.crossing(points, "loss", 2.0) == "100 to 200 (about 200)"
    assert script.crossing(points, "loss", 5.0) == "0 to 100 (about 100)"
    assert script.crossing(points, "loss", 0.5) == "no look"


def test_blocks_are_read_each_from_its_beginning(script: ModuleType, story_file: Path) -> None:
    corpus = open_corpus(Source((str(story_file),), "char", 0, 0), lambda message: None)
    stage = stages.stage(11)
    model = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size)
    # as it begins it looks at one token alone
    model.restore({name: array + 0.3 * mx.random.normal(array.shape) for name, array in model.arrays().items()})
    ids = np.asarray(corpus.valid.ids, np.int32)
    length, blocks = 16, (len(ids) - 1) // 16
    total = 0.0
    for block in range(blocks):
        part = ids[block * length : (block + 1) * length + 1]
        law = model.logprobs(mx.array(part[None, :-1]))
        total -= sum(law[0, place, int(part[place + 1])].item() for place in range(length))
    assert script.block_nats(model, corpus.valid, length) == pytest.approx(total / (blocks * length), rel=1e-5)


def test_two_models_are_set_side_by_side_at_the_same_tokens(
    script: ModuleType, corpus: Corpus, trained: Callable[[int], LanguageModel]
) -> None:
    """A bigram gives in windows what it gives in one piece."""
    one, other = script.side_by_side(trained(2), trained(2), corpus.valid, 16)
    assert len(one) > 1_000 and np.allclose(one, other, rtol=1e-5)


def test_the_small_shape_has_no_more_parameters_than_nanogpts(script: ModuleType) -> None:
    """4 layers of 12 D^2 and two norms, 65 characters, 64 places, a last norm: karpathy/nanoGPT without biases."""
    nanogpt = 4 * (12 * 128**2 + 2 * 128) + 65 * 128 + 64 * 128 + 128
    config, _ = script.changed(11, ())
    stage = stages.stage(11)
    model = stage.model(type(stage.config)(**config), 65 + 257)
    assert sum(math.prod(array.shape) for array in model.arrays().values()) == 800_640 <= nanogpt == 804_096


def test_a_run_tells_both_losses_the_ngram_and_the_mixture(story_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens.json"
    small = [word for change in ("width=16", "inner=16", "layers=1") for word in ("--set", change)]
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--data", story_file, "--steps", "4", "--every", "2", "--seeds", "2", *small,
         "--json", out],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    assert [row["tokens"] for row in found["table"]] == [2 * 12 * 64, 4 * 12 * 64]
    assert found["table"][-1]["nats_in_blocks_spread"] > 0
    pair = found["pairs"][0]
    assert pair["together"] <= min(pair["ngram"], pair["neural"]) + 0.01
    assert "the n-gram passed in windows at no look" in ended.stdout


def test_a_setting_that_nobody_has_is_refused(story_file: Path) -> None:
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--data", story_file, "--set", "wings=2"], capture_output=True, text=True
    )
    assert ended.returncode == 2 and "wings" in ended.stderr
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--data", story_file, "--set", "compiled=perhaps"], capture_output=True, text=True
    )
    assert ended.returncode == 2 and "expected a bool" in ended.stderr
