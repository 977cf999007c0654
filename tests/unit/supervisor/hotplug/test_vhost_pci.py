"""Links with a virtio-net end, by a real broker: who waits for whom, what is told to which guest, and who follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.unit.supervisor.fronted import (
    LINK,
    Ground,
    ground_in,
    plugged,
    served,
)
from vpctl.broker.control_page import KIND_VHOST_PCI, SlotState
from vpctl.errors import RecoveryError
from vpctl.journal import read
from vpctl.recovery import execute
from vpctl.recovery.faults import Fault
from vpctl.recovery.plan import plan_repair
from vpctl.recovery.report import Recorder
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor.hotplug import backends
from vpctl.wait import until


@pytest.fixture
async def ground(directories: Directories, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    monkeypatch.setattr(backends, "LOOK_AGAIN_SECONDS", 0.02)  # nobody tells most of these tests
    async with ground_in(directories) as made:
        yield made


async def test_the_back_end_comes_when_the_rings_are_there_and_is_told_of_them_before_its_device(
    ground: Ground,
) -> None:
    task = asyncio.create_task(ground.plugged())
    await until(lambda: served(ground), timeout=5, what="the broker's socket")
    assert ground.qemus["vm1"].names() == [], "there are no rings yet"
    async with ground.rings():
        await task
        slot = await ground.slot()
        assert (slot["state"], slot["kind"], slot["generation"]) == (SlotState.ON, KIND_VHOST_PCI, 1)
        assert slot["region_size"] == 256 << 20
        assert ground.qemus["vm2"].names()[-3:] == ["chardev-add", "netdev_add", "device_add"]
        assert ground.qemus["vm1"].device_names()[-2:] == ["chardev-add", "device_add"]


async def test_whichever_device_goes_the_back_ends_guest_has_let_go_before(ground: Ground) -> None:
    async with plugged(ground):
        await ground.hands.unplug("vm2", "lan0", 1)
        assert (await ground.slot())["state"] == SlotState.OFF
        assert await ground.broker.query_backends() == []
        await ground.hands.unplug("vm1", "lan0", 1)
        assert (await ground.slot())["state"] == SlotState.FREE
    assert ground.qemus["vm2"].names()[-3:] == ["device_del", "netdev_del", "chardev-remove"]
    assert ground.qemus["vm1"].names()[-2:] == ["device_del", "chardev-remove"]
    offs = [entry["attributes"] for entry in read(ground.state.rundir.journal) if entry["type"] == "link.off"]
    assert [off["device"] for off in offs] == ["lan0.g1"], "it is told once"
    assert ground.link.plugged == {"vm1": [], "vm2": []}


async def test_a_back_end_whose_broker_died_is_told_by_its_slot_and_not_waited_for(ground: Ground) -> None:
    async with plugged(ground):
        await ground.broker.backend_close("lan0.g1")  # the next broker knows nothing of it
        repair = await ground.hands.repair_of("lan0")
        assert repair is not None
        assert [vm for vm, _ in repair.unplug] == ["vm1", "vm2"], "nobody tells vm1's driver when the buffers go"
        for vm, generation in repair.unplug:
            await ground.hands.unplug(vm, "lan0", generation)
        assert (await ground.slot())["state"] == SlotState.FREE


async def test_a_link_that_works_needs_no_repair_and_a_front_end_that_nobody_works_keeps_its_device(
    ground: Ground,
) -> None:
    async with plugged(ground) as frontend:
        assert await ground.hands.repair_of("lan0") is None
        await frontend.stop()
        await ground.hands.unplug("vm1", "lan0", 1)
        repair = await ground.hands.repair_of("lan0")
        assert repair is not None
        assert (repair.keep, repair.unplug, repair.generation) == (("vm2",), (), 2)


async def test_no_front_end_is_begun_while_another_qemu_still_maps_the_old_ones_memory(ground: Ground) -> None:
    async with plugged(ground):
        await ground.hands.unplug("vm2", "lan0", 1)
        with pytest.raises(RecoveryError, match="`vm1` still has a device of link `lan0`") as caught:
            await ground.hands.plug("vm2", ground.repair())
        assert caught.value.hint == "vpctl recover vm1"


async def test_rings_that_run_again_are_stopped_for_the_unplug_of_the_device_that_may_hear_them(
    ground: Ground,
) -> None:
    async with plugged(ground) as frontend:
        await frontend.stop()
        await frontend.start()
        front = await ground.hands.vhost_pci.backend("lan0")
        assert not ground.hands.vhost_pci.works("lan0", front)
        repair = plan_repair(
            LINK,
            ground.link.view(),
            ["vm1", "vm2"],
            ground.hands.vhost_pci.view("lan0", front),
            policy="relink",
        )
        assert (repair.keep, repair.link_down, repair.unplug) == (("vm2",), (("vm2", 1),), (("vm1", 1),))


async def test_by_relink_a_surviving_front_end_keeps_its_device_and_has_its_link_down_meanwhile(
    ground: Ground,
) -> None:
    async with plugged(ground) as frontend:
        ground.state.machines["vm1"].set_state(VmState.RECOVERING)
        ground.state.forget("vm1")
        ground.link.set_state(LinkState.DOWN)
        ground.link.asked = "relink"
        now = time.monotonic()
        recorder = Recorder(
            vm="vm1",
            fault=Fault.QEMU_EXIT,
            policy="relink",
            fault_at=now,
            detected_at=now,
            on_step=lambda step: None,
        )
        repair = asyncio.create_task(execute.repair_link("lan0", ground.hands, recorder))
        await until(lambda: _said(ground, False), timeout=5, what="vm2's link down")
        await frontend.stop()  # as a QEMU does then
        ground.state.machines["vm1"].set_state(VmState.READY)
        await until(lambda: _said(ground, True), timeout=5, what="vm2's link up")
        await frontend.start()
        await repair
        assert ground.link.plugged == {"vm1": [2], "vm2": [1]}
    assert "device_del" not in ground.qemus["vm2"].names()
    assert [step["name"] for step in recorder.steps] == ["unlink", "link", "plug", "verify"]


async def _said(ground: Ground, up: bool) -> bool | None:
    return {"name": "lan0.g1.net", "up": up} in ground.qemus["vm2"].commands("set_link") or None
