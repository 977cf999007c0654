"""What a supervisor of another version has left, or a damaged disk: the next one starts, and keeps the guests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.broker import made
from tests.unit.supervisor.records import LINKS, RUN, VMS
from vpctl.recovery.faults import Fault, Incident
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor.record import afresh, read_record
from vpctl.supervisor.state import TopologyState

WORDS = ["run_id", "vms", "links", "up", "name", "state", "generation", "ssh", "port", "incident", "plugged", "offer"]
KEYS = st.sampled_from([*WORDS, "gone", "timings", "vm", "interrupts"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from([*VMS, *LINKS, "up"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=15,
)


def written(state: TopologyState) -> dict[str, Any]:
    """Return a record of a run whose VMs are ready and whose links are up."""
    for machine in state.machines.values():
        machine.generation, machine.connections.ssh_port = 2, 2200
        machine.set_state(VmState.READY)
    state.machines["a"].incident = Incident(fault=Fault.DEVICE_LOST, at=1.0, detected_at=2.0)
    for link in state.links.values():
        link.generation, link.plugged = 3, {"a": [3], "b": [3]}
        link.set_state(LinkState.UP)
    state.up = {"timings": [{"vm": "a", "stage": "qmp", "ms": 1.0}], "steps": [], "checks": []}
    status: dict[str, Any] = json.loads(json.dumps(state.status()))
    return status


def restored(directories: Directories, data: object) -> TopologyState | None:
    """Return a state that has taken a record over, None if there is none in it."""
    state = TopologyState(RUN, made(directories))
    record = read_record(data, run_id=RUN.run_id, vms=state.machines, links=state.links)
    if record is None:
        return None
    for name, entry in record.links.items():
        state.links[name].restore(entry)
    for name in state.machines:
        state.machines[name].restore(record.vms.get(name) or afresh(name, 0))
    assert set(record.unread) == {*state.machines, *state.links} - {*record.vms, *record.links}
    return state


def test_all_that_was_written_down_is_taken_over(directories: Directories) -> None:
    before = written(TopologyState(RUN, made(directories)))
    after = restored(directories, before)
    assert after is not None
    after.up = before["up"]
    said = after.status()
    assert said["vms"] == before["vms"]
    assert said["links"] == before["links"]


OLDER = ("parked_fds", "interrupts", "incident", "ssh", "reason"), ("rests", "reason", "offer", "gone", "failed")


def test_keys_that_an_earlier_version_did_not_write_have_defaults(directories: Directories) -> None:
    data = written(TopologyState(RUN, made(directories)))
    for entries, keys in zip((data["vms"], data["links"]), OLDER, strict=True):
        for entry in entries:
            for key in keys:
                del entry[key]
    state = restored(directories, data)
    assert state is not None
    assert [machine.state for machine in state.machines.values()] == [VmState.READY] * 2
    assert [(link.state, link.plugged["a"]) for link in state.links.values()] == [(LinkState.UP, [3])] * 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(JSON)
def test_any_record_is_read_as_far_as_it_has_sense(directories: Directories, data: object) -> None:
    if isinstance(data, dict):
        data.setdefault("run_id", RUN.run_id)
    restored(directories, data)


@pytest.mark.parametrize("key", ["state", "generation", "plugged"])
def test_a_link_of_which_too_little_is_known_is_looked_for_and_the_others_are_taken_over(
    directories: Directories, key: str
) -> None:
    data = written(TopologyState(RUN, made(directories)))
    del data["links"][0][key]
    record = read_record(data, run_id=RUN.run_id, vms=VMS, links=LINKS)
    assert record is not None
    assert (record.unread, list(record.links), list(record.vms)) == (["lan0"], ["lan1"], VMS)


def test_another_runs_record_is_none() -> None:
    assert read_record({"run_id": "another", "vms": [], "links": []}, run_id=RUN.run_id, vms=VMS, links=LINKS) is None
