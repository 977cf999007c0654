"""A process that keeps the descriptors it is sent, as QEMU does with `getfd`: each takes the lowest free number."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

_KEEPS = """
import os, socket, sys
sock, kept, unasked = socket.socket(fileno=int(sys.argv[1])), {}, []
while message := socket.recv_fds(sock, 4096, 16):
    words, fds = message[0].decode().split(), message[1]
    if not words:
        break
    if words[0] in ("fill", "keep"):
        for fd in unasked:
            os.close(fd)
        unasked = fds if words[0] == "fill" else []
    if words[0] in ("open", "keep"):
        kept[words[1]] = fds[0]
    elif words[0] == "close":
        os.close(kept.pop(words[1]))
    sock.send(str(kept.get(words[1], -1)).encode())
"""


class Keeper:
    """A QMP session, as far as `fd_parking` needs one, to such a process."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.named: dict[str, int] = {}
        """What it keeps: names and numbers."""
        self._sock = sock

    async def send_fd(self, name: str, fd: int, *, above: int = 0) -> None:
        assert name not in self.named, "QEMU would close the earlier one"
        if above:
            self._fill(fd, above)
        self._open(name, fd, "keep")

    @asynccontextmanager
    async def numbers_taken(self, fd: int, count: int) -> AsyncIterator[None]:
        self._fill(fd, count)
        yield
        self._fill(fd, 0)

    def _open(self, name: str, fd: int, how: str) -> None:
        socket.send_fds(self._sock, [f"{how} {name}".encode()], [fd])
        self.named[name] = int(self._sock.recv(100))

    def wait_for_answer(self) -> None:
        self._fill(-1, 0)

    def _fill(self, fd: int, count: int) -> None:
        """Have it take descriptors that it closes when others come."""
        socket.send_fds(self._sock, [b"fill it"], [fd] * count)
        assert self._sock.recv(100) == b"-1"

    async def execute(self, command: str, arguments: Mapping[str, Any]) -> None:
        assert command == "closefd"
        self.close(arguments["fdname"])

    def close(self, name: str) -> None:
        """Close one that it keeps."""
        del self.named[name]
        self._sock.send(f"close {name}".encode())
        assert self._sock.recv(100) == b"-1"

    async def eventfds(self, *names: str) -> list[int]:
        """Have it open a new eventfd under each name, as a device does; return the kernel's ids."""
        from vpctl.process import eventfd_id

        ids = []
        for name in names:
            fd = os.eventfd(0)
            self._open(name, fd, "open")
            ids.append(eventfd_id(os.getpid(), fd))
            os.close(fd)
        return [id_ for id_ in ids if id_ is not None]


@contextmanager
def keeping() -> Iterator[Keeper]:
    """Run such a process for as long as the block lasts."""
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-c", _KEEPS, str(theirs.fileno())]
    with ours, subprocess.Popen(argv, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        keeper = Keeper(process.pid, ours)
        try:
            keeper.wait_for_answer()  # while it starts, descriptors of its own come and go
            yield keeper
        finally:
            ours.shutdown(socket.SHUT_RDWR)
