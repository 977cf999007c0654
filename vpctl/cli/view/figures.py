"""Figures for people: a value with a unit of a fitting size, a bar, a direction, in Unicode or in ASCII."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The characters beyond ASCII, or what stands in for them."""

    arrow: str
    ellipsis: str
    micro: str
    bar: str
    """A bar's end from empty to full."""


UNICODE = Marks(arrow="→", ellipsis="…", micro="µ", bar=" ▏▎▍▌▋▊▉█")
ASCII = Marks(arrow=">", ellipsis="~", micro="u", bar=" #")

BASE_UNITS = {
    "bit/s": ("bit/s", 0),
    "kbit/s": ("bit/s", 3),
    "Mbit/s": ("bit/s", 6),
    "Gbit/s": ("bit/s", 9),
    "packets/s": ("pps", 0),
    "ns": ("s", -9),
    "µs": ("s", -6),
    "us": ("s", -6),
    "ms": ("s", -3),
    "s": ("s", 0),
}
"""Units that take a prefix: what it is put before, and the power of ten of one of them."""

PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """A unit with its prefix, and by what power of ten a value is divided for it."""

    unit: str
    power: int

    def number(self, value: float) -> str:
        """Return three significant digits of a value, without its unit."""
        return significant(value / 10.0**self.power)

    def figure(self, value: float) -> str:
        """Return a value with its unit; `-` for what is no number."""
        return f"{self.number(value)} {self.unit}" if math.isfinite(value) else "-"


def scale_for(value: float, unit: str, marks: Marks) -> Scale:
    """Return the scale in which a value of this unit has one to three digits before its point."""
    if unit not in BASE_UNITS:
        return Scale(unit=unit, power=0)
    base, own = BASE_UNITS[unit]
    # Seconds are divided, never kiloseconds; bits and packets are whole.
    prefixes = [power for power in PREFIXES if (power <= 0 if base == "s" else power >= 0)]
    # 999.7 would be shown as 1000: what counts is what the value is rounded to.
    size = abs(float(f"{value:.2e}")) if math.isfinite(value) else 0.0
    fitting = [power for power in prefixes if size * 10.0 ** (own - power) >= 1]
    power = max(fitting, default=own if size == 0 else min(prefixes))
    return Scale(unit=PREFIXES[power].replace("µ", marks.micro) + base, power=power - own)


def figure(value: float, unit: str, marks: Marks = UNICODE) -> str:
    """Return a value with its unit: `1.23 Gbit/s` for 1230 Mbit/s."""
    return scale_for(value, unit, marks).figure(value)


def significant(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if not math.isfinite(value):
        return "-"
    rounded = float(f"{value:.2e}")
    if rounded == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(digits, 0)}f}"


def percent(ratio: float) -> str:
    """Return a ratio as a change: `-18.2 %`."""
    change = (ratio - 1) * 100
    return f"{change:+.1f} %" if abs(change) < 99.95 else f"{change:+.0f} %"


def bar(fraction: float, width: int, marks: Marks) -> str:
    """Return a bar of so many columns at most; something is always to be seen of what is more than nothing."""
    steps = len(marks.bar) - 1
    units = min(max(round(fraction * width * steps), 1 if fraction > 0 else 0), width * steps)
    full, rest = divmod(units, steps)
    return marks.bar[-1] * full + (marks.bar[rest] if rest else "")


def shorten(text: str, width: int, marks: Marks) -> str:
    """Return a text in so many columns, its middle left out: names differ at their ends."""
    if len(text) <= width:
        return text
    if width <= 1:
        return marks.ellipsis[:width]
    head = (width - 1) // 2
    tail = width - 1 - head
    return text[:head] + marks.ellipsis + text[len(text) - tail :]


def direction(source: str, target: str, width: int, marks: Marks) -> str:
    """Return `vm1→vm2` in so many columns: the longer name is shortened first."""
    room = max(width - len(marks.arrow), 2)
    first = max(min(len(source), room // 2), room - len(target))
    first = min(len(source), max(first, 1))
    second = min(len(target), room - first)
    return f"{shorten(source, first, marks)}{marks.arrow}{shorten(target, second, marks)}"


def marks_for(stream: TextIO) -> Marks:
    """Return what a stream can show."""
    try:
        "".join((UNICODE.arrow, UNICODE.ellipsis, UNICODE.micro, UNICODE.bar)).encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return ASCII
    return UNICODE
