"""Every token is scored once, whatever the context, and by the rule that generation follows too."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import stories
from mlx_gpt.corpus import Corpus, Text
from mlx_gpt.measure import measure
from mlx_gpt.memory import Memory, Transcript, Window
from mlx_gpt.tokenizer import Tokenizer
from tests.conftest import SHARED

EOT = 256


class Counting:
    """Uniform over ten ids, with a context of its own; remembers how often it was asked for each target."""

    vocab_size = 10

    def __init__(self, context: int | None) -> None:
        self.context = context

    def memory(self, batch: int = 1) -> Memory:
        return Window(batch, 3, 0) if self.context is None else Transcript(batch, self.context)

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        assert self.context is None or ids.shape[1] - 1 <= self.context
        return mx.full((ids.shape[0], ids.shape[1] - 1), -math.log(10))


def text_of(lengths: list[int]) -> Text:
    ids = np.concatenate([[EOT], *(np.append(np.arange(n) % 9, EOT) for n in lengths)])
    starts = np.concatenate([[0], np.cumsum([n + 1 for n in lengths])])
    return Text(ids, starts, np.array([2 * n for n in lengths]))


@pytest.mark.parametrize("context", [None, 2, 3, 4, 5, 8, 64])
@pytest.mark.parametrize("lengths", [[1], [1, 1, 7], [3, 30, 2, 11, 4], [2500, 1], [1024], [1023, 1025]])
def test_every_token_and_every_end_is_scored_once(context: int | None, lengths: list[int]) -> None:
    score = measure(Counting(context), text_of(lengths))  # type: ignore[arg-type]
    assert score.tokens == sum(lengths) + len(lengths)
    assert np.allclose(score.nats, [(n + 1) * math.log(10) for n in lengths])
    assert score.perplexity == pytest.approx(10)
    assert score.bits_per_byte == pytest.approx(score.tokens * math.log2(10) / (2 * sum(lengths)))


def test_the_head_of_a_text_is_whole_documents_or_the_beginning_of_one() -> None:
    byte, text = Tokenizer("byte"), text_of([5, 6, 7])
    assert text.head(100, byte) is text
    assert measure(Counting(4), text.head(14, byte)).bytes == 22  # type: ignore[arg-type]
    cut = text_of([50]).head(20, byte)
    assert len(cut) == 1 and cut.tokens == 20 and cut.bytes == 20  # the mark before it spells nothing


@pytest.mark.parametrize("number", [4, 7, 9, 11])
def test_a_document_costs_what_its_tokens_cost_one_by_one(number: int, trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    """Fed token by token, with the last half read again whenever the memory is full."""
    ids = corpus.test.document(0).tolist()
    model = trained(number)
    memory, context, nats = model.memory(), model.memory().room, 0.0
    for place, target in enumerate(ids[1:]):
        unread = [ids[place]]
        if memory.room == 0:
            memory = model.memory()
            unread = ids[place - (context - context // 2) : place + 1]
        nats -= model.logprobs(mx.array([unread]), memory)[0, -1, target].item()
    assert measure(model, corpus.test).nats[0] == pytest.approx(nats, rel=1e-4)


@pytest.mark.parametrize("number", range(1, 12))
def test_no_stage_beats_the_exact_entropy(number: int, trained, corpus: Corpus) -> None:  # type: ignore[no-untyped-def]
    """On held-out stories of our own grammar; the corpus fixture is made of them."""
    score = measure(trained(number), corpus.test)
    tokenizer, test = corpus.tokenizer, corpus.test
    floor = math.fsum(stories.nats(tokenizer.decode(test.document(n)).rstrip("\n")) for n in range(len(test)))
    assert score.nats.sum() > floor


@pytest.mark.slow
def test_learning_is_real_at_nanogpts_small_setting(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """4 layers, width 128, context 64, batch 12, 2,000 steps on Tiny Shakespeare characters: below 1.88 nats."""
    import json
    import os
    import subprocess
    import sys

    folder = SHARED / "tinyshakespeare"
    if not folder.is_dir():
        pytest.skip("Tiny Shakespeare is not here")
    run = str(tmp_path / "run")
    compiled = {name: value for name, value in os.environ.items() if name != "MLX_DISABLE_COMPILE"}
    setting = "--tokenizer char --context 64 --width 128 --layers 4 --heads 4 --kv-heads 4 --batch-size 12 --steps 2000"
    command = [sys.executable, "-m", "mlx_gpt.train", "--stage", "11", "--data", str(folder), "--run", run]
    subprocess.run([*command, *setting.split()], check=True, env=compiled)
    told = subprocess.run(
        [sys.executable, "-m", "mlx_gpt.evaluate", "--run", run, "--json", "--data", str(folder / "val.txt")],
        check=True,
        capture_output=True,
        text=True,
    )
    score = json.loads(told.stdout)
    assert score["bits_per_byte"] * math.log(2) < 1.88  # one byte a character in this text
