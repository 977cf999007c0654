"""One end of an ivshmem server: who comes, what is said to it, and how much it may say."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.ivshmem.serving import (
    assert_leaves_no_descriptor,
    client,
    greeted,
    read,
    served,
)
from vpctl.broker import listening
from vpctl.broker.budget import SECOND
from vpctl.broker.ivshmem.outbox import MOST_READS
from vpctl.broker.ivshmem.peer_server import MOST_ACKS
from vpctl.wait import pause


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
