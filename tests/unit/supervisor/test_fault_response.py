"""Faults that come again and again."""

from __future__ import annotations

import pytest

from tests.unit.supervisor.struck import (
    HEALTH,
    assert_at_rest,
    ends,
    struck,
)
from vpctl.recovery.faults import Fault
from vpctl.recovery.state import LinkState
from vpctl.rundir import Directories
from vpctl.supervisor.fault_response import LOSSES


@pytest.mark.parametrize("step", range(1, 5))
async def test_a_device_that_is_removed_while_another_is_put_back_is_put_back_too(
    directories: Directories, step: int
) -> None:
    """Both links are repaired by one recovery, whose plan knew of the first only."""
    lost = ("a", Fault.DEVICE_LOST)
    state = await struck(directories, lost, {step: lost})
    assert_at_rest(state)
    assert {link.state for link in state.links.values()} == {LinkState.UP}
    assert {link["link"] for end in ends(state) for link in end["links"]} == {"ab0", "ab1"}
    assert all(end["ok"] for end in ends(state))


async def test_a_device_that_is_removed_now_and_then_is_put_back_each_time(directories: Directories) -> None:
    assert HEALTH.retries < LOSSES, "it is no death of the VM's"
    state = await struck(directories, None, {}, removed=LOSSES)
    assert_at_rest(state)
    assert [(end["fault"], end["ok"]) for end in ends(state)] == [("device-lost", True)] * LOSSES
    assert state.links["ab0"].state is LinkState.UP


async def test_a_device_that_is_removed_as_often_as_it_is_put_back_is_left_out_and_its_link_says_why(
    directories: Directories,
) -> None:
    state = await struck(directories, None, {}, removed=LOSSES, once_more=True)
    assert len(ends(state)) == LOSSES
    known = state.links["ab0"]
    assert (known.state, known.rests) == (LinkState.FAILED, True)
    assert known.reason is not None
    assert known.reason.startswith("its devices were removed more than 5 times within 60 s, at last in `a`: `vpctl")
    assert state.machines["a"].incident is None
    assert {state.links[name].state for name in ("ab1", "bc0")} == {LinkState.UP}
    assert state.status()["links"][0]["reason"] == known.reason
