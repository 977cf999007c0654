"""Putting the agent into an image of one's own: where it can be executed, and what the guest says where it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import asyncssh
import pytest

from tests.fakes.broker import made
from tests.fakes.guest import Process, guest_running
from vpctl.guest import ssh
from vpctl.guest.agent import SAID, in_its_words, install, install_script
from vpctl.guest.keys import run_keys
from vpctl.guest.ssh import GuestSshError, shown_host_key
from vpctl.process import read_stat
from vpctl.rundir import Directories, RunDir

AGENT = b"""#!/bin/sh
case $1 in
--version) echo vpctl-agent ;;
daemon) echo "$@" >"$(dirname "$0")/began" ;;
*) exit 2 ;;
esac
"""


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


def installed(*places: Path, before: str = "true", agent: bytes = AGENT) -> subprocess.CompletedProcess[bytes]:
    """Run the script as a guest's shell does, in a mount namespace in which `before` was done."""
    script = install_script("table of links", places=[str(place) for place in places])
    argv = ["unshare", "-rm", "sh", "-c", f"{before} && exec sh -c {shlex.quote(script)}"]
    return subprocess.run(argv, input=agent, capture_output=True, check=False, timeout=30)


def noexec(place: Path) -> str:
    return f"mount -t tmpfs -o noexec tmpfs {shlex.quote(str(place))}"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespaces here")
    first, second = tmp_path / "a place", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    return first, second


def test_the_first_place_is_taken_where_it_will_do(places: tuple[Path, Path]) -> None:
    first, second = places
    done = installed(first, second)
    (directory,) = first.iterdir()
    assert done.stdout.decode().splitlines()[-1] == f"{directory}/vpctl-agent"
    assert (directory / "vpctl-agent").read_bytes() == AGENT
    assert (directory / "links").read_text() == "table of links"
    assert not list(second.iterdir())


def test_the_next_place_is_taken_where_nothing_can_be_executed(places: tuple[Path, Path]) -> None:
    first, second = places
    done = installed(Path("/nowhere"), first, second, before=noexec(first))
    assert done.returncode == 0, done
    (directory,) = second.iterdir()
    assert done.stdout.decode().splitlines()[-1] == f"{directory}/vpctl-agent"


def test_nowhere_to_execute_is_said_with_what_was_tried(places: tuple[Path, Path]) -> None:
    first, _ = places
    done = installed(Path("/nowhere"), first, before=noexec(first))
    assert done.returncode == 1
    assert "noexec" in done.stderr.decode()
    assert "/nowhere: cannot be written to" in done.stderr.decode()
    assert "Permission denied" in done.stderr.decode()


def test_a_binary_of_another_machine_is_not_taken_for_one_that_runs(places: tuple[Path, Path]) -> None:
    done = installed(places[0], agent=b"\x7fELF\x02\x01\x01".ljust(200, b"\0"))
    assert done.returncode != 0
    assert done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="`bash` is not installed")
def test_a_daemon_of_an_earlier_login_is_ended_and_its_copy_removed(tmp_path: Path) -> None:
    """A copy of bash stands for the agent: `daemon` is a script in its directory, which says its PID and waits."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    os.mkfifo(second / "wait")
    bash = shutil.which("bash") or ""
    agent = Path(bash).read_bytes()
    install = ["sh", "-c", install_script("table of links", places=[str(first)])]
    script = second / "daemon"
    script.write_text('exec 3<>wait; echo $$ >"$$.began"; read -r -t 60 -u 3')

    def began(number: int) -> list[int]:
        wait = time.monotonic() + 20
        while len(found := [int(path.stem) for path in second.glob("*.began") if path.read_text()]) < number:
            assert time.monotonic() < wait, "the daemon does not begin"
            time.sleep(0.02)
        return found

    subprocess.run(install, input=agent, cwd=second, check=True, timeout=30)
    [old] = began(1)
    (copy,) = first.iterdir()
    bystander = first / "vpctl.mine"
    bystander.mkdir()
    shutil.copy(bash, bystander / "vpctl-agent")
    with subprocess.Popen([bystander / "vpctl-agent", "daemon", "x"], cwd=second) as user:
        try:
            began(2)
            subprocess.run(install, input=agent, cwd=second, check=True, timeout=30)
            [new] = {*began(3)} - {old, user.pid}
            assert not is_running(old)
            assert not copy.exists()
            assert is_running(new)
            assert user.poll() is None, "a program of the user's own, which only looks like it"
        finally:
            for pid in began(1):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state != "Z"


@pytest.mark.parametrize("status", [142, 1, 0])
async def test_a_login_that_answers_every_command_by_a_word_is_told_by_it(rundir: RunDir, status: int) -> None:
    """As cloud images do for root; with 0 as well, since only a path is an answer."""

    async def answer(process: Process) -> None:
        process.stdout.write('Please login as the user "debian" rather than the user "root".\n\n')
        process.exit(status)

    async with guest_running(rundir, answer) as address, ssh.connection(address) as connection:
        async with asyncio.timeout(20):
            with pytest.raises(GuestSshError) as caught:
                await install(connection, b"agent" * 1_000_000, "", vm="vm1")
    assert 'Please login as the user "debian" rather than' in caught.value.message
    assert f"exit code {status}" in caught.value.message


def test_what_a_guest_says_is_kept_in_bounds() -> None:
    assert in_its_words("", " \n") == "it said nothing"
    assert in_its_words("a\x1b[31m\nb\x07") == "it said `a?[31m b?`"
    assert len(in_its_words("x" * 10_000)) < SAID + 20


async def test_the_key_of_a_first_login_pins_the_next(rundir: RunDir) -> None:
    async with guest_running(rundir) as address:
        unknown = ssh.Address(vm="vm1", port=address.port, user="root", identity=address.identity, host_key=None)
        async with ssh.connection(unknown) as connection:
            shown = shown_host_key(connection)
        assert shown == address.host_key
        foreign = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
        pinned = ssh.Address(vm="vm1", port=address.port, user="root", identity=address.identity, host_key=foreign)
        with pytest.raises(GuestSshError, match="not trusted"):
            async with ssh.connection(pinned):
                pass


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
async def test_a_pinned_key_of_any_kind_is_asked_for(rundir: RunDir, kind: str) -> None:
    key = asyncssh.generate_private_key(kind)
    public = key.export_public_key().decode().strip()
    async with guest_running(rundir) as other:
        authorized = asyncssh.import_authorized_keys(run_keys(rundir).public)
        async with asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[key], authorized_client_keys=authorized
        ) as server:
            port = server.get_port()
            address = ssh.Address(vm="vm1", port=port, user="root", identity=other.identity, host_key=public)
            async with ssh.connection(address) as connection:
                assert shown_host_key(connection) == public
