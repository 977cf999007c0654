"""Two VMs with a link of shared memory, for every test that asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.fakes.broker import broker_running, made
from tests.fakes.qmp_server import FakeQemu
from tests.fakes.reached import reached
from tests.unit.supervisor.hotplug.ground import RUN, TOPOLOGY, Ground
from vpctl.plan.link import control_page
from vpctl.recovery.state import VmState
from vpctl.rundir import Directories
from vpctl.supervisor.hotplug.ops import Hands
from vpctl.supervisor.hotplug.slots import fill
from vpctl.supervisor.state import TopologyState


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
