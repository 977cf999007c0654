"""The broker as the supervisor and `vpctl down` see it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from vpctl.broker.protocol import (
    LINE_LIMIT,
    BackendEvent,
    BrokerFailure,
    Exit,
    IvshmemEvent,
    decode,
    encode,
    link_event,
)
from vpctl.errors import HostError, InternalError, UsageError, errors_by_code
from vpctl.process import child_environment, run
from vpctl.process_record import Child
from vpctl.rundir import RunDir
from vpctl.tasks import traceback_of

REPLY_SECONDS = 30.0
"""The broker does nothing that takes long; `end` lasts up to its grace and the kernel's time to kill."""


BrokerEvent = Exit | IvshmemEvent | BackendEvent | BrokerFailure


class BrokerGoneError(InternalError):
    """The broker's connection ended: it died, or the topology was stopped."""


async def start_broker(rundir: RunDir) -> None:
    """Start a broker, detached; returns when its socket listens. UsageError if one runs or everything is stopped."""
    status, output = await run(
        [sys.executable, "-m", "vpctl.broker", *rundir.as_words()],
        env=child_environment(),
        timeout=REPLY_SECONDS,
        check=False,
    )
    if status == UsageError.exit_code:
        raise UsageError(output.removeprefix("error: "))
    if status != 0:
        raise HostError(f"the broker did not start: {output}", hint=f"see {rundir.service_log('broker')}")


class BrokerClient:
    """A connection to the broker: requests and the exits of its processes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.events: asyncio.Queue[BrokerEvent] = asyncio.Queue()
        """What the broker tells unasked, in order; journalled and acted upon by whoever holds the client."""
        self._acks: dict[tuple[str, int], asyncio.Event] = {}
        self.lost = asyncio.Event()
        """Set when the broker is gone."""

    async def spawn(
        self,
        *,
        name: str,
        generation: int,
        argv: list[str],
        directory: str,
        cwd: str,
        memories: Sequence[str] = (),
    ) -> Child:
        """Start a process, which inherits `memories`; HostError if the host cannot."""
        arguments = {"name": name, "generation": generation, "argv": argv, "directory": directory, "cwd": cwd}
        return Child.from_json(await self._request("spawn", **arguments, memories=list(memories)))

    async def end(self, *, name: str, generation: int, grace: float) -> bool:
        """End one generation of a process (SIGTERM, `grace` seconds, SIGKILL); True if it needed the kill.

        Nothing happens if that generation does not run.
        """
        reply = await self._request("end", name=name, generation=generation, grace=grace)
        return bool(reply["killed"])

    async def stop_blocking(self, *, name: str, path: str) -> int:
        """Make what a process has accepted at a unix socket non-blocking; return how many connections that are.

        HostError if the host forbids it.
        """
        return int((await self._request("stop_blocking", name=name, path=path))["connections"])

    async def list(self) -> list[Child]:
        """Return what runs."""
        reply = await self._request("list")
        return [Child.from_json(entry) for entry in reply["processes"]]

    async def stop(self) -> None:
        """Ask for the end of everything; the connection ends when it is done."""
        await self._request("stop")

    # Section: shared memory

    async def create(self, memory: str, size: int) -> bool:
        """See that there is a memory of this name and size; True if it was made now."""
        return bool((await self._request("create", memory=memory, size=size))["created"])

    async def clear(self, memory: str) -> None:
        """Make all of a memory zero."""
        await self._request("clear", memory=memory)

    async def write(self, memory: str, *parts: tuple[int, bytes]) -> None:
        """Write parts, each an offset and bytes, so that whoever sees the last one sees all."""
        given = [(offset, content.hex()) for offset, content in parts]
        await self._request("write", memory=memory, parts=given)

    async def drop(self, memory: str) -> None:
        """Let go of a memory: it lasts as long as a QEMU has it. Idempotent."""
        await self._request("drop", memory=memory)

    async def memories(self) -> dict[str, int]:
        """Return what the broker has, and what it has found in the QEMUs of one that died: names and sizes."""
        memories: dict[str, int] = (await self._request("memories"))["memories"]
        return memories

    async def contents(self, memory: str, offset: int, length: int) -> bytes:
        """Return bytes of a memory, a page at most."""
        return bytes.fromhex((await self._request("read", memory=memory, offset=offset, length=length))["content"])

    async def serve(
        self, *, name: str, memory: str, ends: Sequence[Mapping[str, Any]], watch: str = ""
    ) -> dict[str, Any]:
        """Serve a memory to ivshmem devices; what was served of it before is over. Returns as `query_ivshmem`.

        `watch`: where ivshmem clients that are no QEMU may look on.
        """
        return await self._request("serve", name=name, memory=memory, ends=ends, watch=watch)

    async def query_ivshmem(self, name: str) -> dict[str, Any] | None:
        """Return what is known of something served, by its name or a device's; None: nothing, or by a dead one."""
        servers = (await self._request("query-ivshmem"))["servers"]
        return next((server for server in servers if name in _names(server)), None)

    async def ivshmem_replace(self, name: str, end: int, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Serve another device at an end whose last one is gone, in a server whose other device stays (`name`)."""
        return await self._request("ivshmem-replace", name=name, end=end, spec=spec)

    async def ring(self, name: str, end: int) -> None:
        """Raise the control interrupt of an end's device."""
        await self._request("ring", name=name, end=end)

    @contextmanager
    def acknowledgement(self, name: str, end: int) -> Iterator[asyncio.Event]:
        """Listen for an end's acknowledgement; open it before what is to be acknowledged."""
        event = self._acks[name, end] = asyncio.Event()
        try:
            yield event
        finally:
            del self._acks[name, end]

    async def close(self, name: str) -> None:
        """End what is served under this name; idempotent."""
        await self._request("close", name=name)

    # Section: front-ends, and devices that work their rings

    async def backend_open(
        self,
        *,
        name: str,
        path: str,
        ram: str,
        features: int,
        queue_pairs: int,
        many_regions: bool = False,
    ) -> dict[str, Any]:
        """Listen for a front-end, and offer it these features; UsageError if there is one of that name.

        `many_regions`: its memory may take more than one table (`vhost_user.negotiation.SLOTS`).
        """
        return await self._request(
            "backend-open",
            name=name,
            path=path,
            ram=ram,
            features=features,
            queue_pairs=queue_pairs,
            many_regions=many_regions,
        )

    async def query_backends(self) -> Sequence[dict[str, Any]]:
        """Return what is known of all front-ends."""
        backends: Sequence[dict[str, Any]] = (await self._request("query-backends"))["backends"]
        return backends

    async def attach(
        self,
        *,
        backend: str,
        session: int,
        name: str,
        path: str,
        id: int,
        vectors: int,
        control: str,
        slot: int,
        description: bytes,
    ) -> dict[str, Any]:
        """Serve a device that works a front-end's rings; returns what `query_ivshmem` tells.

        UsageError if the session is over by now, or another device is at it.
        """
        return await self._request(
            "attach",
            backend=backend,
            session=session,
            name=name,
            path=path,
            ivposition=id,  # a request's `id` is its number
            vectors=vectors,
            control=control,
            slot=slot,
            description=description.hex(),
        )

    async def detach(self, backend: str) -> bool:
        """Switch off the device that works a front-end's rings, end its server; False if its guest is silent.

        True too if there is none. NotFoundError if there is no such front-end.
        """
        return bool((await self._request("detach", backend=backend))["released"])

    async def backend_close(self, name: str) -> bool:
        """Detach, hang up on a front-end and listen for it no more; as `detach`. Idempotent."""
        return bool((await self._request("backend-close", name=name))["released"])

    # Section: the connection

    async def _request(self, verb: str, **arguments: Any) -> dict[str, Any]:
        if self.lost.is_set():
            raise BrokerGoneError("the broker is gone")
        self._number += 1
        number = self._number
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            self._writer.write(encode({"id": number, "do": verb, **arguments}))
            async with asyncio.timeout(REPLY_SECONDS):
                message = await reply
        except (OSError, TimeoutError) as error:
            raise BrokerGoneError(f"the broker does not answer `{verb}`") from error
        finally:
            self._waiting.pop(number, None)
        if "error" in message:
            kind = errors_by_code().get(message.get("code", ""), InternalError)
            raise kind(str(message["error"]), hint=message.get("hint"))
        returned = message.get("return")
        if not isinstance(returned, dict):
            raise InternalError(f"the broker's reply to `{verb}` has no sense", hint="is it another version's?")
        return returned

    async def read(self) -> None:
        """Read until the broker is gone; runs as a task for as long as the connection lasts."""
        try:
            while line := await self._reader.readline():
                message = decode(line)
                try:
                    self._take(message)
                except (LookupError, TypeError, AttributeError) as error:  # of a broker of another version
                    print(f"broker: {line[:400]!r}: {traceback_of(error)}", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # a broker that was killed may leave half a message
        finally:
            self.lost.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(BrokerGoneError("the broker is gone"))

    def _take(self, message: dict[str, Any]) -> None:
        """Take in a message, or raise what one without its keys, or with others' types, raises."""
        if message.get("event") == "exit":
            self.events.put_nowait(Exit.from_json(message))
        elif message.get("event") == "link":
            self._take_link(link_event(message))
        elif message.get("event") == "failure":
            self.events.put_nowait(BrokerFailure.from_json(message))
        elif (waiting := self._waiting.get(message.get("id", 0))) is not None and not waiting.done():
            waiting.set_result(message)

    def _take_link(self, event: IvshmemEvent | BackendEvent) -> None:
        if (
            isinstance(event, IvshmemEvent)
            and event.what == "ack"
            and (waiting := self._acks.get((event.name, event.end))) is not None
        ):
            waiting.set()
        self.events.put_nowait(event)


def _names(served: Mapping[str, Any]) -> set[str]:
    return {served["name"], *(end["name"] for end in served["ends"] if "name" in end)}


@asynccontextmanager
async def connect(rundir: RunDir) -> AsyncIterator[BrokerClient]:
    """Connect to a topology's broker for as long as the block lasts; BrokerGoneError if there is none."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(rundir.broker_socket), limit=LINE_LIMIT)
    except OSError as error:
        raise BrokerGoneError(f"`{rundir.name}` has no broker") from error
    client = BrokerClient(reader, writer)
    task = asyncio.create_task(client.read(), name="broker-client")
    try:
        yield client
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
