"""An ivshmem server for one device: a socket for its QEMU, whose connection is the device's life.

It never waits for anybody: what a client does not read stays queued, whatever a client sends is thrown away, and the
eventfds, which are the client's as well, are neither read nor written to by the event loop (`bells`).

Nobody is told that a peer has gone, which ivshmem's protocol would allow: a QEMU that was told frees that peer's
table, and once more when its own device is unplugged (7.2, 10.0, 11.1: `free(): double free detected`, SIGABRT).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vpctl.broker.budget import Paced
from vpctl.broker.control_page import HOST_ID
from vpctl.broker.ivshmem import message as ivshmem
from vpctl.broker.ivshmem.bells import Bell, Bells, Hearing
from vpctl.broker.ivshmem.message import Peer
from vpctl.broker.ivshmem.outbox import Outbox
from vpctl.broker.listening import Listener
from vpctl.process import eventfd_id

Tell = Callable[[str], None]
"""Is told what happens: `join`, `leave`, `ack`, or `stuck`: its control interrupt cannot be raised any more."""

MOST_ACKS = 32
"""Acknowledgements that are told in one second; a driver gives a few in its life, a guest may give any number."""


class PeerServer:
    """One device: its socket, then its client. The eventfds of `own` become the server's, the region does not."""

    def __init__(self, path: str, own: Peer, *, region: int, tell: Tell, bells: Bells) -> None:
        self.own = own
        self._path = Path(path)
        self._region = region
        self._tell = tell
        self._bells = bells
        self._ack = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fds = [self._ack, *own.eventfds]
        self._others: list[Peer] = []
        self._listener: Listener | None = None
        self._client: Outbox | None = None
        self._acks = Paced(MOST_ACKS, lambda: tell("ack"))
        self._hearing: Hearing | None = None
        self._control: Bell | None = None

    @property
    def connected(self) -> bool:
        """Whether a QEMU has the device, or is just about to have it."""
        return self._client is not None

    def open(self, others: Iterable[Peer]) -> None:
        """Listen; OSError if that fails. The `others` are whom the device can ring, beside the host."""
        self._others = [*others, Peer(id=HOST_ID, eventfds=(self._ack,))]
        self._control = self._bells.bell(self.own.eventfds[0], lambda: self._tell("stuck"))
        self._hearing = Hearing(self._ack, self._acks.ask)
        self._listener = Listener(self._path, self._accept, backlog=1)

    def join(self, peer: Peer) -> None:
        """Let the device ring one more, from now on."""
        self._others.append(peer)
        if self._client is not None:
            self._client.say(ivshmem.joins(peer))

    def ring(self) -> None:
        """Raise the device's control interrupt, at once or very soon."""
        if self._control is not None:
            self._control.ring()

    async def settled(self) -> None:
        """Wait until the device is rung no more on account of what was asked before: it may be unplugged then."""
        if self._control is not None:
            await self._control.settled()

    def close(self) -> None:
        """Close everything, and remove the socket; idempotent."""
        self._stop_listening()
        self._hang_up()
        self._acks.close()
        if self._hearing is not None:
            self._hearing.close()
        if self._control is not None:
            self._control.close()
        while self._fds:
            os.close(self._fds.pop())

    def as_json(self) -> dict[str, Any]:
        """Return what `query_ivshmem` tells of it; `eventfds` are the kernel's ids of the device's own vectors."""
        return {
            "path": str(self._path),
            "id": self.own.id,
            "connected": self.connected,
            "eventfds": [eventfd_id(os.getpid(), fd) for fd in self._fds[1:]],
        }

    def _accept(self, client: socket.socket) -> None:
        # The id is one device's: nobody else is let in, and the path is free of use from here on.
        self._stop_listening()
        self._client = Outbox(client, self._left)
        self._tell("join")
        self._client.say(ivshmem.greeting(self.own, self._others, self._region))

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._left()

    def _left(self) -> None:
        self._client = None
        self._tell("leave")
