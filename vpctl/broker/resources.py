"""What QEMUs share through the broker: memories, ivshmem servers, and vhost-user back-ends with their data paths."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from vpctl.broker import requests
from vpctl.broker.control_page import MAX_QUEUE_PAIRS, SLOT
from vpctl.broker.ivshmem.bells import Bells
from vpctl.broker.ivshmem.pair_server import EndSpec, PairServer, open_server
from vpctl.broker.ivshmem.watching import MayWatch, everybody
from vpctl.broker.memfd import Memfds
from vpctl.broker.vhost_user.backend import Backend, BackendSpec
from vpctl.broker.vhost_user.ivshmem_datapath import DeviceSpec, IvshmemDatapath
from vpctl.errors import HostError, NotFoundError, UsageError

Tell = Callable[[Mapping[str, Any]], None]


class SharedResources:
    """Memfds, servers and back-ends by their names.

    `tell` is told what happens at a link; a device's server tells also whose end it is.
    """

    def __init__(self, tell: Tell, may_watch: MayWatch = everybody) -> None:
        self.memories = Memfds()
        self._tell = tell
        self._may_watch = may_watch
        self._servers: dict[str, PairServer] = {}
        self._backends: dict[str, Backend] = {}
        self._bells = Bells()

    def close(self) -> None:
        """Close everything; idempotent."""
        for backend in tuple(self._backends):
            self._backends.pop(backend).close()
        for server in tuple(self._servers):
            self._servers.pop(server).close()
        self.memories.close()
        self._bells.close()

    def handlers(self, tasks: asyncio.TaskGroup) -> Mapping[type, requests.Handler]:
        """Return what carries out each request that is about something of it; back-ends work in `tasks`."""
        return {
            requests.Create: lambda wanted: {"created": self.memories.create(wanted.memory, wanted.size)},
            requests.Clear: lambda wanted: self.memories.clear(wanted.memory),
            requests.Write: lambda wanted: self.memories.write(wanted.memory, wanted.parts),
            requests.Read: self.read,
            requests.Drop: lambda wanted: self.drop(wanted.memory),
            requests.ListMemories: lambda _: {"memories": dict(self.memories.names())},
            requests.Serve: self.serve,
            requests.QueryIvshmem: lambda _: {"servers": self.servers()},
            requests.IvshmemReplace: lambda wanted: self.replace(wanted.name, wanted.end, wanted.spec),
            requests.Ring: self.ring,
            requests.Close: lambda wanted: self.close_server(wanted.name),
            requests.BackendOpen: lambda wanted: self.open_backend(wanted, tasks),
            requests.QueryBackends: lambda _: {
                "backends": [backend.as_json() for backend in self._backends.values()]
            },
            requests.Attach: self.attach,
            requests.Detach: self.detach,
            requests.BackendClose: self.close_backend,
        }

    def read(self, wanted: requests.Read) -> dict[str, Any]:
        """Return bytes of a memory."""
        return {"content": self.memories.read(wanted.memory, wanted.offset, wanted.length).hex()}

    def drop(self, memory: str) -> None:
        """Let go of a memory, and end what is served of it. Idempotent."""
        for server in [server for server in self._servers.values() if server.memory == memory]:
            self.close_server(server.name)
        self.memories.drop(memory)

    # Section: two ends of a memory

    def serve(self, wanted: requests.Serve) -> dict[str, Any]:
        """Open an ivshmem server. What was served of this memory before is over: it has one server at a time."""
        name, memory = wanted.name, wanted.memory
        region = self.memories.fd(memory)
        for other in [other for other in self._servers.values() if other.memory == memory or other.name == name]:
            self.close_server(other.name)
        try:
            server = open_server(
                name,
                memory,
                region,
                wanted.ends,
                self._tell,
                self._bells,
                watch=wanted.watch or None,
                may_watch=self._may_watch,
            )
        except OSError as error:
            raise HostError(f"cannot serve `{name}`: {error.strerror}") from error
        self._servers[name] = server
        return server.as_json()

    def replace(self, name: str, end: int, spec: EndSpec) -> dict[str, Any]:
        """Serve another device at an end of the server that has this name, or a device of it."""
        server = self._server(name)
        try:
            server.replace(end, spec)
        except OSError as error:
            raise HostError(f"cannot serve `{spec.name}`: {error.strerror}") from error
        return server.as_json()

    def servers(self) -> list[dict[str, Any]]:
        """Return all that is served to devices: by servers, and by data paths, which have one end."""
        datapaths = [
            backend.datapath.as_json() for backend in self._backends.values() if backend.datapath is not None
        ]
        return [*(server.as_json() for server in self._servers.values()), *datapaths]

    async def ring(self, wanted: requests.Ring) -> None:
        """Raise the control interrupt of an end's device, and wait until it is raised or given up."""
        end = self._server(wanted.name).end(wanted.end)
        end.ring()
        await end.settled()

    def close_server(self, name: str) -> None:
        """End an ivshmem server; idempotent."""
        if (server := self._servers.pop(name, None)) is not None:
            server.close()

    def _server(self, name: str) -> PairServer:
        for server in self._servers.values():
            if name in server.names:
                return server
        raise NotFoundError(f"nothing is served as `{name}`")  # it belonged to a broker that died

    # Section: a front-end, and the device that works its rings

    def open_backend(self, spec: BackendSpec, tasks: asyncio.TaskGroup) -> dict[str, Any]:
        """Listen for a front-end; UsageError if one of that name is there already."""
        if spec.name in self._backends:
            raise UsageError(f"`{spec.name}` is a front-end already")
        if not 1 <= spec.queue_pairs <= MAX_QUEUE_PAIRS:
            raise UsageError(f"`{spec.name}`: {spec.queue_pairs} queue pairs are not between 1 and {MAX_QUEUE_PAIRS}")
        ram = os.dup(self.memories.fd(spec.ram))
        backend = Backend(spec, ram=ram, known=self.memories.has, tell=self._tell)
        try:
            backend.open(tasks)
        except OSError as error:
            backend.close()
            raise HostError(f"cannot listen for `{spec.name}`: {error.strerror}") from error
        self._backends[spec.name] = backend
        return backend.as_json()

    def attach(self, wanted: requests.Attach) -> dict[str, Any]:
        """Serve a device that works a front-end's rings, in the session that the caller knows of."""
        backend = self._backend(wanted.backend)
        page = self.memories.fd(wanted.control)
        name, id_ = wanted.name, wanted.ivposition
        spec = DeviceSpec(
            name=name,
            path=wanted.path,
            id=id_,
            vectors=wanted.vectors,
            slot=wanted.slot,
            description=wanted.description,
        )
        _check(spec, os.fstat(page).st_size)
        datapath = IvshmemDatapath(
            spec,
            ram=self.memories.fd(backend.spec.ram),
            control=page,
            tell=lambda what: self._tell({"name": name, "end": 0, "what": what, "id": id_}),
            answered=backend.hear_answer,
            stuck=backend.hang_up,
            bells=self._bells,
        )
        try:
            backend.attach(wanted.session, datapath)
        except OSError as error:
            raise HostError(f"cannot serve `{name}`: {error.strerror or error}") from error
        finally:
            if backend.datapath is not datapath:
                datapath.detach()
        return datapath.as_json()

    async def detach(self, wanted: requests.Detach) -> dict[str, Any]:
        """Switch off the device that works a front-end's rings; `released` if its guest has let go."""
        return {"released": await self._backend(wanted.backend).detach()}

    async def close_backend(self, wanted: requests.BackendClose) -> dict[str, Any]:
        """End a front-end, its data path first; `released` if that one's guest has let go. Idempotent."""
        backend = self._backends.get(wanted.name)
        if backend is None:
            return {"released": True}
        released = await backend.detach()
        if self._backends.get(wanted.name) is backend:
            del self._backends[wanted.name]
        backend.close()
        return {"released": released}

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:  # it belonged to a broker that died
            raise NotFoundError(f"there is no front-end `{name}`")
        return self._backends[name]


def _check(spec: DeviceSpec, page: int) -> None:
    """See that a device's slot is one; UsageError otherwise."""
    if len(spec.description) != SLOT.size:
        raise UsageError(f"`{spec.name}`: a slot has {SLOT.size} bytes, not {len(spec.description)}")
    if not SLOT.size <= spec.slot <= page - SLOT.size or spec.slot % SLOT.size:
        raise UsageError(f"`{spec.name}`: there is no slot at {spec.slot}")
