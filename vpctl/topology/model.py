"""A topology as data, after defaults were filled in and every rule was met. No I/O, no knowledge of link kinds.

What YAML says (strings, optional keys) never leaves `load`; what stands here is complete: sizes are bytes,
durations seconds, addresses are chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network
from typing import Any, Literal

Accelerator = Literal["auto", "kvm", "tcg"]
MachineType = Literal["q35", "pc"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthSpec:
    """When a VM counts as hung; seconds, but for `retries`."""

    heartbeat: float = 10.0
    qmp_timeout: float = 10.0
    retries: int = 3
    backoff: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """What a VM boots: a built image by name, or the user's own kernel, initrd and disk."""

    name: str | None = "micro"
    kernel: str | None = None
    initrd: str | None = None
    disk: str | None = None
    ssh_user: str = "root"
    ssh_key: str | None = None
    """Private key that an own image accepts; None: the run's key, handed in by fw_cfg and systemd credential."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VmSpec:
    """One virtual machine. `memory` is bytes."""

    name: str
    image: ImageSpec = field(default_factory=ImageSpec)
    memory: int = 256 << 20
    cpus: int = 1
    accelerator: Accelerator = "auto"
    machine: MachineType = "q35"
    qemu: str | None = None
    qemu_args: tuple[str, ...] = ()
    kernel_args: str = ""
    health: HealthSpec = field(default_factory=HealthSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverySpec:
    """How a link is repaired."""

    policy: str
    mode: Literal["auto", "manual"] = "auto"
    on_stuck: Literal["fail", "reset-survivor"] = "fail"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One end of a link: which VM, and what its interface is called and addressed there."""

    vm: str
    mac: str
    address: IPv4Interface


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkSpec:
    """A link between two VMs; the interface has the link's name at both ends.

    `options` holds the keys that only its kind knows.
    """

    name: str
    kind: str
    endpoints: tuple[Endpoint, Endpoint]
    subnet: IPv4Network
    recovery: RecoverySpec
    queues: int = 1
    mtu: int = 1500
    options: Mapping[str, Any] = field(default_factory=dict)

    def end_of(self, vm: str) -> Endpoint:
        """Return the end at a VM (KeyError if the link does not touch it)."""
        for end in self.endpoints:
            if end.vm == vm:
                return end
        raise KeyError(vm)

    def peer_of(self, vm: str) -> Endpoint:
        """Return the end at the other VM (KeyError if the link does not touch this one)."""
        first, second = self.endpoints
        if first.vm == vm:
            return second
        if second.vm == vm:
            return first
        raise KeyError(vm)


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """Everything one file describes, in the file's order."""

    name: str
    vms: tuple[VmSpec, ...]
    links: tuple[LinkSpec, ...]

    def vm(self, name: str) -> VmSpec:
        """Return a VM by name (KeyError)."""
        return {vm.name: vm for vm in self.vms}[name]

    def link(self, name: str) -> LinkSpec:
        """Return a link by name (KeyError)."""
        return {link.name: link for link in self.links}[name]

    def links_of(self, vm: str) -> tuple[LinkSpec, ...]:
        """Return the links that touch a VM, in the file's order."""
        return tuple(link for link in self.links if vm in (end.vm for end in link.endpoints))


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key that one link kind adds to the file: its JSON type, default, meaning, and a rule of its own."""

    kind: Literal["size", "integer", "string", "boolean"]
    default: Any
    help: str
    check: Callable[[Any], str | None] | None = None
    """Returns what is wrong with a value, or None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KindRules:
    """What the loader must know of a link kind; `links` provides it, so that no kind is named in this package."""

    name: str
    policies: tuple[str, ...]
    """Recovery policies; the first is the default."""
    keys: Mapping[str, Key] = field(default_factory=dict)
    max_queues: int = 1
    min_mtu: int = 68
    max_mtu: int = 65535
    check: Callable[[LinkSpec, Topology], str | None] | None = None
    """A rule that needs the whole topology, for instance memory sizes; what is wrong, or None."""


def mac_address(topology: str, link: str, vm: str) -> str:
    """Return the MAC of a link's end: a hash of the three names, so that it survives every re-plug.

    Locally administered, unicast (IEEE 802: bit 1 of the first octet set, bit 0 clear).
    """
    digest = hashlib.sha256(f"{topology}/{link}/{vm}".encode()).digest()
    octets = [(digest[0] & 0xFC) | 0x02, *digest[1:6]]
    return ":".join(f"{octet:02x}" for octet in octets)


def topology_to_json(topology: Topology) -> dict[str, Any]:
    """Return plain JSON data; `topology_from_json` reads it back without any schema library."""

    def image(spec: ImageSpec) -> dict[str, Any]:
        return {name: getattr(spec, name) for name in ImageSpec.__slots__}

    def vm(spec: VmSpec) -> dict[str, Any]:
        plain = {name: getattr(spec, name) for name in VmSpec.__slots__}
        health = {name: getattr(spec.health, name) for name in HealthSpec.__slots__}
        return {**plain, "image": image(spec.image), "qemu_args": list(spec.qemu_args), "health": health}

    def link(spec: LinkSpec) -> dict[str, Any]:
        return {
            "name": spec.name,
            "kind": spec.kind,
            "endpoints": [{"vm": e.vm, "mac": e.mac, "address": str(e.address)} for e in spec.endpoints],
            "subnet": str(spec.subnet),
            "recovery": {name: getattr(spec.recovery, name) for name in RecoverySpec.__slots__},
            "queues": spec.queues,
            "mtu": spec.mtu,
            "options": dict(spec.options),
        }

    return {
        "name": topology.name,
        "vms": [vm(spec) for spec in topology.vms],
        "links": [link(spec) for spec in topology.links],
    }


def topology_from_json(data: Mapping[str, Any]) -> Topology:
    """Read what `topology_to_json` wrote."""

    def vm(raw: Mapping[str, Any]) -> VmSpec:
        parts = {
            "image": ImageSpec(**raw["image"]),
            "health": HealthSpec(**raw["health"]),
            "qemu_args": tuple(raw["qemu_args"]),
        }
        return VmSpec(**{**raw, **parts})

    def link(raw: Mapping[str, Any]) -> LinkSpec:
        first, second = (
            Endpoint(vm=end["vm"], mac=end["mac"], address=IPv4Interface(end["address"])) for end in raw["endpoints"]
        )
        parts = {
            "endpoints": (first, second),
            "subnet": IPv4Network(raw["subnet"]),
            "recovery": RecoverySpec(**raw["recovery"]),
        }
        return LinkSpec(**{**raw, **parts})

    return Topology(
        name=data["name"],
        vms=tuple(vm(raw) for raw in data["vms"]),
        links=tuple(link(raw) for raw in data["links"]),
    )
