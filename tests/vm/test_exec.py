"""`exec` with streams of every sort: what the shell hands it, and gets back as it was."""

from __future__ import annotations

import hashlib
import os
import pty
import signal
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_command_in_the_guest_too(solo: Vpctl, number: signal.Signals) -> None:
    name = f"4{int(number)}4242"
    command = solo.start("exec", "vm1", "--", f"timeout 9{name} sleep {name} & echo started; wait")
    assert command.process.stdout is not None
    assert command.process.stdout.readline() == "started\n"
    command.process.send_signal(number)
    done = command.wait(130)
    assert done.stderr == "error: interrupted\n"
    assert solo.guest("vm1", f"ps -e -o args | grep -c '[s]leep {name}' || :") == "0\n"


def test_options_before_the_double_dash_are_ours(solo: Vpctl) -> None:
    data = solo.run("exec", "vm1", "-f", "json", "--", "cat; echo err >&2; exit 3", status=3).data
    assert (data["status"], data["stdout"], data["stderr"]) == (3, "", "err\n")
    assert solo.run("exec", "vm1", "echo", "-f", "json").stdout == "-f json\n"


def test_a_dozen_commands_at_once_all_run(solo: Vpctl) -> None:
    commands = [solo.start("exec", "vm1", "--", f"echo {number}") for number in range(12)]
    assert [command.wait(0).stdout for command in commands] == [f"{number}\n" for number in range(12)]


def test_copies_are_what_is_there(solo: Vpctl, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_text("text", encoding="utf-8")
    (tmp_path / "d" / "link").symlink_to("file")
    (tmp_path / "d" / "dangling").symlink_to("/nowhere")
    for _ in range(2):
        solo.run("cp", str(tmp_path / "d"), "vm1:/root/")
    shown = solo.guest("vm1", "cd /root/d; cat link; readlink link dangling; ls -A | tr '\\n' ' '")
    assert shown == "textfile\n/nowhere\ndangling file link "
    for path in ("/proc/version", "/sys/class/net/mgmt/mtu"):
        solo.run("cp", f"vm1:{path}", str(tmp_path / "got"))
        assert (tmp_path / "got").read_text(encoding="utf-8") == solo.guest("vm1", f"cat {path}")
    (tmp_path / "seven").write_text("1", encoding="utf-8")
    solo.run("cp", str(tmp_path / "seven"), "vm1:/proc/sys/vm/drop_caches")  # nothing can be made beside it
    solo.run("cp", "vm1:/root/d", str(tmp_path / "back"))
    assert (tmp_path / "back" / "link").readlink() == Path("file")
