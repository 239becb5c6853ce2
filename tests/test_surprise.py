"""Text coloured by surprise: the text itself stays, and where there is no colour nothing else is added."""

import io
import math

import click
import pytest

from mlx_gpt.surprise import coloured, legend, wants_colour

PIECES, BITS = ["Once", " upon", " a\n", "", " né", " 😀"], [0.0, 1.0, 4.0, 7.0, 9.99, math.inf]


def test_colours_are_taken_off_again() -> None:
    text = coloured(PIECES, BITS, colour=True)
    assert click.unstyle(text) == coloured(PIECES, BITS, colour=False) == "".join(PIECES)
    assert text.count("\x1b[0m") == 5  # the empty piece has none


@pytest.mark.parametrize(
    ("bits", "code"),  # ECMA-48: 34 blue, 32 green, 33 yellow, 31 red; 95 bright magenta
    [(0, 34), (0.99, 34), (1, 32), (2.9, 32), (3, 33), (6, 31), (9.9, 31), (10, 95), (math.inf, 95)],
)
def test_surprise_goes_from_calm_to_hot(bits: float, code: int) -> None:
    assert coloured(["x"], [bits], colour=True) == f"\x1b[{code}mx\x1b[0m"


def test_the_legend_is_one_line_in_the_colours_it_names() -> None:
    assert click.unstyle(legend(colour=True)) == "bits of surprise: 0-1 1-3 3-6 6-10 10 and more"
    assert [code in legend(colour=True) for code in ("[34m0-1", "[32m1-3", "[33m3-6", "[31m6-10", "[95m10")] == [
        True
    ] * 5
    assert legend(colour=False) == ""


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(Terminal()) and not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
