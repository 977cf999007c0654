"""An ivshmem server for the two ends of one memory, for one generation: sockets, eventfds, joins and leaves.

Each end has a socket of its own, for one client: a QEMU's device, whose life is the connection's. It never waits for
anybody: what a client does not read stays queued, and whatever a client sends is thrown away.

Nobody is told that a peer has gone, which ivshmem's protocol would allow: a QEMU that was told frees that peer's
table, and once more when its own device is unplugged (7.2, 10.0, 11.1: `free(): double free detected`, SIGABRT).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpctl.broker import ivshmem
from vpctl.broker.ivshmem import Message, Peer
from vpctl.process import eventfd_id

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class EndSpec:
    """One end: where its client connects, the id of its device, and how many vectors that has."""

    path: str
    id: int
    vectors: int


class Server:
    """Serves one generation; made by `open_server`, over when it is closed."""

    def __init__(self, name: str, memory: str, ends: Sequence[End]) -> None:
        self.name = name
        self.memory = memory
        self._ends = ends

    def end(self, number: int) -> End:
        """Return an end (LookupError)."""
        return self._ends[number]

    def open(self) -> None:
        """Listen at every end; OSError, with nothing left behind, if that fails."""
        try:
            for end in self._ends:
                end.open([other for other in self._ends if other is not end])
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close what is open; idempotent."""
        for end in self._ends:
            end.close()

    def as_json(self) -> dict[str, Any]:
        """Return what `served` tells of it."""
        return {"name": self.name, "memory": self.memory, "ends": [end.as_json() for end in self._ends]}


class End:
    """One end: its socket, then its client; the eventfds are made with it and last as long."""

    def __init__(self, spec: EndSpec, *, region: int, tell: Tell) -> None:
        self.spec = spec
        self._region = region
        self._tell = tell
        self._eventfds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(spec.vectors)]
        self._ack = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._greeting: list[Message] = []
        self._listener: socket.socket | None = None
        self._client: socket.socket | None = None
        self._unsent: deque[Message] = deque()

    @property
    def as_peer(self) -> Peer:
        """What the other ends may ring."""
        return Peer(id=self.spec.id, eventfds=tuple(self._eventfds))

    def open(self, others: Sequence[End]) -> None:
        """Listen; OSError if that fails."""
        host = Peer(id=ivshmem.HOST_ID, eventfds=(self._ack,))
        self._greeting = ivshmem.greeting(self.as_peer, [*(other.as_peer for other in others), host], self._region)
        Path(self.spec.path).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(self.spec.path)
        self._listener.listen(1)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener, self._accept)
        loop.add_reader(self._ack, self._take_ack)

    def ring(self) -> None:
        """Raise the control interrupt of this end's device."""
        with contextlib.suppress(BlockingIOError):  # it is pending already, 2^64 times over
            os.eventfd_write(self._eventfds[0], 1)

    def close(self) -> None:
        """Close everything, and remove the socket; idempotent."""
        self._stop_listening()
        self._hang_up()
        if self._eventfds:
            asyncio.get_running_loop().remove_reader(self._ack)
            for fd in (self._ack, *self._eventfds):
                os.close(fd)
            self._eventfds.clear()

    def as_json(self) -> dict[str, Any]:
        """Return what `served` tells of it; `eventfds` are the kernel's ids of the device's own vectors."""
        return {
            "path": self.spec.path,
            "id": self.spec.id,
            "connected": self._client is not None,
            "eventfds": [eventfd_id(os.getpid(), fd) for fd in self._eventfds],
        }

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            self._client, _ = self._listener.accept()
        except OSError:  # gone again already
            return
        # The id is one device's: nobody else is let in, and the path is free of use from here on.
        self._stop_listening()
        self._client.setblocking(False)
        self._unsent.extend(self._greeting)
        self._tell({"what": "join", "id": self.spec.id})
        asyncio.get_running_loop().add_reader(self._client, self._listen)
        self._send()

    def _listen(self) -> None:
        """Learn of the client's end; what it says has no meaning."""
        assert self._client is not None
        try:
            alive = bool(self._client.recv(65536))
        except BlockingIOError:
            alive = True
        except OSError:
            alive = False
        if not alive:
            self._hang_up()

    def _send(self) -> None:
        """Send what the client takes now, the rest when it takes more."""
        if self._client is None:
            return
        loop = asyncio.get_running_loop()
        try:
            while self._unsent:
                _send_message(self._client, self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            loop.add_writer(self._client, self._send)
        except OSError:  # it has gone
            self._hang_up()
        else:
            loop.remove_writer(self._client)

    def _take_ack(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._ack)
            self._tell({"what": "ack", "id": self.spec.id})

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            Path(self.spec.path).unlink(missing_ok=True)

    def _hang_up(self) -> None:
        if self._client is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._client)
            loop.remove_writer(self._client)
            self._client.close()
            self._client = None
            self._unsent.clear()
            self._tell({"what": "leave", "id": self.spec.id})


def open_server(name: str, memory: str, region: int, ends: Sequence[EndSpec], tell: Tell) -> Server:
    """Return a server that listens; OSError, with nothing left behind, if that fails.

    `tell` is called with what happens: {"what": "join" | "leave" | "ack", "name", "end", "id"}.
    """

    def teller(number: int) -> Tell:
        return lambda news: tell({"name": name, "end": number, **news})

    made: list[End] = []
    try:
        for number, spec in enumerate(ends):
            made.append(End(spec, region=region, tell=teller(number)))
    except OSError:
        for end in made:
            end.close()
        raise
    server = Server(name, memory, made)
    server.open()
    return server


def _send_message(client: socket.socket, message: Message) -> None:
    """Send one message whole; BlockingIOError if there is no room."""
    fds = [message.fd] if message.fd is not None else []
    socket.send_fds(client, [message.encode()], fds)
