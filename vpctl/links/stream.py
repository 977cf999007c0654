"""Kind `stream`: virtio-net over `-netdev stream` on a unix socket (QEMU 7.2 and newer).

The end that is plugged first listens; after a crash that is the survivor, so that its side is repaired while the
other guest still boots. Every generation has a socket of its own: QEMU 7.2 as a client does not reconnect, and
`netdev_add` without a listener answers `{}` and leaves the link dead, so the listener always comes first.
"""

from __future__ import annotations

from collections.abc import Mapping

from vpctl.links.devices import device_id, virtio_net
from vpctl.links.kind import Files, LinkKind, PlugStep, Requirements
from vpctl.links.pci import PciPlace
from vpctl.qmp.device import DevicePlan
from vpctl.rundir import RunDir
from vpctl.topology.model import Endpoint, KindRules, LinkSpec


class StreamKind(LinkKind):
    """One virtio-net device at each end; QEMU's own stream back-end carries whole frames between them."""

    rules = KindRules(name="stream", policies=("replug",), max_mtu=65535)
    requirements = Requirements(
        qemu=(7, 2), files=Files(qemu=7), devices=("virtio-net-pci", "pcie-root-port"), netdevs=("stream",)
    )

    def plug_steps(
        self, link: LinkSpec, generation: int, *, first: str, places: Mapping[str, PciPlace], rundir: RunDir
    ) -> tuple[PlugStep, PlugStep]:
        listener, client = link.end_of(first), link.peer_of(first)
        path = rundir.link_socket(link.name, generation)
        address = {"type": "unix", "path": str(path)}

        def step(end: Endpoint, *, server: bool) -> PlugStep:
            name = device_id(link.name, generation)
            device = DevicePlan(
                device=virtio_net(end, name, places[end.vm]),
                netdev={"type": "stream", "id": f"{name}.net", "server": server, "addr": address},
                netdev_event=None if server else "NETDEV_STREAM_CONNECTED",
                netdev_down=server,
                accepts=str(path) if server else None,
                sockets=(str(path),) if server else (),
            )
            return PlugStep(vm=end.vm, device=device)

        return step(listener, server=True), step(client, server=False)
