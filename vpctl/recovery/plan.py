"""What to do about a fault: a pure function from the topology and what is known of it to steps.

A survivor's end is unplugged and plugged afresh while the dead guest is re-created; the survivor comes first, since
the end that is plugged first is the one that listens. A kind with a virtio-net end begins there instead, and its
other end waits for that guest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from vpctl.recovery.state import LinkView, RingsView
from vpctl.topology.model import LinkSpec

REPLUG = "replug"
"""The policy by which every survivor's device is unplugged, and plugged anew."""

RELINK = "relink"
"""The policy by which a survivor keeps its device, which has its link set down, and up for the new other end."""

RESUME = "resume"
"""The policy by which a virtio-net end that lives is not touched at all: the new other end goes on with its rings.

That takes rings that run, and another guest whose QEMU is gone with all that heard them; else it is `RELINK`."""

FALLBACK: Mapping[str, str] = MappingProxyType({RESUME: RELINK, RELINK: REPLUG})
"""Policy → the one to try after it has failed, which asks less of what is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """How one link is put together again, as its generation `generation`."""

    link: str
    policy: str
    """By which it is done, whatever was asked for."""
    generation: int
    unplug: tuple[tuple[str, int], ...]
    """(VM, generation) of the devices to take out first, at VMs that live."""
    first: str
    """The VM whose end is plugged first."""
    second: str
    keep: tuple[str, ...] = ()
    """The VMs whose device stays, and whose link is set up again for the other end."""
    link_down: tuple[tuple[str, int], ...] = ()
    """(VM, generation) of the devices that stay, but whose link is set down first: that stops their rings."""
    hold: tuple[tuple[str, int], ...] = ()
    """(VM, generation) of the devices that stay as they are, their rings too, which the other end goes on with."""

    @property
    def plugs(self) -> tuple[str, ...]:
        """The VMs whose end is plugged, in order."""
        return tuple(vm for vm in (self.first, self.second) if vm not in self.keep)

    @property
    def link_up(self) -> tuple[str, ...]:
        """The VMs whose link is set up when the other's guest is there."""
        return () if self.hold else self.keep

    @property
    def plug_step(self) -> str:
        """What plugging an end is called."""
        return "resume" if self.hold else "plug"


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
            steps += [("hold", f"{vm}/{repair.link}.g{generation}") for vm, generation in repair.hold]
            steps += [("unlink", f"{vm}/{repair.link}.g{generation}") for vm, generation in repair.link_down]
            steps += [("unplug", f"{vm}/{repair.link}.g{generation}") for vm, generation in repair.unplug]
            if repair.first in repair.plugs and repair.first != self.vm:
                steps.append(("plug", f"{repair.first}/{repair.link}.g{repair.generation}"))
        if self.recreate:
            steps.append(("boot", f"{self.vm} (generation {self.generation})"))
        for repair in self.repairs:
            steps += [("link", f"{vm}/{repair.link}") for vm in repair.link_up]
            steps += [
                (repair.plug_step, f"{vm}/{repair.link}.g{repair.generation}")
                for vm in repair.plugs
                if vm != repair.first or vm == self.vm
            ]
        return steps + [("verify", repair.link) for repair in self.repairs]


def plan_repair(
    link: LinkSpec,
    view: LinkView,
    alive: Collection[str],
    rings: RingsView | None = None,
    *,
    policy: str | None = None,
    unreachable: Collection[str] = (),
) -> Repair:
    """Return how to repair a link, given the VMs that live, and what is known of its rings if one end owns them.

    `policy` is another than the link's own; `unreachable` are the VMs whose device can be given no other peer. A new
    generation, so that no id, socket or ring of the old one is met again. Unplug is asked for every generation that
    may be plugged at a survivor, the newest first.
    """
    policy = policy or link.recovery.policy
    while policy in view.failed and policy in FALLBACK:
        policy = FALLBACK[policy]
    if rings is not None and rings.vm in alive and (rings.vm in view.gone or not rings.served):
        policy = REPLUG  # there is no device to keep, or QEMU makes no use of another back-end
    names = [end.vm for end in link.endpoints]
    if rings is not None:
        names.sort(key=lambda vm: vm != rings.vm)
    survivors = [vm for vm in names if vm in alive]
    holders = [vm for vm in survivors if view.plugged.get(vm)]
    if rings is None and policy != REPLUG:
        tellable = len(holders) == 1 and len(view.plugged[holders[0]]) == 1 and holders[0] not in unreachable
        policy = RELINK if tellable else REPLUG
    if rings is None:
        names.sort(key=lambda vm: vm not in (holders if policy == RELINK else survivors))
    first, second = names
    single = first in survivors and first not in view.gone and len(view.plugged.get(first, ())) == 1
    # What another guest's QEMU has heard may not be signalled while its device goes, and under TCG not afterwards.
    silent = second not in survivors or not view.plugged.get(second)
    if policy == RESUME and not (rings and rings.served and rings.running and single and silent):
        policy = RELINK
    # Rings that nobody could go on with are begun anew.
    idle = rings is not None and rings.idle and (RESUME not in view.failed or not rings.running)
    stays = idle or (policy in (RELINK, RESUME) and (rings is None or rings.served))
    keep = (first,) if stays and single else ()
    own = tuple((vm, view.plugged[vm][0]) for vm in keep)
    # The virtio-net end's device goes first, which stops the rings: its QEMU must not ring a device on its way out.
    # Where they have lost their back-end it is QEMU that stopped them, and the other guest was told by nobody: it may
    # write into buffers of the virtio-net end's until its device is gone.
    order = survivors if rings is None or rings.served else survivors[::-1]
    return Repair(
        link=link.name,
        policy=policy,
        generation=view.generation + 1,
        unplug=tuple(
            (vm, generation)
            for vm in order
            if vm not in keep
            for generation in sorted(view.plugged.get(vm, ()), reverse=True)
        ),
        first=first,
        second=second,
        keep=keep,
        link_down=own if not idle and policy != RESUME else (),
        hold=own if policy == RESUME else (),
    )


def plan_recovery(
    specs: Sequence[LinkSpec],
    vm: str,
    *,
    generation: int,
    links: Mapping[str, LinkView],
    alive: Collection[str],
    recreate: bool,
    rings: Mapping[str, RingsView] = MappingProxyType({}),
    policy: str | None = None,
) -> RecoveryPlan:
    """Return how to bring a VM back, and which of its links, `specs`, with it.

    `alive` are the VMs that are ready, `generation` is its present one, `rings` those of links with a virtio-net end,
    `policy` another than the links' own.
    """
    survivors = [name for name in alive if name != vm or not recreate]
    repairs = [plan_repair(link, links[link.name], survivors, rings.get(link.name), policy=policy) for link in specs]
    return RecoveryPlan(vm=vm, generation=generation + recreate, recreate=recreate, repairs=tuple(repairs))
