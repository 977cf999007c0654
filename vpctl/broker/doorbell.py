"""An ivshmem server for the two ends of one memory, for one generation: each rings the other, and the host.

The eventfds are made with it, and last as long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpctl.broker.device_server import DeviceServer
from vpctl.broker.device_server import Tell as TellOne
from vpctl.broker.ivshmem import Peer

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class EndSpec:
    """One end: where its client connects, the id of its device, and how many vectors that has."""

    path: str
    id: int
    vectors: int


class Server:
    """Serves one generation; made by `open_server`, over when it is closed."""

    def __init__(self, name: str, memory: str, ends: Sequence[DeviceServer]) -> None:
        self.name = name
        self.memory = memory
        self._ends = ends

    def end(self, number: int) -> DeviceServer:
        """Return an end (LookupError)."""
        return self._ends[number]

    def open(self) -> None:
        """Listen at every end; OSError, with nothing left behind, if that fails."""
        try:
            for end in self._ends:
                end.open([other.own for other in self._ends if other is not end])
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


def open_server(name: str, memory: str, region: int, ends: Sequence[EndSpec], tell: Tell) -> Server:
    """Return a server that listens; OSError, with nothing left behind, if that fails.

    `tell` is called with what happens: {"what": "join" | "leave" | "ack", "name", "end", "id"}.
    """

    def teller(number: int, spec: EndSpec) -> TellOne:
        return lambda what: tell({"name": name, "end": number, "what": what, "id": spec.id})

    made: list[DeviceServer] = []
    try:
        for number, spec in enumerate(ends):
            made.append(_made(spec, region=region, tell=teller(number, spec)))
    except OSError:
        for end in made:
            end.close()
        raise
    server = Server(name, memory, made)
    server.open()
    return server


def _made(spec: EndSpec, *, region: int, tell: TellOne) -> DeviceServer:
    """Return an end with eventfds of its own."""
    eventfds: list[int] = []
    try:
        for _ in range(spec.vectors):
            eventfds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        return DeviceServer(spec.path, Peer(id=spec.id, eventfds=tuple(eventfds)), region=region, tell=tell)
    except OSError:
        for fd in eventfds:
            os.close(fd)
        raise
