"""Text coloured by how surprising it was, for a terminal: from calm to hot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

import click

HEAT = ((1, "blue"), (3, "green"), (6, "yellow"), (10, "red"))  # below so many bits, this colour
HOTTEST = "bright_magenta"


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal, and NO_COLOR is not set (no-color.org)."""
    return not os.environ.get("NO_COLOR") and stream.isatty()


def coloured(pieces: Sequence[str], bits: Sequence[float], colour: bool) -> str:
    """The pieces as one text, each in the colour of its surprise, -log2 p; as they are without `colour`."""
    return "".join(_in_colour(piece, each, colour) for piece, each in zip(pieces, bits, strict=True))


def legend(colour: bool) -> str:
    """One line that says which colour is how many bits; without `colour` there is none to explain."""
    if not colour:
        return ""
    lows = (0, *(limit for limit, _ in HEAT))
    names = [f"{low}-{limit}" for low, (limit, _) in zip(lows, HEAT, strict=False)] + [f"{lows[-1]} and more"]
    return "bits of surprise: " + " ".join(_in_colour(name, low, True) for name, low in zip(names, lows, strict=True))


def _in_colour(piece: str, bits: float, colour: bool) -> str:
    if not (colour and piece):
        return piece
    return click.style(piece, fg=next((name for limit, name in HEAT if bits < limit), HOTTEST))
