"""One VM's boot: how it ends, and which of several signs of that is told."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.broker.protocol import Exit
from vpctl.errors import QmpError, QmpLostError, ReadyTimeoutError, VpctlError
from vpctl.process import identify
from vpctl.recovery.state import VmState
from vpctl.rundir import Directories
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm import machine as machine_module
from vpctl.supervisor.vm.machine import Machine


class Broken(Machine):
    """A VM whose boot meets with an error as soon as its QEMU runs."""

    error: VpctlError

    async def _stages(self, broker: Any, *, adopted: bool) -> None:
        self.process = identify(os.getpid())
        raise self.error


def broken(directories: Directories, error: VpctlError) -> Broken:
    run, rundir = made_run(made_topology(vms=["vm1"])), made(directories)
    state = TopologyState(run, rundir)
    machine = Broken("vm1", run, rundir, state.journal, state.save)
    machine.error = error
    return machine


@pytest.mark.parametrize("error", [QmpLostError("vm1: the connection ended"), ReadyTimeoutError("no ssh into vm1")])
async def test_a_connection_that_breaks_since_its_qemu_ends_is_told_as_that(
    directories: Directories, error: VpctlError
) -> None:
    """What breaks first depends on the moment; the cause and the exit code do not."""
    machine = broken(directories, error)
    exit_ = Exit(name="vm/vm1", generation=1, pid=1, status=-9, monotonic=0.0)
    asyncio.get_running_loop().call_later(0.05, machine.take_exit, exit_)
    with pytest.raises(ReadyTimeoutError) as caught:
        await machine.boot(None)  # type: ignore[arg-type]
    assert caught.value.message == "`vm1`: boot stage `process`: QEMU was killed by SIGKILL"


async def test_a_broken_connection_to_a_qemu_that_lives_stays_what_it_is(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "END_SECONDS", 0.05)
    machine = broken(directories, QmpLostError("vm1: the connection ended"))
    with pytest.raises(QmpError, match="the connection ended") as caught:
        await machine.boot(None)  # type: ignore[arg-type]
    assert caught.value.exit_code == 5


async def test_the_end_of_a_vm_that_was_ready_names_the_vm(directories: Directories) -> None:
    machine = broken(directories, QmpLostError(""))
    machine.ended = asyncio.get_running_loop().create_future()
    machine.set_state(VmState.READY)
    machine.take_exit(Exit(name="vm/vm1", generation=0, pid=1, status=-6, monotonic=0.0))
    error = await machine.end_after_boot()
    assert error.message == "`vm1`: QEMU was killed by SIGABRT before everything was up"
    assert error.exit_code == 4
