"""A VM whose QEMU is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.fakes.qmp_server import FakeQemu, serving
from vpctl.qmp.session import Session, connect
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.machine import Machine


class Reached(Machine):
    """A VM whose QMP session is given."""

    session: Session

    async def qmp(self) -> Session:
        return self.session


@asynccontextmanager
async def reached(state: TopologyState, vm: str, qemu: FakeQemu) -> AsyncIterator[Reached]:
    """Have a VM reach this QEMU for as long as the block lasts."""
    machine = state.machines[vm] = Reached(vm, state.run, state.rundir, state.journal, state.save)
    machine.ended = asyncio.get_running_loop().create_future()
    path = state.rundir.qmp_socket(vm)
    async with serving(path, qemu), connect(path, vm=vm, timeout=5, of_qemu=True) as machine.session:
        yield machine
