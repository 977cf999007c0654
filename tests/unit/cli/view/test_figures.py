"""Figures, bars and directions, as wide as they may be and no wider."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.cli.view.figures import (
    ASCII,
    BASE_UNITS,
    UNICODE,
    Marks,
    bar,
    direction,
    figure,
    percent,
    shorten,
    significant,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234.5, "Mbit/s", "1.23 Gbit/s"),
        (812.3, "Mbit/s", "812 Mbit/s"),
        (0.4, "Mbit/s", "400 kbit/s"),
        (0.0000004, "Mbit/s", "0.400 bit/s"),
        (999.4, "Mbit/s", "999 Mbit/s"),
        (999.6, "Mbit/s", "1.00 Gbit/s"),
        (5e9, "Mbit/s", "5000 Tbit/s"),
        (45_600, "packets/s", "45.6 kpps"),
        (12, "packets/s", "12.0 pps"),
        (1_234_567, "packets/s", "1.23 Mpps"),
        (812, "µs", "812 µs"),
        (812, "us", "812 µs"),
        (0.5, "µs", "500 ns"),
        (0.00005, "µs", "0.0500 ns"),
        (1500, "µs", "1.50 ms"),
        (3400, "ms", "3.40 s"),
        (90_000, "s", "90000 s"),
        (0.0123, "s/Gbit", "0.0123 s/Gbit"),
        (123_456, "s/Gbit", "123000 s/Gbit"),
        (0, "Mbit/s", "0 Mbit/s"),
        (-3, "ms", "-3.00 ms"),
        (math.nan, "ms", "-"),
        (math.inf, "Mbit/s", "-"),
        (-math.inf, "%", "-"),
    ],
)
def test_a_figure_has_three_digits_and_a_fitting_unit(value: float, unit: str, text: str) -> None:
    assert figure(value, unit) == text
    assert figure(value, unit, ASCII) == text.replace("µ", "u")


@given(st.floats(1e-6, 1e12), st.sampled_from([*BASE_UNITS]))
def test_what_a_figure_says_is_the_value(value: float, unit: str) -> None:
    number, shown = figure(value, unit, ASCII).split()
    base, power = BASE_UNITS[unit]
    prefix = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12}[shown.removesuffix(base)]
    assert float(number) * 10.0**prefix == pytest.approx(value * 10.0**power, rel=0.0051)
    assert 1 <= float(number) < 1000 or prefix in (-9, 12) or (prefix == 0)


@pytest.mark.parametrize(
    ("ratio", "text"), [(1, "+0.0 %"), (0.818, "-18.2 %"), (1.25, "+25.0 %"), (0, "-100 %"), (21.5, "+2050 %")]
)
def test_a_ratio_is_shown_as_a_change(ratio: float, text: str) -> None:
    assert percent(ratio) == text


@given(st.floats(0, 1), st.integers(1, 40), st.sampled_from([UNICODE, ASCII]))
def test_a_bar_is_as_long_as_its_fraction_and_more_than_nothing_shows(
    fraction: float, width: int, marks: Marks
) -> None:
    drawn = bar(fraction, width, marks)
    assert len(drawn) <= width
    assert bool(drawn) is (fraction > 0)
    assert abs(drawn.count(marks.bar[-1]) - fraction * width) <= 1
    assert bar(1, width, marks) == marks.bar[-1] * width


@given(st.text("abcdef-123", max_size=40), st.integers(1, 40), st.sampled_from([UNICODE, ASCII]))
def test_a_shortened_text_fits_and_keeps_both_ends(text: str, width: int, marks: Marks) -> None:
    short = shorten(text, width, marks)
    assert len(short) == min(len(text), width)
    if len(text) > width > 2:
        assert (short[0], short[-1]) == (text[0], text[-1])
        assert marks.ellipsis in short


@given(
    st.text("abc-1", min_size=1, max_size=31),
    st.text("abc-1", min_size=1, max_size=31),
    st.integers(5, 70),
    st.sampled_from([UNICODE, ASCII]),
)
def test_a_direction_fits_and_names_both_ends(source: str, target: str, width: int, marks: Marks) -> None:
    shown = direction(source, target, width, marks)
    there, back = shown.split(marks.arrow)
    assert len(shown) == min(len(source) + 1 + len(target), width)
    assert there
    assert back
    if len(source) + 1 + len(target) <= width:
        assert shown == f"{source}{marks.arrow}{target}"


@pytest.mark.parametrize(
    ("width", "text"), [(40, "frontend-1→db"), (11, "fro…nd-1→db"), (7, "f…-1→db"), (5, "…1→db")]
)
def test_the_longer_name_is_shortened_first(width: int, text: str) -> None:
    assert direction("frontend-1", "db", width, UNICODE) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (9.996, "10.0"), (1e-9, "0.00000000100"), (123456, "123000")])
def test_there_are_no_exponents(value: float, text: str) -> None:
    assert significant(value) == text
