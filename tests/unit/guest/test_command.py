"""Commands in a guest that are ended with all that they have begun: real shells behind a server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.fakes.broker import made
from tests.fakes.guest import host_key
from vpctl.guest import ssh
from vpctl.guest.keys import run_keys
from vpctl.guest.ssh import Address, GuestSshError
from vpctl.rundir import Directories


async def shell(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run a command as OpenSSH does: by a shell, in a session of its own."""
    program = await asyncio.create_subprocess_exec(
        "sh", "-c", process.command or "", stdin=-1, stdout=-1, stderr=-1, start_new_session=True
    )
    assert program.stdin is not None

    async def feed(writer: asyncio.StreamWriter) -> None:
        while data := await process.stdin.read(65536):
            writer.write(data)
        writer.close()

    async def pump(reader: Any, writer: Any) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    feeding = asyncio.create_task(feed(program.stdin))
    await asyncio.gather(pump(program.stdout, process.stdout), pump(program.stderr, process.stderr))
    status = await program.wait()
    feeding.cancel()
    if status < 0:
        process.exit_with_signal("KILL" if status == -9 else "TERM")
    else:
        process.exit(status)


@asynccontextmanager
async def connected(directories: Directories, *, drops: int = 0) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Be logged in to a guest with a real shell, whose server drops the first connections."""
    rundir = made(directories)
    keys = run_keys(rundir)
    came = 0

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            nonlocal came
            came += 1
            if came <= drops:
                conn.abort()

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[host_key(keys)],
        authorized_client_keys=asyncssh.import_authorized_keys(keys.public),
        process_factory=shell,
        encoding=None,
    )
    address = Address(
        vm="vm1", port=server.get_port(), user="root", identity=rundir.identity, host_key=keys.host_public
    )
    try:
        async with ssh.connection(address) as connection:
            yield connection
    finally:
        server.close()


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state != "Z"
    return False


@pytest.mark.parametrize(
    "line",
    [
        "sleep 1000 & echo $!; wait",
        "timeout 900 sleep 1000 & echo $!; wait",  # which makes a process group of its own
        "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1; done",  # until it gets SIGKILL
    ],
)
async def test_what_a_command_has_begun_ends_with_the_block(line: str, directories: Directories) -> None:
    async with connected(directories) as connection:
        with contextlib.suppress(OSError, asyncssh.Error):
            async with ssh.command(connection, line, vm="vm1") as (process, early):
                assert early == b""
                pid = int(await process.stdout.readline())
                assert lives(pid)
    assert not lives(pid)


async def test_what_has_a_session_of_its_own_stays(directories: Directories) -> None:
    async with connected(directories) as connection:
        line = "setsid sleep 1000 >/dev/null 2>&1 & sleep 0.2; echo $!; wait"
        async with ssh.command(connection, line, vm="vm1") as (process, _):
            pid = int(await process.stdout.readline())
    assert lives(pid)
    os.kill(pid, signal.SIGKILL)


async def test_what_comes_before_it_and_after_it_is_told_apart(directories: Directories) -> None:
    async with connected(directories) as connection:
        line = "cat; echo err >&2; exit 7"
        async with ssh.command(connection, line, vm="vm1") as (process, early):
            process.stdin.write(b"in")
            process.stdin.write_eof()
            out, err = await process.stdout.read(), await process.stderr.read()
            await process.wait_closed()
    assert (early, out, err, process.exit_status) == (b"", b"in", b"err\n", 7)


async def test_a_login_that_is_dropped_is_tried_again(directories: Directories) -> None:
    async with connected(directories, drops=3) as connection:
        assert (await connection.run("echo in", encoding="utf-8")).stdout == "in\n"


async def test_a_server_that_is_not_there_is_not_waited_for(directories: Directories) -> None:
    keys = run_keys(made(directories))
    identity = directories.topology("pair").identity
    address = Address(vm="vm1", port=1, user="root", identity=identity, host_key=keys.host_public)
    with pytest.raises(GuestSshError, match="Connect call failed"):
        async with asyncio.timeout(20), ssh.connection(address):
            raise AssertionError
