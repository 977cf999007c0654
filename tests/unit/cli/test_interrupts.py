"""SIGINT and SIGTERM at any moment of a command, from its first instruction to its last."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vpctl.cli.interrupts import EXIT_CODE, SIGNALS, Interrupts
from vpctl.errors import InterruptedByUserError
from vpctl.wait import standstill

TRIES = 4
"""At moments spread over a command's length."""

MOST_TRIES = 40
"""Further ones, at once: until one came before the end, however slow the host makes this process."""
BOTH = (1 << (signal.SIGINT - 1)) | (1 << (signal.SIGTERM - 1))


def handles_signals(pid: int) -> bool:
    """Whether a process has installed handlers of both signals: Python itself has one of SIGINT only."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return caught & BOTH == BOTH


def test_the_code_is_the_contracts() -> None:
    assert InterruptedByUserError.exit_code == EXIT_CODE


@pytest.mark.parametrize(
    ("words", "number"), [(("schema",), signal.SIGINT), (("list", "--json"), signal.SIGTERM)], ids=["schema", "list"]
)
def test_a_signal_at_any_moment_ends_a_command_without_a_traceback(
    words: tuple[str, ...], number: signal.Signals
) -> None:
    began = time.monotonic()
    argv = [sys.executable, "-m", "vpctl", *words]
    usual = subprocess.run(argv, capture_output=True, check=False)
    length = time.monotonic() - began
    chance = random.Random(f"{words}{number}")
    interrupted = 0
    for attempt in range(MOST_TRIES):
        if attempt >= TRIES and interrupted:
            break
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None and not handles_signals(process.pid):
                os.sched_yield()
            time.sleep(chance.random() * length * 0.7 if 0 < attempt < TRIES else 0)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert b"Traceback" not in err
        if process.returncode == usual.returncode and process.returncode != EXIT_CODE:
            assert (out, err) == (usual.stdout, usual.stderr)  # it was over by then
            continue
        assert process.returncode == EXIT_CODE, err
        interrupted += 1
        if "--json" in words:
            assert json.loads(out)["error"]["code"] == "interrupted"
        else:
            assert err.splitlines()[-1:] == [b"error: interrupted"]
    assert interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["validate", "plan", "up"])
def test_a_file_that_says_nothing_yet_holds_up_no_interrupt(
    tmp_path: Path, verb: str, number: signal.Signals
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    environ = {**os.environ, "VPCTL_RUN_DIR": str(tmp_path / "run"), "VPCTL_STATE_DIR": str(tmp_path / "state")}
    argv = [sys.executable, "-m", "vpctl", verb, str(fifo)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        try:
            place = Path(f"/proc/{process.pid}/wchan")
            while place.read_text(encoding="ascii") not in ("wait_for_partner", "fifo_open"):  # for a writer
                assert process.poll() is None
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (EXIT_CODE, b"", b"error: interrupted\n")


def test_a_call_that_begins_after_a_signal_is_not_made() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    interrupts, cancelled = Interrupts(), list[bool]()
    interrupts.install()
    interrupts.cancel_by(lambda: cancelled.append(True))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert cancelled == [True]
        with pytest.raises(KeyboardInterrupt), standstill.possible():
            raise AssertionError("unreachable")
    finally:
        interrupts.restore()
        for number, handler in before.items():
            signal.signal(number, handler)
    with standstill.possible():
        pass
