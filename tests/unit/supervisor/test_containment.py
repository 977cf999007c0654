"""What goes wrong in the work of one VM reaches no other, nor the supervisor: journalled, and begun anew."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.broker.protocol import Exit
from vpctl.errors import InternalError, QmpLostError
from vpctl.journal import read
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor import fault_response as fault_response_module
from vpctl.supervisor.bring_up import BringUp
from vpctl.supervisor.fault_response import FaultResponse
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.machine import Machine
from vpctl.supervisor.watch.qemu import Watch
from vpctl.tasks import Again

TOPOLOGY = made_topology(("lan0", "a", "b"))


@pytest.fixture
async def state(directories: Directories) -> TopologyState:
    state = TopologyState(made_run(TOPOLOGY), made(directories))
    state.journal.listeners.append(state.journalled)
    for machine in state.machines.values():
        machine.generation = 1
        machine.ended = asyncio.get_running_loop().create_future()
        machine.set_state(VmState.READY)
    state.links["lan0"].set_state(LinkState.UP)
    return state


class Starts:
    """Of `Recoveries`, what alarms have a use for."""

    hands: Any = None

    def __init__(self) -> None:
        self.started: list[str] = []
        self.news = asyncio.Event()

    def start(self, vm: str, *, automatic: bool = False) -> object:
        self.started.append(vm)
        self.news.set()
        return {}

    def is_automatic(self, vm: str) -> bool:
        return True


def warnings(state: TopologyState) -> list[dict[str, Any]]:
    return [entry for entry in read(state.rundir.journal) if entry["type"] == "warning"]


async def test_a_watch_that_raises_is_begun_anew_and_the_other_vm_is_recovered_all_the_same(
    state: TopologyState, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    again = asyncio.Event()

    async def look(self: Watch) -> None:
        name = self._machine.name
        looks.append(name)
        if looks.count("a") == 3:
            again.set()
        if name == "a":
            raise OverflowError("int too large to convert to float")
        await asyncio.Event().wait()

    monkeypatch.setattr(Watch, "run", look)
    monkeypatch.setattr(fault_response_module, "FOR_EVER", Again(first=0.0, longest=0.0))
    starts = Starts()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        fault_response = FaultResponse(state, group, starts)
        for machine in state.machines.values():
            fault_response.watch(machine)
        await again.wait()
        state.machines["b"].take_exit(Exit(name="vm/b", generation=1, pid=1, status=-9, monotonic=0.0))
        await starts.news.wait()
        state.machines["a"].generation += 1  # its watch has nothing left to do
        end_watches()
    assert starts.started == ["b"]
    entries = warnings(state)
    assert {entry["vm"] for entry in entries} == {"a"}
    said = entries[0]["attributes"]
    assert (said["warning"], said["work"], said["attempt"]) == ("internal", "look-a", 1)
    assert said["error"] == "OverflowError: int too large to convert to float"
    assert "in look" in said["traceback"]


def end_watches() -> None:
    """End what would wait for the ends of VMs."""
    for task in asyncio.all_tasks():
        if task.get_name().startswith(("watch-", "look-")):
            task.cancel()


async def test_an_event_that_nothing_can_be_made_of_ends_no_connection(state: TopologyState) -> None:
    state.journal.qmp_event("a", {"event": "SHUTDOWN", "data": []})
    state.journal.qmp_event("a", {"event": "DEVICE_DELETED", "data": 7})
    state.journal.qmp_event("a", {"event": "GUEST_PANICKED"})
    ended = state.machines["a"].ended
    assert ended is not None
    assert ended.done()
    assert ended.result().signs.panicked


async def test_an_error_of_ours_within_a_group_is_told_as_it_is(state: TopologyState) -> None:
    async def lost() -> None:
        raise QmpLostError("a: QEMU closed the QMP connection")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(lost())
    error = state.foreseen(caught.value, name="recovery", vm="a")
    assert isinstance(error, QmpLostError)
    assert warnings(state) == []


async def test_any_other_is_an_internal_error_that_names_the_log(
    state: TopologyState, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        state.links["lan1"]
    except KeyError as raised:
        error = state.foreseen(raised, name="recovery", vm="a")
        assert raised.args == ("lan1",)
        frame = traceback.extract_tb(raised.__traceback__)[0].name
    assert isinstance(error, InternalError)
    assert (error.code, error.message) == ("internal", "KeyError: 'lan1'")
    assert error.hint is not None
    assert str(state.rundir.state / "supervisor.log") in error.hint
    assert frame in warnings(state)[0]["attributes"]["traceback"]
    assert frame in capsys.readouterr().err


async def test_a_guest_whose_boot_raises_has_failed_and_the_others_boots_go_on(
    state: TopologyState, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def boot(machine: Machine, broker: object) -> float:
        if machine.name == "a":
            raise IndexError("list index out of range")
        machine.set_state(VmState.READY)
        return 1.0

    monkeypatch.setattr(Machine, "boot", boot)
    starts: Any = Starts()
    for machine in state.machines.values():
        machine.set_state(VmState.STARTING)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        up = BringUp(state, lambda: starts, starts, FaultResponse(state, group, starts), group)
        done = await asyncio.gather(*(up._vm(machine, explicit=True) for machine in state.machines.values()))
        end_watches()
    assert [str(error) for error in done] == ["IndexError: list index out of range", "None"]
    assert [machine.state for machine in state.machines.values()] == [VmState.FAILED, VmState.READY]
    assert [entry["vm"] for entry in warnings(state)] == ["a"]
