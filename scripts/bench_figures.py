"""How the benchmarks of training and of generation measure: by turns, as ratios, told in lines and written as JSON."""

from __future__ import annotations

import mlx_gpt  # before MLX, so that it finds the tuned BLAS

# isort: split
import datetime
import functools
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import mlx.core as mx

from mlx_gpt.device import description
from mlx_gpt.errors import SettingError
from mlx_gpt.replacing import replacing

Figures = dict[str, Any]
T = TypeVar("T")
PAUSE = 0.05  # seconds: threads of OpenBLAS and OpenMP spin for a while after their work, on another's cores


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way, each called twice before, to compile, allocate and warm the caches."""

    def timed(way: Callable[[], object]) -> float:
        started = time.perf_counter()
        way()
        return time.perf_counter() - started

    for way in ways.values():
        way()
        way()
    return turns({name: functools.partial(timed, way) for name, way in ways.items()}, rounds)


def turns(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What every way says, once a round by turns: what slows the machine for a while slows all of them."""
    said: dict[str, list[T]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            time.sleep(PAUSE)
            said[name].append(way())
    return said


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: the least disturbed, the middle, the worst."""
    return {"min": min(seconds) * 1e3, "median": statistics.median(seconds) * 1e3, "max": max(seconds) * 1e3}


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Ours by theirs: of the fastest rounds, and the range of the middle half of all rounds taken in pairs."""
    pairs = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    quarter = len(pairs) // 4
    return {
        "of_minima": min(ours) / min(theirs),
        "median": statistics.median(pairs),
        "low": pairs[quarter],
        "high": pairs[len(pairs) - 1 - quarter],
    }


def peak_bytes(make: Callable[[], Callable[[], object]]) -> int:
    """The most MLX memory a step holds, its weights and the optimiser's state included."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    way = make()
    way()
    mx.clear_cache()
    mx.reset_peak_memory()
    way()
    return mx.get_peak_memory() - before


def compared(name: str, ours: list[float], theirs: list[float]) -> Figures:
    """Two lists of seconds as figures and as a line."""
    each = {"ours_ms": summary(ours), "theirs_ms": summary(theirs), "ratio": ratio(ours, theirs)}
    by = each["ratio"]
    click.echo(
        f"  {name:<26}{each['ours_ms']['min']:>9.1f} ms  / {each['theirs_ms']['min']:>9.1f} ms  = {by['of_minima']:.2f}"
        f"   pairs {by['median']:.2f} [{by['low']:.2f} … {by['high']:.2f}]"
    )
    return each


def writable(out: Path | None) -> None:
    """Raise SettingError for a --json that cannot be written: before anything is measured."""
    if out is not None and (not out.absolute().parent.is_dir() or out.is_dir()):
        raise SettingError(f"--json {out}: cannot be written; name a file in a folder that exists")


def measured(parts: Mapping[str, Callable[[], Any]], version: int, settings: Figures, out: Path | None) -> None:
    """Measure part by part, under the machine's name; all figures go to `out`, too."""
    found: Figures = {
        "version": version,
        "mlx_gpt": mlx_gpt.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": description(),
        "load": os.getloadavg()[0],
        "settings": settings,
    }
    click.echo(f"{found['machine']}, {found['date']}, load {found['load']:.1f}")
    for name, part in parts.items():
        click.echo(f"\n{name}")
        found[name] = part()
    if out is not None:
        with replacing(out) as file:
            file.write(json.dumps(found, indent=1).encode() + b"\n")


def missing(why: str) -> Figures:
    click.echo(f"  {why}")
    return {"skipped": why}
