"""Recoveries while more and more goes wrong: each ends with everything up, or with a failure that has a name.

The real alarms, recoveries and plans, over hands that change nothing but what is known; at any of their steps
something may die.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.broker import made
from tests.made import made_run
from tests.unit.supervisor.struck import (
    DEATHS,
    HEALTH,
    MISTAKE,
    TOPOLOGY,
    VMS,
    Checked,
    Strike,
    assert_at_rest,
    ends,
    struck,
)
from vpctl.errors import NotFoundError
from vpctl.guest.ssh import GuestSshError
from vpctl.journal import read
from vpctl.recovery.faults import Fault
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor.fault_response import LOSSES
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.machine import Machine
from vpctl.supervisor.watch import examine


class Cut(Checked):
    """A topology in whose first check of `ab0` the guest of b dies, and takes the connection along."""

    cuts = 1

    async def check(self, links: list[str]) -> dict[str, Any]:
        for vm in {end.vm for name in links for end in self.topology.link(name).endpoints}:
            if not self.is_ready(vm):
                raise NotFoundError(f"VM `{vm}` is {self.machines[vm].state}, not ready")
        if "ab0" in links and self.cuts:
            self.cuts -= 1
            asyncio.get_running_loop().call_later(0.1, self.hands.strike, "b", Fault.QEMU_EXIT)
            raise GuestSshError("`/usr/bin/vpctl-agent` in b: the connection broke")
        return await super().check(links)


class Endless(TopologyState):
    """A topology in which nothing that a check sends ever comes."""

    async def transmit(self, link: str) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError


strikes_of = st.tuples(st.sampled_from(VMS), st.sampled_from((*DEATHS, Fault.DEVICE_LOST)))
crashes_of = st.tuples(st.sampled_from(VMS), st.sampled_from([f for f in DEATHS if f is not Fault.GUEST_POWEROFF]))
patient = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@patient
@given(strikes_of, st.dictionaries(st.integers(1, 60), strikes_of, max_size=12))
def test_whatever_dies_in_whatever_order_it_ends_up_or_in_a_named_failure(
    directories: Directories, first: Strike, strikes: dict[int, Strike]
) -> None:
    state = asyncio.run(struck(directories, first, dict(strikes)))
    assert_at_rest(state)


@patient
@given(crashes_of, st.dictionaries(st.integers(1, 40), crashes_of, max_size=1))
def test_one_more_death_in_a_recovery_is_recovered_too(
    directories: Directories, first: Strike, strikes: dict[int, Strike]
) -> None:
    state = asyncio.run(struck(directories, first, dict(strikes)))
    assert_at_rest(state)
    assert {machine.state for machine in state.machines.values()} == {VmState.READY}
    assert {link.state for link in state.links.values()} == {LinkState.UP}
    assert all(end["ok"] for end in ends(state))
    assert ends(state)[-1]["fault"] in {str(first[1]), *(str(fault) for _, fault in strikes.values())}


def mistakes(state: TopologyState) -> list[dict[str, Any]]:
    entries = [entry["attributes"] for entry in read(state.journal._path) if entry["type"] == "warning"]
    return [entry for entry in entries if entry["warning"] == "internal"]


mistakes_of = st.tuples(st.sampled_from(VMS), st.sampled_from((*DEATHS, Fault.DEVICE_LOST, MISTAKE, MISTAKE)))


@settings(patient, max_examples=60)
@given(strikes_of, st.dictionaries(st.integers(1, 60), mistakes_of, max_size=12))
def test_whatever_raises_in_a_step_every_recovery_ends(
    directories: Directories, first: Strike, strikes: dict[int, Strike]
) -> None:
    state = asyncio.run(struck(directories, first, dict(strikes)))
    assert_at_rest(state)
    assert all("KeyError" in entry["error"] and "in step" in entry["traceback"] for entry in mistakes(state))


@pytest.mark.parametrize("step", range(1, 12))
async def test_a_mistake_in_one_step_is_journalled_tried_again_and_costs_no_other_link_its_repair(
    directories: Directories, step: int
) -> None:
    state = await struck(directories, ("b", Fault.QEMU_EXIT), {step: ("b", MISTAKE)})
    assert_at_rest(state)
    assert {link.state for link in state.links.values()} == {LinkState.UP}
    [entry] = mistakes(state)
    assert "KeyError: 'b'" in entry["error"]
    [end] = ends(state)
    assert end["ok"]
    # One that could not be repaired at the first attempt; not those that were.
    tries = [step["target"] for step in end["steps"] if step["name"] == "verify" and step["ok"]]
    assert sorted(set(tries)) == ["ab0", "ab1", "bc0"]


@pytest.mark.parametrize("dies", [True, False])
async def test_a_mistake_while_a_vm_is_examined_costs_a_death_meanwhile_no_recovery(
    directories: Directories, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """The recovery of that death has joined the one that was asked for."""

    async def breaks(machine: Machine) -> None:
        if dies:
            await machine.changed.wait()
        raise KeyError(machine.name)

    monkeypatch.setattr(examine, "unresponsive", breaks)
    state = await struck(directories, ("a", Fault.QEMU_EXIT) if dies else None, {}, asked="a")
    assert_at_rest(state)
    assert {machine.state for machine in state.machines.values()} == {VmState.READY}
    assert [(end["fault"], end["ok"]) for end in ends(state)] == [("qemu-exit", True)] * dies


async def test_a_mistake_at_each_attempt_ends_the_recovery_with_its_name(directories: Directories) -> None:
    state = await struck(directories, ("a", Fault.QEMU_EXIT), dict.fromkeys(range(1, 60), ("a", MISTAKE)))
    assert_at_rest(state)
    [end] = ends(state)
    assert (end["ok"], end["fault"]) == (False, "qemu-exit")
    assert "KeyError: 'a'" in end["error"]
    assert len(mistakes(state)) >= HEALTH.retries
    assert state.links["bc0"].state is LinkState.UP


async def test_a_vm_that_dies_in_each_boot_is_given_up_by_the_first_cause(directories: Directories) -> None:
    state = await struck(directories, ("a", Fault.GUEST_PANIC), {2: ("a", DEATHS[0]), 7: ("a", DEATHS[0])})
    assert_at_rest(state)
    assert ends(state)[0]["fault"] == "guest-panic"


async def test_a_guest_that_dies_while_its_link_is_checked_costs_the_recovery_of_another_nothing(
    directories: Directories,
) -> None:
    state = await struck(directories, ("a", Fault.QEMU_EXIT), {}, kind=Cut)
    assert_at_rest(state)
    assert {link.state for link in state.links.values()} == {LinkState.UP}
    assert [(end["vm"], end["ok"]) for end in ends(state)] == [("a", True), ("b", True)]
    failed = [entry for entry in read(state.journal._path) if "attempt" in entry["attributes"]]
    assert failed == []


async def test_a_vm_that_powers_off_is_stopped_and_not_recovered(directories: Directories) -> None:
    state = await struck(directories, ("b", Fault.GUEST_POWEROFF), {})
    assert [machine.state for machine in state.machines.values()] == [VmState.READY, VmState.STOPPED, VmState.READY]
    assert {link.state for link in state.links.values()} == {LinkState.DOWN}
    assert ends(state) == []


@pytest.mark.parametrize(
    ("fault", "link_state"), [(Fault.DEVICE_LOST, LinkState.DOWN), (Fault.QEMU_EXIT, LinkState.UP)]
)
async def test_a_link_that_rests_is_left_alone_unless_its_vm_is_created_anew(
    directories: Directories, fault: Fault, link_state: LinkState
) -> None:
    state = await struck(directories, ("a", fault), {}, resting="ab1")
    assert (state.links["ab0"].state, state.links["ab1"].state) == (LinkState.UP, link_state)
    assert state.links["ab1"].rests is (link_state is LinkState.DOWN)
    [end] = ends(state)
    assert end["ok"]


async def test_a_check_of_a_link_that_goes_down_ends_there(directories: Directories) -> None:
    """What is sent over it then never comes; the receiver would wait for a minute."""
    state = Endless(made_run(TOPOLOGY), made(directories))
    known = state.links["ab0"]
    known.set_state(LinkState.UP)
    async with asyncio.timeout(5):
        checking = asyncio.create_task(state.check(["ab0"]))
        await asyncio.sleep(0.01)
        known.begin(2)
        known.set_state(LinkState.UP)
        checked = await checking
    assert (checked["ok"], checked["links"][0]["tests"]) == (False, [])
    assert "went down" in checked["links"][0]["reason"]
    [entry] = [e for e in read(state.journal._path) if e["type"] == "check"]
    assert "went down" in entry["attributes"]["reason"]


async def test_a_link_that_was_given_up_is_put_back_when_a_user_asks(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(state: TopologyState, vm: str) -> dict[str, str]:
        return {"ab0": "no packets"} if state.links["ab0"].state is not LinkState.UP else {}

    async def well(machine: Machine) -> None:
        return None

    monkeypatch.setattr(examine, "broken_links", broken)
    monkeypatch.setattr(examine, "unresponsive", well)
    state = await struck(directories, None, {}, removed=LOSSES, once_more=True, asked_at_last="a")
    assert_at_rest(state)
    assert (state.links["ab0"].state, state.links["ab0"].rests) == (LinkState.UP, False)
