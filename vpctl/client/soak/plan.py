"""A soak: which faults hit whom in which round, and what is made of what was seen. Pure.

A round depends on the seed, its number and the topology only, so that any one of them can be had again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vpctl.recovery.faults import Fault
from vpctl.topology.model import Topology


class Injection(StrEnum):
    """What a soak does."""

    KILL = "kill"
    PANIC = "panic"
    HANG = "hang"
    STOP = "stop"
    DEVICE = "device-del"
    SUPERVISOR = "kill-supervisor"
    BROKER = "kill-broker"


FAULTS: Mapping[Injection, Fault | None] = {
    Injection.KILL: Fault.QEMU_EXIT,
    Injection.PANIC: Fault.GUEST_PANIC,
    Injection.HANG: Fault.GUEST_HANG,
    Injection.STOP: Fault.QEMU_STOPPED,
    Injection.DEVICE: Fault.DEVICE_LOST,
    Injection.SUPERVISOR: None,  # no event for any guest or link
    Injection.BROKER: Fault.BROKER_EXIT,
}

LONGEST_DELAY = 3.0
"""Seconds from the first fault of a round to the second, which is to hit the recovery."""

SECOND = 0.3
"""The share of rounds that begin with a killed VM in which something else is hit while that is recovered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFault:
    """One fault to inject: at a VM, at a VM's device of a link, or at one of vpctl's own processes."""

    injection: Injection
    vm: str | None = None
    link: str | None = None
    delay: float = 0.0
    """Seconds after what came before."""

    def __str__(self) -> str:
        where = self.vm or ""
        return f"{self.injection} {where}{f'/{self.link}' if self.link else ''}".rstrip()


def faults_of_round(topology: Topology, *, seed: int, number: int) -> tuple[PlannedFault, ...]:
    """Return what is done in a round, from 1."""
    chance = random.Random(f"{seed}/{number}")
    vms = [vm.name for vm in topology.vms]
    injection = chance.choice(
        [injection for injection in Injection if injection is not Injection.DEVICE or topology.links]
    )
    pause = round(chance.uniform(0.0, 1.0), 2)
    if injection is Injection.DEVICE:
        link = chance.choice(topology.links)
        return (PlannedFault(injection=injection, vm=chance.choice(link.endpoints).vm, link=link.name, delay=pause),)
    if injection in (Injection.SUPERVISOR, Injection.BROKER):
        return (PlannedFault(injection=injection, delay=pause),)
    first = PlannedFault(injection=injection, vm=chance.choice(vms), delay=pause)
    if injection is not Injection.KILL or chance.random() >= SECOND:
        return (first,)
    delay = round(chance.uniform(0.0, LONGEST_DELAY), 2)
    others = [PlannedFault(injection=Injection.KILL, vm=vm, delay=delay) for vm in vms if vm != first.vm]
    own = [PlannedFault(injection=injection, delay=delay) for injection in (Injection.SUPERVISOR, Injection.BROKER)]
    return (first, chance.choice([*others, *own]))


def false_alarms(faults: Sequence[PlannedFault], entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the faults in a round's journal that nobody has caused."""
    caused = {(planned.vm, str(fault)) for planned in faults if (fault := FAULTS[planned.injection]) is not None}
    return [
        f"{entry.get('vm', 'vpctl')}: {entry['attributes']['fault']}: {entry['attributes'].get('reason', '')}"
        for entry in entries
        if entry["type"] == "fault" and (entry.get("vm"), entry["attributes"]["fault"]) not in caused
    ]


def missed(faults: Sequence[PlannedFault], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the first fault of a round if its fault was not named; later ones may hit what is dead already."""
    first = faults[0]
    fault = FAULTS[first.injection]
    named = {(entry.get("vm"), entry["attributes"]["fault"]) for entry in entries if entry["type"] == "fault"}
    return [f"{first}: no fault {fault} in the journal"] if fault and (first.vm, str(fault)) not in named else []


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """What a topology takes of the host: what is to be the same after a recovery as before the fault."""

    processes: int
    sockets: int
    """Files in its run directory."""
    files: Mapping[str, int]
    """Process → descriptors, those apart that a QEMU was given to keep; of QEMUs by generation (`vm/vm1.1`)."""
    memory: Mapping[str, float]
    """Process of ours → MiB, without what it shares."""


SLACK = 3
"""Of anything that is counted, for what comes and goes: a connection, a command under way."""

MEMORY_SLACK, MEMORY_EACH = 12.0, 0.25
"""MiB, and MiB a round, that a process of ours may grow by."""


def leaks(before: Census, after: Census, rounds: int) -> list[str]:
    """Return what has grown over some rounds."""
    allowed = max(SLACK, rounds // 4)
    found = [
        f"{what}: {old} before, {new} after"
        for what, old, new in (
            ("processes", before.processes, after.processes),
            ("files in the run directory", before.sockets, after.sockets),
        )
        if new > old
    ]
    found += [
        f"descriptors of {who}: {before.files[who]} before, {count} after"
        for who, count in after.files.items()
        if count > before.files.get(who, count) + allowed
    ]
    return found + [
        f"memory of {who}: {before.memory[who]:.1f} MiB before, {size:.1f} after"
        for who, size in after.memory.items()
        if who in before.memory and size > before.memory[who] + MEMORY_SLACK + MEMORY_EACH * rounds
    ]


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p90, p99 and the largest of some values, by nearest rank."""
    ranked = sorted(values)

    def at(share: float) -> float | None:
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else None

    return {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": ranked[-1] if ranked else None}
