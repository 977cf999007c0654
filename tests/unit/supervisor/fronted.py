"""Two VMs that are joined by a link with a virtio-net end: QEMUs that are played, and a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.broker import broker_running, made
from tests.fakes.qmp_server import FakeQemu
from tests.fakes.reached import reached
from tests.fakes.vhost_user_frontend import Dialect, Frontend
from tests.made import made_run, made_topology
from vpctl.broker.client import BrokerClient
from vpctl.broker.control_page import ANSWER, HOST_ID, SLOT, AnswerState
from vpctl.broker.ivshmem import message as ivshmem
from vpctl.broker.protocol import BackendEvent
from vpctl.links.devices import control_memory
from vpctl.links.kind import VhostPciPair
from vpctl.plan.link import control_page, ram, vhost_pci_pair
from vpctl.recovery.faults import Fault
from vpctl.recovery.plan import Repair
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor.hotplug.ops import Hands
from vpctl.supervisor.hotplug.slots import fill
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.watch.vrings import VringWatch
from vpctl.wait import until

TOPOLOGY = made_topology(("lan0", "vm1", "vm2"), kind="vhost-pci")
LINK = TOPOLOGY.links[0]
RUN = made_run(TOPOLOGY)
QEMU = Dialect(name="7.2")


class TrustingHands(Hands):
    """Believes in packets."""

    def expecting(self, link: str, vms: Collection[str]) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    async def verify(self, link: str) -> float:
        self._state.links[link].set_state(LinkState.UP)
        return time.monotonic()


class Steps:
    """Of `Recoveries`, what a follower has a use for."""

    def progress(self, step: Mapping[str, Any]) -> None:
        return


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Two VMs that are ready, their QEMUs, vm2's memory, a real broker, and the hands."""

    state: TopologyState
    qemus: dict[str, FakeQemu]
    broker: BrokerClient
    hands: Hands
    faults: list[tuple[str, str, Fault, str]] = field(default_factory=list)
    """That a follower has found."""

    @property
    def link(self) -> Any:
        return self.state.links["lan0"]

    def vhost_pci_pair(self, generation: int) -> VhostPciPair:
        found = vhost_pci_pair(RUN, LINK, generation, rundir=self.state.rundir)
        assert found is not None
        return found

    async def slot(self) -> dict[str, int | bytes]:
        """Return what vm1's guest sees of its device."""
        end = self.vhost_pci_pair(1).vhost_pci_end
        return SLOT.unpack(await self.broker.contents(control_memory("vm1"), end.slot, SLOT.size))

    def repair(self) -> Repair:
        return Repair(link="lan0", policy="replug", generation=1, unplug=(), first="vm2", second="vm1")

    @asynccontextmanager
    async def rings(self, generation: int = 1) -> AsyncIterator[Frontend]:
        """Be vm2's QEMU, whose guest has a driver; rings run when the block begins."""
        frontend = Frontend(
            Path(self.vhost_pci_pair(generation).virtio_net_end.socket), memory("ram/vm2.g1"), dialect=QEMU
        )
        try:
            await frontend.up()
            yield frontend
        finally:
            frontend.close()
            os.close(frontend.ram)

    async def plugged(self) -> None:
        """Have both ends plugged, as generation 1; vm2's rings have to come by themselves."""
        self.link.begin(1)
        await self.hands.plug("vm2", self.repair())
        await self.hands.plug("vm1", self.repair())
        self.link.set_state(LinkState.UP)


def memory(name: str) -> int:
    """Return a copy of the descriptor of a memory of the broker's, which is in this process."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if f"vpctl:{name} " in str(entry.readlink()):
                return os.open(entry, os.O_RDWR)
    raise KeyError(name)


@asynccontextmanager
async def ground_in(directories: Directories) -> AsyncIterator[Ground]:
    """Yield it all."""
    rundir = made(directories)
    state = TopologyState(RUN, rundir)
    qemus = {"vm1": FakeQemu(), "vm2": FakeQemu()}
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(broker_running(rundir))
        for vm, fake in qemus.items():
            machine = await stack.enter_async_context(reached(state, vm, fake))
            machine.generation = 1
            machine.set_state(VmState.READY)
        for given in (control_page(TOPOLOGY, TOPOLOGY.vm("vm1")), ram(TOPOLOGY, TOPOLOGY.vm("vm2"), 1)):
            assert given is not None
            await fill(broker, given)
        hands = TrustingHands(state, lambda: broker, watch=lambda machine: None)
        yield Ground(state=state, qemus=qemus, broker=broker, hands=hands)


@asynccontextmanager
async def plugged(ground: Ground) -> AsyncIterator[Frontend]:
    """Have a link that works."""
    task = asyncio.create_task(ground.plugged())
    await until(lambda: served(ground), timeout=5, what="the broker's socket")
    async with ground.rings() as frontend:
        await task
        yield frontend


async def served(ground: Ground) -> bool | None:
    return bool(await ground.broker.query_backends()) or None


@asynccontextmanager
async def following(ground: Ground) -> AsyncIterator[VringWatch]:
    """Have a follower that hears what the broker tells."""
    recoveries: Any = Steps()
    async with asyncio.TaskGroup() as group:
        vring_watch = VringWatch(
            ground.state, ground.hands, recoveries, group, lambda *fault: ground.faults.append(fault)
        )

        async def listen() -> None:
            while True:
                event = await ground.broker.events.get()
                if isinstance(event, BackendEvent):
                    vring_watch.look(event.name.rpartition(".")[0])

        listening = group.create_task(listen())
        yield vring_watch
        listening.cancel()


async def link_state(ground: Ground, wanted: LinkState) -> None:
    async def look() -> bool | None:
        return ground.link.state is wanted or None

    await until(look, timeout=5, what=f"the link {wanted}, not {ground.link.state}")


def acknowledgement_of(path: str) -> tuple[socket.socket, int]:
    """Be the QEMU of a doorbell device; return its connection, and the eventfd by which its guest tells the host."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    while True:
        data, fds, _, _ = socket.recv_fds(connection, 8, 1)
        if ivshmem.decode(data) == HOST_ID and fds:
            return connection, fds[0]
        for fd in fds:
            os.close(fd)


async def answer(ground: Ground, generation: int, features: int) -> tuple[socket.socket, int]:
    """Be vm1's QEMU and its guest's driver, which says that it works the rings; return the QEMU's connection."""
    end = ground.vhost_pci_pair(generation).vhost_pci_end
    connection, acknowledge = await asyncio.to_thread(acknowledgement_of, end.socket)
    said = ANSWER.pack(state=AnswerState.ON, ivposition=end.id, request=1, features=features)
    await ground.broker.write(control_memory("vm1"), (end.slot + SLOT.offsets["answer"], said))
    os.eventfd_write(acknowledge, 1)
    return connection, acknowledge
