"""The ivshmem server over real sockets: with clients that read all, slowly, or vanish at any point."""

from __future__ import annotations

import array
import asyncio
import mmap
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpctl.broker import listening
from vpctl.broker.budget import SECOND
from vpctl.broker.control_page import HOST_ID
from vpctl.broker.ivshmem.bells import Bells
from vpctl.broker.ivshmem.message import REGION, SIZE, decode
from vpctl.broker.ivshmem.outbox import MOST_READS
from vpctl.broker.ivshmem.pair_server import EndSpec, PairServer, open_server
from vpctl.broker.ivshmem.peer_server import MOST_ACKS
from vpctl.errors import UsageError
from vpctl.process import eventfd_id, open_files
from vpctl.wait import pause, until

IDS = (6, 7)
Events = list[Mapping[str, Any]]


@contextmanager
def client(path: Path, *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """Connect as QEMU does."""
    with socket.socket(socket.AF_UNIX) as connection:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(str(path))
        connection.setblocking(False)
        yield connection


async def read(connection: socket.socket) -> tuple[int, int | None]:
    """Read one message and its descriptor."""

    async def arrived() -> tuple[int, int | None] | None:
        try:
            data, ancillary, _, _ = connection.recvmsg(SIZE, socket.CMSG_SPACE(array.array("i").itemsize))
        except BlockingIOError:
            return None
        assert len(data) == SIZE, "the server has hung up"
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        return decode(data), fds[0] if fds else None

    return await until(arrived, timeout=5, what="a message", every=0.001)


class Ends:
    """A server of two ends in a directory of its own, and what it told."""

    def __init__(self, server: PairServer, events: Events, directory: Path) -> None:
        self.server = server
        self.events = events
        self.paths = [directory / f"lan0.1.{end}" for end in (0, 1)]
        self.watch = directory / "lan0.watch"

    async def told(self, what: str, *, end: int) -> None:
        async def yet() -> bool | None:
            return any((entry["what"], entry["end"]) == (what, end) for entry in self.events) or None

        await until(yet, timeout=5, what=f"{what} at {end}", every=0.001)


@asynccontextmanager
async def served(*, vectors: int = 3, may_watch: bool = True) -> AsyncIterator[Ends]:
    with TemporaryDirectory(prefix="vd", dir="/tmp") as name:
        region = os.memfd_create("region")
        events: Events = []
        specs = [
            EndSpec(name="lan0.g1", path=f"{name}/lan0.1.{end}", id=id_, vectors=vectors)
            for end, id_ in enumerate(IDS)
        ]
        bells = Bells()
        os.ftruncate(region, 1 << 16)
        server = open_server(
            "lan0.g1",
            "region/lan0",
            region,
            specs,
            events.append,
            bells,
            watch=f"{name}/lan0.watch",
            may_watch=lambda client: may_watch,
        )
        try:
            yield Ends(server, events, Path(name))
        finally:
            server.close()
            bells.close()
            os.close(region)
        assert_empty(Path(name))


def assert_empty(directory: Path) -> None:
    assert list(directory.iterdir()) == [], "no socket is left"


def count_of(fd: int) -> int:
    """Return and take what was rung."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


async def rung(fd: int) -> None:
    """Wait until an eventfd was signalled, and take that."""

    async def yet() -> bool | None:
        return bool(count_of(fd)) or None

    await until(yet, timeout=5, what="a signal", every=0.001)


async def greeted(connection: socket.socket, count: int) -> list[tuple[int, int | None]]:
    return [await read(connection) for _ in range(count)]


async def test_a_device_whose_peer_died_is_told_of_the_next_one_and_of_no_end() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as one:
            fds = [fd for _, fd in await greeted(one, 10) if fd is not None]
            with client(ends.paths[1]) as other:
                fds += [fd for _, fd in await greeted(other, 10) if fd is not None]
            await ends.told("leave", end=1)
            for generation in (2, 3):
                path, id_ = ends.paths[1].with_name(f"lan0.{generation}.1"), IDS[1] + 10 * generation
                ends.server.replace(1, EndSpec(name=f"lan0.g{generation}", path=str(path), id=id_, vectors=3))
                joined = await greeted(one, 3)
                assert [number for number, _ in joined] == [id_] * 3, "nobody is told that a peer has left"
                with client(path) as another:
                    said = await greeted(another, 10)
                    expected = [0, id_, *[IDS[0]] * 3, HOST_ID, REGION, *[id_] * 3]
                    assert [number for number, _ in said] == expected
                    mine = [fd for _, fd in said if fd is not None]
                    for vector in range(3):
                        os.eventfd_write(joined[vector][1] or -1, 1)
                        assert [count_of(fd) for fd in mine[5:]] == [int(v == vector) for v in range(3)]
                        os.eventfd_write(mine[vector], 1)
                        assert [count_of(fd) for fd in fds[5:8]] == [int(v == vector) for v in range(3)]
                assert ends.server.names == {"lan0.g1", f"lan0.g{generation}"}
                fds += [fd for _, fd in joined if fd is not None] + mine
            for fd in fds:
                os.close(fd)


async def test_nobody_is_served_anew_where_the_other_end_cannot_be_told() -> None:
    async with served() as ends:
        with pytest.raises(UsageError, match="nobody can be told"):
            ends.server.replace(1, EndSpec(name="lan0.g2", path=str(ends.paths[1]), id=99, vectors=3))
        assert ends.server.names == {"lan0.g1"}
        assert ends.paths[1].exists(), "what was served is served"


async def test_each_end_rings_the_other_and_the_host_and_has_the_same_region() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as one, client(ends.paths[1]) as other:
            said = [await greeted(connection, 10) for connection in (one, other)]
            for end, messages in enumerate(said):
                own, peer = IDS[end], IDS[1 - end]
                expected = [0, own, peer, peer, peer, HOST_ID, REGION, own, own, own]
                assert [number for number, _ in messages] == expected
                assert [fd is None for _, fd in messages] == [True, True, *[False] * 8]
            fds = [[fd for _, fd in messages if fd is not None] for messages in said]
            for end in (0, 1):
                for vector in range(3):
                    os.eventfd_write(fds[end][vector], 1)  # the peer's interrupt, as this end knows it
                    assert [count_of(fd) for fd in fds[1 - end][5:]] == [int(v == vector) for v in range(3)]
                os.eventfd_write(fds[end][3], 1)
                await ends.told("ack", end=end)
            ends.server.end(0).ring()
            await rung(fds[0][5])
            assert [count_of(fd) for fd in (*fds[0][6:], *fds[1][5:])] == [0, 0, 0, 0, 0]
            regions = [os.fstat(each[4]) for each in fds]
            assert regions[0].st_ino == regions[1].st_ino
            known = ends.server.as_json()["ends"]
            for end in (0, 1):
                assert known[end]["eventfds"] == [eventfd_id(os.getpid(), fd) for fd in fds[end][5:]]
                assert known[end]["connected"]
            for fd in (*fds[0], *fds[1]):
                os.close(fd)
    assert [(entry["what"], entry["id"]) for entry in ends.events if entry["what"] != "ack"] == [
        *[("join", 6), ("join", 7), ("leave", 6), ("leave", 7)]
    ]


async def test_an_end_is_for_one_client_whose_socket_is_gone_as_soon_as_it_is_there() -> None:
    async with served() as ends:
        with client(ends.paths[0]):
            await ends.told("join", end=0)
            assert not ends.paths[0].exists()
            with pytest.raises(FileNotFoundError), client(ends.paths[0]):
                pass
            assert ends.paths[1].exists()
        await ends.told("leave", end=0)
        assert ends.server.as_json()["ends"][0]["connected"] is False
        ends.server.end(0).ring()  # its device is gone, nobody hears it


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10), st.integers(0, 10), st.booleans())
def test_a_client_that_vanishes_at_any_point_costs_nobody_anything(first: int, second: int, writes: bool) -> None:
    async def go() -> None:
        async with served() as ends:
            with client(ends.paths[1]) as steady:
                with client(ends.paths[0]) as connection:
                    for _, fd in await greeted(connection, first):
                        if fd is not None:
                            os.close(fd)
                    if writes:
                        connection.send(b"a client has nothing to say")
                await ends.told("leave", end=0)
                for _, fd in await greeted(steady, second):
                    if fd is not None:
                        os.close(fd)
                assert ends.server.as_json()["ends"][1]["connected"]

    assert_leaves_no_descriptor(go)


async def test_a_client_that_reads_slowly_gets_everything_in_order_and_holds_nobody_up() -> None:
    vectors = 400  # more than a socket takes at once
    async with served(vectors=vectors) as ends:
        with client(ends.paths[0]) as slow, client(ends.paths[1]) as quick:
            await ends.told("join", end=0)
            said = await greeted(quick, 4 + 2 * vectors)
            assert said[-1][0] == IDS[1]
            late = await greeted(slow, 4 + 2 * vectors)
            own, peer = IDS
            assert [number for number, _ in late] == [0, own, *[peer] * vectors, HOST_ID, REGION, *[own] * vectors]
            for _, fd in (*said, *late):
                if fd is not None:
                    os.close(fd)


async def test_a_client_that_writes_without_pause_is_read_so_often_a_second() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as writes:
            await ends.told("join", end=0)
            taken, begin = 0, time.monotonic()
            while time.monotonic() - begin < 0.5:
                with suppress(BlockingIOError):
                    taken += writes.send(bytes(65536))
                await pause(0)
            seconds = 1 + (time.monotonic() - begin) // SECOND
            assert taken <= (seconds + 1) * MOST_READS * 65536 + (1 << 20), "and what its socket holds"
        await ends.told("leave", end=0)


async def test_a_client_that_reads_nothing_and_vanishes_leaves_nothing_behind() -> None:
    async with served(vectors=400) as ends:
        with client(ends.paths[0]):
            await ends.told("join", end=0)
        await ends.told("leave", end=0)


async def test_a_guest_that_rings_the_host_without_an_end_is_told_so_often_a_second() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as one:
            fds = [fd for _, fd in await greeted(one, 10) if fd is not None]
            begin = time.monotonic()
            for _ in range(3000):
                os.eventfd_write(fds[3], 1)
                await pause(0)
            seconds = 1 + (time.monotonic() - begin) // SECOND
            assert 1 < [entry["what"] for entry in ends.events].count("ack") <= MOST_ACKS * (seconds + 1)
            for fd in fds:
                os.close(fd)


async def test_a_qemu_that_blocks_its_interrupt_stops_neither_the_loop_nor_the_other_device() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as one, client(ends.paths[1]) as other:
            fds = [[fd for _, fd in await greeted(each, 10) if fd is not None] for each in (one, other)]
            os.set_blocking(fds[0][5], True)
            os.eventfd_write(fds[0][5], (1 << 64) - 2)
            ends.server.end(0).ring()
            ends.server.end(1).ring()
            await rung(fds[1][5])
            await ends.told("stuck", end=0)
            ends.server.end(0).ring()
            ends.server.end(1).ring()
            await rung(fds[1][5])
            for fd in (*fds[0], *fds[1]):
                os.close(fd)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Let this process have as many descriptors as it has, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_a_descriptor_left_a_client_waits_and_the_loop_does_not_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "SHORTAGE_SECONDS", 0.2)
    async with served() as ends:
        with socket.socket(socket.AF_UNIX) as one:
            one.setblocking(False)
            tries: list[int] = []
            listener = ends.server.end(0)._listener
            assert listener is not None

            def take() -> float:
                tries.append(1)
                return 0.0

            monkeypatch.setattr(listener._budget, "take", take)
            with no_descriptors_left():
                one.connect(str(ends.paths[0]))
                await pause(0.5)
            assert 1 <= len(tries) <= 4
            await ends.told("join", end=0)
            assert (await read(one))[0] == 0


def test_closing_twice_and_before_any_client_is_fine() -> None:
    async def go() -> None:
        async with served() as ends:
            ends.server.close()

    assert_leaves_no_descriptor(go)


async def test_a_place_where_nothing_can_be_bound_is_an_error_that_leaves_nothing() -> None:
    with TemporaryDirectory(prefix="vd", dir="/tmp") as name:
        good, bad = Path(name) / "a", Path(name) / "none" / "b"
        specs = [EndSpec(name="lan0.g1", path=str(path), id=id_, vectors=3) for path, id_ in ((good, 6), (bad, 7))]
        before = open_files(os.getpid())
        with pytest.raises(OSError, match="No such file"):
            open_server("lan0.g1", "region/lan0", 0, specs, lambda events: None, Bells())
        assert not good.exists()
        assert open_files(os.getpid()) == before


def assert_leaves_no_descriptor(go: Callable[[], Any]) -> None:
    before = open_files(os.getpid())
    asyncio.run(go())
    assert open_files(os.getpid()) == before


async def test_a_file_in_the_place_of_a_socket_is_not_removed() -> None:
    with TemporaryDirectory(prefix="vd", dir="/tmp") as name:
        file = Path(name) / "precious"
        file.write_text("data")
        specs = [EndSpec(name="lan0.g1", path=str(file), id=6, vectors=3)]
        with pytest.raises(OSError, match="in use"):
            open_server("lan0.g1", "region/lan0", 0, specs, lambda events: None, Bells())
        assert file.read_text() == "data"


class Contrib:
    """What QEMU's contrib/ivshmem-client does, which keeps to ivshmem-spec: protocol, id, region, then peers."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.id = -1
        self.region = -1
        self.vectors: dict[int, list[int]] = {}

    async def connect(self) -> None:
        assert await read(self.connection) == (0, None)
        self.id, fd = await read(self.connection)
        assert (self.id >= 0, fd) == (True, None)
        number, region = await read(self.connection)
        assert number == REGION
        assert region is not None
        self.region = region

    async def next(self) -> None:
        """Take one message: a vector of a peer or of its own, or a peer's end, which has to be one that it knows."""
        number, fd = await read(self.connection)
        if fd is None:
            assert number != self.id
            for vector in self.vectors.pop(number):
                os.close(vector)
        else:
            self.vectors.setdefault(number, []).append(fd)

    def close(self) -> None:
        for fd in (self.region, *(fd for vectors in self.vectors.values() for fd in vectors)):
            os.close(fd)


async def test_a_client_that_is_no_qemu_is_greeted_by_the_letter_and_follows_the_devices() -> None:
    async with served() as ends:
        with client(ends.paths[0]) as one, client(ends.watch) as looks_on, client(ends.watch) as another:
            device = [fd for _, fd in await greeted(one, 10) if fd is not None]
            for connection in (looks_on, another):
                contrib = Contrib(connection)
                await contrib.connect()
                for _ in range(7):
                    await contrib.next()
                assert {id_: len(fds) for id_, fds in contrib.vectors.items()} == {6: 3, 7: 3, contrib.id: 1}
                os.write(device[4], b"shared")
                os.lseek(device[4], 0, os.SEEK_SET)
                assert os.pread(contrib.region, 6, 0) == b"shared"
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.write(contrib.region, b"x")
                with pytest.raises(PermissionError):
                    mmap.mmap(contrib.region, 4096)
                os.eventfd_write(contrib.vectors[6][2], 1)
                await rung(device[7])
                if connection is looks_on:
                    contrib.close()
            ends.server.replace(1, EndSpec(name="lan0.g2", path=str(ends.paths[1]), id=99, vectors=3))
            for _ in range(4):
                await contrib.next()
            assert {id_: len(fds) for id_, fds in contrib.vectors.items()} == {6: 3, 99: 3, contrib.id: 1}
            assert [number for number, _ in await greeted(one, 3)] == [99] * 3, "the device is told of no client"
            with pytest.raises(BlockingIOError):
                one.recv(8)
            contrib.close()
            for fd in device:
                os.close(fd)


async def test_a_client_that_may_not_look_on_is_hung_up_on() -> None:
    async with served(may_watch=False) as ends:
        with client(ends.watch) as refused:

            async def over() -> bool | None:
                with suppress(BlockingIOError):
                    return refused.recv(1) == b""
                return None

            await until(over, timeout=5, what="the end", every=0.001)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.booleans(), st.binary(max_size=40))
def test_clients_that_look_on_may_vanish_at_any_point_and_say_anything(count: int, renews: bool, says: bytes) -> None:
    async def go() -> None:
        async with served() as ends:
            with client(ends.paths[0]) as one:
                with client(ends.watch) as looks_on:
                    for _, fd in await greeted(looks_on, min(count, 10)):
                        if fd is not None:
                            os.close(fd)
                    looks_on.send(says) if says else None
                    if renews:
                        await ends.told("join", end=0)
                        ends.server.replace(1, EndSpec(name="lan0.g2", path=str(ends.paths[1]), id=99, vectors=3))
                for _, fd in await greeted(one, 10):
                    if fd is not None:
                        os.close(fd)
                assert ends.server.as_json()["ends"][0]["connected"]

    assert_leaves_no_descriptor(go)


async def test_a_slow_client_is_sent_what_was_meant_though_its_peer_has_gone_meanwhile() -> None:
    vectors = 400  # more than a socket takes at once
    async with served(vectors=vectors) as ends:
        with client(ends.paths[0]) as slow:
            await ends.told("join", end=0)
            old = ends.server.as_json()["ends"][1]["eventfds"]
            ends.server.replace(1, EndSpec(name="lan0.g2", path=str(ends.paths[1]), id=99, vectors=vectors))
            others = [os.memfd_create("secret") for _ in range(2 * vectors)]  # they get the numbers that became free
            said = await greeted(slow, 4 + 3 * vectors)
            sent = [eventfd_id(os.getpid(), fd) for number, fd in said if number == IDS[1] and fd is not None]
            assert sent == old
            assert all(eventfd_id(os.getpid(), fd) is not None for n, fd in said if fd is not None and n != REGION)
            for fd in [*others, *(fd for _, fd in said if fd is not None)]:
                os.close(fd)
