"""A socket for people's own ivshmem clients, such as QEMU's contrib/ivshmem-client: by the letter of ivshmem-spec.

A client sees the memory, without being able to write to it, and the devices as its peers, which it can ring. It has
an id of its own, but no device learns of it: a QEMU cannot be told that it has gone (see `peer_server`).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from vpctl.broker.ivshmem import message as ivshmem
from vpctl.broker.ivshmem.message import Message, Peer
from vpctl.broker.ivshmem.outbox import Outbox
from vpctl.broker.listening import Listener

MOST_WATCHERS = 8

MayWatch = Callable[[socket.socket], bool]


def everybody(client: socket.socket) -> bool:
    """Let each process look on that can reach the socket."""
    return True


class Watching:
    """Serves clients until it is closed; `peers` returns what devices there are. The region stays the caller's."""

    def __init__(self, path: str, region: int, peers: Callable[[], Iterable[Peer]], may_watch: MayWatch) -> None:
        """Listen; OSError if that fails."""
        self._peers = peers
        self._may_watch = may_watch
        self._clients: dict[socket.socket, Outbox] = {}
        self._own = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Every client's only vector, which is never rung."""
        try:
            # Another open file, so that no client writes by mistake; one that means to can open it anew, as owner.
            self._region = os.open(f"/proc/self/fd/{region}", os.O_RDONLY | os.O_CLOEXEC)
            self._listener = Listener(Path(path), self._accept, backlog=4)
        except OSError:
            os.close(self._own)
            with contextlib.suppress(AttributeError, OSError):
                os.close(self._region)
            raise

    def close(self) -> None:
        """Hang up on all, and remove the socket; idempotent."""
        if self._listener.is_open:
            self._listener.close()
            for outbox in self._clients.values():
                outbox.close()
            self._clients.clear()
            os.close(self._own)
            os.close(self._region)

    def joined(self, peer: Peer) -> None:
        """Tell the clients of a device that is there now."""
        for outbox in tuple(self._clients.values()):
            outbox.say(ivshmem.joins(peer))

    def left(self, peer: Peer) -> None:
        """Tell the clients of a device that has gone."""
        for outbox in tuple(self._clients.values()):
            outbox.say([Message(number=peer.id)])

    def _accept(self, client: socket.socket) -> None:
        if len(self._clients) >= MOST_WATCHERS or not self._may_watch(client):
            client.close()
            return
        outbox = self._clients[client] = Outbox(client, lambda: self._forget(client))
        own = Peer(id=ivshmem.WATCHER_ID, eventfds=(self._own,))
        outbox.say(ivshmem.greeting_by_the_letter(own, self._peers(), self._region))

    def _forget(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
