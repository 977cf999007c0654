"""What a link kind is: pure functions from a resolved link to argv and hotplug steps.

A new kind is one new file beside this one and one line in `LINK_KINDS`. `plan` shows what these functions return,
`recovery` and `supervisor` carry it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vpctl.qmp.device import DevicePlan
from vpctl.rundir import RunDir
from vpctl.topology.model import Endpoint, KindRules, LinkSpec, VmSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What a kind needs of a QEMU: its version, devices and network back-ends."""

    qemu: tuple[int, int]
    devices: tuple[str, ...] = ()
    netdevs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a link's end goes in its VM: the bus that takes the hot-added device, and the slot where it has to be."""

    bus: str
    addr: str | None = None

    def as_arguments(self) -> dict[str, str]:
        """Return what `device_add` is told."""
        return {"bus": self.bus} | ({"addr": self.addr} if self.addr is not None else {})


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


class LinkKind(Protocol):
    """One kind of link; everything here is pure. A kind inherits from it what it has no use for."""

    @property
    def rules(self) -> KindRules:
        """Its keys, policies and limits, for the loader."""

    @property
    def requirements(self) -> Requirements:
        """What it needs of QEMU."""

    def port_args(self, link: LinkSpec, vm: VmSpec, *, number: int) -> list[str]:
        """Return the argv that a VM needs from its start, for instance the root port of the link's end.

        `number` counts a VM's ports from 1.
        """

    def plug_steps(
        self, link: LinkSpec, generation: int, *, first: str, places: Mapping[str, Place], rundir: RunDir
    ) -> tuple[PlugStep, PlugStep]:
        """Return how one generation of a link is plugged, beginning at VM `first` (after a crash: the survivor)."""

    def host_network(self, link: LinkSpec, rundir: RunDir) -> HostNetwork | None:
        """Return what has to be on the host before anything is plugged; the same for every generation."""
        return None


def device_id(link: str, generation: int) -> str:
    """Return the id of a link's device: fresh per generation, since an id stays taken until DEVICE_DELETED."""
    return f"{link}.g{generation}"


def virtio_net(end: Endpoint, name: str, place: Place) -> dict[str, Any]:
    """Return the `device_add` of a virtio NIC named `name`, whose netdev is called `name`.net.

    romfile: nobody boots from a link, and a ROM would cost each plug its load.
    """
    return {
        "driver": "virtio-net-pci",
        "id": name,
        "netdev": f"{name}.net",
        "mac": end.mac,
        "romfile": "",
        **place.as_arguments(),
    }


def place_of(link: LinkSpec, vm: VmSpec) -> Place:
    """Return the bus of a link's end: its own root port on q35, whose `pcie.0` takes no hotplug; `pci.0` on pc.

    A guest looks at slot 0 of a root port only; without the address QEMU 7.2 puts a device into slot 1 of a port
    that is still taken, and answers `{}`.
    """
    if vm.machine == "q35":
        return Place(bus=f"port-{link.name}", addr="0")
    return Place(bus="pci.0")


def root_port_args(link: LinkSpec, vm: VmSpec, *, number: int, reserve: str = "") -> list[str]:
    """Return the root port for a link's end on q35, nothing on pc.

    io-reserve=0: a modern virtio device has no I/O BAR, and a 4 KiB window for each of two dozen ports would
    exhaust the I/O space, which stops SeaBIOS. `reserve` adds what a kind with a large BAR needs.
    """
    if vm.machine != "q35":
        return []
    options = f"pcie-root-port,id=port-{link.name},bus=pcie.0,chassis={number},slot={number},io-reserve=0{reserve}"
    return ["-device", options]
