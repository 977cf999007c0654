"""Two VMs with a link of shared memory: QEMUs that are played, and a real broker."""

from __future__ import annotations

from dataclasses import dataclass

from tests.fakes.qmp_server import FakeQemu
from tests.made import made_run, made_topology
from vpctl.broker.client import BrokerClient
from vpctl.broker.control_page import SLOT, SlotState
from vpctl.links.devices import control_memory
from vpctl.plan.link import shared_region
from vpctl.recovery.plan import Repair, plan_repair
from vpctl.supervisor.hotplug.ops import Hands
from vpctl.supervisor.state import TopologyState

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
