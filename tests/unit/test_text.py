"""Text from elsewhere that a terminal must not act upon."""

from __future__ import annotations

import pytest

from vpctl.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb", "a\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb", "a\\rb"),
        ("\u202eevil", "\\u202eevil"),
        ("half \ud800", "half \\ud800"),
        ("grün", "grün"),
    ],
)
def test_what_a_terminal_acts_upon_is_an_escape_and_all_else_stays(text: str, shown: str) -> None:
    assert printable(text) == shown
