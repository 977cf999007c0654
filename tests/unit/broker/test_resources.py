"""The broker's verbs for front-ends and the devices that work their rings, as the supervisor uses them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.fakes.broker import broker_process, broker_running, made
from tests.fakes.vhost_user_frontend import MIB, Dialect, Frontend
from vpctl.broker.client import BrokerClient, connect
from vpctl.broker.control_page import PAGE_SIZE, SLOT, slot_offset
from vpctl.broker.memfd import PREFIX
from vpctl.broker.protocol import BackendEvent, BrokerFailure, Exit, IvshmemEvent
from vpctl.broker.vhost_user.negotiation import OFFER
from vpctl.errors import HostError, NotFoundError, UsageError
from vpctl.process import open_files
from vpctl.rundir import Directories, RunDir
from vpctl.supervisor.hotplug.fd_parking import find_interrupts

RAM = "ram/vm2.g1"
FRONT = {"name": "lan0.g1", "ram": RAM, "features": int(OFFER), "queue_pairs": 1}
DEVICE = {"backend": "lan0.g1", "name": "lan0.g2", "id": 6, "vectors": 3, "control": "control/vm1"}
DESCRIPTION = SLOT.pack(generation=2, name=b"lan0")


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


def front(rundir: RunDir, **changes: Any) -> dict[str, Any]:
    return {**FRONT, "path": str(rundir.run / "lan0.1.1"), **changes}


def device(rundir: RunDir, **changes: Any) -> dict[str, Any]:
    path = str(rundir.run / "lan0.2.0")
    return {**DEVICE, "session": 1, "path": path, "slot": slot_offset(0), "description": DESCRIPTION, **changes}


@asynccontextmanager
async def qemu(rundir: RunDir) -> AsyncIterator[Frontend]:
    """Be the front-end's QEMU, which has inherited its RAM from the broker that runs in this process."""
    wanted = f"/memfd:{PREFIX}{RAM} (deleted)"
    (found, *_) = [fd for fd in open_files(os.getpid()) if target(fd) == wanted]
    ram = os.dup(found)
    played = Frontend(rundir.run / "lan0.1.1", ram, dialect=Dialect(name="10.0", enable_waits=True))
    try:
        yield played
    finally:
        played.close()
        os.close(ram)


def target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - the words, whether or not there is such a path
    except OSError:
        return ""


async def event(client: BrokerClient, what: str) -> IvshmemEvent | BackendEvent:
    """Wait for the next event of what happens at links, which is this."""
    async with asyncio.timeout(5):
        while isinstance(each := await client.events.get(), Exit):
            pass
    assert not isinstance(each, BrokerFailure), each
    assert each.what == what, each
    return each


async def prepared(client: BrokerClient) -> None:
    await client.create(RAM, 256 * MIB)
    await client.create("control/vm1", PAGE_SIZE)


async def test_a_link_from_its_front_end_to_its_end(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        await prepared(client)
        opened = await client.backend_open(**front(rundir))
        assert (opened["state"], opened["connected"], opened["session"]) == ("listening", False, None)
        async with qemu(rundir) as played:
            await played.up()
            await event(client, "connected")
            ready = await event(client, "ready")
            assert isinstance(ready, BackendEvent)
            assert (ready.name, ready.session) == ("lan0.g1", 1)
            assert ready.details == {"queue_pairs": 1, "features": int(OFFER)}
            served = await client.attach(**device(rundir))
            assert await client.query_ivshmem("lan0.g2") == served
            (known,) = await client.query_backends()
            assert (known["state"], known["session"], known["attached"], known["on"]) == ("ready", 1, "lan0.g2", True)
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(str(rundir.run / "lan0.2.0"))
                assert await event(client, "join") == IvshmemEvent(name="lan0.g2", end=0, what="join", id=6)
                found = await find_interrupts(os.getpid(), served, 0)
                assert len({*served["ends"][0]["eventfds"]}) == 3
                assert found >= {*played.kicks}, "parking finds the device's interrupts by these ids"
                assert await played.stop() == [0, 0]
                stopped = await event(client, "stopped")
                assert isinstance(stopped, BackendEvent)
                assert stopped.details["released"] is True
                with pytest.raises(UsageError, match=r"session 1 of `lan0\.g1` is over"):
                    await client.attach(**device(rundir))
                assert await client.detach("lan0.g1") is True
                assert await client.query_ivshmem("lan0.g2") is None
                await event(client, "leave")
            await played.start()
            assert await event(client, "ready")
            await client.attach(**device(rundir, session=2, name="lan0.g3"))
            assert await client.backend_close("lan0.g1") is True
        assert await client.backend_close("lan0.g1") is True
        assert await client.query_backends() == []
        with pytest.raises(NotFoundError, match=r"there is no front-end `lan0\.g1`"):
            await client.detach("lan0.g1")
        assert not list(rundir.run.glob("lan0.*"))


async def test_a_front_end_that_dies_is_gone_and_its_successor_has_a_memory_of_its_own(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        await prepared(client)
        await client.backend_open(**front(rundir))
        async with qemu(rundir) as played:
            await played.up()
            await event(client, "connected")
            await event(client, "ready")
            await client.attach(**device(rundir))
        gone = await event(client, "gone")
        assert isinstance(gone, BackendEvent)
        assert gone.details == {"reason": "the front-end has hung up", "released": True}
        await client.backend_close("lan0.g1")
        assert await client.memories() == {RAM: 256 * MIB, "control/vm1": PAGE_SIZE}
        await client.drop(RAM)
        await client.drop(RAM)
        assert await client.memories() == {"control/vm1": PAGE_SIZE}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"slot": 0}, "`lan0.g2`: there is no slot at 0"),
        ({"slot": 100}, "`lan0.g2`: there is no slot at 100"),
        ({"slot": PAGE_SIZE}, "`lan0.g2`: there is no slot at 65536"),
        ({"description": bytes(256)}, "`lan0.g2`: a slot has 2048 bytes, not 256"),
        ({"vectors": 1}, "`attach`: vectors: `1` is not within 2 and 33"),
        ({"vectors": 2}, "`lan0.g2` has 2 vectors for 2 rings"),
        ({"control": "control/vm9"}, "no memory named `control/vm9`"),
        ({"session": 2}, "session 2 of `lan0.g1` is over: the present one is 1"),
    ],
)
async def test_a_device_that_cannot_be_is_refused_and_costs_nothing(
    rundir: RunDir, changes: Mapping[str, Any], error: str
) -> None:
    async with broker_running(rundir) as client:
        await prepared(client)
        await client.backend_open(**front(rundir))
        async with qemu(rundir) as played:
            await played.up()
            await event(client, "connected")
            await event(client, "ready")
            before = open_files(os.getpid())
            with pytest.raises(UsageError) as caught:
                await client.attach(**device(rundir, **changes))
            assert caught.value.message == error
            with pytest.raises(HostError, match=r"cannot serve `lan0\.g2`"):
                await client.attach(**device(rundir, path="/none/x"))
            assert open_files(os.getpid()) == before
            await client.attach(**device(rundir))


async def test_a_front_end_that_cannot_be_is_refused(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        with pytest.raises(UsageError, match=r"no memory named `ram/vm2\.g1`"):
            await client.backend_open(**front(rundir))
        await prepared(client)
        before = open_files(os.getpid())
        for pairs in (0, 17):
            with pytest.raises(UsageError, match=f"{pairs} queue pairs are not between 1 and 16"):
                await client.backend_open(**front(rundir, queue_pairs=pairs))
        with pytest.raises(HostError, match=r"cannot listen for `lan0\.g1`"):
            await client.backend_open(**front(rundir, path="/none/x"))
        assert open_files(os.getpid()) == before
        await client.backend_open(**front(rundir))
        with pytest.raises(UsageError, match=r"`lan0\.g1` is a front-end already"):
            await client.backend_open(**front(rundir))


async def test_another_memory_of_the_brokers_is_never_taken_for_ram(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        await prepared(client)
        await client.backend_open(**front(rundir))
        async with qemu(rundir) as played:
            await played.connect()
            await played.greet()
            page = next(fd for fd in open_files(os.getpid()) if target(fd).endswith("control/vm1 (deleted)"))
            (region,) = played.regions
            beside = type(region)(address=256 * MIB, size=PAGE_SIZE, user=region.user + 256 * MIB, offset=0)
            assert await played.add(beside, page) == 0
            await played.enable(1)
            await played.start()
            await event(client, "connected")
            await event(client, "ready")


async def test_nothing_of_a_front_end_outlives_its_broker(rundir: RunDir) -> None:
    with broker_process(rundir) as first:
        async with connect(rundir) as client:
            await prepared(client)
            await client.backend_open(**front(rundir))
            first.kill()
            async with asyncio.timeout(10):
                await client.lost.wait()
    async with broker_running(rundir) as client:
        assert await client.query_backends() == []
        await prepared(client)
        await client.backend_open(**front(rundir))  # where a socket of the dead one's is


async def test_the_end_of_everything_does_not_wait_for_a_front_end(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        await prepared(client)
        await client.backend_open(**front(rundir))
        async with qemu(rundir) as played:
            await played.up()
            await event(client, "connected")
            await event(client, "ready")
            await client.attach(**device(rundir))
            await client.stop()
            async with asyncio.timeout(5):
                await client.lost.wait()
            with pytest.raises((EOFError, ConnectionError, BrokenPipeError)):
                await played.stop()
