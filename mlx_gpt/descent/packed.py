"""Matrices in few bits, and products with them.

affine  w = s q + b: q of 8, 6, 4, 3 or 2 bits, a scale s and a bias b in float16 for each group of a row
mxfp4   w = 2^(e - 127) q: q one of ± 0, 1/2, 1, 3/2, 2, 3, 4, 6, an exponent e of 8 bits for each group
        (OCP Microscaling Formats 1.0, 2023)

R rows, C numbers in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.errors import SettingError

AFFINE, MXFP4 = "affine", "mxfp4"
BITS = (8, 6, 4, 3, 2)
GROUPS = (128, 64, 32)
FEW = 16  # rows: on a CPU more of them are multiplied sooner by the matrix written out (measured)


@dataclass(frozen=True)
class Packing:
    """How a matrix is packed. Raises SettingError for what there is no way to pack."""

    mode: str
    bits: int
    group: int

    def __post_init__(self) -> None:
        if any(type(number) is not int for number in (self.bits, self.group)):
            raise SettingError(f"{self.bits!r:.20} bits in groups of {self.group!r:.20}: expected whole numbers")
        affine = self.mode == AFFINE and self.bits in BITS and self.group in GROUPS
        if not affine and (self.mode, self.bits, self.group) != (MXFP4, 4, 32):
            raise SettingError(
                f"{self.mode!r:.20} of {self.bits} bits in groups of {self.group}: there is no such packing"
            )


class Packed(nn.Module):
    """A matrix (R, C) in few bits, standing where a model has an array."""

    def __init__(self, rows: int, width: int, how: Packing) -> None:
        """All zeros; `how.group` must divide the width."""
        super().__init__()
        assert width % how.group == 0, "a group that does not fit"
        self.rows, self.width, self.how = rows, width, how
        groups = (rows, width // how.group)
        self.packed = mx.zeros((rows, width * how.bits // 32), mx.uint32)
        self.scales = mx.zeros(groups, mx.float16 if how.mode == AFFINE else mx.uint8)
        if how.mode == AFFINE:
            self.biases = mx.zeros(groups, mx.float16)
        self.freeze()

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.width

    def whole(self) -> mx.array:
        """The matrix written out, (R, C) float32."""
        return self._written_out(self.packed, self.scales, self.get("biases"))

    def at(self, ids: mx.array) -> mx.array:
        """The rows of ids (...), written out: (..., C) float32."""
        biases = self.get("biases")
        return self._written_out(self.packed[ids], self.scales[ids], None if biases is None else biases[ids])

    def times(self, x: mx.array) -> mx.array:
        """x W^T, (..., C) -> (..., R)."""
        if x.size > FEW * self.width and mx.default_device() == mx.cpu:
            return x @ self.whole().astype(x.dtype).T
        how, biases = self.how, self.get("biases")
        product = mx.quantized_matmul(
            x, self.packed, self.scales, biases, group_size=how.group, bits=how.bits, mode=how.mode
        )
        return product.astype(x.dtype)

    def _written_out(self, packed: mx.array, scales: mx.array, biases: mx.array | None) -> mx.array:
        how = self.how
        if biases is not None:  # in 16 bits s q + b would be rounded once more
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        return mx.dequantize(
            packed, scales, biases, group_size=how.group, bits=how.bits, mode=how.mode, dtype=mx.float32
        )


Matrix: TypeAlias = mx.array | Packed


def packed(matrix: mx.array, how: Packing) -> Packed:
    """A matrix (R, C) in few bits. Raises SettingError where its numbers do not fit a float16."""
    made = Packed(matrix.shape[0], matrix.shape[1], how)
    made.packed, made.scales, *biases = mx.quantize(
        matrix.astype(mx.float32), group_size=how.group, bits=how.bits, mode=how.mode
    )
    if biases:
        made.scales, made.biases = made.scales.astype(mx.float16), biases[0].astype(mx.float16)
        if not mx.isfinite(made.scales).all().item() or not mx.isfinite(made.biases).all().item():
            raise SettingError("numbers too large for float16, or none")
    return made


def whole(matrix: Matrix) -> mx.array:
    """The matrix as an array (R, C)."""
    return matrix.whole() if isinstance(matrix, Packed) else matrix


def linear(x: mx.array, weight: Matrix, bias: mx.array | None = None) -> mx.array:
    """x W^T + b: x (..., C), W (R, C), b (R,) -> (..., R)."""
    if isinstance(weight, Packed):
        return weight.times(x) if bias is None else weight.times(x) + bias
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


class PackedLinear(nn.Module):
    """nn.Linear with its weight in few bits."""

    def __init__(self, layer: nn.Linear, weight: Packed) -> None:
        super().__init__()
        self.weight = weight
        if "bias" in layer:
            self.bias = layer.bias

    def __call__(self, x: mx.array) -> mx.array:
        return linear(x, self.weight, self.get("bias"))


class PackedEmbedding(nn.Module):
    """nn.Embedding with its table in few bits."""

    def __init__(self, layer: nn.Embedding, weight: Packed) -> None:
        super().__init__()
        self.weight = weight

    def __call__(self, ids: mx.array) -> mx.array:
        return self.weight.at(ids)
