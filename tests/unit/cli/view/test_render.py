"""What people see: plain in a pipe, no colour where none is wanted, errors with their place and hint."""

from __future__ import annotations

import io
import re

import pytest

from tests.unit.cli.view.shown import Terminal, shown
from vpctl.cli.view import render
from vpctl.errors import HostError, Problem, TopologyError, VpctlError

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


TABLE = [("vm1", "ready"), ("vm2", "crashed")]


def test_a_table_in_a_pipe_is_plain_and_its_lines_are_whole() -> None:
    text = shown(render.table(("vm", "state"), [*TABLE, ("x" * 100, "y" * 100)]))
    assert "\x1b" not in text
    lines = [line.split() for line in text.splitlines()]
    assert lines == [["VM", "STATE"], ["vm1", "ready"], ["vm2", "crashed"], ["x" * 100, "y" * 100]]


def test_a_terminal_has_colours_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert COLOUR.search(shown(render.table(("vm", "state"), TABLE), Terminal()))
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(render.table(("vm", "state"), TABLE), Terminal())
    assert not COLOUR.search(text)
    assert "crashed" in text


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    assert "[red]x[/red]" in shown(render.table(("a",), [("[red]x[/red]",)]))


@pytest.mark.parametrize(("term", "ci", "live_"), [("xterm", "", True), ("dumb", "", False), ("xterm", "1", False)])
def test_output_is_live_on_a_terminal_that_can_and_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, term: str, ci: str, live_: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("CI", ci)
    assert render.is_live(Terminal()) is live_
    assert render.is_live(io.StringIO()) is False


PROBLEMS = [
    Problem(message="unknown key `vm`", file="p.yaml", line=3, column=1, hint="did you mean `vms`?"),
    Problem(message="no VMs", file="p.yaml", line=1, column=1),
]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (HostError("no disk"), ["error: no disk"]),
        (HostError("no disk", hint="buy one"), ["error: no disk", "hint: buy one"]),
        (
            VpctlError("bad", hint="h", where="f:1:2", details="one\ntwo"),
            ["error: f:1:2: bad", "  one", "  two", "hint: h"],
        ),
        (
            TopologyError(PROBLEMS),
            ["error: p.yaml:3:1: unknown key `vm`", "hint: did you mean `vms`?", "error: p.yaml:1:1: no VMs"],
        ),
    ],
)
def test_an_error_is_a_sentence_its_details_and_a_hint(error: VpctlError, lines: list[str]) -> None:
    assert render.error_lines(error) == lines
