"""`vpctl console`: the serial console of a guest."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import NotFoundError

if TYPE_CHECKING:
    import asyncio

ESCAPE = b"\x1d"
"""Ctrl-], as telnet and `virsh console` have it."""


async def console(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM.")],
) -> Result:
    """Attach to a guest's serial console; Ctrl-] leaves it. What it printed before is in `vpctl logs`."""
    import asyncio

    from vpctl.cli import choose

    path = choose.vm(context, vm).console_socket(vm)
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError as error:
        raise NotFoundError(f"VM `{vm}` has no console: {error.strerror}", hint="vpctl status") from error
    context.log.info(f"console of {vm}; Ctrl-] leaves")
    try:
        with raw_terminal(sys.stdin.fileno()):
            await relay(reader, writer, sys.stdin.fileno())
    finally:
        writer.close()
    return Result()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, terminal: int) -> None:
    """Pass bytes both ways until the escape is typed or the console ends."""
    import asyncio

    from vpctl.cli.streams import write_all

    loop = asyncio.get_running_loop()
    left = asyncio.Event()

    def typed() -> None:
        data = os.read(terminal, 4096)
        before, escape, _ = data.partition(ESCAPE)
        writer.write(before)
        if escape or not data:
            left.set()

    async def shown() -> None:
        while data := await reader.read(65536):
            await write_all(sys.stdout.fileno(), data)

    # A file or /dev/null as stdin cannot be watched, and says nothing that could be typed.
    with contextlib.suppress(PermissionError):
        loop.add_reader(terminal, typed)
    tasks: set[asyncio.Future[object]] = {asyncio.ensure_future(shown()), asyncio.ensure_future(left.wait())}
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()  # our own output may have broken
    finally:
        loop.remove_reader(terminal)
        for task in tasks:
            task.cancel()


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Let every key through to the guest, Ctrl-C included, for as long as the block lasts."""
    import termios
    import tty

    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
