"""Policy `resume`: a vhost-pci end that died is followed by one that goes on; the virtio-net end is told nothing."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.vhost_user_frontend import RING_SIZE, Frontend
from tests.unit.supervisor.fronted import Ground, answer, ground_in, plugged
from vpctl.broker.control_page import SlotState
from vpctl.errors import HotplugError, RecoveryError
from vpctl.journal import read
from vpctl.recovery import execute
from vpctl.recovery.faults import Fault
from vpctl.recovery.ops import EndGoneError
from vpctl.recovery.report import Recorder
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor.hotplug import backends
from vpctl.wait import until


@pytest.fixture
async def ground(directories: Directories, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    monkeypatch.setattr(backends, "LOOK_AGAIN_SECONDS", 0.02)  # nobody tells these tests
    async with ground_in(directories) as made:
        yield made


def recorder() -> Recorder:
    now = time.monotonic()
    return Recorder(
        vm="vm1", fault=Fault.QEMU_EXIT, policy="resume", fault_at=now, detected_at=now, on_step=lambda step: None
    )


def dies(ground: Ground) -> None:
    """vm1 is dead, and fenced."""
    ground.state.machines["vm1"].set_state(VmState.RECOVERING)
    ground.state.forget("vm1")
    ground.link.set_state(LinkState.DOWN)
    ground.link.asked = "resume"


async def front(ground: Ground) -> Any:
    (found,) = await ground.broker.query_backends()
    return found


async def works(ground: Ground, generation: int) -> tuple[Any, int]:
    """Be the driver in vm1 once its device is there."""

    async def attached() -> bool | None:
        return (await front(ground))["attached"] == f"lan0.g{generation}" or None

    await until(attached, timeout=5, what="vm1's next device")
    return await answer(ground, generation, (await front(ground))["features"])


def available(frontend: Frontend, ring: int, index: int) -> None:
    """Say, as the virtio-net end's guest, how many chains it has made available so far."""
    os.pwrite(frontend.ram, struct.pack("<H", index), frontend.offset(ring) + 16 * RING_SIZE + 2)


async def test_the_front_end_has_no_word_and_no_command_and_the_back_end_its_old_rings(ground: Ground) -> None:
    async with plugged(ground) as frontend:
        before, commands = await front(ground), list(ground.qemus["vm2"].names())
        rings = [(os.fstat(fd).st_ino, fd) for fd in (*frontend.kicks, *frontend.calls)]
        dies(ground)
        record = recorder()
        repair = asyncio.create_task(execute.repair_link("lan0", ground.hands, record))
        await until(lambda: freed(ground), timeout=5, what="the rings freed of the dead")
        ground.state.machines["vm1"].set_state(VmState.READY)
        connection, acknowledge = await works(ground, 2)
        await repair
        assert [(step["name"], step["target"]) for step in record.steps] == [
            ("hold", "vm2/lan0.g1"),
            ("resume", "vm1/lan0.g2"),
            ("verify", "lan0"),
        ]
        after, slot = await front(ground), await ground.slot()
        assert (after["session"], after["messages"]) == (before["session"], before["messages"])
        assert ground.qemus["vm2"].names() == commands
        assert (slot["state"], slot["generation"]) == (SlotState.ON, 2)
        assert ground.link.plugged == {"vm1": [2], "vm2": [1]}
        assert rings == [(os.fstat(fd).st_ino, fd) for fd in (*frontend.kicks, *frontend.calls)]
        connection.close()
        os.close(acknowledge)


async def test_a_front_end_whose_qemu_dies_before_its_turn_is_an_end_that_is_lost(ground: Ground) -> None:
    """Policy `relink`, which waits for vm1's boot; vm2 dies in that time."""
    async with plugged(ground):
        dies(ground)
        ground.link.asked = "relink"
        repair = await ground.hands.repair_of("lan0")
        assert repair is not None
        assert repair.link_up == ("vm2",)
        ground.state.forget("vm2")
        with pytest.raises(EndGoneError, match="`lan0` has lost its end in `vm2`"):
            await ground.hands.link_up("vm2", repair)


async def freed(ground: Ground) -> bool | None:
    return (await front(ground))["attached"] is None or None


async def test_rings_whose_memory_is_in_disorder_are_not_gone_on_with_and_the_next_repair_begins_new_ones(
    ground: Ground,
) -> None:
    async with plugged(ground) as frontend:
        dies(ground)
        plugs = ground.qemus["vm1"].names().count("device_add")
        available(frontend, 1, 0x4000)
        ground.state.machines["vm1"].set_state(VmState.READY)
        with pytest.raises(RecoveryError, match="ring 1 has 1024 descriptors, and 16384 wait"):
            await execute.repair_link("lan0", ground.hands, recorder())
        assert ground.qemus["vm1"].names().count("device_add") == plugs, "no guest is shown them"
        fallen = [e for e in read(ground.state.rundir.journal) if e["attributes"].get("name") == "fall-back"]
        assert [(e["link"], e["attributes"]["from"], e["attributes"]["to"]) for e in fallen] == [
            ("lan0", "resume", "relink")
        ]
        available(frontend, 1, 0)
        ground.link.asked = "resume"
        repair = await ground.hands.repair_of("lan0")
        assert repair is not None
        assert (repair.policy, repair.link_down, repair.hold) == ("relink", (("vm2", 1),), ())
        ground.link.set_state(LinkState.UP)
        assert ground.link.view().failed == set(), "what is up may be gone on with another time"


async def test_a_driver_that_does_not_take_the_rings_up_is_named(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "TAKEN_UP_SECONDS", 1.0)
    async with plugged(ground):
        dies(ground)
        ground.state.machines["vm1"].set_state(VmState.READY)
        with pytest.raises(HotplugError, match=r"`lan0\.g2`: its driver does not go on with the rings of `lan0\.g1`"):
            await execute.repair_link("lan0", ground.hands, recorder())
        assert ground.link.view().failed == {"resume"}
        assert ground.link.state is LinkState.FAILED


async def test_rings_are_not_freed_of_a_guest_that_still_has_its_device(ground: Ground) -> None:
    async with plugged(ground):
        with pytest.raises(RecoveryError, match="`vm1` still has a device of link `lan0`"):
            await ground.hands.hold("vm2", "lan0", 1)
        assert (await front(ground))["attached"] == "lan0.g1"


async def test_rings_whose_broker_died_after_they_were_held_are_not_waited_for(ground: Ground) -> None:
    async with plugged(ground):
        dies(ground)
        repair = asyncio.create_task(execute.repair_link("lan0", ground.hands, recorder()))
        await until(lambda: freed(ground), timeout=5, what="the rings freed of the dead")
        await ground.broker.backend_close("lan0.g1")
        ground.state.machines["vm1"].set_state(VmState.READY)
        with pytest.raises(RecoveryError, match="no rings any more"):
            async with asyncio.timeout(backends.RINGS_SECONDS / 4):
                await repair


async def test_rings_that_stop_before_they_are_held_are_an_error_and_not_waited_for(ground: Ground) -> None:
    async with plugged(ground) as frontend:
        dies(ground)
        await frontend.stop()
        with pytest.raises(RecoveryError, match="no rings any more"):
            await ground.hands.hold("vm2", "lan0", 1)
        repair = await ground.hands.repair_of("lan0")
        assert repair is not None
        assert (repair.policy, repair.keep, repair.hold) == ("relink", ("vm2",), ())
