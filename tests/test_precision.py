"""No silent promotion: the whole graph of a step, forward and backward, is walked for products in the wrong type."""

import json
import os
import subprocess
import sys

import pytest

WALK = """
import json, sys
import mlx_gpt
import mlx.core as mx

class Plain:  # MLX cannot export custom functions: their forward pass as it stands, with MLX's own backward pass
    def __init__(self, function): self.function = function
    def __call__(self, *a): return self.function(*a)
    def vjp(self, function): return function

mx.custom_function = Plain
import dataclasses
from mlx_gpt.device import pick_device
from mlx_gpt import stages
from mlx_gpt.descent.step import Step

pick_device()
number, kind = int(sys.argv[1]), sys.argv[2]
stage = stages.stage(number)
recipe = dataclasses.replace(stage.tiny.recipe, batch_size=2, length=8, compiled=False, precision=kind)
recipe = dataclasses.replace(recipe, loss_chunk=0)  # in chunks the CPU makes the logits in float32, as exact as can be
step = Step(stage.model(stage.tiny.config, 61), recipe, kind, 8)
state = step.begin()
names = sorted(state)

def function(key, ids, *arrays):
    gradient, told = step._differentiated(dict(zip(names, arrays)), key, ids)
    return [*gradient.values(), *told.values()]

nodes = []
mx.export_function(nodes.append, function, mx.random.key(0), mx.zeros((2, 9), mx.int32), *(state[n] for n in names))
types = {}
for node in nodes:
    if node["type"] == "primitive" and node["name"] in ("Matmul", "AddMM", "LogSumExp", "Exp"):
        kinds = sorted({str(dtype).removeprefix("mlx.core.") for _, _, dtype in node["inputs"]})
        types.setdefault(node["name"], []).append(kinds)
print(json.dumps({"types": types, "count": len(nodes)}))
"""
NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@pytest.mark.parametrize("number", range(5, 12))
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_every_product_of_a_step_is_in_the_low_precision(number: int, kind: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", WALK, str(number), kind],
        capture_output=True,
        text=True,
        env={**os.environ, "MLX_DISABLE_COMPILE": "1"},
    )
    assert told.returncode == 0, told.stderr
    types = json.loads(told.stdout)["types"]
    products = [kinds for name in ("Matmul", "AddMM") for kinds in types.get(name, [])]
    assert len(products) >= 6
    assert all(kinds == [NAMES[kind]] for kinds in products), products
    for name in ("LogSumExp", "Exp"):  # what would overflow or lose its sum stays in float32
        assert all(kinds == ["float32"] for kinds in types.get(name, [])), (name, types[name])
