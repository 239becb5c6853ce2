"""A picture shows what the log says: the descent, not the spike; the best look; the last word of a resumed run."""

import itertools
import json
import random
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gpt import chart, plot
from mlx_gpt.chart import terminal_curve
from mlx_gpt.plot import Line, curves, draw_curve, limits, read_log, smooth, throughput_curve

BRAILLE = range(0x2801, 0x2900)


def training(step, bits, tokens=0, seconds=0.0):
    return {
        "step": step,
        "loss": bits,
        "bits_per_byte": bits,
        "learning_rate": 1e-3,
        "tokens": tokens,
        "seconds": seconds,
    }


def looked(step, bits):
    return {"step": step, "valid_bits_per_byte": bits}


def run_of(steps=2000):
    """8 bits per byte at first, 1.1 soon after; ten thousand tokens a second, but once a report early, the next late."""
    chance = random.Random(1)
    for step in [1, *range(10, steps + 1, 10)]:
        bits = 1 + 7 * 0.98**step + 0.1 * chance.random()
        yield training(step, bits, 1000 * step, 99.001 if step == 1000 else step / 10)
        if step % 100 == 0:
            yield looked(step, 1.1 + 7 * 0.98**step)
    yield {"finished": True, "bits_per_byte": 0.5, "valid_bits_per_byte": 0.5}


@pytest.fixture
def write(tmp_path):
    def write(lines, more=b""):
        log = tmp_path / "log.jsonl"
        log.write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode() + more)
        return log

    return write


def test_a_log_reads_back_as_it_was_written(write):
    log = write([{**training(10, 2.5, 640, 1.5), "gradient_norm": 1.0, "loss_scale": 2**16}, looked(10, 2.75)])
    assert read_log(log) == [
        Line(10, bits_per_byte=2.5, learning_rate=1e-3, tokens=640.0, seconds=1.5),
        Line(10, valid_bits_per_byte=2.75),
    ]


@pytest.mark.parametrize(
    "nonsense",
    [
        b'{"step": 15, "bits_per_by',  # torn
        b"\xff\xfe\x00",
        b"",
        b"[]",
        b"3",
        b"[" * 100_000,
        b'{"step": ' + b"9" * 5000 + b', "bits_per_byte": 1.0}',
        b'{"step": -1, "bits_per_byte": 1.0}',
        b'{"step": true, "bits_per_byte": 1.0}',
        b'{"step": 1000000000000, "bits_per_byte": 1.0}',
        b'{"step": 15, "bits_per_byte": -1.0}',
        b'{"step": 1.5, "bits_per_byte": 1.0}',
        b'{"step": 15, "bits_per_byte": "1.0"}',
        b'{"step": 15, "bits_per_byte": true}',
        b'{"step": 15, "bits_per_byte": NaN, "seconds": -Infinity}',
        b'{"step": 15, "bits_per_byte": 1e300, "tokens": ' + b"9" * 400 + b"}",
        b'{"step": 15, "bits_per_byte": null, "unknown": 3}',
        b'{"finished": true, "bits_per_byte": 1.0}',
    ],
)
def test_a_line_that_makes_no_sense_is_left_out_and_the_next_one_is_read(write, nonsense):
    log = write([training(10, 2.0)], nonsense + b"\n")
    assert [line.step for line in read_log(log)] == [10]
    log = write([training(10, 2.0)], nonsense + b"\n" + json.dumps(training(20, 1.5)).encode())
    assert [line.step for line in read_log(log)] == [10, 20]


def test_the_largest_steps_and_values_that_make_sense_fit_a_narrow_terminal(write):
    log = write([training(step, plot.LIMITS["bits_per_byte"]) for step in (plot.MOST_STEPS - 1, plot.MOST_STEPS)])
    assert {len(line) for line in terminal_curve(log, 40).split("\n")} <= set(range(41))


def test_of_steps_that_a_resumed_run_repeats_the_last_report_holds(write):
    before = [training(10, 3.0), looked(10, 3.0), training(20, 9.0), looked(20, 9.0), training(30, 9.0)]
    log = write([*before, training(20, 2.0), looked(20, 2.5)])
    assert curves(read_log(log)) == ([(10, 3.0), (20, 2.0)], [(10, 3.0), (20, 2.5)])


def test_throughput_is_counted_between_reports_and_a_clock_set_back_counts_for_nothing(write):
    log = write(
        [
            training(10, 2, 1000, 10.0),
            training(20, 2, 2000, 12.0),
            training(30, 2, 3000, 1.0),
            looked(30, 2),
            training(40, 2, 4000, 1.5),
        ]
    )
    assert throughput_curve(read_log(log)) == [(20, 500.0), (40, 2000.0)]


def test_a_smooth_curve_forgets_a_spike_and_keeps_a_line():
    line = [(step, 0.5 * step) for step in range(200)]
    spiked = [(step, 1e3 if step == 100 else value) for step, value in line]
    assert [value for _, value in smooth(line)[20:-20]] == pytest.approx([value for _, value in line[20:-20]])
    assert max(value for _, value in smooth(spiked)) < 100
    assert smooth(line[:3]) == line[:3]  # too few to smooth


def test_limits_show_the_descent_and_every_later_look_but_not_the_first_steps_nor_a_divergence():
    train = [(step, 8.0 if step < 50 else 1.2 - step / 10_000) for step in range(0, 2000, 10)]
    low, high = limits(train, [(1000, 1.15), (2000, 1.05)])
    assert 0.8 < low < 1.0 and 1.2 < high < 1.4
    assert limits(train, [(1000, 1.15), (2000, 1.8)])[1] > 1.8  # an overfitted model's
    assert limits(train, [(1000, 1.15), (2000, 300.0)])[1] < 4
    low, high = limits([(1, 2.0), (2, 2.0)], [])
    assert low < 2 < high


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_picture_in_a_terminal_fits_and_names_first_last_and_best(write, width, unicode):
    log = write(run_of())
    train, valid = curves(read_log(log))
    lines = terminal_curve(log, width, unicode=unicode).split("\n")
    assert len(lines) == 12
    assert max(map(len, lines)) <= width and len(lines[-2]) == width
    assert lines[-2].split()[2] == "1" and lines[-2].endswith(" 2,000")
    best = min(value for _, value in valid)
    assert f"{train[0][1]:.2f}" in lines[-1] and f"{smooth(train)[-1][1]:.2f}" in lines[-1]
    assert f"best {best:.4f}" in lines[-1]
    assert ("at step 2,000" in lines[-1]) == (width > 40)


def test_without_unicode_there_is_nothing_but_ascii_and_with_it_there_is_braille(write):
    log = write(run_of())
    assert terminal_curve(log, 80, unicode=False).isascii()
    assert any(ord(sign) in BRAILLE for sign in terminal_curve(log, 80))
    assert "\x1b" not in terminal_curve(log, 80)


@pytest.mark.parametrize(("unicode", "down"), [(True, 4), (False, 3)])
def test_a_falling_curve_falls_from_the_top_left_to_the_bottom_right(write, unicode, down):
    log = write([training(step, 3 - step / 1000) for step in range(0, 2001, 10)])
    picture = [line[6:].ljust(74) for line in terminal_curve(log, 80, unicode=unicode).split("\n")[:10]]
    picture[0] = picture[0].replace("bits per byte", " " * 13)
    rows = [[row for row in range(10) if picture[row][column] != " "] for column in range(74)]
    drawn = [found for found in rows if found]
    assert len(drawn) > 74 * 0.9  # at most the first steps are above the picture
    assert all(max(before) <= max(after) and min(before) <= min(after) for before, after in itertools.pairwise(drawn))
    assert drawn[0][0] == 0 and drawn[-1][-1] == 9


def test_a_look_is_marked_at_its_step_and_height(write):
    log = write([looked(0, 1.0), looked(50, 2.0), looked(100, 1.0)])
    lines = terminal_curve(log, 80, unicode=False).split("\n")
    marks = [(row, column) for row, line in enumerate(lines[:10]) for column, sign in enumerate(line) if sign == "o"]
    (top, middle), left, right = marks
    assert top == 0 and middle == pytest.approx((left[1] + right[1]) / 2, abs=1)
    assert left[0] == right[0] == 9 and right[1] == 79


def test_a_rising_curve_takes_the_place_of_the_unit(write):
    picture = terminal_curve(write([training(step, 2 + step / 1000) for step in range(0, 2001, 10)]), 80)
    assert max(map(len, picture.split("\n"))) == 80 and "bits per byte" not in picture


def test_a_fall_from_far_above_takes_no_time(write):
    log = write([training(step, 1000.0 if step < 5 else 0.001) for step in range(1000)])
    before = time.process_time()
    assert terminal_curve(log, 80)
    assert time.process_time() - before < 1


def test_dots_are_those_of_the_braille_patterns_and_bars_are_steep():
    for x, column in enumerate(("1237", "4568")):
        for y, dot in enumerate(column):
            assert chart._braille({(x, y)}) == {(0, 0): unicodedata.lookup(f"BRAILLE PATTERN DOTS-{dot}")}
    assert chart._braille({(2, 4), (3, 7)}) == {(1, 1): unicodedata.lookup("BRAILLE PATTERN DOTS-18")}
    assert chart._ascii({(0, 0), (1, 1), (2, 2), (3, 0), (3, 2)}) == {
        (0, 0): '"',
        (1, 0): "-",
        (2, 0): "_",
        (3, 0): "|",
    }


@pytest.mark.parametrize("lines", [[], [training(1, 2.0)], [looked(1, 2.0)], [training(1, 2.0), looked(1, 2.0)]])
def test_one_step_is_no_curve(write, tmp_path, lines):
    assert terminal_curve(write(lines), 80) == ""
    assert not draw_curve(write(lines), tmp_path / "curve.png", "a run")
    assert not (tmp_path / "curve.png").exists()


def test_a_terminal_too_narrow_gets_no_picture_and_a_chart_of_one_row_is_our_mistake(write):
    assert terminal_curve(write(run_of()), 39) == ""
    with pytest.raises(AssertionError, match="height 1"):
        terminal_curve(write(run_of()), 80, height=1)
    assert len(terminal_curve(write(run_of()), 80, height=2).split("\n")) == 4


def test_without_matplotlib_there_is_no_picture_and_no_error(write, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert not draw_curve(write(run_of()), tmp_path / "curve.png", "a run")


def drawn(monkeypatch, log, picture, title="a run"):
    """The figure that `draw_curve` saved."""
    figure = pytest.importorskip("matplotlib.figure")
    made = []
    save = figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: (made.append(self), save(self, *a, **k)))
    assert draw_curve(log, picture, title)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return made[0]


def test_the_png_has_three_panels_over_the_same_steps_and_names_the_best_look(write, tmp_path, monkeypatch):
    log = write(run_of())
    bits, rate, speed = drawn(monkeypatch, log, tmp_path / "curve.png", "a $\\run$").axes
    assert [axes.get_ylabel() for axes in (bits, rate, speed)] == ["bits per byte", "learning rate", "tokens/s"]
    assert bits.get_xlim() == rate.get_xlim() == speed.get_xlim()
    assert bits.get_ylim()[1] < 3  # not the eight of the first step
    best = min(value for _, value in curves(read_log(log))[1])
    assert [(text.xy, text.get_text()) for text in bits.texts] == [((1, best), f"best {best:.4f}\nstep 2,000")]
    assert speed.lines[-1].get_ydata() == pytest.approx([10_000] * 200)
    assert 10_000 < speed.get_ylim()[1] < 20_000


def test_a_png_needs_neither_looks_nor_rates_nor_a_clock(write, tmp_path, monkeypatch):
    lines = [{"step": step, "loss": 1.0, "bits_per_byte": 1.0, "learning_rate": None} for step in (1, 2)]
    assert len(drawn(monkeypatch, write(lines), tmp_path / "curve.png").axes) == 3


VALUES = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.integers(-5, 10**400), st.floats(), st.floats(0, 1000)
)
LINES = st.fixed_dictionaries(
    {"step": st.one_of(st.integers(0, 10**8), VALUES)}, optional={name: VALUES for name in plot.LIMITS}
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES, max_size=8), st.binary(max_size=40), st.integers(40, 220), st.booleans())
def test_whatever_a_log_holds_the_picture_fits(tmp_path_factory, lines, more, width, unicode):
    log = tmp_path_factory.getbasetemp() / "any.jsonl"
    log.write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode() + more)
    picture = terminal_curve(log, width, unicode=unicode)
    assert all(len(line) <= width for line in picture.split("\n"))
    assert picture.isascii() or unicode


@settings(max_examples=8, deadline=None)
@given(st.lists(LINES, min_size=2, max_size=8))
def test_whatever_a_log_holds_a_png_comes_or_none(tmp_path_factory, lines):
    log = tmp_path_factory.getbasetemp() / "any.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    picture = tmp_path_factory.getbasetemp() / "any.png"
    assert draw_curve(log, picture, "any") <= picture.exists()
