"""Clients that read slowly, or nothing."""

from __future__ import annotations

import os

from tests.unit.broker.ivshmem.serving import (
    IDS,
    client,
    greeted,
    served,
)
from vpctl.broker.control_page import HOST_ID
from vpctl.broker.ivshmem.message import REGION
from vpctl.broker.ivshmem.pair_server import EndSpec
from vpctl.process import eventfd_id


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
