"""Kind `ivshmem-doorbell`: a network over memory that both guests have (QEMU 7.2 and newer, our driver in a guest).

No process carries the packets: the guests' drivers do, through a region of the broker's that each QEMU shows its
guest as a PCI device, and they ring each other by eventfds that are the devices' interrupts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vpctl.broker import control_page as layout
from vpctl.broker.control_page import HOST_ID, peer_id
from vpctl.links.devices import device_id, ivshmem_doorbell
from vpctl.links.kind import Files, LinkKind, Memory, PlugStep, Requirements, SharedEnd, SharedRegion
from vpctl.links.pci import PciPlace
from vpctl.rundir import RunDir
from vpctl.topology.model import Endpoint, Key, KindRules, LinkSpec, Topology, VmSpec

MAX_MTU = 65535 - 14
"""A packet with its Ethernet header is one record."""

LARGEST_REGION = 64 << 30


def _wrong_size(size: int) -> str | None:
    if size & (size - 1):
        return f"{size} is not a power of two, such as {1 << (size.bit_length() - 1)} or {1 << size.bit_length()}"
    if not layout.SMALLEST_REGION <= size <= LARGEST_REGION:
        return f"{size} is not between {layout.SMALLEST_REGION >> 20}M and {LARGEST_REGION >> 30}G"
    return None


def _wrong_link(link: LinkSpec, topology: Topology) -> str | None:
    least = layout.smallest_region(link.queues)
    if link.options["size"] < least:
        return f"`size` is too small for {link.queues} queues: {least >> 20}M at least"
    return None


SIZE = Key(
    kind="size", default=16 << 20, help="memory that the guests share, a power of two (1M to 64G)", check=_wrong_size
)


class IvshmemDoorbellKind(LinkKind):
    """One ivshmem-doorbell device at each end, and a region between them."""

    rules = KindRules(
        name="ivshmem-doorbell",
        policies=("replug", "relink"),
        keys={"size": SIZE},
        max_queues=layout.MAX_QUEUE_PAIRS,
        max_mtu=MAX_MTU,
        check=_wrong_link,
    )
    requirements = Requirements(
        qemu=(7, 2),
        files=Files(qemu=11, broker=18, qemu_per_queue=7, broker_per_queue=4),
        devices=("ivshmem-doorbell", "ivshmem-plain", "pcie-root-port"),
    )

    def plug_steps(
        self, link: LinkSpec, generation: int, *, first: str, places: Mapping[str, PciPlace], rundir: RunDir
    ) -> tuple[PlugStep, PlugStep]:
        shared = self.shared_region(link, generation, places=places, rundir=rundir)
        ends = {end.vm: end for end in shared.ends}

        def step(vm: str) -> PlugStep:
            return PlugStep(vm=vm, device=ivshmem_doorbell(ends[vm], device_id(link.name, generation), places[vm]))

        return step(first), step(link.peer_of(first).vm)

    def outlives_reset(self, link: LinkSpec, vm: VmSpec) -> bool:
        # As at vhost-pci: a pc's firmware puts the memory below 4 GiB at a reboot, where Linux maps it uncached.
        return vm.machine != "pc"

    def shared_region(
        self,
        link: LinkSpec,
        generation: int,
        *,
        places: Mapping[str, PciPlace],
        rundir: RunDir,
        kept: Mapping[str, int] = MappingProxyType({}),
    ) -> SharedRegion:
        lives = [kept.get(end.vm, generation) for end in link.endpoints]
        ids = [
            peer_id(role=role, number=places[end.vm].number, of=places[end.vm].of, generation=lives[role])
            for role, end in enumerate(link.endpoints)
        ]
        size: int = link.options["size"]

        def shared(role: int, end: Endpoint) -> SharedEnd:
            return SharedEnd(
                vm=end.vm,
                name=device_id(link.name, lives[role]),
                socket=str(rundir.link_socket(link.name, lives[role], end=role)),
                id=ids[role],
                vectors=layout.vectors(link.queues),
                slot=layout.slot_offset(places[end.vm].number - 1),
                description=layout.SLOT.pack(
                    ivposition=ids[role],
                    generation=generation,
                    kind=layout.KIND_NET,
                    role=role,
                    peer=ids[1 - role],
                    host=HOST_ID,
                    queue_pairs=link.queues,
                    mtu=link.mtu,
                    mac=bytes.fromhex(end.mac.replace(":", "")),
                    name=link.name.encode(),
                    region_size=size,
                    data_offset=layout.HEADERS_SIZE,
                    ring_size=layout.ring_size(size, link.queues),
                ),
            )

        header = layout.region_header(region_size=size, generation=generation, queue_pairs=link.queues)
        return SharedRegion(
            name=device_id(link.name, generation),
            memory=Memory(name=f"region/{link.name}", size=size, content=((0, header),)),
            afresh=tuple((layout.side_offset(role), bytes(layout.SIDE_SIZE)) for role in range(2)),
            ends=tuple(shared(role, end) for role, end in enumerate(link.endpoints)),
            watch=str(rundir.watch_socket(link.name)),
        )

    def window(self, link: LinkSpec, vm: VmSpec, topology: Topology) -> int:
        size: int = link.options["size"]
        return size

    def memory(self, link: LinkSpec) -> int:
        size: int = link.options["size"]
        return size
