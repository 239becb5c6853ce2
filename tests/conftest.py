"""Shared by all tests: no compilation unless asked for, a cache of their own, one small corpus, trained models."""

import os

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")  # on the CPU every new kernel costs seconds of g++

import mlx_gpt  # before MLX, so that it finds the tuned BLAS

# isort: split
import dataclasses
import functools
import json
import signal
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_gpt import run as run_module
from mlx_gpt import stages, stories
from mlx_gpt.corpus import Corpus, Source, open_corpus
from mlx_gpt.descent import Neural
from mlx_gpt.device import pick_device
from mlx_gpt.model import Kept, LanguageModel, Progress, Silent

os.environ["MLX_GPT_CACHE"] = tempfile.mkdtemp(prefix="mlx_gpt-tests-")
assert mlx_gpt.__version__
SHARED = Path(__file__).parents[2] / "shared" / "data"  # real corpora; tests that use them skip without
FAMILIES = (4, 5, 7, 8, 9, 11)  # rows, a window, a state, a transcript, a cache, a cache with tails and windows


def with_slow(every: Iterable[Any], quick: Collection[Any] = FAMILIES) -> list[Any]:
    """Parameters of which only some are for the quick suite: the others repeat what these show."""
    rows = [(each, each if isinstance(each, tuple) else (each,)) for each in every]
    return [pytest.param(*row, marks=() if each in quick else pytest.mark.slow) for each, row in rows]


def attentive() -> None:
    """For a child's beginning: hear interrupts even where the tests run in the background, which ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Listener(Silent):
    """A report that only remembers."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.losses: list[float] = []
        self.bits: list[float] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def progress(self, progress: Progress) -> None:
        self.losses.append(progress.loss)

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None:
        self.bits.append(bits_per_byte)


class Keeper(Listener):
    """A report that keeps in memory, and asks to stop after given steps."""

    def __init__(self, stop_after: int = 0, found: Kept | None = None) -> None:
        super().__init__()
        self.stop_after, self.last, self.steps = stop_after, found, 0

    def keep(self, kept: Kept) -> None:
        arrays = {name: np.array(array) for name, array in kept.arrays.items()}
        self.last = Kept(arrays, json.loads(json.dumps(dict(kept.facts))))

    def kept(self) -> Kept | None:
        return self.last

    def stopping(self) -> int:
        self.steps += 1
        return signal.SIGINT if self.steps == self.stop_after else 0


@pytest.fixture(scope="session", autouse=True)
def device() -> str:
    return pick_device()


@pytest.fixture(scope="session", autouse=True)
def without_pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A curve takes seconds to draw; test_plot and test_doors ask for real ones. In the folder: no matplotlib."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "matplotlib.py").write_text("raise ImportError")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "draw_curve", lambda *_: True)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)  # of all processes that tests start
        yield folder


@pytest.fixture(scope="session")
def story_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(stories.stories(1, 300)) + "\n")
    return path


@pytest.fixture(scope="session")
def corpus(story_file: Path) -> Corpus:
    return open_corpus(Source((str(story_file),), "bpe", 512, 0), lambda message: None)


def train_tiny(number: int, corpus: Corpus, **changes: object) -> LanguageModel:
    """A stage trained with its tiny preset, or with other settings of its recipe."""
    stage = stages.stage(number)
    mx.random.seed(0)
    model = stage.model(stage.tiny.config, corpus.tokenizer.vocab_size)
    model.fit(corpus, dataclasses.replace(stage.tiny.recipe, **changes), Silent())
    return model


@pytest.fixture(scope="session")
def trained(corpus: Corpus) -> Callable[[int], LanguageModel]:
    return functools.cache(lambda number: train_tiny(number, corpus))


@pytest.fixture(scope="session")
def rough(corpus: Corpus) -> Callable[[int], LanguageModel]:
    """Every stage with random weights, none of them zero or like another, so that all parts count; 1 to 4 counted."""

    @functools.cache
    def build(number: int) -> LanguageModel:
        if number <= 4:
            return train_tiny(number, corpus)
        mx.random.seed(number)
        model = stages.stage(number).model(stages.stage(number).tiny.config, corpus.tokenizer.vocab_size)
        assert isinstance(model, Neural)
        model.update(tree_map(lambda weight: weight + 0.3 * mx.random.normal(weight.shape), model.parameters()))
        return model

    return build
