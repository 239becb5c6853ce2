"""Which matrices of a model can be packed, and putting packed ones in their places.

Linear layers and embeddings are found by their type; of the matrices that a stage holds itself those can be packed that
its model names in `packable`. Norms, biases and convolutions stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent.neural import Neural
from mlx_gpt.descent.packed import GROUPS, MXFP4, Packed, PackedEmbedding, PackedLinear, Packing, packed
from mlx_gpt.errors import CheckpointError
from mlx_gpt.model import LanguageModel

INSTEAD: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: PackedLinear, nn.Embedding: PackedEmbedding}


def matrices(model: Neural) -> dict[str, mx.array]:
    """The matrices (R, C) that can be packed, by the names of `arrays`; packed ones are none of them."""
    found = {}
    for path, module in model.named_modules():
        for key in ("weight",) if type(module) in INSTEAD else model.packable:
            if isinstance(module.get(key), mx.array):
                found[f"{path}.{key}" if path else key] = module[key]
    return dict(sorted(found.items()))


def group_for(width: int, largest: int) -> int:
    """The largest group, at most `largest`, that divides rows of a width; 0 where none does."""
    return next((group for group in GROUPS if group <= largest and width % group == 0), 0)


def packing_for(matrix: mx.array, mode: str, bits: int, largest: int) -> Packing | None:
    """How to pack a matrix in groups of at most `largest`; None where no group divides its rows."""
    group = group_for(matrix.shape[1], 32 if mode == MXFP4 else largest)
    return Packing(mode, bits, group) if group else None


def pack(model: Neural, packings: Mapping[str, Packing]) -> None:
    """Put the named matrices of a model in few bits. It cannot be trained on after that.

    Raises SettingError where the numbers of one cannot be packed.
    """
    found = matrices(model)
    for name, how in packings.items():
        _put(model, name, packed(found[name], how))


def make_room(model: LanguageModel, packings: Mapping[str, Packing]) -> None:
    """Make a model's named matrices packed ones, without their numbers, which `restore` brings.

    Raises CheckpointError where the model has no such matrices.
    """
    found = matrices(model) if packings and isinstance(model, Neural) else {}
    for name, how in packings.items():
        if name not in found:
            raise CheckpointError(f"{name} is packed, and no matrix of this model")
        rows, width = found[name].shape
        if width % how.group:
            raise CheckpointError(f"{name} is packed in groups of {how.group}, which do not fit its rows of {width}")
        _put(model, name, Packed(rows, width, how))


def packings(model: LanguageModel) -> dict[str, Packing]:
    """How the packed matrices of a model are packed, by name; of a model with none, nothing."""
    if not isinstance(model, Neural):
        return {}
    found = {path: module.how for path, module in model.named_modules() if isinstance(module, Packed)}
    return dict(sorted(found.items()))


def _put(model: Any, name: str, weight: Packed) -> None:
    *path, key = name.split(".")
    holder = functools.reduce(_inside, path, model)
    instead = INSTEAD.get(type(holder))
    if instead is None:
        setattr(holder, key, weight)
    else:
        outer = functools.reduce(_inside, path[:-1], model)
        outer[int(path[-1]) if isinstance(outer, list) else path[-1]] = instead(holder, weight)


def _inside(holder: Any, part: str) -> Any:
    return holder[int(part)] if isinstance(holder, list) else holder[part]
