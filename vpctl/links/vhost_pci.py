"""Kind `vhost-pci`: one guest works the rings of its peer's virtio-net (QEMU 7.2 and newer, our driver in it).

The second endpoint, the virtio-net end, has an ordinary virtio-net on `-netdev vhost-user`; any guest with virtio-net
will do. The first one has a device that shows it the peer's memory, and our driver there is the vhost-pci end: what
one guest kicks is the other's interrupt, and no process of the host touches a packet. The broker passes between them
what virtio negotiates, and is asked for nothing else (docs/vhost-pci.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vpctl.broker import control_page as layout
from vpctl.broker.control_page import HOST_ID, peer_id
from vpctl.links.devices import device_id, ivshmem_doorbell, virtio_net
from vpctl.links.kind import Files, LinkKind, PlugStep, Requirements, SharedEnd, VhostPciPair, VirtioNetEnd
from vpctl.links.pci import PciPlace, power_of_two
from vpctl.qmp.device import DevicePlan
from vpctl.rundir import RunDir
from vpctl.topology.model import Endpoint, KindRules, LinkSpec, Topology, VmSpec

MAX_MTU = 65535 - 14
"""A packet with its Ethernet header is what virtio's lengths and Linux' sockets can say."""

LARGEST_MEMORY = 64 << 30
"""Of the virtio-net end's VM: what was shown to find its place in a peer's PCI hole."""

RING_SIZE = 1024
"""Descriptors in each of the virtio-net end's rings: as many as virtio-net of QEMU 7.2 takes with vhost-user."""

FEW_LINKS = 5
"""Links of a VM: with no more, its RAM (three regions at most) and their BARs fit into one vhost-user table of 8."""

INTX_BEFORE = (10, 0)
"""Under TCG a QEMU 7.2 dies when a vhost-user NIC with MSI-X is started (it looks for KVM's irqfds). 10.0 does not;
what lies between was not tried."""

OWN_MEMORY = ("-numa", "-m", "-mem-path", "-mem-prealloc")
"""A user's own options that would give a VM other memory than the one that its peer is shown."""


def _wrong_link(link: LinkSpec, topology: Topology) -> str | None:
    vm = topology.vm(link.endpoints[1].vm)
    if vm.memory > LARGEST_MEMORY:
        return f"`{vm.name}` has more memory than its peer can be shown: {LARGEST_MEMORY >> 30}G at most"
    for word in vm.qemu_args:
        if word in OWN_MEMORY or "memory-backend" in word:
            return f"`{vm.name}` shows its peer the memory that vpctl gives it: no `{word}` in its `qemu_args`"
    return None


class VhostPciKind(LinkKind):
    """virtio-net on vhost-user at the second endpoint; at the first, the other's memory and interrupts."""

    rules = KindRules(
        name="vhost-pci",
        policies=("relink", "replug", "resume"),
        max_queues=layout.MAX_QUEUE_PAIRS,
        max_mtu=MAX_MTU,
        check=_wrong_link,
    )
    requirements = Requirements(
        qemu=(7, 2),
        files=Files(qemu=11, broker=18, qemu_per_queue=12, broker_per_queue=5),
        devices=("virtio-net-pci", "ivshmem-doorbell", "ivshmem-plain", "pcie-root-port"),
        netdevs=("vhost-user",),
    )

    def virtio_net_end(self, link: LinkSpec) -> str:
        return link.endpoints[1].vm

    def plug_steps(
        self, link: LinkSpec, generation: int, *, first: str, places: Mapping[str, PciPlace], rundir: RunDir
    ) -> tuple[PlugStep, PlugStep]:
        pci_end, net_end = link.endpoints
        pair = self.vhost_pci_pair(link, generation, places=places, rundir=rundir)
        one = _virtio_net_device(net_end, pair.virtio_net_end, places[net_end.vm])
        other = ivshmem_doorbell(pair.vhost_pci_end, pair.name, places[pci_end.vm])
        return PlugStep(vm=net_end.vm, device=one), PlugStep(vm=pci_end.vm, device=other)

    def vhost_pci_pair(
        self, link: LinkSpec, generation: int, *, places: Mapping[str, PciPlace], rundir: RunDir
    ) -> VhostPciPair:
        (pci_end, net_end), name = link.endpoints, device_id(link.name, generation)
        place = places[pci_end.vm]
        id_ = peer_id(role=0, number=place.number, of=place.of, generation=generation)
        return VhostPciPair(
            virtio_net_end=VirtioNetEnd(
                vm=net_end.vm,
                name=name,
                socket=str(rundir.link_socket(link.name, generation, end=1)),
                queue_pairs=link.queues,
                many_regions=places[net_end.vm].of > FEW_LINKS,
            ),
            name=name,
            vhost_pci_end=SharedEnd(
                vm=pci_end.vm,
                name=name,
                socket=str(rundir.link_socket(link.name, generation, end=0)),
                id=id_,
                vectors=layout.vectors(link.queues),
                slot=layout.slot_offset(place.number - 1),
                description=layout.SLOT.pack(
                    ivposition=id_,
                    generation=generation,
                    kind=layout.KIND_VHOST_PCI,
                    host=HOST_ID,
                    queue_pairs=link.queues,
                    mtu=link.mtu,
                    mac=bytes.fromhex(pci_end.mac.replace(":", "")),
                    name=link.name.encode(),
                ),
            ),
        )

    def outlives_reset(self, link: LinkSpec, vm: VmSpec) -> bool:
        # A pc's firmware puts what it finds at a reboot below 4 GiB where it fits, and Linux maps that uncached.
        return vm.machine != "pc" or vm.name == self.virtio_net_end(link)

    def window(self, link: LinkSpec, vm: VmSpec, topology: Topology) -> int:
        pci_end, net_end = link.endpoints
        return power_of_two(topology.vm(net_end.vm).memory) if vm.name == pci_end.vm else 0


def _virtio_net_device(end: Endpoint, net_end: VirtioNetEnd, place: PciPlace) -> DevicePlan:
    """Return the virtio-net end's device; its netdev waits in QEMU until the broker has answered as a back-end."""
    name = net_end.name
    address = {"type": "unix", "data": {"path": net_end.socket}}
    return DevicePlan(
        device={**virtio_net(end, name, place), **_rings(net_end, place)},
        netdev={"type": "vhost-user", "id": f"{name}.net", "chardev": f"{name}.user", "queues": net_end.queue_pairs},
        chardev={
            "id": f"{name}.user",
            "backend": {"type": "socket", "data": {"addr": address, "server": False}},
        },
        sockets=(net_end.socket,),
    )


def _rings(net_end: VirtioNetEnd, place: PciPlace) -> dict[str, Any]:
    """Return the properties of a virtio-net that its rings, interrupts and offloads depend on."""
    # QEMU keeps to itself what a driver says of its offloads once it runs, as Linux's does when it is given an XDP
    # program, and the peer would go on to send large packets and open checksums. Without that command virtio-net
    # refuses such a program (virtnet_xdp_set(), Linux 6.1 to 6.12) instead of losing every packet of TCP's.
    sizes = {"rx_queue_size": RING_SIZE, "tx_queue_size": RING_SIZE, "ctrl_guest_offloads": False}
    queues = {"mq": True, "vectors": 2 * net_end.queue_pairs + 2} if net_end.queue_pairs > 1 else {}
    without = place.accelerator == "tcg" and place.qemu < INTX_BEFORE
    return {**sizes, **queues, **({"vectors": 0} if without else {})}
