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

from vpctl.cli.interrupts import EXIT_CODE
from vpctl.errors import InterruptedByUserError

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
