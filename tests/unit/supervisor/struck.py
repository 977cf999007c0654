"""A topology whose VMs and links are struck by faults, with the steps of recoveries played."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.errors import QmpLostError, ReadyTimeoutError, VerificationError
from vpctl.journal import read
from vpctl.recovery.faults import Fault
from vpctl.recovery.plan import Repair
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories, read_json
from vpctl.supervisor.fault_response import DetectedFault, FaultResponse
from vpctl.supervisor.hotplug.ops import Hands
from vpctl.supervisor.jobs import Jobs
from vpctl.supervisor.recover import Recoveries
from vpctl.supervisor.state import TopologyState
from vpctl.topology.model import HealthSpec, VmSpec
from vpctl.wait import until

HEALTH = HealthSpec(retries=3, backoff=0.0)

VMS = ("a", "b", "c")

TOPOLOGY = made_topology(
    ("ab0", "a", "b"), ("ab1", "a", "b"), ("bc0", "b", "c"), vms=[VmSpec(name=name, health=HEALTH) for name in VMS]
)

MISTAKE = "mistake"
"""A step that raises what nobody has foreseen."""

Strike = tuple[str, Fault | str]


class Checked(TopologyState):
    """A topology whose full check believes what is known."""

    hands: Hit

    async def check(self, links: list[str]) -> dict[str, Any]:
        entries = [{"link": name, "ok": self.links[name].state is LinkState.UP} for name in links]
        await self.hands.step()  # what dies now has passed the check
        return {"ok": all(entry["ok"] for entry in entries), "links": entries}


class Hit(Hands):
    """Hands at whose steps VMs die."""

    fault_response: FaultResponse

    def __init__(self, state: TopologyState, strikes: dict[int, Strike]) -> None:
        nothing: Any = None
        super().__init__(state, lambda: nothing, lambda machine: None)
        self.strikes = strikes
        self.steps = 0
        self.doomed: dict[str, int] = defaultdict(int)

    async def step(self) -> None:
        self.steps += 1
        if self.strikes.get(self.steps, ("", ""))[1] == MISTAKE:
            raise KeyError(self.strikes.pop(self.steps)[0])
        await asyncio.sleep(0)
        if (strike := self.strikes.pop(self.steps, None)) is not None:
            self.strike(*strike)

    def strike(self, vm: str, fault: Fault | str) -> None:
        """Let a VM die: of a fault that the alarms see, or in the middle of its boot."""
        machine = self._state.machines[vm]
        if fault is Fault.DEVICE_LOST:
            self.remove_a_device(vm)
        elif self._state.is_alive(vm):
            assert isinstance(fault, Fault)
            ended = fault in (Fault.QEMU_EXIT, Fault.GUEST_POWEROFF)
            self.fault_response.take(
                machine, DetectedFault(fault=fault, at=0.0, reason="struck", process_ended=ended)
            )
        elif machine.state is VmState.BOOTING:
            self.doomed[vm] += 1

    def remove_a_device(self, vm: str) -> None:
        """Have somebody remove a device of a link that is up."""
        for link in TOPOLOGY.links_of(vm):
            known = self._state.links[link.name]
            if self._state.is_alive(vm) and known.state is LinkState.UP:
                known.lost(vm)
                self.fault_response.take_link_fault(vm, link.name, Fault.DEVICE_LOST, "struck")
                return

    async def fence(self, vm: str) -> None:
        await self.step()
        self._state.forget(vm)

    async def free_ram(self, vm: str, generation: int) -> None:
        return

    async def boot(self, vm: str) -> float:
        machine = self._state.machines[vm]
        machine.generation += 1
        machine.set_state(VmState.BOOTING)
        try:
            await self.step()
            await self.step()
        except KeyError:  # as the real ones do
            machine.set_state(VmState.CRASHED, reason="a mistake in its boot")
            raise
        if self.doomed.pop(vm, 0):
            machine.set_state(VmState.CRASHED, reason="it died in its boot")
            raise ReadyTimeoutError(f"`{vm}` died in its boot")
        machine.set_state(VmState.READY)
        return 1.0

    async def unplug(self, vm: str, link: str, generation: int) -> None:
        await self.step()
        self.require(vm)
        self._state.links[link].unplugged(vm, generation)

    async def plug(self, vm: str, repair: Repair) -> None:
        self._state.links[repair.link].plugging(vm, repair.generation)
        await self.step()
        self.require(vm)

    def expecting(self, link: str, vms: Collection[str]) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def verify(self, link: str) -> float:
        await self.step()
        if not all(self._state.is_ready(end.vm) for end in TOPOLOGY.link(link).endpoints):
            raise VerificationError(f"no packets over `{link}`")
        self._state.links[link].set_state(LinkState.UP)
        return time.monotonic()

    def require(self, vm: str) -> None:
        if not self._state.is_alive(vm):
            raise QmpLostError(f"{vm}: QEMU closed the QMP connection")


async def struck(
    directories: Directories,
    first: Strike | None,
    strikes: dict[int, Strike],
    *,
    asked: str | None = None,
    removed: int = 0,
    once_more: bool = False,
    asked_at_last: str | None = None,
    resting: str | None = None,
    kind: type[Checked] = Checked,
) -> TopologyState:
    """Let everything be up, let a VM die, and others while it is recovered; return the state that is left.

    `asked`: a VM that somebody has asked to be recovered just before. `removed`: how often a device of `a` is removed
    as soon as its link is up again; `once_more`, without waiting for anything. `asked_at_last`: a VM that somebody
    asks to be recovered then. `resting`: a link of which a guest has its interface off.
    """
    rundir = made(directories)
    rundir.journal.unlink(missing_ok=True)
    state = kind(made_run(TOPOLOGY), rundir)
    state.loaded = True
    for machine in state.machines.values():
        machine.generation = 1
        machine.set_state(VmState.READY)
    for link in TOPOLOGY.links:
        known = state.links[link.name]
        known.generation = 1
        for end in link.endpoints:
            known.plugging(end.vm, 1)
        known.set_state(LinkState.UP)
    if resting is not None:
        state.links[resting].rest("b has set its interface down")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        recoveries = Recoveries(state, Jobs(group, lambda name, data: None, state.foreseen))
        hands = state.hands = Hit(state, strikes)
        hands.fault_response = FaultResponse(state, group, recoveries)
        recoveries.hands = hands
        if asked is not None:
            recoveries.start(asked)
            await asyncio.sleep(0.01)
        if first is not None:
            hands.strike(*first)
        for count in range(removed):
            hands.fault_response.take_link_fault("a", "ab0", Fault.DEVICE_LOST, "removed")
            await until(partial(have_ended, state, count + 1), timeout=10, what="the recovery's end")
        if once_more:
            hands.fault_response.take_link_fault("a", "ab0", Fault.DEVICE_LOST, "removed")
        if asked_at_last is not None:
            recoveries.start(asked_at_last)
    return state


async def have_ended(state: TopologyState, count: int) -> bool | None:
    return len(ends(state)) >= count or None


def ends(state: TopologyState) -> list[dict[str, Any]]:
    return [entry["attributes"] for entry in read(state.journal._path) if entry["type"] == "recovery.end"]


def assert_at_rest(state: TopologyState) -> None:
    """Nothing hangs in between, and what says that it is up is."""
    for machine in state.machines.values():
        assert machine.state in (VmState.READY, VmState.STOPPED, VmState.FAILED), machine.name
        assert machine.reason or machine.state is VmState.READY
        assert machine.incident is None, machine.name
    assert read_json(state.rundir.status) == json.loads(json.dumps(state.status())), "a successor takes that over"
    for link in TOPOLOGY.links:
        known = state.links[link.name]
        whole = all(state.is_ready(end.vm) for end in link.endpoints)
        assert known.state is not LinkState.RECOVERING
        if whole and known.state is not LinkState.UP:
            told = any(not end["ok"] for end in ends(state)) or (known.rests and known.reason)
            assert told, "nobody is told that it is not up"
        if known.state is LinkState.UP:
            assert whole
            assert all(known.plugged[end.vm] == [known.generation] for end in link.endpoints)
    if any(m.state is VmState.FAILED for m in state.machines.values()):
        assert any(not end["ok"] and end["error"] and end["fault"] for end in ends(state))


DEATHS = (
    Fault.QEMU_EXIT,
    Fault.GUEST_PANIC,
    Fault.GUEST_HANG,
    Fault.QEMU_STOPPED,
    Fault.QMP_SILENT,
    Fault.GUEST_POWEROFF,
)
