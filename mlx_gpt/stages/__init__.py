"""The stages, found by their file names: sNN_name.py declares STAGE, and there is no other register."""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import replace
from functools import cache

from mlx_gpt.errors import SettingError
from mlx_gpt.model import Stage


def numbers() -> list[int]:
    """The numbers of all stages, in order."""
    return sorted(_modules())


@cache
def stage(number: int) -> Stage:
    """The stage of a number. Raises SettingError for one that does not exist."""
    modules = _modules()
    if number not in modules:
        known = sorted(modules)
        raise SettingError(f"--stage {number}: the stages are {known[0]} to {known[-1]}")
    module = importlib.import_module(f"{__name__}.{modules[number]}")
    text = module.__doc__ or ""
    remembers = re.search(r"^Remembers: (.+)$", text, re.MULTILINE)
    declared: Stage = module.STAGE
    return replace(
        declared,
        number=number,
        name=modules[number][4:].replace("_", "-"),
        title=text.splitlines()[0].rstrip("."),
        remembers=remembers[1].rstrip(".") if remembers else "",
    )


def _modules() -> dict[int, str]:
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return {int(name[1:3]): name for name in names if re.fullmatch(r"s\d\d_\w+", name)}
