"""A memory that is saved and loaded is the live one; that of another model, or no memory at all, is refused."""

import itertools
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import prompt_cache, safetensors, stages
from mlx_gpt.corpus import Corpus
from mlx_gpt.decoding import Batch, generate, read
from mlx_gpt.errors import CheckpointError
from mlx_gpt.model import LanguageModel
from mlx_gpt.prompt_cache import remembered
from mlx_gpt.sampling import Taste

every_stage = pytest.mark.parametrize("number", stages.numbers())
Rough = Callable[[int], LanguageModel]


def prompt_of(corpus: Corpus, length: int) -> list[int]:
    return corpus.test.ids[:length].tolist()


@every_stage
def test_a_saved_memory_is_the_live_one(number: int, rough: Rough, corpus: Corpus, tmp_path: Path) -> None:
    model, prompt = rough(number), prompt_of(corpus, 20)
    live = read(model, prompt)
    prompt_cache.save(tmp_path / "m", live, "a")
    loaded = prompt_cache.load(tmp_path / "m", model, "a")
    assert loaded.ids == live.ids == prompt[:-1] and loaded.memory.room == live.memory.room
    more = mx.array([prompt[-1:]])
    for _ in range(2):  # both go on from there
        assert mx.array_equal(model.logprobs(more, loaded.memory), model.logprobs(more, live.memory))


@every_stage
def test_a_prompt_is_read_once_and_says_the_same(
    number: int, rough: Rough, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt, told = rough(number), prompt_of(corpus, 24), list[str]()
    remembered(tmp_path / "m", model, "a", prompt[:15], told.append)
    written = (tmp_path / "m").read_bytes()
    seen = list[int]()
    following = type(model).following
    monkeypatch.setattr(
        type(model), "following", lambda self, ids, memory: seen.append(ids.shape[1]) or following(self, ids, memory)
    )
    reading = remembered(tmp_path / "m", model, "a", prompt, told.append)
    seen.clear()
    batch = Batch(model, Taste())
    batch.add(prompt, 3, reading)
    found = [batch.step()[0] for _ in range(30)]
    assert seen[0] == 24 - 14 and not told and (tmp_path / "m").read_bytes() == written
    assert found == list(itertools.islice(generate(model, prompt, Taste(), 3), 30))


def test_another_prompt_is_read_as_if_there_were_no_file(rough: Rough, corpus: Corpus, tmp_path: Path) -> None:
    prompt, told = prompt_of(corpus, 24), list[str]()
    remembered(tmp_path / "m", rough(11), "a", prompt, told.append)
    for other in (prompt[3:], prompt[:10], corpus.test.ids[:200].tolist()):
        reading = remembered(tmp_path / "m", rough(11), "a", other, told.append)
        assert reading.ids == (other[:-1] if len(other) <= 32 else []) and "not used" in told.pop()


@pytest.mark.parametrize("length", [1, 33])
def test_of_an_empty_or_too_long_prompt_no_file_is_written(
    length: int, rough: Rough, corpus: Corpus, tmp_path: Path
) -> None:
    told = list[str]()
    assert not remembered(tmp_path / "m", rough(11), "a", prompt_of(corpus, length), told.append).ids
    assert not (tmp_path / "m").exists() and "not written" in told[0]


@every_stage
def test_what_is_no_memory_of_this_model_is_refused(number: int, rough: Rough, corpus: Corpus, tmp_path: Path) -> None:
    model, path = rough(number), tmp_path / "m"
    reading = read(model, prompt_of(corpus, 9))
    prompt_cache.save(path, reading, "a")
    with pytest.raises(CheckpointError, match="of another model"):
        prompt_cache.load(path, model, "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(CheckpointError, match="damaged"):
        prompt_cache.load(path, model, "a")
    other = {"ids": np.array([1, 2], np.int32)} | {
        f"memory.{at}": np.zeros((1, 2, 7), np.float32) for at in range(len(reading.memory.arrays))
    }
    for arrays in (other, {"ids": other["ids"]}, {}, {**other, "ids": np.array([-1, 10**6], np.int32)}):
        safetensors.write(path, arrays, {prompt_cache.KIND: prompt_cache.FORMAT, prompt_cache.MODEL: "a"})
        with pytest.raises(CheckpointError, match=r"--cache .*damaged"):
            prompt_cache.load(path, model, "a")
    safetensors.write(path, other, {})
    with pytest.raises(CheckpointError, match="not a saved memory"):
        prompt_cache.load(path, model, "a")


def test_a_memory_of_more_than_the_context_is_refused(rough: Rough, tmp_path: Path) -> None:
    for number in (8, 9, 10, 11):
        held = rough(number).memory().held()
        wide = [
            np.zeros([33 if size == 0 else size for size in array.shape], np.int32 if number == 8 else np.float32)
            for array in held
        ]
        arrays = {"ids": np.ones(33, np.int32)} | {f"memory.{at}": array for at, array in enumerate(wide)}
        safetensors.write(tmp_path / "m", arrays, {prompt_cache.KIND: "1", prompt_cache.MODEL: "a"})
        with pytest.raises(CheckpointError, match="33 tokens are more than the context of 32"):
            prompt_cache.load(tmp_path / "m", rough(number), "a")


def test_the_digest_of_a_file_is_the_one_it_names_or_that_of_its_bytes(tmp_path: Path) -> None:
    safetensors.write(tmp_path / "a", {"x": np.zeros(3, np.float32)}, {})
    safetensors.write(tmp_path / "b", {"x": np.ones(3, np.float32)}, {})
    mx.save_safetensors(str(tmp_path / "c.safetensors"), {"x": mx.zeros(3)})
    found = [safetensors.digest(tmp_path / name) for name in ("a", "b", "c.safetensors")]
    assert len(set(found)) == 3 and all(len(each) == 64 for each in found)
    assert found[0].encode() in (tmp_path / "a").read_bytes()
