"""ssh into a guest: against a real server in this process, and one that holds connections as QEMU does."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.broker import made
from tests.fakes.guest import Process, Wire, guest_running, held_mute, host_key, wire_to
from vpctl.errors import ReadyTimeoutError
from vpctl.guest import ssh
from vpctl.guest.keys import run_keys
from vpctl.guest.ssh import Address, GuestSshError
from vpctl.rundir import Directories, RunDir


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


async def answer(process: Process) -> None:
    """A guest with a few programs."""
    words = shlex.split(process.command or "")
    if words[0] == "echo":
        for word in words[1:]:
            process.stdout.write(f"{word}\n")
        process.stderr.write("done\n")
        process.exit(3)
    elif words[0] == "die":
        process.exit_with_signal("KILL")
    elif words[0] == "break":
        process.channel.get_connection().abort()
    else:
        await asyncio.sleep(1000)


async def test_logs_in_with_the_runs_key_and_runs_a_command(rundir: RunDir) -> None:
    seen: list[str] = []
    async with guest_running(rundir, answer) as address, ssh.connection(address) as connection:
        argv = ["echo", "a b", "it's", "$HOME", "é"]
        done = await ssh.run(connection, argv, vm="vm1", timeout=10, on_line=seen.append)
    assert done == ssh.Completed(status=3, stdout="a b\nit's\n$HOME\né\n", stderr="done\n")
    assert seen == argv[1:]


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0"))))
def test_the_guests_shell_takes_words_as_they_were(words: list[str]) -> None:
    assert shlex.split(" ".join(ssh.quote(word) for word in words)) == words


async def test_a_command_that_was_killed_has_128_and_its_signal(rundir: RunDir) -> None:
    async with guest_running(rundir, answer) as address, ssh.connection(address) as connection:
        assert (await ssh.run(connection, ["die"], vm="vm1", timeout=10)).status == 128 + 9


@pytest.mark.parametrize(("argv", "message"), [(["break"], "connection broke"), (["hang"], "not done within 0.2 s")])
async def test_a_command_of_which_nothing_is_known_is_an_error_of_its_own(
    rundir: RunDir, argv: list[str], message: str
) -> None:
    async with guest_running(rundir, answer) as address, ssh.connection(address) as connection:
        with pytest.raises(GuestSshError, match=f"`{argv[0]}` in vm1: .*{message}") as caught:
            await ssh.run(connection, argv, vm="vm1", timeout=0.2 if argv == ["hang"] else 10)
    assert caught.value.exit_code == 255


async def talks(process: Process) -> None:
    """A program that says more and more, on one line or many."""
    end = "\n" if process.command == "lines" else ""
    stream = process.stderr if process.command == "errors" else process.stdout
    for _ in range(100):
        stream.write("x" * 4000 + end)
        await stream.drain()
    process.exit(0)


@pytest.mark.parametrize("what", ["lines", "text"])
async def test_a_command_that_says_more_than_anything_needs_is_ended(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(ssh, "MOST_STDOUT", 100_000)
    monkeypatch.setattr(ssh, "READ_SIZE", 1000)
    seen: list[str] = []
    async with guest_running(rundir, talks) as address, ssh.connection(address) as connection:
        with pytest.raises(GuestSshError, match=f"`{what}` in vm1 says more than"):
            await ssh.run(connection, [what], vm="vm1", timeout=30, on_line=seen.append)
    assert sum(len(line) for line in seen) <= 101_000


async def test_of_a_commands_stderr_the_beginning_is_kept(rundir: RunDir) -> None:
    async with guest_running(rundir, talks) as address, ssh.connection(address) as connection:
        done = await ssh.run(connection, ["errors"], vm="vm1", timeout=30)
    assert (done.status, done.stderr) == (0, "x" * ssh.MOST_STDERR)


class Refusing(asyncssh.SSHServer):
    """A server that closes the first sessions when they are told their command."""

    def __init__(self, times: int, ran: list[str]) -> None:
        self._times, self._ran = times, ran

    def session_requested(self) -> asyncssh.SSHServerProcess[str]:
        refused = self._times > 0
        self._times -= 1

        async def begin(process: Process) -> None:
            if refused:  # dropbear carries it out, but nothing that is said to it arrives
                process.channel.abort()
            elif await process.stdin.readline():
                self._ran.append(process.command or "")
                process.exit(0)

        class Session(asyncssh.SSHServerProcess[str]):
            def exec_requested(self, command: str) -> bool:
                return not refused and super().exec_requested(command)

        return Session(begin, None, 3, False)


@pytest.mark.parametrize(("times", "runs"), [(0, 1), (1, 1), (3, 1), (4, 0)])
async def test_a_command_that_the_server_refuses_is_asked_for_again_and_runs_once(
    rundir: RunDir, times: int, runs: int
) -> None:
    keys, ran = run_keys(rundir), list[str]()
    async with asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key(keys)],
        authorized_client_keys=asyncssh.import_authorized_keys(keys.public),
        server_factory=lambda: Refusing(times, ran),
    ) as server:
        address = Address(
            vm="vm1", port=server.get_port(), user="root", identity=rundir.identity, host_key=keys.host_public
        )
        async with ssh.connection(address) as connection:
            if runs:
                assert (await ssh.run(connection, ["true"], vm="vm1", timeout=10)).status == 0
            else:
                with pytest.raises(GuestSshError, match="Session request failed"):
                    await ssh.run(connection, ["true"], vm="vm1", timeout=10)
    assert ran == runs * [f"{ssh.GO}true"]


async def test_another_host_key_is_no_guest_of_ours(rundir: RunDir, directories: Directories) -> None:
    stranger = run_keys(made(directories, "other")).host_public
    async with guest_running(rundir) as address:
        with pytest.raises(GuestSshError, match=r"no ssh into vm1 .*Host key is not trusted"):
            await ssh.open_connection(replace(address, host_key=stranger))
        async with ssh.connection(replace(address, host_key=None)):
            pass  # an own image: nobody knows its key beforehand


async def test_a_guest_that_does_not_know_the_key_says_so(rundir: RunDir, directories: Directories) -> None:
    other = made(directories, "other")
    run_keys(other)
    async with guest_running(rundir) as address:
        with pytest.raises(GuestSshError, match="Permission denied"):
            await ssh.open_connection(replace(address, identity=other.identity))


@pytest.mark.parametrize("content", [None, "no key at all"])
async def test_a_key_file_that_is_missing_or_holds_no_key_is_told(
    rundir: RunDir, tmp_path: Path, content: str | None
) -> None:
    identity = tmp_path / "key"
    if content is not None:
        identity.write_text(content)
    async with guest_running(rundir) as address:
        with pytest.raises(GuestSshError, match="no ssh into vm1"):
            await ssh.open_connection(replace(address, identity=identity))


async def test_a_connection_that_is_held_mute_is_given_up_and_made_again(rundir: RunDir) -> None:
    async with guest_running(rundir) as address, held_mute(address.port, times=3) as (port, came):
        began = time.monotonic()
        connection = await ssh.wait_for_ssh(replace(address, port=port), timeout=20)
        assert time.monotonic() - began < 5
        connection.close()
        await connection.wait_closed()
    assert len(came) == 3 + 2  # the mute ones, one for the banner, one to log in
    assert came[1] - came[0] < 1.0


async def test_a_guest_that_has_not_said_that_it_listens_is_hardly_tried(rundir: RunDir) -> None:
    listens_at = time.monotonic() + 0.4
    async with guest_running(rundir) as address, held_mute(address.port, times=0) as (port, came):
        target = replace(address, port=port)
        connection = await ssh.wait_for_ssh(target, timeout=20, listens=lambda: time.monotonic() > listens_at)
        connection.close()
        await connection.wait_closed()
    assert min(came) >= listens_at  # by the loop's clock, which is the same
    assert len(came) == 2


@pytest.fixture
def quick_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "KEEPALIVE", (0.05, 3))


@asynccontextmanager
async def logged_in(rundir: RunDir, *, rests: bool) -> AsyncIterator[tuple[asyncssh.SSHClientConnection, Wire]]:
    async with guest_running(rundir, answer) as address, wire_to(address.port) as wire:
        connection = await ssh.open_connection(replace(address, port=wire.port), rests=rests)
        try:
            yield connection, wire
        finally:
            connection.abort()
            await connection.wait_closed()


async def said_while_idle(wire: Wire) -> bool:
    """Whether anything is sent to the guest that nobody asked for, once what was asked for has gone out."""
    await asyncio.sleep(0.2)
    before = wire.sent
    await asyncio.sleep(0.4)
    return wire.sent > before


@pytest.mark.parametrize("rests", [True, False])
@pytest.mark.usefixtures("quick_keepalive")
async def test_only_a_connection_that_rests_is_silent_while_nothing_is_asked(rundir: RunDir, rests: bool) -> None:
    async with logged_in(rundir, rests=rests) as (connection, wire):
        assert await said_while_idle(wire) is not rests
        await asyncio.gather(*(ssh.run(connection, ["echo", "x"], vm="vm1", timeout=10) for _ in range(3)))
        assert await said_while_idle(wire) is not rests


@pytest.mark.usefixtures("quick_keepalive")
async def test_a_dead_connection_that_rested_ends_a_command_long_before_its_time(rundir: RunDir) -> None:
    async with logged_in(rundir, rests=True) as (connection, wire):
        wire.is_cut = True
        with pytest.raises(GuestSshError, match="connection broke"):
            await ssh.run(connection, ["echo"], vm="vm1", timeout=60)


@pytest.mark.usefixtures("quick_keepalive")
async def test_a_connection_on_which_a_command_timed_out_is_found_dead_or_rests_again(rundir: RunDir) -> None:
    async with logged_in(rundir, rests=True) as (connection, wire):
        with pytest.raises(GuestSshError, match="not done within"):
            await ssh.run(connection, ["hang"], vm="vm1", timeout=0.1)
        assert await said_while_idle(wire)
        await ssh.run(connection, ["echo"], vm="vm1", timeout=10)
        assert not await said_while_idle(wire)
        with pytest.raises(GuestSshError, match="not done within"):
            await ssh.run(connection, ["hang"], vm="vm1", timeout=0.1)
        wire.is_cut = True
        async with asyncio.timeout(30):
            await connection.wait_closed()


def nobody(port: int) -> Address:
    return Address(vm="vm1", port=port, user="root", identity=Path("/nowhere"), host_key=None)


@pytest.mark.parametrize(
    ("listens", "seen"), [(False, "no answer from the guest"), (True, "its server listens but does not answer")]
)
async def test_a_guest_that_never_answers_is_a_timeout_that_says_how_far_it_got(listens: bool, seen: str) -> None:
    async with held_mute(0, times=1000) as (port, _):
        with pytest.raises(ReadyTimeoutError, match=f"ssh of vm1: not within 0.6 s; last seen: {seen}"):
            await ssh.wait_for_ssh(nobody(port), timeout=0.6, listens=lambda: listens)


@pytest.mark.parametrize("said", [b"", b"x" * 200_000, b"\r\n"])
async def test_what_is_no_banner_is_no_answer(said: bytes) -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        assert await ssh.banner(server.sockets[0].getsockname()[1]) is None


async def test_a_server_that_turns_us_away_ends_the_wait_with_what_it_said(
    rundir: RunDir, directories: Directories
) -> None:
    stranger = run_keys(made(directories, "other")).host_public
    async with guest_running(rundir) as address:
        with pytest.raises(ReadyTimeoutError, match=r"Host key is not trusted.*\(it said 'SSH-2.0-AsyncSSH"):
            await ssh.wait_for_ssh(replace(address, host_key=stranger), timeout=20)
