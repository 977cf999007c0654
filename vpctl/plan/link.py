"""What the links of a run need: argv, memory, steps to plug them, the host's part."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vpctl.broker.control_page import PAGE_SIZE, control_header
from vpctl.links import LINK_KINDS
from vpctl.links.devices import control_memory, control_page_args, ram_memory
from vpctl.links.kind import HostNetwork, Memory, PlugStep, SharedRegion, VhostPciPair
from vpctl.links.pci import PciPlace, hole_args, place_of, power_of_two, root_port_args
from vpctl.plan.run import Run
from vpctl.qmp.device import DevicePlan
from vpctl.rundir import RunDir
from vpctl.topology.model import LinkSpec, Topology, VmSpec


def link_args(topology: Topology, vm: VmSpec) -> tuple[str, ...]:
    """Return the argv that a VM needs from its start because of its links.

    Root ports, one for each; a PCI hole that is large enough; and a control page, where a device has memory to show.
    """
    args: list[str] = []
    windows = _windows(topology, vm)
    for number, link in enumerate(topology.links_of(vm.name), start=1):
        args += root_port_args(link, vm, number=number, window=windows[number - 1])
    args += hole_args(vm, windows)
    if (page := control_page(topology, vm)) is not None:
        args += control_page_args(vm, page.size)
    return tuple(args)


def _windows(topology: Topology, vm: VmSpec) -> list[int]:
    """Return the size of the memory that each of a VM's links shows to its guest."""
    return [LINK_KINDS[link.kind].window(link, vm, topology) for link in topology.links_of(vm.name)]


def control_page(topology: Topology, vm: VmSpec) -> Memory | None:
    """Return the memory that a VM's QEMU inherits, in which its guest reads what its devices are; None: no need."""
    if not any(_windows(topology, vm)):
        return None
    return Memory(name=control_memory(vm.name), size=PAGE_SIZE, content=((0, control_header()),))


def shared_memory(topology: Topology) -> int:
    """Return the bytes of the host's memory that the links take, beside the guests' own."""
    return sum(LINK_KINDS[link.kind].memory(link) for link in topology.links)


def ram(topology: Topology, vm: VmSpec, generation: int) -> Memory | None:
    """Return the memory that is a VM's RAM in one of its lives; None where it is its QEMU's own affair.

    A peer maps it. A new life has a new one, since who mapped the old one may hold it a little longer. Its size is a
    power of two, as a peer's QEMU aborts at any other; the guest has the beginning of it, the rest is never touched.
    """
    if not any(LINK_KINDS[link.kind].virtio_net_end(link) == vm.name for link in topology.links_of(vm.name)):
        return None
    return Memory(name=ram_memory(vm.name, generation), size=power_of_two(vm.memory))


def _places(run: Run, link: LinkSpec) -> dict[str, PciPlace]:
    places = {}
    for end in link.endpoints:
        links, machine = run.topology.links_of(end.vm), run.machine(end.vm)
        places[end.vm] = place_of(
            link,
            machine.vm,
            number=1 + [other.name for other in links].index(link.name),
            of=len(links),
            qemu=machine.qemu_version,
            accelerator=machine.accelerator,
        )
    return places


def plug_steps(run: Run, link: LinkSpec, generation: int, *, first: str, rundir: RunDir) -> tuple[PlugStep, PlugStep]:
    """Return the steps that plug one generation of a link, beginning at VM `first` or where its kind has to."""
    return LINK_KINDS[link.kind].plug_steps(link, generation, first=first, places=_places(run, link), rundir=rundir)


def shared_region(
    run: Run,
    link: LinkSpec,
    generation: int,
    *,
    rundir: RunDir,
    kept: Mapping[str, int] = MappingProxyType({}),
) -> SharedRegion | None:
    """Return what the broker has to make and serve for one generation of a link; None for most kinds.

    `kept` are the VMs whose device is of an earlier one, with that.
    """
    return LINK_KINDS[link.kind].shared_region(link, generation, places=_places(run, link), rundir=rundir, kept=kept)


def vhost_pci_pair(run: Run, link: LinkSpec, generation: int, *, rundir: RunDir) -> VhostPciPair | None:
    """Return what the broker does for one generation of a link with a virtio-net end; None for other kinds."""
    return LINK_KINDS[link.kind].vhost_pci_pair(link, generation, places=_places(run, link), rundir=rundir)


def virtio_net_end(link: LinkSpec) -> str | None:
    """Return the VM whose virtio device the link's other end works; None for most kinds."""
    return LINK_KINDS[link.kind].virtio_net_end(link)


def host_network(link: LinkSpec, rundir: RunDir) -> HostNetwork | None:
    """Return what a link needs on the host beside QEMU; None for most kinds."""
    return LINK_KINDS[link.kind].host_network(link, rundir)


def host_networks(topology: Topology, rundir: RunDir) -> list[HostNetwork]:
    """Return what the links of a topology need on the host beside QEMU."""
    found = (host_network(link, rundir) for link in topology.links)
    return [network for network in found if network is not None]


def plugged_device(run: Run, link: LinkSpec, generation: int, *, vm: str, rundir: RunDir) -> DevicePlan:
    """Return what one generation of a link plugged into a VM; what has to be unplugged there."""
    for step in plug_steps(run, link, generation, first=vm, rundir=rundir):
        if step.vm == vm:
            return step.device
    raise KeyError(vm)
