"""Kind `dgram`: virtio-net over `-netdev dgram` on a pair of unix sockets (QEMU 7.2 and newer).

Nobody connects and nobody listens: each end binds a socket of its own and sends every frame to the other's path. So
either end may come first, what is sent before the other is there is dropped, and only packets prove the link.
"""

from __future__ import annotations

from collections.abc import Mapping

from vpctl.links.devices import device_id, virtio_net
from vpctl.links.kind import Files, LinkKind, PlugStep, Requirements
from vpctl.links.pci import PciPlace
from vpctl.qmp.device import DevicePlan
from vpctl.rundir import RunDir
from vpctl.topology.model import Endpoint, KindRules, LinkSpec


class DgramKind(LinkKind):
    """One virtio-net device at each end; a frame is a datagram."""

    rules = KindRules(name="dgram", policies=("replug",), max_mtu=65535)
    requirements = Requirements(
        qemu=(7, 2), files=Files(qemu=6), devices=("virtio-net-pci", "pcie-root-port"), netdevs=("dgram",)
    )

    def plug_steps(
        self, link: LinkSpec, generation: int, *, first: str, places: Mapping[str, PciPlace], rundir: RunDir
    ) -> tuple[PlugStep, PlugStep]:
        # New paths with each generation: a frame that an end of the old one still sends arrives nowhere.
        paths = {
            end.vm: str(rundir.link_socket(link.name, generation, end=number))
            for number, end in enumerate(link.endpoints)
        }

        def step(end: Endpoint, peer: Endpoint) -> PlugStep:
            name = device_id(link.name, generation)
            netdev = {
                "type": "dgram",
                "id": f"{name}.net",
                "local": {"type": "unix", "path": paths[end.vm]},
                "remote": {"type": "unix", "path": paths[peer.vm]},
            }
            device = DevicePlan(device=virtio_net(end, name, places[end.vm]), netdev=netdev, sockets=(paths[end.vm],))
            return PlugStep(vm=end.vm, device=device)

        near, far = link.end_of(first), link.peer_of(first)
        return step(near, far), step(far, near)
