"""Three ways to one score: `measure`, the harness's rolling log-likelihood, and NumPy from the file's arrays."""

import math
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gpt import checkpoint, train
from mlx_gpt.corpus import Text, encode_text
from mlx_gpt.measure import measure
from tests import by_hand

STAGES = (1, 4, 7, 9, 11)
DOCUMENTS = 20


@pytest.fixture(scope="module")
def runs(story_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, the neural ones with weights far from their first ones by a high rate."""
    folder = tmp_path_factory.mktemp("agreement")
    for number in STAGES:
        words = ["--stage", str(number), "--preset", "tiny", "--vocab-size", "320", "--data", str(story_file)]
        words += ["--steps", "20", "--warmup", "2"] if number > 4 else []
        result = CliRunner().invoke(train.main, [*words, "--run", str(folder / str(number))], prog_name="train")
        assert result.exit_code == 0, result.output
    return folder


def texts(story_file: Path, letters: int) -> list[str]:
    stories = story_file.read_text().split("\n<|endoftext|>\n")
    return [story[:letters] for story in stories[-DOCUMENTS:]]


def bits(nats: float, text: Text) -> float:
    return nats / math.log(2) / text.bytes


def rolling(tokens: list[int], prefix: int, longest: int) -> Iterator[tuple[list[int], list[int]]]:
    """EleutherAI's lm_eval.utils.get_rolling_token_windows with one token of context, each made disjoint by
    make_disjoint_window: (context, continuation) pairs, every token in one continuation."""
    first = min(longest, len(tokens))
    yield [prefix], tokens[:first]
    done = first
    while done < len(tokens):
        new = min(len(tokens) - done, longest)
        end = done + new
        window = tokens[end - longest - 1 : end - 1], tokens[end - new : end]
        yield window[0][: longest - (new - 1)], window[1]
        done += new


@pytest.mark.parametrize("number", STAGES)
def test_three_ways_agree_on_twenty_documents_shorter_than_the_context(
    number: int, runs: Path, story_file: Path
) -> None:
    """The end of a document is a token like the others, for the harness too."""
    trained = checkpoint.load(runs / str(number))
    text = encode_text(texts(story_file, 26), trained.tokenizer)
    own = measure(trained.model, text)
    by_numpy, context = by_hand.model(runs / str(number) / "model.safetensors")
    harness, numpy = 0.0, 0.0
    for place in range(DOCUMENTS):
        first, *tokens = text.document(place).tolist()
        assert 5 < len(tokens) <= (context or 99)
        for before, after in rolling(tokens, first, context or 1_000_000):
            table = np.array(trained.model.logprobs(mx.array([before + after[:-1]])), np.float64)[0, -len(after) :]
            harness -= table[np.arange(len(after)), after].sum()
        numpy -= by_numpy([first, *tokens[:-1]])[np.arange(len(tokens)), tokens].sum()
    scores = [bits(own.nats.sum(), text), bits(harness, text), bits(numpy, text)]
    assert max(scores) - min(scores) < 1e-4, scores
    assert own.bits_per_byte == pytest.approx(scores[0]) and 0.3 < scores[0] < 8


@pytest.mark.parametrize("number", [4, 7, 9, 11])
def test_numpy_agrees_on_documents_longer_than_the_context(number: int, runs: Path, story_file: Path) -> None:
    """By the rule of half-overlapping windows: with a context of C tokens, token t (the first is 0, after the mark at
    0) sees what begins at 0 for t < C, and else at the last multiple of C / 2 that leaves it at least C / 2."""
    trained = checkpoint.load(runs / str(number))
    text = encode_text(texts(story_file, 100)[:3], trained.tokenizer)
    own = measure(trained.model, text)
    by_numpy, context = by_hand.model(runs / str(number) / "model.safetensors")
    for place in range(3):
        ids = text.document(place).tolist()
        half = (context or 0) // 2
        nats = 0.0
        if context is None:
            nats -= by_numpy(ids[:-1])[np.arange(len(ids) - 1), ids[1:]].sum()
        else:
            assert len(ids) > 2 * context
            for t in range(len(ids) - 1):
                begin = 0 if t < context else t // half * half - half
                nats -= by_numpy(ids[begin : t + 1])[-1, ids[t + 1]]
        assert bits(own.nats[place] - nats, text) == pytest.approx(0, abs=1e-4)


def test_the_harness_scores_every_token_once() -> None:
    for length in (1, 7, 8, 9, 31):
        pairs = list(rolling(list(range(length)), -1, 8))
        assert [token for _, new in pairs for token in new] == list(range(length))
        assert all(len(before) + len(new) <= 9 and before for before, new in pairs)
