"""The broker as the supervisor and `vpctl down` see it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vpctl.broker.protocol import LINE_LIMIT, Child, Exit, decode, encode
from vpctl.errors import HostError, InternalError, UsageError, errors_by_code
from vpctl.process import run
from vpctl.rundir import RunDir

REPLY_SECONDS = 30.0
"""The broker does nothing that takes long; `end` lasts up to its grace and the kernel's time to kill."""


class BrokerGoneError(InternalError):
    """The broker's connection ended: it died, or the topology was stopped."""


async def start_broker(rundir: RunDir) -> None:
    """Start a broker, detached; returns when its socket listens. UsageError if one runs or everything is stopped."""
    status, output = await run(
        [sys.executable, "-m", "vpctl.broker", rundir.name], timeout=REPLY_SECONDS, check=False
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
        self.exits: asyncio.Queue[Exit] = asyncio.Queue()
        """Ends of processes, in order; journalled and acted upon by whoever holds the client."""
        self.lost = asyncio.Event()
        """Set when the broker is gone."""

    async def spawn(self, *, name: str, generation: int, argv: list[str], directory: str, cwd: str) -> Child:
        """Start a process; HostError if the host cannot."""
        arguments = {"name": name, "generation": generation, "argv": argv, "directory": directory, "cwd": cwd}
        return Child.from_json(await self._request("spawn", **arguments))

    async def end(self, *, name: str, generation: int, grace: float) -> bool:
        """End one generation of a process (SIGTERM, `grace` seconds, SIGKILL); True if it needed the kill.

        Nothing happens if that generation does not run.
        """
        reply = await self._request("end", name=name, generation=generation, grace=grace)
        return bool(reply["killed"])

    async def list(self) -> list[Child]:
        """Return what runs."""
        reply = await self._request("list")
        return [Child.from_json(entry) for entry in reply["processes"]]

    async def stop(self) -> None:
        """Ask for the end of everything; the connection ends when it is done."""
        await self._request("stop")

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
            raise errors_by_code()[message["code"]](message["error"], hint=message["hint"])
        returned: dict[str, Any] = message["return"]
        return returned

    async def read(self) -> None:
        """Read until the broker is gone; runs as a task for as long as the connection lasts."""
        try:
            while line := await self._reader.readline():
                message = decode(line)
                if message.get("event") == "exit":
                    self.exits.put_nowait(Exit.from_json(message))
                elif (waiting := self._waiting.get(message["id"])) is not None and not waiting.done():
                    waiting.set_result(message)
        except (OSError, ValueError):
            pass  # a broker that was killed may leave half a message
        finally:
            self.lost.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(BrokerGoneError("the broker is gone"))


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
