"""The command line as a whole: help of every verb, exit codes, errors as JSON, what `--help` imports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.calls import exit_code
from vpctl.__main__ import run_work
from vpctl.cli.app import IMAGE_VERBS, VERBS, build_app
from vpctl.cli.verb import Common, Context, OutputFormat, Result, Verb, Work
from vpctl.errors import (
    HostError,
    NotFoundError,
    Problem,
    QmpError,
    ReadyTimeoutError,
    RecoveryError,
    RegressionError,
    TopologyError,
    UsageError,
    VerificationError,
)
from vpctl.guest.ssh import GuestSshError

WORKING = (
    "up down plan validate status list exec ssh cp console logs qmp check crash recover events image doctor schema "
    "version compare bench soak"
)
"""The contract's verbs, less those that come later: report, graph."""

ALL_VERBS = [[name] for name in VERBS] + [["image", name] for name in IMAGE_VERBS]


def common(**more: Any) -> Common:
    given = {"topology": None, "format": OutputFormat.TABLE, "verbose": 0, "quiet": False, "debug": False}
    return Common(**{**given, **more})


def performed(verb: Verb, **more: Any) -> int:
    return run_work(Work(verb=verb, common=common(**more), arguments={}))


def raising(error: BaseException) -> Verb:
    async def verb(context: Context) -> Result:
        raise error

    return verb


def test_the_verbs_are_those_of_the_contract_that_work() -> None:
    assert {*VERBS, "image"} == set(WORKING.split())


@pytest.mark.parametrize("words", ALL_VERBS, ids=" ".join)
def test_every_verb_has_help_with_the_common_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert build_app()([*words, "--help"], standalone_mode=False) == 0
    shown = capsys.readouterr().out
    for option in ("--topology", "-t", "--format", "-f", "--json", "--verbose", "-v", "--quiet", "-q"):
        assert f" {option} " in shown, option
    assert "--debug" not in shown


@pytest.mark.parametrize("words", ALL_VERBS, ids=" ".join)
def test_every_verb_refuses_an_unknown_option_in_json_where_that_was_asked_for(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*words, "--zzz", "--json") == 2
    out, err = capsys.readouterr()
    if words == ["exec"]:  # what it does not know belongs to the guest; the VM and the command are missing
        assert json.loads(out)["error"]["code"] == "usage"
        return
    error = json.loads(out)
    assert error["schema_version"] == 1
    assert error["error"]["code"] == "usage"
    assert error["error"]["message"] == "no such option: --zzz"
    assert error["error"]["hint"].endswith(f"{' '.join(words)} --help")
    assert err == ""


@pytest.mark.parametrize("words", [["-f", "json"], ["-fjson"], ["--format", "json"], ["--format=json"], ["--json"]])
def test_every_spelling_of_json_counts_for_usage_errors_too(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("status", "--nope", *words) == 2
    assert "error" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words", [["nope"], ["status", "--nope"], ["up"], ["version", "-f", "yaml"], ["exec", "json"]]
)
def test_a_wrong_command_line_is_2_with_a_hint_on_stderr(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "\nhint: " in err


def test_no_arguments_at_all_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code() == 2
    assert "recover" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "words", [["status"], ["list"], ["check"], ["events"], ["recover", "vm1"], ["qmp", "vm1", "x"]]
)
def test_where_nothing_runs_it_is_8(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*words, "--json") == 8
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not-found"


@pytest.mark.parametrize(
    "words", [["exec", "vm1", "true"], ["exec", "vm1", "--", "ls", "--json"], ["cp", "x", "vm1:"]]
)
def test_a_guest_that_cannot_be_reached_is_255_as_with_ssh(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*words) == 255
    out, err = capsys.readouterr()
    assert (out, err.startswith("error: no topology runs")) == ("", True)


def test_down_of_nothing_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("down", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "stopped": []}
    assert exit_code("down", "never-was") == 0


PROBLEM = Problem(message="m", file="f", line=1, column=2)


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (UsageError("m"), 2, "usage"),
        (TopologyError([PROBLEM]), 2, "topology"),
        (HostError("m"), 3, "host"),
        (ReadyTimeoutError("m"), 4, "timeout"),
        (QmpError("m"), 5, "qmp"),
        (RecoveryError("m"), 6, "recovery"),
        (RegressionError("m"), 7, "regression"),
        (NotFoundError("m"), 8, "not-found"),
        (VerificationError("m"), 1, "verification"),
        (GuestSshError("m"), 255, "timeout"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (asyncio.CancelledError(), 130, "interrupted"),
        (RuntimeError("m"), 70, "internal"),
        (BrokenPipeError("a socket's"), 70, "internal"),
        (ExceptionGroup("g", [RuntimeError("x"), ExceptionGroup("h", [HostError("m")])]), 3, "host"),
        (ExceptionGroup("g", [RuntimeError("x")]), 70, "internal"),
    ],
    ids=repr,
)
def test_what_a_verb_raises_is_the_contracts_code_and_word(
    error: BaseException, code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert performed(raising(error), format=OutputFormat.JSON) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == word
    assert err == ""


def test_the_unexpected_is_told_with_a_hint_and_with_its_traceback_if_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert performed(raising(RuntimeError("oops"))) == 70
    assert capsys.readouterr().err == (
        "error: unexpected RuntimeError: oops\nhint: run again with --debug for the traceback\n"
    )
    assert performed(raising(RuntimeError("oops")), debug=True) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_verb_once_and_its_cleanup_completes(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    async def verb(context: Context) -> Result:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)
        finally:
            os.kill(os.getpid(), number)  # an impatient second one
            await asyncio.sleep(0.01)
            cleaned.append(True)
        return Result()

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert performed(verb) == 130
        os.kill(os.getpid(), number)  # nor does one more change anything, until the process is gone
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert cleaned == [True]
    assert capsys.readouterr().err == "error: interrupted\n"


def test_the_exit_code_and_the_data_are_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    async def verb(context: Context) -> Result:
        return Result(data={"path": Path("/x")}, text="plain", exit_code=7)

    assert performed(verb) == 7
    assert capsys.readouterr().out == "plain\n"
    assert performed(verb, format=OutputFormat.JSON) == 7
    assert json.loads(capsys.readouterr().out) == {"path": "/x"}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "vpctl", "schema"],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


IMPORTED = """
import sys
try:
    {call}
except SystemExit:
    pass
print(*sys.modules, file=sys.stderr)
"""
EMPTY_APP = """import typer
    app = typer.Typer()
    @app.callback()
    def nothing() -> None: ...
    @app.command()
    def verb() -> None: ...
    app(["--help"])"""


def imported(call: str) -> set[str]:
    argv = [sys.executable, "-c", IMPORTED.format(call=call)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_our_own_modules_and_what_typer_itself_needs() -> None:
    ours = imported("from vpctl.__main__ import main; main(['--help'])")
    more = {name.split(".")[0] for name in ours - imported(EMPTY_APP)}
    assert "vpctl" in more
    assert not more - {"vpctl"} - sys.stdlib_module_names
    assert not {"asyncio", "asyncssh", "pydantic", "qemu", "yaml"} & more
