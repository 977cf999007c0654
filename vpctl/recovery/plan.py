"""What to do about a fault: a pure function from the topology and what is known of it to steps.

A survivor's end is unplugged and plugged afresh while the dead guest is re-created; the survivor comes first, since
the end that is plugged first is the one that listens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vpctl.recovery.state import LinkView
from vpctl.topology.model import LinkSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """How one link is put together again, as its generation `generation`."""

    link: str
    policy: str
    generation: int
    unplug: tuple[tuple[str, int], ...]
    """(VM, generation) of the devices to take out first, at VMs that live."""
    first: str
    """The VM whose end is plugged first."""
    second: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryPlan:
    """Fence a VM, create it again as `generation`, and repair its links meanwhile."""

    vm: str
    generation: int
    """The VM's, once it is recovered."""
    recreate: bool
    """False: the VM is well and only links need repair."""
    repairs: tuple[Repair, ...]

    def lines(self) -> list[tuple[str, str]]:
        """Return (step, target) in order, for people."""
        steps = [("fence", self.vm)] if self.recreate else []
        for repair in self.repairs:
            steps += [("unplug", f"{vm}/{repair.link}.g{generation}") for vm, generation in repair.unplug]
            if repair.first != self.vm:
                steps.append(("plug", f"{repair.first}/{repair.link}.g{repair.generation}"))
        if self.recreate:
            steps.append(("boot", f"{self.vm} (generation {self.generation})"))
        for repair in self.repairs:
            steps += [
                ("plug", f"{vm}/{repair.link}.g{repair.generation}")
                for vm in (repair.first, repair.second)
                if vm == self.vm or repair.first == self.vm
            ]
        return steps + [("verify", repair.link) for repair in self.repairs]


def plan_repair(link: LinkSpec, view: LinkView, alive: Collection[str]) -> Repair:
    """Return how to repair a link, given the VMs that live.

    A new generation, so that no id, socket or ring of the old one is met again. Unplug is asked for every
    generation that may be plugged at a survivor, the newest first.
    """
    names = [end.vm for end in link.endpoints]
    survivors = [vm for vm in names if vm in alive]
    first = survivors[0] if survivors else names[0]
    second = next(vm for vm in names if vm != first)
    unplug = [(vm, generation) for vm in survivors for generation in sorted(view.plugged.get(vm, ()), reverse=True)]
    return Repair(
        link=link.name,
        policy=link.recovery.policy,
        generation=view.generation + 1,
        unplug=tuple(unplug),
        first=first,
        second=second,
    )


def plan_recovery(
    specs: Sequence[LinkSpec],
    vm: str,
    *,
    generation: int,
    links: Mapping[str, LinkView],
    alive: Collection[str],
    recreate: bool,
) -> RecoveryPlan:
    """Return how to bring a VM back, and which of its links, `specs`, with it.

    `alive` are the VMs that are ready, `generation` is its present one.
    """
    survivors = [name for name in alive if name != vm or not recreate]
    repairs = [plan_repair(link, links[link.name], survivors) for link in specs]
    return RecoveryPlan(vm=vm, generation=generation + recreate, recreate=recreate, repairs=tuple(repairs))
