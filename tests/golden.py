"""The losses of twelve steps of every neural stage, kept in golden_losses.json: python -m tests.golden writes it anew."""

import dataclasses
import json
import os
import zlib
from pathlib import Path

import mlx_gpt  # before MLX, so that it finds the tuned BLAS

# isort: split
import mlx.core as mx

from mlx_gpt import stages
from mlx_gpt.descent.loop import sequence_length
from mlx_gpt.descent.step import Step
from mlx_gpt.device import description, pick_device

FILE = Path(__file__).with_name("golden_losses.json")
STEPS = 12


def machine() -> str:
    """What the last bit depends on: the BLAS, and the kernels and threads it chooses for this processor."""
    told, cpu = [description(), f"{os.cpu_count()} cores"], Path("/proc/cpuinfo")
    if cpu.is_file():
        first = cpu.read_text().split("\n\n")[0].splitlines()
        known = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in first}
        told += [known.get(name, "") for name in ("model name", "cpu family", "model", "stepping")]
        told.append(str(zlib.crc32(known.get("flags", "").encode())))
    return ", ".join(told)


def losses(number: int) -> list[float]:
    """Nats a token of the first steps of a tiny run on text of fixed numbers, uncompiled, in float32."""
    stage = stages.stage(number)
    recipe = dataclasses.replace(stage.tiny.recipe, compiled=False, batch_size=4, evaluate_every=100)
    mx.random.seed(0)
    model = stage.model(stage.tiny.config, 97)
    length = sequence_length(model, recipe)
    step = Step(model, recipe, "fp32", length)
    state, found = step.begin(), []
    for at in range(STEPS):
        # squares of places, modulo a prime: the same everywhere, and something to learn
        places = mx.arange(at * 1_000, at * 1_000 + 4 * (length + 1)).reshape(4, -1)
        state, figures = step.take(state, (places * places % 97).astype(mx.int32), recipe.learning_rate, at)
        mx.eval(state)
        found.append(figures.loss.item())
    return found


def main() -> None:
    """Write the file."""
    pick_device()
    assert mlx_gpt.__version__
    told = {str(number): losses(number) for number in stages.numbers() if number >= 5}
    FILE.write_text(json.dumps({"machine": machine(), "losses": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
