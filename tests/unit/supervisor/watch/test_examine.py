"""VMs that are examined, and end meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.supervisor.struck import (
    DEATHS,
    assert_at_rest,
    ends,
    struck,
)
from vpctl.errors import NotFoundError, QmpLostError
from vpctl.journal import read
from vpctl.qmp.session import Session
from vpctl.recovery.faults import Fault
from vpctl.recovery.state import VmState
from vpctl.rundir import Directories
from vpctl.supervisor.vm.machine import Machine
from vpctl.supervisor.watch import examine


@pytest.mark.parametrize("fault", DEATHS)
async def test_a_vm_that_dies_while_it_is_examined_is_not_examined_to_the_end(
    directories: Directories, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    async def endless(machine: Machine) -> None:
        await asyncio.Event().wait()  # QEMU has ended, and its socket is tried until the limit

    monkeypatch.setattr(examine, "unresponsive", endless)
    state = await struck(directories, ("a", fault), {}, asked="a")
    assert_at_rest(state)
    assert {machine.state for machine in state.machines.values()} == {VmState.READY}
    assert [end["ok"] for end in ends(state)] == [True]


@pytest.mark.parametrize("first", ["its connection closes", "its end is seen", "its exit is taken in"])
async def test_a_qemu_that_ends_while_it_is_asked_has_ended_and_is_not_silent(
    directories: Directories, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    async def closes(machine: Machine) -> Session:
        if first == "its end is seen":
            await machine.changed.wait()
        if first == "its exit is taken in":  # and whoever waits for that has not had its turn
            assert machine.process is None
            raise NotFoundError(f"VM `{machine.name}` does not run")
        raise QmpLostError(f"{machine.name}: QEMU closed the QMP connection, with `query-status` under way")

    monkeypatch.setattr(Machine, "qmp", closes)
    state = await struck(directories, ("a", Fault.QEMU_EXIT), {}, asked="a")
    assert_at_rest(state)
    faults = [e["attributes"]["fault"] for e in read(state.journal._path) if e["type"] == "fault"]
    assert faults == ["qemu-exit"]
    assert [(end["fault"], end["ok"]) for end in ends(state)] == [("qemu-exit", True)]
