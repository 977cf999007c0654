"""Clients that are no QEMU, and look on."""

from __future__ import annotations

import mmap
import os
import socket
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.ivshmem.serving import (
    assert_leaves_no_descriptor,
    client,
    greeted,
    read,
    rung,
    served,
)
from vpctl.broker.ivshmem.message import REGION
from vpctl.broker.ivshmem.pair_server import EndSpec
from vpctl.wait import until


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
