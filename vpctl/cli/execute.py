"""`vpctl exec`: a command in a guest, with its own streams and exit code."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import cause_of

COULD_NOT_RUN = 255

CHUNK = 65536


async def execute(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM.")],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
) -> Result:
    """Run a command in a guest; its exit code becomes vpctl's, 255 if it could not be run."""
    import asyncssh

    from vpctl.cli.guest import address
    from vpctl.guest import ssh as guest_ssh

    words = command[1:] if command[:1] == ["--"] else command
    # One word is a command line for the guest's shell, as with ssh; several are an argv and stay as they are.
    line = words[0] if len(words) == 1 else " ".join(guest_ssh.quote(word) for word in words)
    if context.json:
        return await captured(address(context, vm), words, line)
    async with guest_ssh.connection(address(context, vm)) as connection:
        try:
            done = await relayed(connection, line)
        except BrokenPipeError:
            raise  # nobody reads our output any more: not the guest's failure
        except (OSError, asyncssh.Error) as error:
            raise guest_ssh.GuestSshError(f"`{words[0]}` in {vm}: the connection broke: {error}") from error
    return Result(exit_code=exit_code(done, vm, words))


async def relayed(connection: Any, line: str) -> Any:
    """Run a command with our standard streams; return the finished process.

    asyncssh could redirect by itself, but closes what it is given, sets it to non-blocking for whoever shares it,
    and goes on for ever when the reader of our output has gone. Here BrokenPipeError ends the command.
    """
    import asyncssh

    failure: BaseException | None = None
    try:
        async with connection.create_process(line, encoding=None) as process:
            failure = await exchanged(process)
            if failure is not None:
                connection.abort()  # a polite close waits for the guest's command, which may write for ever
    except (OSError, asyncssh.Error):
        if failure is None:
            raise
    if failure is not None:
        raise failure
    return process


async def exchanged(process: Any) -> BaseException | None:
    """Pass bytes both ways until the command has ended; return what went wrong, if something did."""
    import asyncio

    feeding = asyncio.create_task(feed(process.stdin), name="exec-stdin")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(process.stdout, 1), name="exec-stdout")
            group.create_task(pump(process.stderr, 2), name="exec-stderr")
        await process.wait_closed()
    except BaseExceptionGroup as errors:
        return cause_of(errors)
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
    return None


async def pump(reader: Any, fd: int) -> None:
    """Write what the guest says to a descriptor of ours; a slow reader of ours slows the guest's command down."""
    while data := await reader.read(CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]


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


async def captured(address: Any, words: list[str], line: str) -> Result:
    """Run a command and return what it said as JSON."""
    from vpctl.guest import ssh as guest_ssh

    async with guest_ssh.connection(address) as connection:
        done = await connection.run(line, encoding="utf-8", errors="replace")
    code = exit_code(done, address.vm, words)
    data = {"schema_version": 1, "vm": address.vm, "command": words, "status": code}
    return Result(data={**data, "stdout": done.stdout, "stderr": done.stderr}, exit_code=code)


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
