"""What a report was made with: the machine and the versions of everything."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mlx_gpt import __version__
from mlx_gpt.device import description, memory_of_machine

PACKAGES = ("mlx", "numpy", "sentencepiece")


def machine() -> dict[str, str]:
    """Names and versions, none of them of a person or a place."""
    told = {
        "mlx_gpt": __version__,
        "device": description(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory_of_machine() / 1e9:.1f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
    return told | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """The processor's name; on Linux the kernel tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
