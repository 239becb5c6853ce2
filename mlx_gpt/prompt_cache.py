"""What a model remembers of a long prompt, kept in a file, so that the prompt is read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gpt import safetensors
from mlx_gpt.decoding import Reading, read
from mlx_gpt.errors import CheckpointError, MlxGptError
from mlx_gpt.model import LanguageModel, check_ids

FORMAT = "1"
KIND, MODEL = "mlx_gpt_memory", "model"  # in the metadata: the format, and the SHA-256 of the model's file


def remembered(
    path: Path, model: LanguageModel, digest: str, prompt: Sequence[int], notice: Callable[[str], None]
) -> Reading:
    """A prompt as it was read before and kept in a file; where there is no such file, read now and kept.

    digest  names the model's file, see safetensors.digest

    Raises CheckpointError for the memory of another model, a damaged one, or another file altogether.
    """
    if not path.exists():
        reading = read(model, prompt)
        if reading.ids:
            save(path, reading, digest)
        else:
            notice(f"--cache {path}: not written: of this prompt nothing can be kept, it is empty or over the context")
        return reading
    reading = load(path, model, digest)
    if reading.begins(prompt):
        return reading
    notice(f"--cache {path}: not used: it holds {len(reading.ids):,} tokens with which this prompt does not begin")
    return read(model, prompt)


def save(path: Path, reading: Reading, digest: str) -> None:
    """Write a reading whole or not at all. Raises CheckpointError where the disk refuses."""
    arrays: dict[str, safetensors.Array] = {"ids": np.array(reading.ids, np.int32)}
    arrays |= {f"memory.{at}": array for at, array in enumerate(reading.memory.held())}
    safetensors.write(path, arrays, {KIND: FORMAT, MODEL: digest})


def load(path: Path, model: LanguageModel, digest: str) -> Reading:
    """What `save` wrote for this very model. Raises CheckpointError saying what is wrong with any other file."""
    if safetensors.check_header(path).get(KIND) != FORMAT:
        raise CheckpointError(f"--cache {path}: not a saved memory; name a file that does not exist yet")
    arrays, metadata = safetensors.read(path, verify=True)
    if metadata.get(MODEL) != digest:
        raise CheckpointError(f"--cache {path}: the memory of another model or cache; name another file, or delete it")
    try:
        ids = mx.array(arrays.pop("ids"))
        memory = model.memory()
        memory.hold([mx.array(arrays[f"memory.{at}"]) for at in range(len(arrays))], ids.size)
        check_ids(ids[None], model.vocab_size)
    except (KeyError, ValueError, MlxGptError) as error:
        raise CheckpointError(f"--cache {path}: damaged ({error}); delete it") from error
    told: list[int] = ids.tolist()  # type: ignore[assignment]
    if all(mx.issubdtype(array.dtype, mx.integer) for array in memory.arrays):
        return read(model, [*told, 0])  # ids and rows are sooner found again than checked
    return Reading(told, memory)
