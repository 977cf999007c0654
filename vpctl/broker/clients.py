"""The broker's clients: what they ask for is done beside each other, and none of them can hold it up or fill it.

Requests that concern one object are carried out in the order in which they came, whichever client sent them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from vpctl.broker import requests
from vpctl.broker.protocol import decode, encode
from vpctl.errors import InternalError, UsageError, VpctlError
from vpctl.tasks import Failure, contained, described

MOST_UNREAD = 4 << 20
"""Bytes that are kept for a client that does not read; with more it is hung up on."""

MOST_REQUESTS = 256
"""Requests of one client that are under way; the next one is read when one is done."""


@dataclass(kw_only=True, slots=True)
class _Turn:
    """Whose turn it is with an object."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    """Requests about it that are under way or wait."""


Do = Callable[[Any], Awaitable[Mapping[str, Any]]]


class Clients:
    """All connections. `do` carries a request out, `report` is called with what it did not foresee."""

    def __init__(self, do: Do, report: Callable[[Failure], None]) -> None:
        self._do = do
        self._report = report
        self._writers: set[asyncio.StreamWriter] = set()
        self._turns: dict[object, _Turn] = {}
        """By object, for as long as requests about it are under way."""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send an event to all."""
        line = encode(message)
        for writer in tuple(self._writers):
            _write(writer, line)

    def close(self) -> None:
        """Hang up on all, once what was written is out."""
        for writer in tuple(self._writers):
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one until it hangs up; what it has asked for is carried out all the same."""
        self._writers.add(writer)
        free = asyncio.Semaphore(MOST_REQUESTS)

        async def answer(line: bytes) -> None:
            try:
                await contained(lambda: self._answer(line, writer), self._report, name="answer")
            finally:
                free.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                async for line in _lines(reader):
                    await free.acquire()
                    tasks.create_task(answer(line), name="answer")
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        number: object = None
        try:
            try:
                message = decode(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"bad request: {described(error)}") from error
            number = message.get("id")
            request = requests.request(message)
            async with self._turn(getattr(request, "order", None)):
                reply: dict[str, Any] = {"id": number, "return": await self._do(request)}
        except VpctlError as error:
            reply = {"id": number, "error": error.message, "code": error.code, "hint": error.hint}
        except Exception as error:
            text = f"the broker: {described(error)}"
            _write(writer, encode({"id": number, "error": text, "code": InternalError.code, "hint": "see its log"}))
            raise
        _write(writer, encode(reply))

    @asynccontextmanager
    async def _turn(self, order: object) -> AsyncIterator[None]:
        """Wait until what came before about the same object is done."""
        if order is None:
            yield
            return
        turn = self._turns.setdefault(order, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[order]


def _write(writer: asyncio.StreamWriter, line: bytes) -> None:
    transport = writer.transport
    if transport.is_closing():
        return
    writer.write(line)
    if transport.get_write_buffer_size() > MOST_UNREAD:
        transport.abort()


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield a client's lines; one that breaks off or writes an endless line is its own loss."""
    while True:
        try:
            line = await reader.readline()
        except (OSError, ValueError):
            return
        if not line:
            return
        yield line
