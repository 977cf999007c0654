"""The broker's part of a link of shared memory, around each plug and unplug."""

from __future__ import annotations

import socket

import pytest

from tests.unit.supervisor.hotplug.ground import RUN, TOPOLOGY, Ground
from vpctl.broker.control_page import SlotState
from vpctl.errors import RecoveryError
from vpctl.journal import read
from vpctl.plan.link import shared_region
from vpctl.recovery.state import VmState
from vpctl.wait import until


async def test_a_guest_is_told_of_its_device_just_before_the_plug(ground: Ground) -> None:
    repair = ground.repair()
    await ground.hands.plug("vm1", repair)
    assert await ground.slots(1) == [SlotState.ON, SlotState.FREE]
    await ground.hands.plug("vm2", repair)
    assert await ground.slots(1) == [SlotState.ON, SlotState.ON]
    for fake in ground.qemus.values():
        assert fake.device_names()[-2:] == ["chardev-add", "device_add"]


async def test_all_guests_let_go_before_the_first_device_goes_and_are_asked_once(ground: Ground) -> None:
    await ground.plugged()
    await ground.hands.unplug("vm1", "shm0", 1)
    assert await ground.slots(1) == [SlotState.FREE, SlotState.OFF]
    assert ground.qemus["vm1"].names()[-2:] == ["device_del", "chardev-remove"]
    assert "device_del" not in ground.qemus["vm2"].names()
    await ground.hands.unplug("vm2", "shm0", 1)
    assert await ground.slots(1) == [SlotState.FREE, SlotState.FREE]
    offs = [entry for entry in read(ground.state.rundir.journal) if entry["type"] == "link.off"]
    assert [entry["attributes"] for entry in offs] == [{"device": "shm0.g1", "silent": ["vm1", "vm2"]}]
    assert ground.state.links["shm0"].plugged == {"vm1": [], "vm2": []}


async def test_memory_that_another_qemu_still_has_is_not_begun_anew(ground: Ground) -> None:
    await ground.plugged()
    await ground.hands.unplug("vm1", "shm0", 1)
    with pytest.raises(RecoveryError, match="`vm2` still has a device of link `shm0`") as caught:
        await ground.hands.plug("vm1", ground.repair())
    assert caught.value.hint == "vpctl recover vm2"
    assert (await ground.broker.query_ivshmem("shm0.g1")) is not None, "what vm2 has is served as before"
    await ground.hands.unplug("vm2", "shm0", 1)
    await ground.hands.plug("vm1", ground.repair())
    assert (await ground.broker.query_ivshmem("shm0.g1")) is None


async def test_a_device_is_given_another_peer_only_where_its_qemu_hears_the_broker(ground: Ground) -> None:
    await ground.plugged()
    known = ground.state.links["shm0"]
    ground.state.machines["vm1"].set_state(VmState.RECOVERING)
    ground.state.forget("vm1")
    known.asked = "relink"
    repair = await ground.hands.repair_of("shm0")
    assert repair is not None
    assert (repair.policy, repair.unplug) == ("replug", (("vm2", 1),)), "it was served by a broker that died"
    shared = shared_region(RUN, TOPOLOGY.links[0], 1, rundir=ground.state.rundir)
    assert shared is not None
    with socket.socket(socket.AF_UNIX) as qemu:
        qemu.connect(shared.ends[1].socket)
        await until(lambda: _connected(ground), timeout=5, what="vm2's QEMU at the broker")
        known.asked = "relink"
        repair = await ground.hands.repair_of("shm0")
        assert repair is not None
        assert (repair.policy, repair.keep, repair.link_down) == ("relink", ("vm2",), (("vm2", 1),))
        assert (repair.first, repair.plugs) == ("vm2", ("vm1",))


async def _connected(ground: Ground) -> bool | None:
    served = await ground.broker.query_ivshmem("shm0.g1")
    return bool(served and served["ends"][1]["connected"]) or None
