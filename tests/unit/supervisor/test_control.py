"""The control socket: what a QMP client relies on, said with qemu.qmp's own client and with raw bytes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qemu.qmp import ExecuteError, QMPClient

from tests.fakes.broker import made
from vpctl import __version__
from vpctl.credentials import peer_pid
from vpctl.errors import HostError
from vpctl.rundir import Directories, RunDir
from vpctl.supervisor.control import MESSAGE_LIMIT, MOST_UNREAD, ControlServer, MessageStream
from vpctl.wait import until

OBJECTS = st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@given(st.lists(OBJECTS, max_size=4), st.booleans(), st.sampled_from(["", "\n", " \r\n\t"]), st.data())
def test_any_split_of_the_bytes_gives_the_same_messages(
    messages: list[dict[str, Any]], ascii_only: bool, between: str, data: st.DataObject
) -> None:
    whole = between.join(json.dumps(message, ensure_ascii=ascii_only) for message in messages)
    raw = whole.encode("utf-8", "surrogatepass" if ascii_only else "replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)))))
    stream = MessageStream()
    found = [
        message
        for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)
        for message in stream.feed(raw[begin:end])
    ]
    expected = [json.loads(json.dumps(m, ensure_ascii=ascii_only).encode("utf-8", "replace")) for m in messages]
    assert found == expected


@given(OBJECTS)
def test_a_message_fed_byte_by_byte_comes_with_its_last_byte(message: dict[str, Any]) -> None:
    raw = json.dumps(message).encode()
    stream = MessageStream()
    assert [found for byte in raw[:-1] for found in stream.feed(bytes([byte]))] == []
    assert list(stream.feed(raw[-1:])) == [message]


@given(st.binary())
def test_any_bytes_are_messages_an_error_or_a_beginning(data: bytes) -> None:
    with suppress(ValueError):
        assert all(isinstance(message, dict) for message in MessageStream().feed(data))


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense",
        b"[1]",
        b'{"a" 1}',
        b'{"a": tru }',
        b'{"execute": query-status}',
        b'{"a": "\n"}',
        b'{"a": 1,}',
        b"\xff{}",
        b'{"a":' * 100_000,
        b'{"a": "' + b"x" * (MESSAGE_LIMIT + 1),
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_cannot_become_a_message_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(MessageStream().feed(data))


class Commands:
    """Answers what the tests ask."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Mapping[str, Any]]] = []

    async def __call__(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self.seen.append((name, arguments))
        if name == "fail":
            raise HostError("no such disk", hint="buy one", where="pair.yaml:3:1", details="a\nb")
        if name == "break":
            raise RuntimeError("oops")
        return {"name": name, **arguments}


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


@asynccontextmanager
async def serving(rundir: RunDir, commands: Commands | None = None) -> AsyncIterator[ControlServer]:
    rundir.control_socket.touch()  # what a supervisor that was killed leaves behind
    server = ControlServer(rundir.control_socket)
    task = asyncio.create_task(server.run(commands or Commands()))

    async def listens() -> bool | None:
        return rundir.control_socket.is_socket() or None

    await until(listens, timeout=5, what="a socket", every=0)
    try:
        yield server
    finally:
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([task])


@asynccontextmanager
async def client(rundir: RunDir) -> AsyncIterator[QMPClient]:
    qmp = QMPClient("test")
    await qmp.connect(str(rundir.control_socket))
    try:
        yield qmp
    finally:
        await qmp.disconnect()


class RawClient:
    """A connection that sends what it is told and reads line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> dict[str, Any] | None:
        async with asyncio.timeout(5):
            line = await self.reader.readline()
        assert not line or line.endswith(b"\r\n")
        message: dict[str, Any] | None = json.loads(line) if line else None
        return message

    async def ask(self, *data: bytes) -> dict[str, Any] | None:
        for part in data:
            self.writer.write(part)
            await self.writer.drain()
        return await self.line()


@asynccontextmanager
async def raw(rundir: RunDir) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_unix_connection(rundir.control_socket)
    connection = RawClient(reader, writer)
    greeting = await connection.line()
    assert greeting is not None
    assert greeting["QMP"]["vpctl"] == __version__
    assert greeting["QMP"]["capabilities"] == []
    try:
        yield connection
    finally:
        writer.close()


async def test_qemus_own_client_negotiates_and_executes(rundir: RunDir) -> None:
    commands = Commands()
    async with serving(rundir, commands), client(rundir) as qmp:
        assert await qmp.execute("query-status", {"a": [1, {"b": None}]}) == {
            "name": "query-status",
            "a": [1, {"b": None}],
        }
    assert commands.seen == [("query-status", {"a": [1, {"b": None}]})]


async def test_an_error_carries_code_hint_place_and_details_beside_qmps_own_keys(rundir: RunDir) -> None:
    async with serving(rundir), client(rundir) as qmp:
        with pytest.raises(ExecuteError) as caught:
            await qmp.execute("fail")
        received: Any = caught.value.received["error"]
        assert received == {
            "class": "GenericError",
            "desc": "no such disk",
            "code": "host",
            "message": "no such disk",
            "hint": "buy one",
            "where": "pair.yaml:3:1",
            "details": "a\nb",
        }


async def test_a_bug_in_a_command_is_an_internal_error_and_the_connection_lives_on(rundir: RunDir) -> None:
    async with serving(rundir), client(rundir) as qmp:
        with pytest.raises(ExecuteError, match="RuntimeError: oops") as caught:
            await qmp.execute("break")
        error: Any = caught.value.received["error"]
        assert error["code"] == "internal"
        assert await qmp.execute("again") == {"name": "again"}


async def test_nothing_is_executed_before_the_negotiation(rundir: RunDir) -> None:
    commands = Commands()
    async with serving(rundir, commands), raw(rundir) as connection:
        reply = await connection.ask(b'{"execute": "query-status", "id": 1}')
        assert reply is not None
        assert reply["error"]["code"] == "usage"
        assert "qmp_capabilities" in reply["error"]["desc"]
        assert commands.seen == []
        assert await connection.ask(b'{"execute": "qmp_capabilities"}') == {"return": {}}


@pytest.mark.parametrize("identity", [1, "x", None, {"a": [1]}])
async def test_a_reply_has_the_id_of_its_command_if_that_had_one(rundir: RunDir, identity: Any) -> None:
    async with serving(rundir), raw(rundir) as connection:
        greeting = {"execute": "qmp_capabilities", "id": identity}
        assert await connection.ask(json.dumps(greeting).encode()) == {"return": {}, "id": identity}
        reply = await connection.ask(json.dumps({"execute": "fail", "id": identity}).encode())
        assert reply is not None
        assert reply["id"] == identity
        assert "id" not in (await connection.ask(b'{"execute": "fail"}') or {})


async def test_commands_in_one_write_or_in_pieces_are_answered_in_order(rundir: RunDir) -> None:
    async with serving(rundir), raw(rundir) as connection:
        await connection.ask(b'{"execute": "qmp_capabilities"}')
        assert await connection.ask(b'{"execute": "a"}{"execute": "b"}\n{"exe') == {"return": {"name": "a"}}
        assert await connection.line() == {"return": {"name": "b"}}
        assert await connection.ask(b'cute": "c"', b"}") == {"return": {"name": "c"}}


@pytest.mark.parametrize("message", [{}, {"execute": 1}, {"execute": "x", "arguments": [1]}])
async def test_a_message_without_a_command_is_a_usage_error(rundir: RunDir, message: dict[str, Any]) -> None:
    async with serving(rundir), raw(rundir) as connection:
        reply = await connection.ask(json.dumps(message).encode())
        assert reply is not None
        assert reply["error"]["code"] == "usage"


async def test_garbage_is_answered_and_ends_that_connection_alone(rundir: RunDir) -> None:
    async with serving(rundir), client(rundir) as well, raw(rundir) as connection:
        reply = await connection.ask(b"GET / HTTP/1.1\r\n\r\n")
        assert reply is not None
        assert reply["error"]["desc"].startswith("invalid JSON")
        assert await connection.line() is None
        assert await well.execute("still-there") == {"name": "still-there"}


async def test_events_go_to_every_client_that_has_negotiated_and_to_no_other(rundir: RunDir) -> None:
    async with serving(rundir) as server, raw(rundir) as one, raw(rundir) as two, raw(rundir) as mute:
        for connection in (one, two):
            await connection.ask(b'{"execute": "qmp_capabilities"}')
        server.event("JOB_DONE", {"job": "up#1"})
        for connection in (one, two):
            event = await connection.line()
            assert event is not None
            assert (event["event"], event["data"]) == ("JOB_DONE", {"job": "up#1"})
            assert 0 <= event["timestamp"]["microseconds"] < 1_000_000
        # Its first line after the greeting is its own reply, not the event.
        assert await mute.ask(b'{"execute": "qmp_capabilities"}') == {"return": {}}


async def test_a_server_that_ends_ends_its_connections(rundir: RunDir) -> None:
    async with AsyncExitStack() as later:
        async with serving(rundir):
            connection = await later.enter_async_context(raw(rundir))
        assert await connection.line() is None


async def test_an_event_for_a_client_that_has_gone_is_no_trouble(rundir: RunDir) -> None:
    async with serving(rundir) as server, raw(rundir) as stays:
        await stays.ask(b'{"execute": "qmp_capabilities"}')
        async with raw(rundir) as goes:
            await goes.ask(b'{"execute": "qmp_capabilities"}')
        for _ in range(3):
            server.event("X", {})
            assert (await stays.line() or {})["event"] == "X"


async def test_a_client_that_does_not_read_is_hung_up_on_and_the_others_are_told(rundir: RunDir) -> None:
    async with serving(rundir) as server, raw(rundir) as deaf, raw(rundir) as hears:
        for each in (deaf, hears):
            await each.ask(b'{"execute": "qmp_capabilities"}')
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
        entry = {"text": "x" * 10_000}
        for number in range(2 * MOST_UNREAD // 10_000):
            server.event("JOURNAL", {**entry, "number": number})
            line = await hears.line()
            assert line is not None
            assert line["data"]["number"] == number
        deaf.reader._transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                while await deaf.reader.read(1 << 20):
                    pass
        assert await hears.ask(b'{"execute": "query-status"}')


async def test_a_process_that_may_not_ask_is_hung_up_on_without_a_word(rundir: RunDir) -> None:
    rundir.control_socket.touch()
    asked: list[int] = []

    def nobody(connection: socket.socket) -> bool:
        asked.append(peer_pid(connection))
        return False

    server = ControlServer(rundir.control_socket, may_ask=nobody)
    task = asyncio.create_task(server.run(Commands()))

    async def listens() -> bool | None:
        return rundir.control_socket.is_socket() or None

    await until(listens, timeout=5, what="a socket", every=0)
    reader, writer = await asyncio.open_unix_connection(rundir.control_socket)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert asked == [os.getpid()]
    writer.close()
    task.cancel()
    await asyncio.wait([task])
