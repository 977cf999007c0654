"""`vpctl exec`: a command in a guest, with its own streams and exit code."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import cause_of

COULD_NOT_RUN = 255

CHUNK = 65536

WITH_VALUE = ("-f", "--format", "-t", "--topology")
WITHOUT_VALUE = ("-fjson", "-ftable", "--json", "-v", "--verbose", "-q", "--quiet", "--debug")
"""The options that every command takes, as they are spelled."""


async def execute(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM.")],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
) -> Result:
    """Run a command in a guest; its exit code becomes vpctl's, 255 if it could not be run."""
    import asyncssh

    from vpctl.cli.guest import address
    from vpctl.cli.streams import write_all
    from vpctl.guest import ssh as guest_ssh

    words = command[1:] if command[:1] == ["--"] else command
    # One word is a command line for the guest's shell, as with ssh; several are an argv and stay as they are.
    line = words[0] if len(words) == 1 else " ".join(guest_ssh.quote(word) for word in words)
    said: dict[int, list[bytes]] = {1: [], 2: []}

    async def keep(fd: int, data: bytes) -> None:
        said[fd].append(data)

    async with guest_ssh.connection(address(context, vm)) as connection:
        try:
            done = await relayed(connection, line, vm, keep if context.json else write_all)
        except (OSError, asyncssh.Error) as error:
            raise guest_ssh.GuestSshError(f"`{words[0]}` in {vm}: the connection broke: {error}") from error
    code = exit_code(done, vm, words)
    if not context.json:
        return Result(exit_code=code)
    stdout, stderr = (b"".join(said[fd]).decode(errors="replace") for fd in (1, 2))
    data = {"schema_version": 1, "vm": vm, "command": words, "status": code, "stdout": stdout, "stderr": stderr}
    return Result(data=data, exit_code=code)


def options_first(words: Sequence[str]) -> list[str]:
    """Return the command line `exec VM [OPTIONS] -- CMD…` with its options before the VM, any other as it is.

    What follows the VM is the guest's, `--json` of `exec vm1 ls --json` too, unless nothing but the VM and options of
    ours stands before a `--`.
    """
    if words[:1] != ["exec"] or "--" not in words:
        return list(words)
    end = list(words).index("--")
    options, vms = [], []
    rest = iter(words[1:end])
    for word in rest:
        if word in WITH_VALUE:
            options += [word, *([next(rest)] if word is not words[end - 1] else [])]
        elif word in WITHOUT_VALUE or word.startswith(tuple(f"{option}=" for option in WITH_VALUE)):
            options.append(word)
        else:
            vms.append(word)
    return ["exec", *options, *vms, *words[end:]] if len(vms) == 1 else list(words)


async def relayed(connection: Any, line: str, vm: str, write: Callable[[int, bytes], Awaitable[None]]) -> Any:
    """Run a command with our standard streams; return the finished process.

    asyncssh could redirect by itself, but closes what it is given, sets it to non-blocking for whoever shares it,
    and goes on for ever when the reader of our output has gone. Here that ends the command, as an interrupt does.
    """
    from vpctl.guest import ssh as guest_ssh

    async with guest_ssh.command(connection, line, vm=vm) as (process, early):
        if early:
            await write(2, early)
        await exchanged(process, write)
    return process


async def exchanged(process: Any, write: Callable[[int, bytes], Awaitable[None]]) -> None:
    """Pass bytes both ways until the command has ended; raises the one thing that went wrong, if something did."""
    import asyncio

    async def pump(reader: Any, fd: int) -> None:
        while data := await reader.read(CHUNK):
            await write(fd, data)  # a slow reader of ours slows the guest's command down

    feeding = asyncio.create_task(feed(process.stdin), name="exec-stdin")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(process.stdout, 1), name="exec-stdout")
            group.create_task(pump(process.stderr, 2), name="exec-stderr")
        await process.wait_closed()
    except BaseExceptionGroup as errors:
        raise cause_of(errors) from errors
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])


async def feed(writer: Any) -> None:
    """Send our stdin to the guest's command, to its end; a device like /dev/null has none to send."""
    import asyncio
    import contextlib

    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(0, readable.set)
        watched = True
    except (PermissionError, ValueError):  # epoll takes no regular files, nor /dev/null; both are always readable
        watched = False
    with contextlib.suppress(OSError):  # the command has ended, or reads no more
        try:
            while True:
                if watched:
                    await readable.wait()
                    readable.clear()
                if not (data := os.read(0, CHUNK)):
                    break
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        finally:
            if watched:
                loop.remove_reader(0)


def exit_code(done: Any, vm: str, words: list[str]) -> int:
    """Return the command's exit code, 128 + signal if it was killed; GuestSshError (255) if the guest never said."""
    import signal

    from vpctl.guest.ssh import GuestSshError

    if done.exit_signal is not None:
        number = getattr(signal, f"SIG{done.exit_signal[0]}", None)
        return 128 + int(number) if number is not None else COULD_NOT_RUN
    if done.exit_status is None or done.exit_status < 0:
        raise GuestSshError(f"`{words[0]}` in {vm}: the connection broke", hint=f"vpctl status, vpctl logs {vm}")
    return int(done.exit_status)
