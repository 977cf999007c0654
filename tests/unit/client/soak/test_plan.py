"""What a soak does is its seed's; what it makes of journals and counts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.made import made_topology
from vpctl.client.soak.plan import (
    FAULTS,
    LONGEST_DELAY,
    Census,
    Injection,
    PlannedFault,
    false_alarms,
    faults_of_round,
    leaks,
    missed,
    percentiles,
)

TOPOLOGY = made_topology(("ab0", "a", "b"), ("bc0", "b", "c"))
ALONE = made_topology(vms=["a"])

seeds = st.integers(-(10**9), 10**9)
numbers = st.integers(1, 10**6)


@given(seeds, numbers)
def test_a_round_is_the_same_whenever_it_is_asked_for(seed: int, number: int) -> None:
    faults = faults_of_round(TOPOLOGY, seed=seed, number=number)
    assert faults == faults_of_round(TOPOLOGY, seed=seed, number=number)
    assert 1 <= len(faults) <= 2
    names = {vm.name for vm in TOPOLOGY.vms}
    for planned in faults:
        assert 0 <= planned.delay <= LONGEST_DELAY
        assert (planned.vm in names) == (planned.injection not in (Injection.SUPERVISOR, Injection.BROKER))
        if planned.link is not None:
            assert planned.vm in {end.vm for end in TOPOLOGY.link(planned.link).endpoints}
    assert len({planned.vm for planned in faults}) == len(faults), "no VM is hit twice"


def test_some_hundred_rounds_have_every_blow_at_every_vm_and_at_recoveries() -> None:
    rounds = [faults_of_round(TOPOLOGY, seed=1, number=number) for number in range(1, 401)]
    firsts = {(faults[0].injection, faults[0].vm) for faults in rounds}
    assert {injection for injection, _ in firsts} == set(Injection)
    for vm in TOPOLOGY.vms:
        assert {injection for injection, name in firsts if name == vm.name} == set(Injection) - {
            Injection.SUPERVISOR,
            Injection.BROKER,
        }
    assert {faults[1].injection for faults in rounds if len(faults) > 1} == {
        Injection.KILL,
        Injection.SUPERVISOR,
        Injection.BROKER,
    }


@given(seeds, numbers)
def test_a_topology_without_links_loses_no_device(seed: int, number: int) -> None:
    assert all(
        planned.injection is not Injection.DEVICE for planned in faults_of_round(ALONE, seed=seed, number=number)
    )


def fault(name: str, vm: str | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "fault", "attributes": {"fault": name, "reason": "why"}}
    return entry if vm is None else {**entry, "vm": vm}


def test_a_fault_that_was_caused_is_no_false_alarm_and_any_other_is() -> None:
    faults = (PlannedFault(injection=Injection.HANG, vm="a"), PlannedFault(injection=Injection.BROKER))
    entries = [fault("guest-hang", "a"), fault("broker-exit"), {"type": "vm.state", "attributes": {}}]
    assert false_alarms(faults, entries) == []
    assert false_alarms(faults, [*entries, fault("guest-hang", "b")]) == ["b: guest-hang: why"]
    assert false_alarms(faults, [fault("qemu-exit", "a")]) == ["a: qemu-exit: why"]


def test_a_blow_that_nobody_noticed_is_missed() -> None:
    for injection, named in FAULTS.items():
        vm = None if injection in (Injection.SUPERVISOR, Injection.BROKER) else "a"
        faults = (PlannedFault(injection=injection, vm=vm),)
        assert bool(missed(faults, [fault("guest-hang", "b")])) == (named is not None)
        if named is not None:
            assert missed(faults, [fault(str(named), vm)]) == []


BEFORE = Census(processes=4, sockets=9, files={"broker": 20, "vm/a.1": 60}, memory={"broker": 10.0})


def test_what_is_as_it_was_leaks_nothing() -> None:
    assert leaks(BEFORE, BEFORE, 100) == []
    reborn = Census(processes=4, sockets=9, files={"broker": 22, "vm/a.2": 90}, memory={"broker": 12.0})
    assert leaks(BEFORE, reborn, 10) == [], "another QEMU has another count"


def test_what_has_grown_is_a_leak() -> None:
    after = Census(processes=5, sockets=10, files={"broker": 30, "vm/a.1": 70}, memory={"broker": 99.0})
    assert [text.split(":")[0] for text in leaks(BEFORE, after, 10)] == [
        "processes",
        "files in the run directory",
        "descriptors of broker",
        "descriptors of vm/a.1",
        "memory of broker",
    ]


def test_percentiles_are_values_that_were_there() -> None:
    assert percentiles([]) == {"p50": None, "p90": None, "p99": None, "max": None}
    assert percentiles([5.0]) == {"p50": 5.0, "p90": 5.0, "p99": 5.0, "max": 5.0}
    assert percentiles([float(n) for n in range(1, 101)]) == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "max": 100.0}
