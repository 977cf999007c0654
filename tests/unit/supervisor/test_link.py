"""What is known of a link, through plugs, unplugs and supervisors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vpctl.journal import Journal, read
from vpctl.recovery.state import LinkState, LinkView
from vpctl.rundir import RunDir
from vpctl.supervisor.link import Link


def linked(rundir: RunDir) -> Link:
    return Link("lan0", Journal(rundir.journal), lambda: None)


def test_what_may_be_plugged_is_known_before_the_plug_and_until_after_the_unplug(rundir: RunDir) -> None:
    saved: list[dict[str, Any]] = []
    link = Link("lan0", Journal(rundir.journal), lambda: saved.append(link.as_json()["plugged"]))
    link.begin(1)
    link.plugging("vm1", 1)
    link.plugging("vm2", 1)
    link.unplugged("vm1", 1)
    link.unplugged("vm1", 1)
    link.plugging("vm1", 2)
    link.forget("vm2")
    assert saved[-5:] == [
        {"vm1": [1]},
        {"vm1": [1], "vm2": [1]},
        {"vm1": [], "vm2": [1]},
        {"vm1": [2], "vm2": [1]},
        {"vm1": [2]},
    ]
    assert link.view() == LinkView(state=LinkState.RECOVERING, generation=1, plugged={"vm1": (2,)})


@pytest.mark.parametrize(
    ("state", "restored"),
    [
        (LinkState.UP, LinkState.UP),
        (LinkState.RECOVERING, LinkState.DOWN),
        (LinkState.FAILED, LinkState.DOWN),
        (LinkState.DOWN, LinkState.DOWN),
    ],
)
def test_a_successor_knows_the_devices_and_takes_an_unfinished_repair_for_none(
    rundir: RunDir, state: LinkState, restored: LinkState
) -> None:
    before = linked(rundir)
    before.begin(7)
    before.plugging("vm1", 6)
    before.plugging("vm1", 7)
    before.set_state(state)
    after = linked(rundir)
    after.restore(json.loads(json.dumps(before.as_json())))
    assert after.view() == LinkView(state=restored, generation=7, plugged={"vm1": (6, 7)})


def test_a_successor_knows_by_which_policies_a_repair_was_tried_in_vain(rundir: RunDir) -> None:
    saved: list[dict[str, Any]] = []
    before = Link("lan0", Journal(rundir.journal), lambda: saved.append(before.as_json()))
    before.begin(2)
    before.policy_failed("resume")
    after = linked(rundir)
    after.restore(json.loads(json.dumps(saved[-1])))
    assert after.view().failed == {"resume"}
    after.set_state(LinkState.UP)
    assert after.view().failed == frozenset()
    del saved[-1]["failed"]  # as an earlier version has written it
    after.restore(saved[-1])
    assert after.view().failed == frozenset()


def test_a_state_is_journalled_when_it_changes_and_only_then(rundir: RunDir) -> None:
    link = linked(rundir)
    for state in (LinkState.DOWN, LinkState.UP, LinkState.UP, LinkState.FAILED):
        link.set_state(state)
    assert [entry["attributes"]["state"] for entry in read(rundir.journal)] == ["up", "failed"]
