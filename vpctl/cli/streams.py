"""Our standard streams, whatever they are: closed, full, without a reader, or unable to show every character.

What cannot be written to stdout is an error of its own kind, `OutputError`, so that no verb takes it for a failure of
its own sockets and files. What cannot be written to stderr is dropped: nothing could tell of it.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

from vpctl.cli.interrupts import AbandonedError, Interrupts
from vpctl.errors import HostError


class OutputError(HostError):
    """Our output cannot be written. `is_closed`: its reader has gone, as `head` does when it has seen enough."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write the output: {error.strerror or error}")
        self.is_closed = error.errno == errno.EPIPE


LAST_WORDS_MS = 1000
"""For a reader of ours to go on, once the command was interrupted."""


class Descriptor(io.RawIOBase):
    """A descriptor that is written to in full or not at all: after an error, or an interrupt, the rest is dropped.

    An interrupt ends a write that waits for a reader, and what is still said after it waits a second at most: further
    signals change nothing, so there would be no other end.
    """

    def __init__(self, fd: int, interrupts: Interrupts, *, tells: bool) -> None:
        super().__init__()
        self._fd = fd
        self._interrupts = interrupts
        self._tells = tells
        self._is_lost = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        if self._is_lost:
            return view.nbytes
        try:
            return self._written(view)
        except AbandonedError:
            self._is_lost = True
        except OSError as error:
            self._is_lost = True
            if self._tells:
                raise OutputError(error) from error
        return view.nbytes

    def _written(self, view: memoryview) -> int:
        while True:
            self._interrupts.is_writing = True
            try:
                if self._interrupts.has_come:
                    return self._written_at_once(view)
                return os.write(self._fd, view)
            except BlockingIOError:  # others who share it have made it so
                if not self._interrupts.has_come:
                    self._poll(None)
            finally:
                self._interrupts.is_writing = False

    def _written_at_once(self, view: memoryview) -> int:
        if not self._poll(LAST_WORDS_MS):
            raise AbandonedError
        return os.write(self._fd, view[: select.PIPE_BUF])  # for which a pipe that can be written to has room

    def _poll(self, milliseconds: int | None) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(milliseconds))


def prepare(interrupts: Interrupts) -> None:
    """Take our standard streams over. One that is closed becomes /dev/null, or the next file opened would be it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free one: this, as a rule
            os.dup2(opened, fd) if opened != fd else os.set_inheritable(fd, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stdout = sys.__stdout__ = _stream(sys.stdout, 1, interrupts, errors="replace")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(sys.stderr, 2, interrupts, errors="backslashreplace")  # type: ignore[misc]


def _stream(old: object, fd: int, interrupts: Interrupts, *, errors: str) -> io.TextIOWrapper:
    """Return a text stream on a descriptor, buffered as Python does it."""
    by_line = fd == 2 or os.isatty(fd) or bool(os.environ.get("PYTHONUNBUFFERED"))
    return io.TextIOWrapper(
        io.BufferedWriter(Descriptor(fd, interrupts, tells=fd == 1)),
        encoding=getattr(old, "encoding", None) or "utf-8",
        errors=errors,
        line_buffering=by_line,
    )


async def write_all(fd: int, data: bytes) -> None:
    """Write to a descriptor without holding up the loop while its reader does not read; raises OutputError."""
    import stat

    is_file = stat.S_ISREG(os.fstat(fd).st_mode)
    view = memoryview(data)
    while view:
        if not is_file:
            await _writable(fd)
        try:
            # A pipe that can be written to has room for so much.
            view = view[os.write(fd, view if is_file else view[: select.PIPE_BUF]) :]
        except BlockingIOError:
            continue
        except OSError as error:
            raise OutputError(error) from error


async def _writable(fd: int) -> None:
    """Wait until a descriptor takes something, or never will again."""
    import asyncio

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if poll.poll(0):
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)
