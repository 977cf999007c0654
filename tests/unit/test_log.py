"""Plain log lines: what began, what ended and how; never an exception of its own."""

from __future__ import annotations

import io
import re

import pytest

from vpctl.log import Log, Silent


def logged(log: Log) -> list[str]:
    assert isinstance(log.stream, io.StringIO)
    return re.sub(r"\d+\.\d s", "N s", log.stream.getvalue()).splitlines()


def test_steps_nest_and_tell_their_end() -> None:
    log = Log(io.StringIO())
    with log.step("boot"):
        with log.step("vm1") as step:
            step.update("kernel")
        log.info("half way")
    assert logged(log) == ["boot …", "  vm1 …", "  vm1: N s (kernel)", "  half way", "boot: N s"]


def test_a_failing_step_is_told_in_parentheses_and_the_error_passes() -> None:
    log = Log(io.StringIO())
    with pytest.raises(KeyError), log.step("boot"), log.step("vm1"):
        raise KeyError
    log.info("after")
    assert logged(log) == ["boot …", "  vm1 …", "  (vm1: failed after N s)", "(boot: failed after N s)", "after"]


def test_progress_and_debug_need_verbosity() -> None:
    quiet, loud = Log(io.StringIO()), Log(io.StringIO(), verbosity=1)
    for log in (quiet, loud):
        with log.step("build") as step:
            step.update("50 %")
        log.debug("detail")
    assert "detail" not in logged(quiet)
    assert logged(loud) == ["build …", "  50 %", "build: N s (50 %)", "detail"]


def test_silent_says_only_warnings() -> None:
    log = Silent(io.StringIO(), verbosity=1)
    with log.step("boot") as step:
        step.update("x")
    log.info("x")
    log.debug("x")
    log.warning("slow", hint="buy a computer")
    assert logged(log) == ["warning: slow", "hint: buy a computer"]


def test_a_closed_stream_is_no_reason_to_fail() -> None:
    stream = io.StringIO()
    log = Log(stream)
    stream.close()
    with log.step("boot"):
        log.warning("nobody hears this")


def test_a_reader_that_went_away_is_no_reason_to_fail() -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    Log(Broken()).info("nobody hears this")


def test_writes_to_the_stderr_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    Log().info("hello")
    assert capsys.readouterr() == ("", "hello\n")
