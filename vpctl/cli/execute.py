"""`vpctl exec`: a command in a guest, with its own streams and exit code."""

from __future__ import annotations

import os
import stat
import sys
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result

COULD_NOT_RUN = 255


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
            done = await connection.run(
                line, stdin=standard_input(), stdout=sys.stdout.buffer, stderr=sys.stderr.buffer, encoding=None
            )
        except (OSError, asyncssh.Error) as error:
            raise guest_ssh.GuestSshError(f"`{words[0]}` in {vm}: the connection broke: {error}") from error
    return Result(exit_code=exit_code(done, vm, words))


def standard_input() -> Any:
    """Return what the guest's command reads: our stdin, unless that is a device like /dev/null.

    epoll takes terminals, pipes and sockets, and asyncssh itself reads regular files; nothing takes the rest.
    """
    import asyncssh

    if sys.stdin is None or (stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode) and not sys.stdin.isatty()):
        return asyncssh.DEVNULL
    return sys.stdin.buffer


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
