"""Kind `tap`: virtio-net on a persistent tap per end, both ports of a bridge of the link's own (QEMU 7.2 and newer).

The host's kernel carries the packets, offloads included, since QEMU gives a tap the virtio-net header where it can.
Making bridge and taps takes CAP_NET_ADMIN; the taps belong to the user, so QEMU attaches to them without any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vpctl.links.devices import device_id, virtio_net
from vpctl.links.kind import Files, HostNetwork, LinkKind, PlugStep, Requirements
from vpctl.links.pci import PciPlace
from vpctl.qmp.device import DevicePlan
from vpctl.rundir import RunDir
from vpctl.topology.model import Endpoint, Key, KindRules, LinkSpec

TAP_MAX_MTU = 65535 - 14
"""Linux counts the Ethernet header of a tap (drivers/net/tun.c)."""

VHOST = Key(kind="boolean", default=False, help="let the host's kernel move the packets (vhost-net), not QEMU")


class TapKind(LinkKind):
    """One virtio-net device at each end, and between them a bridge without an address."""

    rules = KindRules(name="tap", policies=("replug",), keys={"vhost": VHOST}, max_mtu=TAP_MAX_MTU)
    requirements = Requirements(
        qemu=(7, 2), files=Files(qemu=6), devices=("virtio-net-pci", "pcie-root-port"), netdevs=("tap",)
    )

    def plug_steps(
        self, link: LinkSpec, generation: int, *, first: str, places: Mapping[str, PciPlace], rundir: RunDir
    ) -> tuple[PlugStep, PlugStep]:
        taps = {end.vm: rundir.interface(link.name, end=number) for number, end in enumerate(link.endpoints)}

        def step(end: Endpoint) -> PlugStep:
            name = device_id(link.name, generation)
            netdev: dict[str, Any] = {
                "type": "tap",
                "id": f"{name}.net",
                "ifname": taps[end.vm],
                # Otherwise QEMU runs /etc/qemu-ifup, which the sandbox forbids and a tap that is up has no need of.
                "script": "no",
                "downscript": "no",
            }
            if link.options["vhost"]:
                netdev["vhost"] = True
            return PlugStep(vm=end.vm, device=DevicePlan(device=virtio_net(end, name, places[end.vm]), netdev=netdev))

        return step(link.end_of(first)), step(link.peer_of(first))

    def host_network(self, link: LinkSpec, rundir: RunDir) -> HostNetwork:
        # Where /dev/vhost-net is missing QEMU goes on without vhost, says so in its log only, and a benchmark would
        # have measured something else: so it is asked for beforehand.
        vhost = ("/dev/vhost-net",) if link.options["vhost"] else ()
        return HostNetwork(
            bridge=rundir.interface(link.name),
            taps=(rundir.interface(link.name, end=0), rundir.interface(link.name, end=1)),
            mtu=link.mtu,
            label=f"vpctl:{rundir.name}/{link.name}",
            devices=("/dev/net/tun", *vhost),
        )
