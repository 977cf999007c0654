"""Standard streams of every sort: closed, full, without a reader, and unable to show every character."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from vpctl.__main__ import run_work
from vpctl.cli.interrupts import Interrupts
from vpctl.cli.streams import Descriptor
from vpctl.cli.verb import Common, Context, OutputFormat, Result, Work
from vpctl.cli.view import render

FILES = {
    "good.yaml": "version: 1\nname: good\nvms: {vm1: {}}\n",
    "bad.yaml": "version: 1\nname: bad\nvms: {vm1: {image: a/b}}\n",  # the hint of which has an ellipsis
}

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("--help",),
    ("schema",),
    ("list", "-f", "json"),
    ("validate", "-f", "json", "bad.yaml"),
    ("validate", "bad.yaml"),
    ("plan", "bad.yaml"),
    ("exec", "vm1", "true"),
)

NULL, FULL = Path(os.devnull), Path("/dev/full")

Done = subprocess.CompletedProcess[bytes]


def close(*fds: int) -> Callable[[], None]:
    def closing() -> None:
        for fd in fds:
            os.close(fd)

    return closing


def all_of_them(
    directory: Path,
    environ: Mapping[str, str] | None = None,
    *,
    out: Path | None = None,
    closed: tuple[int, ...] = (),
) -> dict[tuple[str, ...], Done]:
    """Run every command at once; `out` is a file to write to."""
    for name, text in FILES.items():
        (directory / name).write_text(text, encoding="utf-8")
    # What this user has running is none of theirs.
    own = {"VPCTL_RUN_DIR": str(directory / "run"), "VPCTL_STATE_DIR": str(directory / "state")}
    running = {}
    for words in COMMANDS:
        with (out or NULL).open("wb") as stdout:
            running[words] = subprocess.Popen(
                [sys.executable, "-m", "vpctl", *words],
                cwd=directory,
                env={**os.environ, **own, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout if out else subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=close(*closed),  # nothing of ours has threads here
            )
    done: dict[tuple[str, ...], Done] = {}
    for words, process in running.items():
        stdout_, stderr_ = process.communicate()
        done[words] = Done(words, process.returncode, stdout_ or b"", stderr_ or b"")
    return done


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Done]:
    """What the commands do where they can write."""
    return all_of_them(tmp_path_factory.mktemp("usual"))


def codes(done: Mapping[tuple[str, ...], Done]) -> dict[tuple[str, ...], int]:
    return {words: each.returncode for words, each in done.items()}


def assert_no_traceback(done: Mapping[tuple[str, ...], Done]) -> None:
    for words, each in done.items():
        assert b"Traceback" not in each.stderr + each.stdout, words
        assert b"Exception ignored" not in each.stderr, words


def test_the_commands_are_of_every_sort(usual: dict[tuple[str, ...], Done]) -> None:
    assert {each.returncode for each in usual.values()} == {0, 2, 8, 255}
    assert_no_traceback(usual)


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)], ids=str)
def test_a_closed_stream_changes_no_exit_code(
    closed: tuple[int, ...], usual: dict[tuple[str, ...], Done], tmp_path: Path
) -> None:
    done = all_of_them(tmp_path, closed=closed)
    assert codes(done) == codes(usual)
    assert_no_traceback(done)


def test_a_full_stdout_is_3_and_said(usual: dict[tuple[str, ...], Done], tmp_path: Path) -> None:
    done = all_of_them(tmp_path, out=FULL)
    assert_no_traceback(done)
    for words, each in done.items():
        if usual[words].stdout and b'"error"' not in usual[words].stdout:
            assert each.returncode == 3, words
            assert each.stderr.endswith(b"error: cannot write the output: No space left on device\n"), words
        else:  # an error, which goes to stderr in the end
            assert each.returncode == usual[words].returncode, words
            assert each.stderr, words


def test_a_terminal_that_lacks_characters_shows_something_in_their_place(
    usual: dict[tuple[str, ...], Done], tmp_path: Path
) -> None:
    done = all_of_them(tmp_path, {"PYTHONIOENCODING": "ascii"})
    assert codes(done) == codes(usual)
    assert_no_traceback(done)
    assert b"no image named `a/b`" in done["validate", "bad.yaml"].stdout


def test_stderr_that_cannot_be_written_is_done_without() -> None:
    with FULL.open("wb") as full:
        stream = io.TextIOWrapper(io.BufferedWriter(Descriptor(full.fileno(), Interrupts(), tells=False)))
        for _ in range(3):
            print("lost", file=stream, flush=True)


STALLED = """
import asyncio, sys
from vpctl.__main__ import main
from vpctl.cli import app, verb

async def forever(context: verb.Context) -> verb.Result:
    while True:
        print("x" * 1000, flush=True)
        await asyncio.sleep(0)

async def once(context: verb.Context) -> verb.Result:
    return verb.Result(data={"x": "y" * 100000}, text="x" * 100000)

app.VERBS["version"] = globals()[sys.argv[1]]
sys.argv[1:] = ["version", *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [["forever"], ["once"], ["forever", "--json"], ["once", "--json"]], ids=" ".join)
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "both"])
def test_a_reader_that_does_not_read_holds_up_no_interrupt(
    number: signal.Signals, words: list[str], both: bool
) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        os.set_blocking(write, True)
    argv = [sys.executable, "-c", STALLED, *words]
    with subprocess.Popen(argv, stdout=write, stderr=write if both else subprocess.PIPE) as process:
        os.close(write)
        try:
            status = Path(f"/proc/{process.pid}/wchan")
            while "pipe" not in status.read_text(encoding="ascii"):  # it stands in its write
                assert process.poll() is None
            process.send_signal(number)
            assert process.wait(60) == 130
        finally:
            process.kill()
        if process.stderr is not None:
            assert process.stderr.read() == b"error: interrupted\n"  # what stdout has had is no JSON any more
    os.close(read)


NASTY = "\x1b]0;owned\x07\x1b[31m[red]a[/]\u202e\x9b2J"
SHOWN = r"\x1b]0;owned\x07\x1b[31m[red]a[/]\u202e\x9b2J"


@pytest.mark.parametrize("way", ["text", "table", "group", "error", "details", "log"])
def test_what_a_guest_says_is_no_command_to_the_terminal(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Group

    from vpctl.errors import HostError

    async def verb(context: Context) -> Result:
        match way:
            case "text":
                return Result(text=NASTY)
            case "table":
                return Result(table=render.table(("a",), [(NASTY,)]))
            case "group":
                return Result(table=Group(NASTY))
            case "error":
                raise HostError(NASTY)
            case "details":
                raise HostError("m", details=NASTY)
            case _:
                context.log.info(NASTY)
                return Result()

    common = Common(topology=None, format=OutputFormat.TABLE, verbose=0, quiet=False, debug=False)
    run_work(Work(verb=verb, common=common, arguments={}))
    shown = "".join(capsys.readouterr())
    if way in ("table", "group"):  # rich itself drops some control characters
        assert "\x1b" not in shown
        assert "owned" in shown
    else:
        assert SHOWN in shown
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & {*shown}


def test_data_that_is_asked_for_raw_is_raw(capsys: pytest.CaptureFixture[str]) -> None:
    async def verb(context: Context) -> Result:
        return Result(data={"a": NASTY}, text=NASTY, raw=True)

    common = Common(topology=None, format=OutputFormat.TABLE, verbose=0, quiet=False, debug=False)
    run_work(Work(verb=verb, common=common, arguments={}))
    assert capsys.readouterr().out == NASTY + "\n"
    as_json = Common(topology=None, format=OutputFormat.JSON, verbose=0, quiet=False, debug=False)
    run_work(Work(verb=verb, common=as_json, arguments={}))
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"a": NASTY}
