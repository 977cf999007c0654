"""Clients of the broker: none holds up another, or fills it."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.fakes.broker import SLEEPS, broker_running
from tests.unit.broker.test_service import STUBBORN, next_exit, spawn, spoken
from vpctl.broker import clients as clients_module
from vpctl.broker.client import connect
from vpctl.broker.clients import MOST_UNREAD
from vpctl.broker.protocol import encode
from vpctl.rundir import RunDir


async def test_a_request_that_takes_long_holds_up_no_other(rundir: RunDir) -> None:
    async with broker_running(rundir) as client, connect(rundir) as other:
        slow = await spawn(client, rundir, "sh", "-c", STUBBORN)
        await spoken(slow)
        quick = await spawn(client, rundir, *SLEEPS, name="vm/vm2")
        ending = asyncio.create_task(client.end(name=slow.name, generation=1, grace=30))
        async with asyncio.timeout(10):
            for each in (client, other):
                assert {child.name for child in await each.list()} >= {slow.name, quick.name}
            assert await client.end(name=quick.name, generation=1, grace=30) is False
        assert not ending.done()
        slow.process.signal(signal.SIGKILL)
        assert await ending is False


async def test_requests_about_one_object_are_carried_out_in_their_order_whoever_asks(rundir: RunDir) -> None:
    async with broker_running(rundir) as client, connect(rundir) as other:
        first = await spawn(client, rundir, "sh", "-c", STUBBORN)
        await spoken(first)
        ending = asyncio.create_task(client.end(name=first.name, generation=1, grace=0.3))
        await client.list()  # the request is on its way
        second = await spawn(other, rundir, *SLEEPS, generation=2)
        assert await ending is True
        assert {child.name: child.process for child in await client.list()}[first.name] == second.process


async def test_what_a_client_asked_for_is_done_though_it_has_gone(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        child = await spawn(client, rundir, "sh", "-c", STUBBORN)
        await spoken(child)
        _, writer = await asyncio.open_unix_connection(str(rundir.broker_socket))
        writer.write(encode({"id": 1, "do": "end", "name": child.name, "generation": 1, "grace": 0.2}))
        await writer.drain()
        writer.close()
        assert (await next_exit(client)).status == -signal.SIGKILL


async def test_a_client_that_does_not_read_is_hung_up_on(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        await client.create("region/lan0", 1 << 20)
        reader, writer = await asyncio.open_unix_connection(str(rundir.broker_socket))
        asked = encode({"id": 1, "do": "read", "memory": "region/lan0", "offset": 0, "length": 4096})
        async with asyncio.timeout(60):
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(asked * 64)
                    await writer.drain()
        assert len(await reader.read(-1) if not reader.exception() else b"") < 2 * MOST_UNREAD
        writer.close()
        assert await client.list(), "the others are served"


async def test_one_client_has_so_many_requests_under_way_and_the_others_are_served(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "MOST_REQUESTS", 2)
    async with broker_running(rundir) as client, connect(rundir) as greedy:
        slow = await spawn(client, rundir, "sh", "-c", STUBBORN)
        await spoken(slow)
        waiting = [asyncio.create_task(greedy.end(name=slow.name, generation=1, grace=30)) for _ in range(2)]
        late = asyncio.create_task(greedy.list())
        assert await client.list()
        assert not late.done()
        slow.process.signal(signal.SIGKILL)
        await asyncio.gather(*waiting)
        assert await late
