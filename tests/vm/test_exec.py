"""`exec` with streams of every sort: what the shell hands it, and gets back as it was."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.commandline import Vpctl, user

pytestmark = pytest.mark.vm

LIMIT = 60


@pytest.fixture(scope="module")
def solo() -> Iterator[Vpctl]:
    """One VM without links."""
    with user() as vpctl:
        vpctl.run("up", str(vpctl.spare_file("solo")))
        yield vpctl


def execute(
    vpctl: Vpctl, *words: str, stdin: int | None = None, given: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `vpctl exec vm1 -- WORDS` with bytes or a descriptor as its stdin."""
    command = [sys.executable, "-m", "vpctl", "exec", "vm1", "--", *words]
    return subprocess.run(
        command, env=vpctl.environ, stdin=stdin, input=given, capture_output=True, timeout=LIMIT, check=False
    )


def test_stdout_and_stderr_stay_apart_and_the_exit_code_comes_back(solo: Vpctl) -> None:
    done = execute(solo, "echo out; echo err >&2; exit 7", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_a_killed_command_gives_128_and_the_signal(solo: Vpctl) -> None:
    assert execute(solo, "kill -9 $$", stdin=subprocess.DEVNULL).returncode == 137


def test_megabytes_pass_unchanged_from_a_pipe_and_from_a_file(solo: Vpctl, tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    assert execute(solo, "cat", given=content).stdout == content
    path = tmp_path / "content"
    path.write_bytes(content)
    with path.open("rb") as stream:
        done = execute(solo, "sha256sum", stdin=stream.fileno())
    assert done.stdout.split()[0].decode() == hashlib.sha256(content).hexdigest()


def test_a_command_that_does_not_read_its_stdin_ends_although_that_stays_open(solo: Vpctl) -> None:
    read, write = os.pipe()
    try:
        assert execute(solo, "echo early", stdin=read).stdout == b"early\n"
    finally:
        os.close(read)
        os.close(write)


def test_dev_null_as_stdin_is_an_end_of_file(solo: Vpctl) -> None:
    assert execute(solo, "cat", stdin=subprocess.DEVNULL).returncode == 0


def test_a_reader_that_has_seen_enough_ends_a_command_that_writes_for_ever(solo: Vpctl) -> None:
    command = [sys.executable, "-m", "vpctl", "exec", "vm1", "--", "yes"]
    with subprocess.Popen(
        command, env=solo.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(LIMIT) == 0
        assert process.stderr.read() == b""


def test_the_terminal_is_left_blocking(solo: Vpctl) -> None:
    outer, inner = pty.openpty()
    try:
        drained = threading.Thread(target=os.read, args=(outer, 65536))
        drained.start()
        command = [sys.executable, "-m", "vpctl", "exec", "vm1", "--", "echo done"]
        subprocess.run(command, env=solo.environ, stdin=inner, stdout=inner, stderr=inner, timeout=LIMIT, check=True)
        drained.join(LIMIT)
        assert os.get_blocking(inner)
    finally:
        os.close(outer)
        os.close(inner)


def test_a_vm_that_dies_under_a_command_gives_255(solo: Vpctl) -> None:
    command = solo.start("exec", "vm1", "--", "echo started; sleep 60")
    assert command.process.stdout is not None
    assert command.process.stdout.readline() == "started\n"
    solo.run("crash", "vm1", "--how", "kill")
    assert command.wait(255).stderr.startswith("error: ")
