"""A QMP server over a real unix socket: scripted turn by turn, and with a small model of QEMU's devices behind it.

    fake = FakeQemu()
    fake.script("device_del", [Reply()], [Refuse("Device d0 is already in the process of unplug")])
    async with serving(path, fake):
        ...
    assert fake.commands("device_del") == [{"id": "d0"}, {"id": "d0"}]

Each turn is what happens on one call of the command, in order; when the turns are used up the model answers. What
follows a `Reply` in a turn happens beside the next commands, as events do in QEMU; what stands before it holds them
up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpctl import wait


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the command; inside the model, as the model would."""

    value: Any = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error."""

    description: str
    error_class: str = "GenericError"


@dataclass(frozen=True, slots=True)
class Model:
    """Answer, and go on, as the model does."""


@dataclass(frozen=True, slots=True)
class Event:
    """Send an event."""

    name: str
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Delay:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Mute:
    """Never answer this command; the next ones are."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection, as a QEMU that was killed does."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Send bytes as they are."""

    data: bytes


Action = Reply | Refuse | Model | Event | Delay | Mute | Close | Raw
Turn = Sequence[Action]

_ADDS = {"device_add": "device", "netdev_add": "netdev", "chardev-add": "chardev", "object-add": "object"}
_REMOVES = {"device_del": "device", "netdev_del": "netdev", "chardev-remove": "chardev", "object-del": "object"}
_DUPLICATE = {
    "device": "Duplicate device ID '{}'",
    "netdev": "Duplicate ID '{}'",
    "chardev": "Chardev with id '{}' already exists",
    "object": "attempt to add duplicate property '{}' to object (type 'container')",
}
_MISSING = {
    "device": Refuse("Device '{}' not found", "DeviceNotFound"),
    "netdev": Refuse("Device '{}' not found", "DeviceNotFound"),
    "chardev": Refuse("Chardev '{}' not found"),
    "object": Refuse("object '{}' not found"),
}


class FakeQemu:
    """What a QEMU would say: devices come and go with 7.2's own texts, everything else is answered with `{}`."""

    def __init__(self, *, version: tuple[int, int, int] = (7, 2, 22), unplug_after: float | None = 0.0) -> None:
        self.version = version
        self.unplug_after = unplug_after
        """Seconds from `device_del` to DEVICE_DELETED; None: the guest never lets go, but at `system_reset`."""
        self.status = "running"
        self.opening: Turn = ()
        """What happens on a new connection before the greeting."""
        self.greets = True
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.parts: set[tuple[str, str]] = set()
        """What exists: kind (device, netdev, chardev, object) and id."""
        self.pending: set[str] = set()
        """Devices that were asked to go."""
        self.clients = 0
        self._scripts: dict[str, deque[Turn]] = {}
        self._connection: _Connection | None = None
        self._one_client = asyncio.Lock()

    def script(self, command: str, *turns: Turn) -> None:
        """Say what happens on the next calls of a command."""
        self._scripts.setdefault(command, deque()).extend(turns)

    def commands(self, *names: str) -> list[dict[str, Any]]:
        """Return the arguments of the commands of these names that have come, in order."""
        return [arguments for name, arguments in self.received if name in names]

    def names(self) -> list[str]:
        """Return the names of all commands that have come."""
        return [name for name, _ in self.received]

    def device_names(self) -> list[str]:
        """Return the names of the commands, those apart that only see to the numbers of descriptors."""
        return [name for name in self.names() if name not in ("getfd", "closefd", "query-status")]

    async def emit(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Send an event to whoever is connected."""
        if self._connection is not None:
            self._connection.send_event(name, data)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client; the next one waits, as with QEMU."""
        try:
            async with self._one_client:
                self._connection = connection = _Connection(self, reader, writer)
                self.clients += 1
                await connection.run()
        except ConnectionError:
            return
        finally:
            self._connection = None
            writer.close()

    def turn(self, command: str) -> Turn:
        """Take the next turn of a command's script."""
        turns = self._scripts.get(command)
        return turns.popleft() if turns else (Model(),)

    def model(self, command: str, arguments: Mapping[str, Any]) -> Turn:
        """Return what QEMU would do."""
        if command in _ADDS:
            return self._add(_ADDS[command], arguments["id"])
        if command in _REMOVES:
            return self._remove(_REMOVES[command], arguments["id"])
        if command == "query-status":
            return [Reply({"status": self.status, "running": self.status == "running"})]
        if command == "qom-list" and arguments["path"] == "/machine/peripheral":
            devices = sorted(name for kind, name in self.parts if kind == "device")
            return [Reply([{"name": "type", "type": "string"}] + [{"name": d, "type": "child<x>"} for d in devices])]
        if command == "human-monitor-command":
            return [Reply("")]
        if command == "system_reset":
            deleted = [action for device in sorted(self.pending) for action in self.deletion(device)]
            return [Reply(), Event("RESET", {"guest": False, "reason": "host-qmp-system-reset"}), *deleted]
        return [Reply()]

    def _add(self, kind: str, name: str) -> Turn:
        if (kind, name) in self.parts:
            return [Refuse(_DUPLICATE[kind].format(name))]
        self.parts.add((kind, name))
        return [Reply()]

    def _remove(self, kind: str, name: str) -> Turn:
        if (kind, name) not in self.parts:
            missing = _MISSING[kind]
            return [Refuse(missing.description.format(name), missing.error_class)]
        if kind != "device":
            self.parts.remove((kind, name))
            return [Reply()]
        self.pending.add(name)
        if self.unplug_after is None:
            return [Reply()]
        return [Reply(), Delay(self.unplug_after), *self.deletion(name)]

    def deletion(self, device: str) -> Turn:
        """Return the two events of a virtio device that goes; with the second it is gone."""
        path = f"/machine/peripheral/{device}"
        return [
            Event("DEVICE_DELETED", {"path": f"{path}/virtio-backend"}),
            Event("DEVICE_DELETED", {"device": device, "path": path}),
        ]

    def event_sent(self, name: str, data: Mapping[str, Any] | None) -> None:
        """Keep the model true to the events, scripted ones too."""
        if name == "DEVICE_DELETED" and data is not None and "device" in data:
            self.parts.discard(("device", data["device"]))
            self.pending.discard(data["device"])


class _Connection:
    """One client: greeting, capabilities, then its commands, answered in order."""

    def __init__(self, fake: FakeQemu, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.fake = fake
        self.reader = reader
        self.writer = writer
        self.negotiated = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as turns:
            under_way: list[asyncio.Task[None]] = []
            await self.play(self.fake.opening, None, {}, asyncio.Event())
            if self.fake.greets:
                self.greet()
            async for message in self.messages():
                answered = asyncio.Event()
                under_way.append(turns.create_task(self.answer(message, answered)))
                await answered.wait()
            for turn in under_way:
                turn.cancel()

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Cut the stream into JSON values; qemu.qmp sends no newlines between them."""
        decoder = json.JSONDecoder()
        buffer = ""
        while data := await self.reader.read(65536):
            buffer += data.decode()
            while buffer := buffer.lstrip():
                try:
                    message, end = decoder.raw_decode(buffer)
                except json.JSONDecodeError:
                    break  # the rest is still under way
                buffer = buffer[end:]
                yield message

    async def answer(self, message: dict[str, Any], answered: asyncio.Event) -> None:
        command = message.get("execute") or message["exec-oob"]
        arguments = message.get("arguments", {})
        try:
            if command == "qmp_capabilities":
                self.negotiated = True
                self.send({"return": {}, "id": message.get("id")})
            elif not self.negotiated:
                text = "Expecting capabilities negotiation with 'qmp_capabilities'"
                await self.play([Refuse(text, "CommandNotFound")], message, {}, answered)
            else:
                self.fake.received.append((command, arguments))
                await self.play(self.fake.turn(command), message, arguments, answered)
        finally:
            answered.set()

    async def play(
        self, turn: Turn, message: Mapping[str, Any] | None, arguments: Mapping[str, Any], answered: asyncio.Event
    ) -> None:
        """Carry out a turn; `answered` is set as soon as the next command may be taken."""
        ident = {} if message is None or "id" not in message else {"id": message["id"]}
        for action in turn:
            match action:
                case Reply(value):
                    self.send({"return": value, **ident})
                    answered.set()
                case Refuse(description, error_class):
                    self.send({"error": {"class": error_class, "desc": description}, **ident})
                    answered.set()
                case Model():
                    assert message is not None
                    await self.play(self.fake.model(message["execute"], arguments), message, arguments, answered)
                case Event(name, data):
                    self.send_event(name, data)
                case Delay(seconds):
                    await wait.pause(seconds)
                case Mute():
                    answered.set()
                case Close():
                    self.close()
                case Raw(data):
                    self.writer.write(data)

    def greet(self) -> None:
        major, minor, micro = self.fake.version
        version = {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": "fake"}
        self.send({"QMP": {"version": version, "capabilities": ["oob"]}})

    def send(self, message: Mapping[str, Any]) -> None:
        if not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\r\n")

    def send_event(self, name: str, data: Mapping[str, Any] | None) -> None:
        self.fake.event_sent(name, data)
        content = {} if data is None else {"data": data}
        self.send({"event": name, "timestamp": {"seconds": 1, "microseconds": 0}, **content})

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def serving(path: Path, fake: FakeQemu) -> AsyncIterator[FakeQemu]:
    """Listen on a path for as long as the block lasts; every connection is closed afterwards."""
    talks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # asyncio would report it as an unhandled error
            await fake.serve(reader, writer)
        talks.discard(task)

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield fake
    finally:
        server.close()
        for task in talks:
            task.cancel()
        if talks:
            await asyncio.wait(talks)
