"""The control socket: the server side of the QMP wire format (greeting, qmp_capabilities, execute, events).

Clients use qemu.qmp's QMPClient, and any QMP shell can drive it. Long verbs return `{"job": …}` at once; a JOB_DONE
event tells their outcome. Errors carry `code`, `hint` and `where` beside QMP's `class` and `desc`.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vpctl import __version__
from vpctl.errors import UsageError
from vpctl.supervisor.jobs import Foreseen, error_object, untold

Handler = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

MESSAGE_LIMIT = 1 << 20
"""Bytes that a client may send without completing a message."""

MOST_UNREAD = 4 << 20
"""Bytes that are kept for a client that does not read; with more it is hung up on."""

_BEGINNING = re.compile(r"|-|-?I\w*|N\w*|t\w*|f\w*|n\w*|\.|[eE][+-]?")
"""What a message that was cut can end with where the parser stopped: nothing, or a part of a number or a word."""


class MessageStream:
    """Splits a byte stream into JSON objects; QMP has no framing, and qemu.qmp sends no newline. Pure."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder()
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield each object that is complete; ValueError for what cannot become one."""
        self._text = (self._text + self._utf8.decode(data)).lstrip()
        while self._text:
            if self._text[0] != "{":
                raise ValueError("not a JSON object")
            try:
                message, end = self._decoder.raw_decode(self._text)
            except json.JSONDecodeError as error:
                if len(self._text) > MESSAGE_LIMIT or not _may_go_on(error):
                    raise
                return  # the rest is still to come
            except RecursionError as error:
                raise ValueError("nested too deep") from error
            self._text = self._text[end:].lstrip()
            yield message


def _may_go_on(error: json.JSONDecodeError) -> bool:
    """Whether a text that could not be parsed may be the beginning of one that can."""
    in_string = error.msg.startswith(("Unterminated string", r"Invalid \uXXXX escape"))
    return in_string or _BEGINNING.fullmatch(error.doc, error.pos) is not None


class Client:
    """One client: negotiates, then executes; its commands are answered in order, events come in between."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler, foreseen: Foreseen
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._foreseen = foreseen
        self._ready = False

    async def serve(self) -> None:
        """Serve until the client goes away or sends what is no QMP."""
        version = {"qemu": {"major": 0, "minor": 0, "micro": 0}, "package": f"vpctl {__version__}"}
        self._send({"QMP": {"version": version, "capabilities": [], "vpctl": __version__}})
        stream = MessageStream()
        try:
            while data := await self._reader.read(65536):
                for message in stream.feed(data):
                    self._send(await self._answer(message))
                    await self._writer.drain()
        except ValueError as error:
            self._send({"error": {"class": "GenericError", "desc": f"invalid JSON: {error}"}})
        except OSError:
            return  # a client may go away at any time

    def event(self, name: str, data: Mapping[str, Any]) -> None:
        """Send an event, if the client has negotiated."""
        if self._ready:
            now = time.time()
            stamp = {"seconds": int(now), "microseconds": int(now % 1 * 1_000_000)}
            self._send({"event": name, "data": data, "timestamp": stamp})

    def hang_up(self) -> None:
        """End the connection once what was sent is out."""
        self._writer.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message, default=str).encode() + b"\r\n")
            if self._writer.transport.get_write_buffer_size() > MOST_UNREAD:
                self._writer.transport.abort()

    async def _answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        identity = {"id": message["id"]} if "id" in message else {}
        try:
            return {"return": await self._execute(message), **identity}
        except Exception as error:
            return {
                "error": error_object(self._foreseen(error, name=f"command {message.get('execute')}")),
                **identity,
            }

    async def _execute(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        command, arguments = message.get("execute"), message.get("arguments", {})
        if not isinstance(command, str) or not isinstance(arguments, dict):
            raise UsageError("no command")
        if command == "qmp_capabilities":
            self._ready = True
            return {}
        if not self._ready:
            raise UsageError(f"expecting capabilities negotiation with `qmp_capabilities`, not `{command}`")
        return await self._handler(command, arguments)


class ControlServer:
    """Listens, and hands events to every client.

    `may_ask` says whether the process at the other end of a connection may be one; all may where it is None.
    """

    def __init__(
        self,
        path: Path,
        foreseen: Foreseen | None = None,
        *,
        may_ask: Callable[[socket.socket], bool] | None = None,
    ) -> None:
        self._path = path
        self._may_ask = may_ask
        self._foreseen = foreseen or untold
        self._handler: Handler | None = None
        self._clients: set[Client] = set()

    async def run(self, handler: Handler) -> None:
        """Serve until cancelled; a stale socket is replaced."""
        self._handler = handler
        self._path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, path=self._path)
        try:
            # Not `serve_forever`: from Python 3.12 on its end waits for the clients, who wait for ours.
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for client in tuple(self._clients):
                client.hang_up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._handler is not None
        if self._may_ask is not None and not self._may_ask(writer.get_extra_info("socket")):
            print("error: a guest's QEMU has connected to the supervisor: refused", file=sys.stderr, flush=True)
            writer.close()
            return
        client = Client(reader, writer, self._handler, self._foreseen)
        self._clients.add(client)
        try:
            await client.serve()
        finally:
            self._clients.discard(client)
            writer.close()

    def event(self, name: str, data: Mapping[str, Any]) -> None:
        """Send an event to every client; one that it cannot be sent to is hung up on."""
        for client in tuple(self._clients):
            try:
                client.event(name, data)
            except Exception as error:
                client.hang_up()  # first: what is journalled goes to the clients, too
                self._foreseen(error, name=f"event {name}")
