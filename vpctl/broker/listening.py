"""A unix socket that QEMUs connect to: accepts no more often than it should, and waits where descriptors ran out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from stat import S_ISSOCK

from vpctl.broker.budget import Budget

MOST_CONNECTIONS = 16
"""Accepted in one second; a QEMU that reconnects does so once a second."""

SHORTAGE_SECONDS = 1.0
"""Until accepting is tried again after the host had no descriptor, or no memory, for it.

The connection stays in the backlog, so the socket stays readable: without a pause the loop would turn for nothing.
"""

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Listens at a path, and hands each connection on, non-blocking; the receiver closes it."""

    def __init__(self, path: Path, accepted: Callable[[socket.socket], None], *, backlog: int) -> None:
        """Bind and listen, in place of a socket at the path; OSError, with nothing left behind, if that fails."""
        self._path = path
        self._accepted = accepted
        self._budget = Budget(MOST_CONNECTIONS)
        self._pause: asyncio.TimerHandle | None = None
        _remove_socket(path)
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(str(path))
            self._socket.listen(backlog)
            self._listen()
        except BaseException:
            self._socket.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether clients may still connect."""
        return self._socket is not None

    def close(self) -> None:
        """Stop listening, and remove the socket; idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            _remove_socket(self._path)

    def _listen(self) -> None:
        self._pause = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self.accept)

    def _rest(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.remove_reader(self._socket)
            self._pause = loop.call_later(seconds, self._listen)

    def accept(self) -> None:
        """Accept a connection that waits; what the loop calls."""
        assert self._socket is not None
        if (wait := self._budget.take()) > 0:
            self._rest(wait)
            return
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            if error.errno in _SHORTAGES:
                self._rest(SHORTAGE_SECONDS)
            return  # otherwise it has gone again already
        connection.setblocking(False)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            self._accepted(connection)
            undo.pop_all()


def _remove_socket(path: Path) -> None:
    """Remove a socket; anything else stays, and is in the way (EADDRINUSE)."""
    with contextlib.suppress(FileNotFoundError):
        if S_ISSOCK(path.lstat().st_mode):
            path.unlink()
