"""Recovery's hands with shared memory: a broker's part, both QEMUs' parts, and their order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.fakes.qmp_server import Refuse
from tests.unit.supervisor.hotplug.ground import Ground
from vpctl.broker.control_page import SlotState
from vpctl.errors import VpctlError
from vpctl.recovery.ops import EndGoneError
from vpctl.recovery.state import VmState


async def test_a_qemu_that_was_adopted_in_its_boot_has_its_old_devices_taken_out_when_it_is_there(
    ground: Ground,
) -> None:
    """As after a record that was lost: its devices are known from QEMU, and its boot is seen through again."""
    await ground.plugged()
    machine = ground.state.machines["vm1"]
    machine.set_state(VmState.BOOTING)
    planning = asyncio.create_task(ground.hands.repair_of("shm0"))
    await asyncio.wait({planning}, timeout=0.1)
    assert not planning.done()
    machine.set_state(VmState.READY)
    repair = await planning
    assert repair is not None
    assert sorted(repair.unplug) == [("vm1", 1), ("vm2", 1)]


@pytest.mark.parametrize("step", ["link", "plug"])
async def test_a_device_that_stays_whose_qemu_dies_before_its_turn_is_an_end_that_is_lost(
    ground: Ground, step: str
) -> None:
    """The repair has waited for vm1's boot, and meanwhile all that was known of vm2 was forgotten."""
    await ground.plugged()
    repair = replace(ground.repair(), policy="relink", first="vm2", second="vm1", keep=("vm2",), unplug=())
    ground.state.forget("vm2")
    with pytest.raises(EndGoneError, match="`shm0` has lost its end in `vm2`"):
        await (ground.hands.link_up("vm2", repair) if step == "link" else ground.hands.plug("vm1", repair))


async def test_a_plug_that_fails_is_known_to_the_next_repair(ground: Ground) -> None:
    ground.qemus["vm1"].script("device_add", [Refuse("no room")])
    with pytest.raises(VpctlError, match="no room"):
        await ground.hands.plug("vm1", ground.repair())
    assert ground.state.links["shm0"].plugged == {"vm1": [1]}
    await ground.hands.unplug("vm1", "shm0", 1)
    assert await ground.slots(1) == [SlotState.FREE, SlotState.FREE]
