"""Memory that guests share, by the real broker: filled, served, switched on last, switched off and acknowledged."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest

from tests.fakes.broker import broker_running, made
from tests.made import made_run, made_topology
from vpctl.broker.client import BrokerClient
from vpctl.broker.control_page import ACK_SECONDS, ANSWER, HEADERS_SIZE, REGION_HEADER, SLOT, AnswerState, SlotState
from vpctl.errors import HotplugError, UsageError
from vpctl.links.devices import control_memory
from vpctl.links.kind import SharedEnd, SharedRegion
from vpctl.plan.link import control_page, shared_region
from vpctl.rundir import Directories, RunDir
from vpctl.supervisor.hotplug import slots as module
from vpctl.supervisor.hotplug.slots import change_peer, fill, free, serve, serve_anew, switch_off, switch_on

TOPOLOGY = made_topology(("shm0", "vm1", "vm2"), kind="ivshmem-doorbell")
RUN = made_run(TOPOLOGY)


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


def shared(rundir: RunDir, generation: int = 1) -> SharedRegion:
    found = shared_region(RUN, TOPOLOGY.link("shm0"), generation, rundir=rundir)
    assert found is not None
    return found


@asynccontextmanager
async def broker(rundir: RunDir) -> AsyncIterator[BrokerClient]:
    """Run a broker that has each VM's control page."""
    async with broker_running(rundir) as client:
        for vm in TOPOLOGY.vms:
            page = control_page(TOPOLOGY, vm)
            assert page is not None
            await fill(client, page)
        yield client


async def slot(client: BrokerClient, end: SharedEnd) -> dict[str, int | bytes]:
    """Return what a guest sees of a device."""
    return SLOT.unpack(await client.contents(control_memory(end.vm), end.slot, SLOT.size))


class Device:
    """A device that is plugged: its own interrupts, and the eventfd by which its guest acknowledges."""

    def __init__(self, fds: list[int]) -> None:
        self.peers, self.acknowledgement, self.region, self.own = fds[:3], fds[3], fds[4], fds[5:]


@contextmanager
def device(end: SharedEnd) -> Iterator[Device]:
    """Connect as QEMU does, and read what it is told."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(end.socket)
        fds: list[int] = []
        for _ in range(10):
            _, received, _, _ = socket.recv_fds(connection, 8, 1)
            fds += received
        try:
            yield Device(fds)
        finally:
            for fd in fds:
                os.close(fd)


@asynccontextmanager
async def plugged(client: BrokerClient, generation: SharedRegion) -> AsyncIterator[list[Device]]:
    """Serve a generation, and connect a device at each end; in a thread, since the broker is in this one."""
    await serve(client, generation)
    with ExitStack() as stack:
        yield [await asyncio.to_thread(stack.enter_context, device(end)) for end in generation.ends]


async def guest(found: Device) -> None:
    """Acknowledge, as a driver does, when its control interrupt comes."""
    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    loop.add_reader(found.own[0], rung.set)
    try:
        await rung.wait()
    finally:
        loop.remove_reader(found.own[0])
    os.eventfd_write(found.acknowledgement, 1)


async def test_a_generation_begins_with_a_header_and_nothing_of_the_last_one(rundir: RunDir) -> None:
    async with broker(rundir) as client:
        first, second = shared(rundir, 1), shared(rundir, 2)
        await serve(client, first)
        await client.write(first.memory.name, (4096, b"\xff" * 8192), (1 << 20, b"\xff"))
        await serve(client, second)
        header = REGION_HEADER.unpack(await client.contents(second.memory.name, 0, REGION_HEADER.size))
        assert (header["generation"], header["data_offset"]) == (2, HEADERS_SIZE)
        for offset in (4096, 8192, 1 << 20):
            assert await client.contents(second.memory.name, offset, 4096) == bytes(4096)
        assert await client.query_ivshmem(first.name) is None
        assert [path.name for path in sorted(rundir.run.glob("shm0.*"))] == ["shm0.2.0", "shm0.2.1", "shm0.watch"]


async def test_a_device_is_described_before_it_is_there_and_free_when_it_is_gone(rundir: RunDir) -> None:
    async with broker(rundir) as client:
        generation = shared(rundir, 3)
        one, other = generation.ends
        await switch_on(client, one)
        seen = await slot(client, one)
        assert (seen["state"], seen["ivposition"], seen["generation"]) == (SlotState.ON, one.id, 3)
        assert (seen["peer"], seen["name"]) == (other.id, b"shm0".ljust(16, b"\0"))
        assert (await slot(client, other))["state"] == SlotState.FREE, "its page is the other guest's"
        await free(client, one)
        assert (await slot(client, one))["state"] == SlotState.FREE


async def test_both_guests_are_asked_at_once_and_whoever_acknowledges_has_let_go(rundir: RunDir) -> None:
    async with broker(rundir) as client:
        generation = shared(rundir)
        async with plugged(client, generation) as devices, asyncio.TaskGroup() as guests:
            for end, found in zip(generation.ends, devices, strict=True):
                await switch_on(client, end)
                guests.create_task(guest(found))
            assert await switch_off(client, dict(enumerate(generation.ends))) == []
            for end in generation.ends:
                assert (await slot(client, end))["state"] == SlotState.OFF


def said(end: SharedEnd, sequence: int) -> tuple[int, bytes]:
    """Return what a driver writes that has taken a change of its slot in."""
    answer = ANSWER.pack(state=AnswerState.ON, ivposition=end.id, sequence=sequence, request=sequence)
    return end.slot + SLOT.offsets["answer"], answer


async def test_a_device_that_stays_is_given_other_peers_and_each_is_taken_in(rundir: RunDir) -> None:
    async with broker(rundir) as client:
        generation = shared(rundir)
        one, other = generation.ends
        async with plugged(client, generation) as devices:
            await switch_on(client, one)
            for sequence, peer in ((1, 0), (2, other.id + 2)):
                changing = asyncio.create_task(change_peer(client, 0, one, peer=peer, generation=sequence))
                await guest(devices[0])  # one that was late, or had something else to say
                await asyncio.sleep(0.01)
                assert not changing.done()
                seen = await slot(client, one)
                assert [seen[name] for name in ("state", "generation", "peer", "sequence")] == [
                    SlotState.ON,
                    sequence,
                    peer,
                    sequence,
                ]
                await client.write(control_memory("vm1"), said(one, sequence))
                os.eventfd_write(devices[0].acknowledgement, 1)
                await changing
                os.eventfd_read(devices[0].own[0])


async def test_a_driver_that_does_not_know_of_other_peers_is_an_error(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACK_SECONDS", 0.1)
    async with broker(rundir) as client:
        generation = shared(rundir)
        async with plugged(client, generation) as devices, asyncio.TaskGroup() as guests:
            guests.create_task(guest(devices[0]))
            with pytest.raises(HotplugError, match=r"vm1: the driver of `shm0\.g1` does not take in"):
                await change_peer(client, 0, generation.ends[0], peer=0, generation=1)


async def test_the_next_generation_of_one_end_leaves_the_others_part_of_the_memory_alone(rundir: RunDir) -> None:
    async with broker(rundir) as client:
        first = shared(rundir, 1)
        second = shared_region(RUN, TOPOLOGY.link("shm0"), 2, rundir=rundir, kept={"vm1": 1})
        assert second is not None
        assert (second.ends[0].id, second.ends[0].name) == (first.ends[0].id, "shm0.g1")
        assert second.ends[1].id not in (first.ends[1].id, first.ends[0].id)
        assert SLOT.unpack(second.ends[1].description)["peer"] == first.ends[0].id
        async with plugged(client, first):
            memory = first.memory.name
            await client.write(memory, (4096, b"\x01" * 4096), (8192, b"\x02" * 4096))
            await serve_anew(client, second, 1)
            header = REGION_HEADER.unpack(await client.contents(memory, 0, REGION_HEADER.size))
            assert header["generation"] == 2
            assert await client.contents(memory, 4096, 4096) == b"\x01" * 4096
            assert await client.contents(memory, 8192, 4096) == bytes(4096)
            assert {path.name for path in rundir.run.glob("shm0.*")} == {"shm0.2.1", "shm0.watch"}
            assert await client.query_ivshmem("shm0.g2") == await client.query_ivshmem("shm0.g1")


async def test_a_guest_that_is_silent_is_named_and_not_waited_for_for_ever(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACK_SECONDS", 0.1)
    async with broker(rundir) as client:
        generation = shared(rundir)
        async with plugged(client, generation) as devices, asyncio.TaskGroup() as guests:
            guests.create_task(guest(devices[0]))
            assert await switch_off(client, dict(enumerate(generation.ends))) == ["vm2"]


async def test_a_guest_without_the_device_is_not_waited_for(rundir: RunDir) -> None:
    async with broker(rundir) as client, asyncio.timeout(ACK_SECONDS / 2):
        generation = shared(rundir)
        await serve(client, generation)
        assert await switch_off(client, {0: generation.ends[0]}) == ["vm1"]
        assert (await slot(client, generation.ends[0]))["state"] == SlotState.OFF
        assert (await slot(client, generation.ends[1]))["state"] == SlotState.FREE


async def test_what_a_broker_took_along_cannot_be_switched_off_but_let_go(rundir: RunDir) -> None:
    async with broker_running(rundir) as client, asyncio.timeout(ACK_SECONDS / 2):
        generation = shared(rundir)  # no page, nothing served: of a broker that died
        assert await switch_off(client, dict(enumerate(generation.ends))) == ["vm1", "vm2"]
        await free(client, generation.ends[0])
        with pytest.raises(UsageError, match="no memory named `control/vm1`"):
            await switch_on(client, generation.ends[0])
