"""Which matrices need more bits, measured: each is rounded alone, and what that costs is set against what it saves.

Greedy: all begin at 8 bits, and one step after the other down the ladder is taken where it costs the fewest bits per
byte for each byte saved (as in Dong et al. 2019, HAWQ, but by the loss itself). Costs do not quite add up, so how many
of the steps are taken is found by measuring the model with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlx.core as mx
from mlx.utils import tree_unflatten

from mlx_gpt.corpus import Text
from mlx_gpt.descent.neural import Neural
from mlx_gpt.descent.packed import AFFINE, BITS, Packing, packed
from mlx_gpt.descent.packing import matrices, packing_for
from mlx_gpt.errors import SettingError
from mlx_gpt.measure import measure

LOOKED_AT = 8_192  # tokens of the validation text read for each measurement
MEASURED = 4  # bits from which on a loss can be told; with each bit more it is a quarter (the rounding's square)


@dataclass(frozen=True)
class Sensitivity:
    """What packing one matrix alone costs, in bits per byte by bits, and its bytes by bits."""

    lost: Mapping[int, float]
    bytes: Mapping[int, int]


@dataclass(frozen=True)
class Choice:
    """How each matrix is packed, how sensitive each is, and the bits per byte of the text whole and packed."""

    packings: dict[str, Packing]
    found: dict[str, Sensitivity]
    whole: float
    packed: float


def choose(model: Neural, text: Text, share: float, largest: int, notice: Callable[[str], None]) -> Choice:
    """The packings, in affine groups of at most `largest`, that save most and lose at most a share of bits per byte.

    The model is whole, and whole again after it. Raises SettingError where 8 bits everywhere lose more.
    """
    kept = {name: matrix for name, matrix in matrices(model).items() if packing_for(matrix, AFFINE, 8, largest)}

    def bits_per_byte(bits: Mapping[str, int]) -> float:
        """Of the text with these matrices rounded, the others whole."""
        rounded = {
            name: packed(kept[name], _packing(kept[name], bits[name], largest)).whole() if name in bits else kept[name]
            for name in kept
        }
        model.update(tree_unflatten(list(rounded.items())))
        return measure(model, text).bits_per_byte

    try:
        whole = bits_per_byte({})
        found = {}
        for number, (name, matrix) in enumerate(kept.items(), 1):
            notice(f"measuring {number} of {len(kept)}: {name}")
            told = {bits: bits_per_byte({name: bits}) - whole for bits in BITS if bits <= MEASURED}
            lost = {b: told[b] if b in told else max(0.0, told[MEASURED]) / 4 ** (b - MEASURED) for b in BITS}
            found[name] = Sensitivity(lost, {bits: _bytes(matrix, bits, largest) for bits in BITS})
        steps = _steps(found)
        taken, refused, loss = 0, len(steps) + 1, bits_per_byte(_after(steps, kept, 0))
        if loss > whole * (1 + share):
            raise SettingError(
                f"--keep-within {100 * share:g}: 8 bits everywhere already lose {100 * (loss / whole - 1):.3f} %; "
                "allow more"
            )
        while refused - taken > 1:  # the loss rises with every step but for chance
            half = (taken + refused) // 2
            tried = bits_per_byte(_after(steps, kept, half))
            notice(f"{half} of {len(steps)} steps lose {100 * (tried / whole - 1):+.2f} %")
            if tried <= whole * (1 + share):
                taken, loss = half, tried
            else:
                refused = half
    finally:
        model.update(tree_unflatten(list(kept.items())))
    bits = _after(steps, kept, taken)
    return Choice({name: _packing(kept[name], bits[name], largest) for name in kept}, found, whole, loss)


def _packing(matrix: mx.array, bits: int, largest: int) -> Packing:
    how = packing_for(matrix, AFFINE, bits, largest)
    assert how is not None, "asked for before"
    return how


def _bytes(matrix: mx.array, bits: int, largest: int) -> int:
    how = _packing(matrix, bits, largest)
    return matrix.size * how.bits // 8 + matrix.size // how.group * 4


def _steps(found: Mapping[str, Sensitivity]) -> list[tuple[str, int]]:
    """All steps down the ladder, as names and the bits they lead to, the cheapest for a byte saved first."""
    at, steps = dict.fromkeys(found, 0), list[tuple[str, int]]()

    def price(name: str) -> float:
        before, after = BITS[at[name]], BITS[at[name] + 1]
        told = found[name]
        return (told.lost[after] - told.lost[before]) / (told.bytes[before] - told.bytes[after])

    while left := [name for name in found if at[name] + 1 < len(BITS)]:
        name = min(left, key=price)
        at[name] += 1
        steps.append((name, BITS[at[name]]))
    return steps


def _after(steps: list[tuple[str, int]], names: Mapping[str, object], taken: int) -> dict[str, int]:
    """The bits of each matrix after so many steps."""
    return {**dict.fromkeys(names, BITS[0]), **dict(steps[:taken])}
