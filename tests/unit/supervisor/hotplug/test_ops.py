"""Recovery's hands with shared memory: a broker's part, both QEMUs' parts, and their order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from tests.fakes.broker import broker_running, made
from tests.fakes.qmp_server import FakeQemu, Refuse
from tests.fakes.reached import reached
from tests.made import made_run, made_topology
from vpctl.broker.client import BrokerClient
from vpctl.broker.control_page import SLOT, SlotState
from vpctl.errors import RecoveryError, VpctlError
from vpctl.journal import read
from vpctl.links.devices import control_memory
from vpctl.plan.link import control_page, shared_region
from vpctl.qmp import hotplug
from vpctl.qmp.session import Session
from vpctl.recovery.ops import EndGoneError
from vpctl.recovery.plan import Repair, plan_repair
from vpctl.recovery.state import VmState
from vpctl.rundir import Directories
from vpctl.supervisor.hotplug import ivshmem_doorbell
from vpctl.supervisor.hotplug.hooks import Doorbell
from vpctl.supervisor.hotplug.ops import Hands
from vpctl.supervisor.hotplug.slots import fill
from vpctl.supervisor.hotplug.stale_interrupts import StaleInterrupts
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.machine import Machine
from vpctl.wait import until

TOPOLOGY = made_topology(("shm0", "vm1", "vm2"), kind="ivshmem-doorbell")
RUN = made_run(TOPOLOGY)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Two VMs that are ready, their QEMUs, a real broker, and the hands."""

    state: TopologyState
    qemus: dict[str, FakeQemu]
    broker: BrokerClient
    hands: Hands

    def repair(self) -> Repair:
        return plan_repair(TOPOLOGY.links[0], self.state.links["shm0"].view(), ["vm1", "vm2"])

    async def slots(self, generation: int) -> list[SlotState]:
        """Return what each guest sees of its device of this generation."""
        shared = shared_region(RUN, TOPOLOGY.links[0], generation, rundir=self.state.rundir)
        assert shared is not None
        states = []
        for end in shared.ends:
            seen = SLOT.unpack(await self.broker.contents(control_memory(end.vm), end.slot, SLOT.size))
            assert seen["ivposition"] in (0, end.id)
            state = seen["state"]
            assert isinstance(state, int)
            states.append(SlotState(state))
        return states

    async def plugged(self) -> Repair:
        repair = self.repair()
        for vm in ("vm1", "vm2"):
            await self.hands.plug(vm, repair)
        self.state.links["shm0"].begin(repair.generation)
        return repair


@pytest.fixture
async def ground(directories: Directories) -> AsyncIterator[Ground]:
    rundir = made(directories)
    state = TopologyState(RUN, rundir)
    qemus = {"vm1": FakeQemu(), "vm2": FakeQemu()}
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(broker_running(rundir))
        for vm, fake in qemus.items():
            (await stack.enter_async_context(reached(state, vm, fake))).set_state(VmState.READY)
            page = control_page(TOPOLOGY, TOPOLOGY.vm(vm))
            assert page is not None
            await fill(broker, page)
        hands = Hands(state, lambda: broker, watch=lambda machine: None)
        yield Ground(state=state, qemus=qemus, broker=broker, hands=hands)


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


@pytest.mark.parametrize("gone", [False, True])
async def test_the_places_of_a_device_that_has_gone_are_filled_before_anything_else_gets_them(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """As a supervisor leaves it that is killed between the end of a device and that."""
    done: list[str] = []

    async def present(session: Session, device: str) -> bool:
        done.append(f"look for {device}")
        return not gone

    async def unplugged(self: StaleInterrupts, machine: Machine, bell: Doorbell, before: frozenset[int]) -> None:
        done.append(f"park {bell.name}")

    async def switch_off(broker: BrokerClient, ends: object) -> list[str]:
        done.append("ask guests")
        return []

    monkeypatch.setattr(hotplug, "present", present)
    monkeypatch.setattr(StaleInterrupts, "unplugged", unplugged)
    monkeypatch.setattr(ivshmem_doorbell, "switch_off", switch_off)
    await ground.plugged()
    await ground.hands.unplug("vm1", "shm0", 1)
    order = ["park shm0.g1", "ask guests"]
    assert done == ["look for shm0.g1", *(order if gone else reversed(order))]


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
