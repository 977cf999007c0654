"""What QEMUs share through the broker: memories, ivshmem servers, and vhost-user back-ends with their carriers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vpctl.broker.backend import Backend, FrontSpec
from vpctl.broker.bells import Bells
from vpctl.broker.control_page import MAX_QUEUE_PAIRS, SLOT, vectors
from vpctl.broker.doorbell import EndSpec, Server, open_server
from vpctl.broker.doorbell_carrier import DeviceSpec, DoorbellCarrier
from vpctl.broker.memory import Memories
from vpctl.errors import HostError, NotFoundError, UsageError

Tell = Callable[[Mapping[str, Any]], None]


class Shared:
    """All of it, by name. `tell` is told what happens at a link; a device's server tells also whose end it is."""

    def __init__(self, tell: Tell) -> None:
        self.memories = Memories()
        self._tell = tell
        self._servers: dict[str, Server] = {}
        self._fronts: dict[str, Backend] = {}
        self._bells = Bells()

    def close(self) -> None:
        """Close everything; idempotent."""
        for front in tuple(self._fronts):
            self._fronts.pop(front).close()
        for server in tuple(self._servers):
            self._servers.pop(server).close()
        self.memories.close()
        self._bells.close()

    async def do(self, verb: str, arguments: dict[str, Any], tasks: asyncio.TaskGroup) -> Mapping[str, Any] | None:
        """Carry out a verb; None if it is about something else."""
        if verb in ("make", "clear", "write", "read", "drop", "memories"):
            return self._do_with_memory(verb, arguments)
        match verb:
            case "serve":
                return self.serve(**arguments)
            case "served":
                return {"servers": self.served()}
            case "ring":
                self._server(arguments["name"]).end(arguments["end"]).ring()
            case "renew":
                return self.renew(arguments["name"], arguments["end"], EndSpec(**arguments["spec"]))
            case "close":
                self.close_server(arguments["name"])
            case "front":
                return self.open_front(FrontSpec(**arguments), tasks)
            case "fronts":
                return {"fronts": [front.as_json() for front in self._fronts.values()]}
            case "attach":
                return self.attach(**arguments)
            case "detach":
                return {"released": await self._front(arguments["front"]).detach()}
            case "close_front":
                return {"released": await self.close_front(arguments["name"])}
            case _:
                return None
        return {}

    def _do_with_memory(self, verb: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        match verb:
            case "make":
                return {"made": self.memories.make(arguments["memory"], arguments["size"])}
            case "clear":
                self.memories.clear(arguments["memory"])
            case "write":
                self.memories.write(arguments["memory"], arguments["parts"])
            case "read":
                content = self.memories.read(arguments["memory"], arguments["offset"], arguments["length"])
                return {"content": content.hex()}
            case "drop":
                self.drop(arguments["memory"])
            case "memories":
                return {"memories": dict(self.memories.names())}
        return {}

    def drop(self, memory: str) -> None:
        """Let go of a memory, and end what is served of it. Idempotent."""
        for server in [server for server in self._servers.values() if server.memory == memory]:
            self.close_server(server.name)
        self.memories.drop(memory)

    # Section: two ends of a memory

    def serve(self, *, name: str, memory: str, ends: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Open an ivshmem server. What was served of this memory before is over: it has one server at a time."""
        region = self.memories.fd(memory)
        for other in [other for other in self._servers.values() if other.memory == memory or other.name == name]:
            self.close_server(other.name)
        try:
            server = open_server(name, memory, region, [EndSpec(**end) for end in ends], self._tell, self._bells)
        except OSError as error:
            raise HostError(f"cannot serve `{name}`: {error.strerror}") from error
        self._servers[name] = server
        return server.as_json()

    def renew(self, name: str, end: int, spec: EndSpec) -> dict[str, Any]:
        """Serve another device at an end of the server that has this name, or a device of it."""
        server = self._server(name)
        try:
            server.renew(end, spec)
        except OSError as error:
            raise HostError(f"cannot serve `{spec.name}`: {error.strerror}") from error
        return server.as_json()

    def served(self) -> list[dict[str, Any]]:
        """Return all that is served to devices: by servers, and by carriers, which have one end."""
        carriers = [front.carrier.as_json() for front in self._fronts.values() if front.carrier is not None]
        return [*(server.as_json() for server in self._servers.values()), *carriers]

    def close_server(self, name: str) -> None:
        """End an ivshmem server; idempotent."""
        if (server := self._servers.pop(name, None)) is not None:
            server.close()

    def _server(self, name: str) -> Server:
        for server in self._servers.values():
            if name in server.names:
                return server
        raise NotFoundError(f"nothing is served as `{name}`")  # it belonged to a broker that died

    # Section: a front-end, and the device that works its rings

    def open_front(self, spec: FrontSpec, tasks: asyncio.TaskGroup) -> dict[str, Any]:
        """Listen for a front-end; UsageError if one of that name is there already."""
        if spec.name in self._fronts:
            raise UsageError(f"`{spec.name}` is a front-end already")
        if not 1 <= spec.queue_pairs <= MAX_QUEUE_PAIRS:
            raise UsageError(f"`{spec.name}`: {spec.queue_pairs} queue pairs are not between 1 and {MAX_QUEUE_PAIRS}")
        ram = os.dup(self.memories.fd(spec.ram))
        front = Backend(spec, ram=ram, known=self.memories.has, tell=self._tell)
        try:
            front.open(tasks)
        except OSError as error:
            front.close()
            raise HostError(f"cannot listen for `{spec.name}`: {error.strerror}") from error
        self._fronts[spec.name] = front
        return front.as_json()

    def attach(
        self,
        *,
        front: str,
        session: int,
        name: str,
        path: str,
        ivposition: int,
        vectors: int,
        control: str,
        slot: int,
        description: str,
    ) -> dict[str, Any]:
        """Serve a device that works a front-end's rings, in the session that the caller knows of."""
        backend = self._front(front)
        page = self.memories.fd(control)
        spec = DeviceSpec(
            name=name, path=path, id=ivposition, vectors=vectors, slot=slot, description=bytes.fromhex(description)
        )
        _check(spec, os.fstat(page).st_size)
        carrier = DoorbellCarrier(
            spec,
            ram=self.memories.fd(backend.spec.ram),
            control=page,
            tell=lambda what: self._tell({"name": name, "end": 0, "what": what, "id": ivposition}),
            answered=backend.hear_answer,
            stuck=backend.hang_up,
            bells=self._bells,
        )
        try:
            backend.attach(session, carrier)
        except OSError as error:
            raise HostError(f"cannot serve `{name}`: {error.strerror}") from error
        finally:
            if backend.carrier is not carrier:
                carrier.detach()
        return carrier.as_json()

    async def close_front(self, name: str) -> bool:
        """End a front-end, its carrier first; True if that one's guest has let go. Idempotent."""
        front = self._fronts.get(name)
        if front is None:
            return True
        released = await front.detach()
        if self._fronts.get(name) is front:
            del self._fronts[name]
        front.close()
        return released

    def _front(self, name: str) -> Backend:
        if name not in self._fronts:  # it belonged to a broker that died
            raise NotFoundError(f"there is no front-end `{name}`")
        return self._fronts[name]


def _check(spec: DeviceSpec, page: int) -> None:
    """See that a device's slot is one; UsageError otherwise."""
    if len(spec.description) != SLOT.size:
        raise UsageError(f"`{spec.name}`: a slot has {SLOT.size} bytes, not {len(spec.description)}")
    if not SLOT.size <= spec.slot <= page - SLOT.size or spec.slot % SLOT.size:
        raise UsageError(f"`{spec.name}`: there is no slot at {spec.slot}")
    if not 1 < spec.vectors <= vectors(MAX_QUEUE_PAIRS):
        raise UsageError(f"`{spec.name}`: {spec.vectors} vectors are too few or too many")
