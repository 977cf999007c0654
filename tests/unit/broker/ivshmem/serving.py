"""An ivshmem server with two ends, and clients of it."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vpctl.broker.ivshmem.bells import Bells
from vpctl.broker.ivshmem.message import SIZE, decode
from vpctl.broker.ivshmem.pair_server import EndSpec, PairServer, open_server
from vpctl.process import open_files
from vpctl.wait import until

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


def assert_leaves_no_descriptor(go: Callable[[], Any]) -> None:
    before = open_files(os.getpid())
    asyncio.run(go())
    assert open_files(os.getpid()) == before
