"""Figures as a reader wants them; nothing for None."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def named(row: dict[str, Any]) -> str:
    """The number of a row or a run, but for a mixture, which has none, and its name."""
    return f"{row['stage'] or ''} {row['name']}".strip()


def titled(row: dict[str, Any]) -> str:
    """The same, with a sign where it was not trained to its end."""
    return named(row) + ("" if row["finished"] else " …")


def bits(value: float | None, digits: int = 4) -> str:
    """So many digits, or that it is impossible."""
    return "∞" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """With its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def with_margin(value: float | None, margin: float | None, form: Callable[[float], str] = bits) -> str:
    """A figure and the half width of its interval, where that is known."""
    if value is None or not math.isfinite(value):
        return bits(value)
    return form(value) + reach(margin)


def reach(margin: float | None, digits: int = 4) -> str:
    """The half width of an interval, where that is known."""
    return f" ± {margin:.{digits}f}" if margin is not None and math.isfinite(margin) else ""


def count(value: float | None) -> str:
    """A number of things."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.2f} M"


def time(value: float | None) -> str:
    """Seconds, minutes or hours."""
    if value is None:
        return ""
    if value < 120:
        return f"{value:,.1f} s"
    return f"{value / 60:,.1f} min" if value < 7_200 else f"{value / 3_600:,.1f} h"


def megabytes(value: float | None) -> str:
    """Bytes."""
    return "" if value is None else f"{value / 1e6:,.0f} MB"


def size(value: float | None) -> str:
    """Bytes of a file, small or large."""
    if value is None:
        return ""
    unit, name = next((each for each in ((1e9, "GB"), (1e6, "MB")) if value >= each[0]), (1e3, "kB"))
    return f"{value / unit:,.{0 if value >= 100 * unit else 1 if value >= 10 * unit else 2}f} {name}"


def short(value: float) -> str:
    """A round number with its unit: 10 k, 2 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def percent(share: float | None) -> str:
    """A share, 0 to 1."""
    return "" if share is None else f"{100 * share:.1f} %"


def excerpt(text: str, most: int) -> str:
    """A text in one line, no longer than that."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def amount(axis: str, value: float | None) -> str:
    """Of one of the axes of the frontiers, where a heading tells what it is of."""
    if value is None:
        return ""
    if axis == "bytes_on_disk":
        return size(value)
    if axis in ("seconds", "scoring"):
        return time(value) if value >= 10 else f"{value:.2g} s"
    return count(value)


def cost(axis: str, value: float) -> str:
    """The same in a sentence."""
    unit = {"tokens": " tokens", "parameters": " parameters", "scoring": " a megabyte"}.get(axis, "")
    return amount(axis, value) + unit


def plain(said: str) -> str:
    """Nothing that Markdown's readers would take for HTML."""
    return said.replace("&", "&amp;").replace("<", "&lt;")
