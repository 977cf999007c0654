"""A supervisor that takes over what runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.fakes.qmp_server import FakeQemu, serving
from tests.unit.supervisor.records import LINKS, RUN, VMS
from vpctl.broker.service import hold
from vpctl.client import connection
from vpctl.errors import HostError
from vpctl.journal import read
from vpctl.links.devices import device_id
from vpctl.process import identify
from vpctl.process_record import Child
from vpctl.recovery.state import VmState
from vpctl.rundir import Directories, read_json, write_json
from vpctl.supervisor.__main__ import EXIT_TERMINATED, supervise
from vpctl.supervisor.service import Supervisor
from vpctl.supervisor.vm.machine import Machine


class Broker:
    """Of a broker's connection, what a supervisor that takes over asks."""

    def __init__(self, *children: Child) -> None:
        self._children = list(children)

    async def list(self) -> list[Child]:
        return self._children


class Watches:
    """Of `FaultResponse`, what a supervisor that takes over asks."""

    def __init__(self) -> None:
        self.watched: list[str] = []

    def watch(self, machine: Any) -> None:
        self.watched.append(machine.name)


async def taken_over(supervisor: Supervisor, *children: Child) -> tuple[bool, list[str]]:
    broker_connection: Any = supervisor._broker_connection
    broker_connection._client = Broker(*children)
    watches: Any = Watches()
    known = await supervisor._take_over(watches)
    return known, watches.watched


@pytest.mark.parametrize("content", ["{", "[]", '{"vms": 7, "links": [{"name": "lan0"}]}', '{"run_id": 1}'])
async def test_a_damaged_record_costs_no_guest_and_the_devices_that_are_there_are_found(
    directories: Directories, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    rundir = made(directories)
    rundir.status.write_text(content)
    supervisor = Supervisor(RUN, rundir)
    state = supervisor._state
    process = identify(1)
    assert process is not None
    child = Child(name="vm/a", generation=4, process=process, directory="/nowhere")
    qemu = FakeQemu()
    qemu.parts.add(("device", device_id("lan0", 7)))
    open_: list[bool] = []

    async def to_ready(machine: Machine, broker: object, *, adopted: bool) -> float:
        open_.append(machine.connections._session is not None)
        return 0.0

    monkeypatch.setattr(Machine, "_to_ready", to_ready)
    async with asyncio.timeout(10), serving(rundir.qmp_socket("a"), qemu):
        known, watched = await taken_over(supervisor, child)
        half_booted = state.machines["a"].is_half_booted
        open_.append(state.machines["a"].connections._session is not None)
        nothing: Any = None
        await state.machines["a"].resume(nothing)
    assert open_ == [True, False], "QEMU serves one client on its socket"
    assert (known, watched) == (True, [])
    machine = state.machines["a"]
    assert (machine.generation, machine.process, half_booted) == (4, process, True)
    assert state.machines["b"].state is VmState.STARTING
    assert (state.links["lan0"].generation, state.links["lan0"].plugged) == (7, {"a": [7]})
    [warning] = [entry["attributes"] for entry in read(rundir.journal) if entry["type"] == "warning"]
    assert set(warning["unread"]) == {*VMS, *LINKS}
    record: Mapping[str, Any] = read_json(rundir.status)  # type: ignore[assignment]
    assert record["run_id"] == RUN.run_id, "the next one finds it whole"


async def test_a_first_start_is_none_that_takes_over(directories: Directories) -> None:
    rundir = made(directories)
    assert await taken_over(Supervisor(RUN, rundir)) == (False, [])
    write_json(rundir.status, {"run_id": "of an earlier run", "vms": [], "links": []})
    assert await taken_over(Supervisor(RUN, rundir)) == (False, [])


async def test_a_topology_of_another_version_is_kept_and_each_command_told_what_to_do(
    directories: Directories,
) -> None:
    """To end would be to end its guests, or to be started again for ever."""
    rundir = made(directories)
    write_json(rundir.spec, {"topology": {"name": "pair", "vms": []}, "version": 99})
    lock = hold(rundir)
    supervising = asyncio.create_task(supervise(rundir))
    try:
        async with asyncio.timeout(20), connection.connect(rundir) as supervisor:
            with pytest.raises(HostError, match="another version's: KeyError") as caught:
                await supervisor.execute("query-status")
        assert caught.value.hint is not None
        assert "`vpctl down pair` ends it" in caught.value.hint
        assert not supervising.done()
    finally:
        supervising.cancel()
        os.close(lock)
    assert await supervising == EXIT_TERMINATED
