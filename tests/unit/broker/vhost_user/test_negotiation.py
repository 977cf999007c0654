"""What a front-end has to have said before its rings work."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.fakes import vhost_user_messages
from tests.fakes.ivshmem_host import sealed_memory
from tests.fakes.vhost_user_frontend import GIB, MIB, USER, Dialect
from tests.unit.broker.datapaths import Remembers
from tests.unit.broker.vhost_user.pair import (
    OLD,
    TABLES,
    every_dialect,
    leaves_no_descriptor,
    pair,
)
from vpctl.broker.control_page import PeerRegion
from vpctl.broker.vhost_user.backend import (
    BackendSpec,
)
from vpctl.broker.vhost_user.message import Feature, MemoryRegion, ProtocolFeature, Request, RingAddress
from vpctl.broker.vhost_user.negotiation import OFFER, PROTOCOL
from vpctl.process import eventfd_id


@every_dialect
@pytest.mark.parametrize("queue_pairs", [1, 2, 16])
def test_rings_work_once_all_of_them_are_complete(dialect: Dialect, queue_pairs: int) -> None:
    async def go() -> None:
        async with pair(dialect, queue_pairs=queue_pairs) as both:
            await both.front.up()
            ready = await both.told.exactly("connected", "ready")
            multiple = Feature.MQ if queue_pairs > 1 else 0
            assert ready == {
                "name": "lan0.g1",
                "what": "ready",
                "session": 1,
                "queue_pairs": queue_pairs,
                "features": int(OFFER | multiple),
            }
            await both.front.number(Request.GET_FEATURES)  # on a busy host the last call may come after `ready`
            datapath = Remembers()
            both.back.attach(1, datapath)
            assert datapath.vrings is not None
            for number, ring in enumerate(datapath.vrings.rings):
                at = both.front.offset(number)
                assert (ring.desc, ring.avail, ring.used) == (at, at + 16384, at + 16384 + 4096)
                assert ring.kick.id == eventfd_id(os.getpid(), both.front.kicks[number])
                assert ring.call.id == eventfd_id(os.getpid(), both.front.calls[number]), "the last one counts"
            assert len(datapath.vrings.rings) == 2 * queue_pairs

    leaves_no_descriptor(go)


async def test_memory_on_both_sides_of_4_gib_is_one_file_in_two_regions() -> None:
    async with pair(size=4 * GIB) as both:
        await both.ready()
        datapath = Remembers()
        both.back.attach(1, datapath)
        assert datapath.vrings is not None
        assert datapath.vrings.regions == (
            PeerRegion(address=0, size=2 * GIB, offset=0),
            PeerRegion(address=4 * GIB, size=2 * GIB, offset=2 * GIB),
        )
        assert datapath.vrings.rings[0].desc == 2 * GIB + 16 * MIB


async def test_a_devices_memory_is_left_out_whenever_it_comes_and_goes() -> None:
    async with pair() as both:
        await both.ready()
        datapath = Remembers()
        both.back.attach(1, datapath)
        foreign = MemoryRegion(address=4 * GIB, size=MIB, user=USER + GIB, offset=0)
        fd = sealed_memory("foreign", MIB)
        try:
            assert await both.front.add(foreign, fd) == 0
            assert await both.front.add(foreign, fd) == 0, "for each queue pair once"
            assert await both.front.remove(foreign) == 0
            assert await both.front.remove(foreign) == 0
        finally:
            os.close(fd)
        assert both.told.events == []
        assert not datapath.was_asked.is_set()


async def test_a_table_with_a_devices_memory_is_no_new_session_and_one_without_the_ram_is_refused() -> None:
    async with pair(TABLES) as both:
        await both.ready()
        foreign = MemoryRegion(address=4 * GIB, size=MIB, user=USER + GIB, offset=0)
        fd = sealed_memory("foreign", MIB)
        try:
            table = vhost_user_messages.table_payload([*both.front.regions, foreign])
            assert await both.front.insist(Request.SET_MEM_TABLE, table, [both.front.ram, fd]) == 0
            assert both.told.events == []
            table = vhost_user_messages.table_payload([foreign])
            assert await both.front.insist(Request.SET_MEM_TABLE, table, [fd]) == 1
        finally:
            os.close(fd)
        refused = await both.told.exactly("refused")
        assert refused["reason"] == "no part of the memory is `ram/vm2.g1`: the VM was not started with it"
        assert refused["closed"] is False


@pytest.mark.parametrize(
    "second",
    [
        MemoryRegion(address=128 * MIB, size=128 * MIB, user=USER + GIB, offset=0),
        MemoryRegion(address=0, size=MIB, user=USER + GIB, offset=0),
    ],
)
@pytest.mark.parametrize("dialect", [OLD, TABLES], ids=["slots", "tables"])
async def test_ram_in_two_files_is_refused(second: MemoryRegion, dialect: Dialect) -> None:
    first = MemoryRegion(address=0 if second.address else MIB, size=128 * MIB, user=USER, offset=0)
    async with pair(dialect) as both:
        fd = sealed_memory("node1", 128 * MIB)
        try:
            await both.front.connect()
            await both.front.greet()
            if dialect.slots:
                both.front.regions = [first]
                assert await both.front.add(second, fd) == 0, "it could be a device's until the rings start"
                await both.front.enable(1)
                await both.front.start()
            else:
                table = vhost_user_messages.table_payload([first, second])
                assert await both.front.insist(Request.SET_MEM_TABLE, table, [both.front.ram, fd]) == 1
        finally:
            os.close(fd)
        refused = await both.told.exactly("connected", "refused")
        assert refused["reason"].endswith("is not in `ram/vm2.g1`: the VM's RAM is in several files")


async def test_memory_beyond_its_files_end_is_refused() -> None:
    async with pair() as both:
        await both.front.connect()
        await both.front.greet()
        region = MemoryRegion(address=0, size=256 * MIB, user=USER, offset=1)
        assert await both.front.add(region, both.front.ram) == 1
        refused = await both.told.exactly("connected", "refused")
        assert refused["reason"] == "`ram/vm2.g1` has no 0x10000000 bytes at 0x1"


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("desc", USER + 256 * MIB - 16383, "ring 1: desc: 16384 bytes at 0x7f000fffc001 are not in `ram/vm2.g1`"),
        ("avail", USER - 1, "ring 1: avail: 2054 bytes at 0x7effffffffff are not in `ram/vm2.g1`"),
        ("used", 0, "ring 1: used: 8198 bytes at 0x0 are not in `ram/vm2.g1`"),
        ("desc", USER + 8, "ring 1: desc: 0x8 is no multiple of 16"),
        ("avail", USER + 1, "ring 1: avail: 0x1 is no multiple of 2"),
        ("used", USER + 2, "ring 1: used: 0x2 is no multiple of 4"),
    ],
)
async def test_a_ring_that_is_not_in_the_ram_does_not_work(part: str, value: int, reason: str) -> None:
    async with pair() as both:
        await both.front.connect()
        await both.front.greet()
        await both.front.enable(1)
        right = both.front.address

        def wrong(ring: int) -> RingAddress:
            return replace(right(ring), **({part: value} if ring == 1 else {}))

        both.front.address = wrong  # type: ignore[method-assign]
        await both.front.start()
        refused = await both.told.exactly("connected", "refused")
        assert refused["reason"] == reason
        assert await both.front.stop() == [0, 0], "it can be stopped all the same"


@pytest.mark.parametrize("many", [False, True])
async def test_regions_one_by_one_are_for_those_only_that_may_have_many(many: bool) -> None:
    # QEMU would look for the memory of a region that went while its rings were stopped.
    spec = BackendSpec(name="lan0.g1", path="", ram="ram/vm2.g1", features=OFFER, queue_pairs=1, many_regions=many)
    assert bool(spec.protocol & ProtocolFeature.CONFIGURE_MEM_SLOTS) is many
    assert spec.protocol & PROTOCOL == PROTOCOL


async def test_what_is_no_eventfd_is_no_interrupt() -> None:
    async with pair() as both:
        await both.ready()
        payload = vhost_user_messages.number_payload(0)
        for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL):
            assert await both.front.insist(request, payload, [both.front.ram]) == 1
            refused = await both.told.exactly("refused")
            assert refused["reason"] == f"{request.name}: its descriptor is no eventfd"


async def test_only_what_is_asked_for_is_offered() -> None:
    async with pair(features=Feature.CSUM | Feature.VERSION_1 | 1 << 40) as both:
        await both.front.connect()
        offer = await both.front.number(Request.GET_FEATURES)
        assert offer == Feature.CSUM | Feature.VERSION_1 | Feature.PROTOCOL_FEATURES
        await both.front.greet()
        await both.front.enable(1)
        await both.front.start()
        assert (await both.told.exactly("connected", "ready"))["features"] == Feature.CSUM | Feature.VERSION_1
