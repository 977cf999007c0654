"""An ivshmem server for the two ends of one memory: each rings the other, and the host.

An end's eventfds are made with it, and last as long. A device whose peer has died may stay, and is told of the next
one; that the last one has gone it is never told (`peer_server`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from vpctl.broker.control_page import LARGEST_ID
from vpctl.broker.ivshmem.bells import Bells
from vpctl.broker.ivshmem.message import MOST_VECTORS, Peer
from vpctl.broker.ivshmem.peer_server import PeerServer
from vpctl.broker.ivshmem.watching import MayWatch, Watching, everybody
from vpctl.errors import UsageError
from vpctl.fields import Name, PathText, Within

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class EndSpec:
    """One end: the name of its device, where its client connects, the device's id, and how many vectors that has."""

    name: Name
    path: PathText
    id: Annotated[int, Within(0, LARGEST_ID)]
    vectors: Annotated[int, Within(1, MOST_VECTORS)]


class PairServer:
    """Serves one generation, and the devices that follow some of it; over when it is closed.

    The descriptor of the region stays the caller's. `tell` is called with what happens: {"what": "join" | "leave" |
    "ack" | "stuck", "name", "end", "id"}, where the name is the device's.
    """

    def __init__(
        self, name: str, memory: str, region: int, tell: Tell, bells: Bells, may_watch: MayWatch = everybody
    ) -> None:
        self.name = name
        self.memory = memory
        self._region = region
        self._tell = tell
        self._bells = bells
        self._may_watch = may_watch
        self._watching: Watching | None = None
        self._specs: list[EndSpec] = []
        self._ends: list[PeerServer] = []

    @property
    def names(self) -> set[str]:
        """The names by which it is known: its own, and its devices'."""
        return {self.name, *(spec.name for spec in self._specs)}

    def end(self, number: int) -> PeerServer:
        """Return an end (LookupError)."""
        return self._ends[number]

    def open(self, specs: Sequence[EndSpec], watch: str | None = None) -> None:
        """Listen at every end, and at `watch`; OSError, with nothing left behind, if that fails."""
        try:
            for number, spec in enumerate(specs):
                self._ends.append(self._made(number, spec))
                self._specs.append(spec)
            for end in self._ends:
                end.open([other.own for other in self._ends if other is not end])
            if watch is not None:
                self._watching = Watching(watch, self._region, self._devices, self._may_watch)
        except OSError:
            self.close()
            raise

    def _devices(self) -> list[Peer]:
        return [end.own for end in self._ends]

    def replace(self, number: int, spec: EndSpec) -> None:
        """Serve another device at an end whose last one is gone, and let the others ring it, from now on.

        UsageError if another has no QEMU that could be told of it; OSError, and nothing is served there, if it fails.
        """
        others = [end for end in self._ends if end is not self._ends[number]]
        if not all(other.connected for other in others):
            raise UsageError(f"`{self.name}` has an end that nobody can be told at")
        made = self._made(number, spec)
        self._ends[number].close()  # with its socket, which may be that of the next
        try:
            made.open([other.own for other in others])
        except OSError:
            made.close()
            raise
        if self._watching is not None:
            self._watching.left(self._ends[number].own)
            self._watching.joined(made.own)
        self._ends[number], self._specs[number] = made, spec
        for other in others:
            other.join(made.own)

    def _made(self, number: int, spec: EndSpec) -> PeerServer:
        """Return an end with eventfds of its own."""

        def tell(what: str) -> None:
            self._tell({"name": spec.name, "end": number, "what": what, "id": spec.id})

        eventfds: list[int] = []
        try:
            for _ in range(spec.vectors):
                eventfds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            own = Peer(id=spec.id, eventfds=tuple(eventfds))
            return PeerServer(spec.path, own, region=self._region, tell=tell, bells=self._bells)
        except OSError:
            for fd in eventfds:
                os.close(fd)
            raise

    def close(self) -> None:
        """Close what is open; idempotent."""
        if self._watching is not None:
            self._watching.close()
        for end in self._ends:
            end.close()

    def as_json(self) -> dict[str, Any]:
        """Return what `query_ivshmem` tells of it."""
        ends = [{"name": s.name, **end.as_json()} for s, end in zip(self._specs, self._ends, strict=True)]
        return {"name": self.name, "memory": self.memory, "ends": ends}


def open_server(
    name: str,
    memory: str,
    region: int,
    ends: Sequence[EndSpec],
    tell: Tell,
    bells: Bells,
    *,
    watch: str | None = None,
    may_watch: MayWatch = everybody,
) -> PairServer:
    """Return a server that listens; OSError, with nothing left behind, if that fails.

    `watch`: where clients that are no QEMU may look on, if `may_watch` lets the process connect.
    """
    server = PairServer(name, memory, region, tell, bells, may_watch)
    server.open(ends, watch)
    return server
