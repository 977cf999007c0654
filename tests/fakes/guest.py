"""A guest's ssh server, in this process: commands are answered by a function, as the guest agent would."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from vpctl.bench.guest import ANSWERED
from vpctl.guest.keys import RunKeys, run_keys
from vpctl.guest.ssh import GO, Address
from vpctl.rundir import RunDir

Process = asyncssh.SSHServerProcess[str]
Answer = Callable[[Process], Awaitable[None]]


def dropbear_strings(blob: bytes) -> list[bytes]:
    """Split what dropbear stores into its strings."""
    found = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        found.append(blob[4 : 4 + length])
        assert len(found[-1]) == length
        blob = blob[4 + length :]
    return found


def host_key(keys: RunKeys) -> asyncssh.SSHKey:
    """Return the private host key that a guest gets, read as dropbear reads it."""
    _, secret = dropbear_strings(keys.host_key_dropbear)
    private = Ed25519PrivateKey.from_private_bytes(secret[:32])
    return asyncssh.import_private_key(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def told_to_go(answer: Answer) -> Answer:
    """Have commands begin when they are told to, as a guest's shell would."""

    async def begin(process: Process) -> None:
        command = process.command or ""
        if command.startswith(GO):
            if await process.stdin.readline() == "":
                process.exit(1)
                return
            process.channel._command = command.removeprefix(GO)
        await answer(process)

    return begin


async def hello(process: Process) -> None:
    """Repeat the command line."""
    process.stdout.write(f"{process.command}\n")
    process.exit(0)


@asynccontextmanager
async def guest_running(rundir: RunDir, answer: Answer = hello) -> AsyncIterator[Address]:
    """Serve as a guest of a run for as long as the block lasts; yields its address."""
    keys = run_keys(rundir)
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key(keys)],
        authorized_client_keys=asyncssh.import_authorized_keys(keys.public),
        process_factory=told_to_go(answer),
        line_editor=False,  # which would stand before the channel
    )
    try:
        port = server.get_port()
        yield Address(vm="vm1", port=port, user="root", identity=rundir.identity, host_key=keys.host_public)
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def held_mute(port: int, *, times: int) -> AsyncIterator[tuple[int, list[float]]]:
    """Take connections as QEMU's user network does: the first ones get no word, later ones reach `port`.

    Yields the port, and the times at which connections came.
    """
    came: list[float] = []

    async def relay(reader: Any, writer: Any) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(asyncio.get_running_loop().time())
        if len(came) <= times:
            await reader.read()
        else:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as group:
                group.create_task(relay(reader, inner_writer))
                group.create_task(relay(inner_reader, writer))
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], came
    finally:
        server.close()


class Wire:
    """A relay to a guest: counts what is sent to it, and can swallow everything from a moment on."""

    def __init__(self) -> None:
        self.port = 0
        self.sent = 0
        self.is_cut = False

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        while data := await reader.read(65536):
            self.sent += len(data) if counts else 0
            if not self.is_cut:
                writer.write(data)
        writer.close()


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """Relay connections to `port` for as long as the block lasts."""
    wire = Wire()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as group:
            group.create_task(wire.relay(reader, inner_writer, counts=True))
            group.create_task(wire.relay(inner_reader, writer, counts=False))

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()


Program = Callable[[str, Process], Awaitable[int]]
"""Carries out a shell script of a guest, and returns its exit code."""


async def signalled(process: Process) -> str:
    """Wait for a signal to a command; return its name. What it is told meanwhile is lost."""
    try:
        await process.stdin.read()
    except asyncssh.SignalReceived as found:
        return found.signal
    await asyncio.Event().wait()
    raise AssertionError


def shell(run: Program) -> Answer:
    """Answer as a guest with a shell: `sh -c SCRIPT`, and the questions that a kept shell is asked."""

    async def answer(process: Process) -> None:
        if process.command != "sh":
            words = shlex.split(process.command or "")
            script = words[2] if words[:2] == ["sh", "-c"] else " ".join(words)
            task = asyncio.ensure_future(run(script, process))
            killed = asyncio.ensure_future(signalled(process))
            await asyncio.wait([task, killed], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                process.exit(task.result())
            else:
                process.exit_with_signal(killed.result())
            for each in (task, killed):
                each.cancel()
            await asyncio.wait([task, killed])
            return
        script = ""
        with contextlib.suppress(BrokenPipeError):  # nobody waits for the answer any more
            async for line in process.stdin:
                if line == f"echo {ANSWERED}\n":
                    await run(script, process)
                    process.stdout.write(f"{ANSWERED}\n")
                    script = ""
                else:
                    script += line
            process.exit(0)

    return answer
