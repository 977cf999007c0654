"""What a link kind is: pure functions from a resolved link to argv and hotplug steps.

A new kind is one new file beside this one and one line in `LINK_KINDS`. `plan` shows what these functions return,
`recovery` and `supervisor` carry it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from vpctl.links.pci import PciPlace
from vpctl.qmp.device import DevicePlan
from vpctl.rundir import RunDir
from vpctl.topology.model import KindRules, LinkSpec, Topology, VmSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """How many files a link has open, counted on QEMU 7.2 with links of 1 and 16 queue pairs that were up."""

    qemu: int
    """In the QEMU of either end: that of the end that has more."""
    broker: int = 0
    qemu_per_queue: int = 0
    """More of them for each further queue pair."""
    broker_per_queue: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What a kind needs: of a QEMU its version, devices and network back-ends; of the host open files."""

    qemu: tuple[int, int]
    files: Files
    devices: tuple[str, ...] = ()
    netdevs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlugStep:
    """Plug one end: `device` into `vm`. Steps are carried out in order; each is done before the next begins."""

    vm: str
    device: DevicePlan


@dataclass(frozen=True, kw_only=True, slots=True)
class HostNetwork:
    """What a link needs on the host beside QEMU: a bridge without any address, whose only ports are two taps."""

    bridge: str
    taps: tuple[str, str]
    """One for each endpoint, in the link's order; they stay while QEMUs come and go."""
    mtu: int
    """Bytes; of the taps and the bridge, since a bridge drops what is larger than a port's."""
    label: str
    """What people see of it, as the interfaces' alias."""
    devices: tuple[str, ...]
    """Character devices that QEMU opens: this user must be able to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory that the broker makes and keeps under a name; `content` is what it begins with, the rest is zero."""

    name: str
    size: int
    content: tuple[tuple[int, bytes], ...] = ()
    """(offset, bytes), written in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedEnd:
    """One end of a memory that guests share: whom QEMU asks for it, and what the guest is told of the device."""

    vm: str
    name: str
    """Of the device, for the broker."""
    socket: str
    """Where the broker serves it to that VM's QEMU."""
    id: int
    vectors: int
    slot: int
    """Where this device is described in the VM's control page: an offset; its first four bytes are the state."""
    description: bytes
    """All of the slot, its state `free`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedRegion:
    """What the broker does for one generation of a link beside QEMU's part: a memory, served to devices at its ends.

    Carried out in this order. Before the first plug, when no QEMU has a device of an earlier generation: the memory
    is made, or cleared, and served. Before each end's plug: its slot on. Before the first unplug: the slots of all
    ends off, and each guest's acknowledgement awaited, since a device may be rung no more once it goes. After each
    unplug: its slot free.

    Where an end keeps its device of an earlier generation: that one's slot names no peer, and its guest acknowledges
    it; then `memory`'s content and `afresh` are written, the other end is served anew, and the slot names its peer.
    """

    name: str
    memory: Memory
    afresh: tuple[tuple[int, bytes], ...]
    """For each end what its guest writes in the memory, as it is before it has: (offset, bytes)."""
    ends: tuple[SharedEnd, ...]
    watch: str = ""
    """A socket for people's own ivshmem clients, which may look on; empty: there is none."""

    def end_of(self, vm: str) -> tuple[int, SharedEnd] | None:
        """Return number and end of a VM; None if this memory is not served to it."""
        return next(((number, end) for number, end in enumerate(self.ends) if end.vm == vm), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtioNetEnd:
    """A virtio device of a VM whose vhost-user back-end is the broker; its netdev connects to `socket`."""

    vm: str
    name: str
    socket: str
    queue_pairs: int
    many_regions: bool
    """Whether its VM may have more regions of memory, with those of shared-memory devices, than one table takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VhostPciPair:
    """What the broker does for one generation of a link whose one end works the rings of the other, `virtio_net_end`.

    Before the virtio-net end's plug: the broker listens on its socket. Before the other end's plug: the virtio-net
    end's driver has started its rings, and these are served, with the VM's memory, to the device that is about to
    come. Before the unplug of either: the device's driver has let go of the rings.
    """

    virtio_net_end: VirtioNetEnd
    vhost_pci_end: SharedEnd
    name: str
    """Of the device at `vhost_pci_end`, for the broker."""


class LinkKind(Protocol):
    """One kind of link; everything here is pure. A kind inherits from it what it has no use for."""

    @property
    def rules(self) -> KindRules:
        """Its keys, policies and limits, for the loader."""

    @property
    def requirements(self) -> Requirements:
        """What it needs of QEMU."""

    def plug_steps(
        self, link: LinkSpec, generation: int, *, first: str, places: Mapping[str, PciPlace], rundir: RunDir
    ) -> tuple[PlugStep, PlugStep]:
        """Return how one generation of a link is plugged, beginning at VM `first` (after a crash: the survivor).

        A kind with a `virtio_net_end` begins there.
        """

    def virtio_net_end(self, link: LinkSpec) -> str | None:
        """Return the VM whose virtio device is worked by the other end, which maps that VM's memory; None: neither.

        That end is plugged first, and the other when its driver has started its rings.
        """
        return None

    def host_network(self, link: LinkSpec, rundir: RunDir) -> HostNetwork | None:
        """Return what has to be on the host before anything is plugged; the same for every generation."""
        return None

    def shared_region(
        self,
        link: LinkSpec,
        generation: int,
        *,
        places: Mapping[str, PciPlace],
        rundir: RunDir,
        kept: Mapping[str, int] = MappingProxyType({}),
    ) -> SharedRegion | None:
        """Return what the broker has to make and serve for one generation.

        `kept` are the VMs whose device stays, with that one's generation.
        """
        return None

    def outlives_reset(self, link: LinkSpec, vm: VmSpec) -> bool:
        """Whether the device at a VM's end is as good as before once the VM's guest has rebooted."""
        return True

    def vhost_pci_pair(
        self, link: LinkSpec, generation: int, *, places: Mapping[str, PciPlace], rundir: RunDir
    ) -> VhostPciPair | None:
        """Return what the broker does for one generation of a kind with a `virtio_net_end`."""
        return None

    def window(self, link: LinkSpec, vm: VmSpec, topology: Topology) -> int:
        """Return the bytes of the memory that the link's device shows to a VM's guest; 0: registers only."""
        return 0

    def memory(self, link: LinkSpec) -> int:
        """Return the bytes of the host's memory that the link takes."""
        return 0
