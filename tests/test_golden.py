"""Twelve losses of every neural stage are those on file: a change of one shows here first."""

import json

import mlx.core as mx
import pytest

from mlx_gpt import stages
from tests import golden

NEURAL = [number for number in stages.numbers() if number >= 5]
KEPT = json.loads(golden.FILE.read_text())


@pytest.mark.parametrize("number", NEURAL)
def test_the_first_losses_are_those_on_file(number: int) -> None:
    """To the bit on the machine that wrote them; elsewhere another BLAS may round another way."""
    with mx.stream(mx.cpu):
        found = golden.losses(number)
    if golden.machine() == KEPT["machine"]:
        assert found == KEPT["losses"][str(number)]
    assert found == pytest.approx(KEPT["losses"][str(number)], rel=1e-5)


@pytest.mark.metal
@pytest.mark.skipif(not mx.is_available(mx.gpu), reason="needs a Metal GPU")
@pytest.mark.parametrize("number", NEURAL)
def test_the_gpu_loses_what_the_cpu_does(number: int) -> None:
    assert golden.losses(number) == pytest.approx(KEPT["losses"][str(number)], rel=1e-4)
