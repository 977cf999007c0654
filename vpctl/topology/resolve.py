"""From what a file says to what is meant: defaults filled in, paths made absolute, subnets and MACs chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Interface, IPv4Network, collapse_addresses
from pathlib import Path

from vpctl.topology.check import Draft, given_subnets, option_value
from vpctl.topology.model import (
    Endpoint,
    HealthSpec,
    ImageSpec,
    KindRules,
    LinkSpec,
    RecoverySpec,
    Topology,
    VmSpec,
    mac_address,
)
from vpctl.topology.raw import HealthRaw, ImageRaw, LinkRaw, VmRaw

POOL = IPv4Network("10.77.0.0/16")
"""Where subnets come from that the file does not give: /30s, in the file's order."""


class NoFreeSubnetError(Exception):
    """The pool has no room for a link; carries its name."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.link = link


def topology(
    draft: Draft, *, vms: Collection[str], links: Collection[str], environ: Mapping[str, str], base: Path
) -> Topology:
    """Return the topology made of the VMs and links that are named; the others are left out.

    Raises NoFreeSubnetError.
    """
    file = draft.file
    subnets = choose_subnets(draft, links)
    locate = _Paths(base, environ)
    return Topology(
        name=file.name,
        vms=tuple(_vm(name, file.vms[name], file.defaults, locate) for name in file.vms if name in vms),
        links=tuple(
            _link(file.name, name, link, draft.kinds[link.kind], subnets[name])
            for name, link in draft.links()
            if name in links
        ),
    )


def choose_subnets(draft: Draft, links: Collection[str]) -> dict[str, IPv4Network]:
    """Return the subnets of the links that are named: the given ones, or the next free ones. NoFreeSubnetError."""
    subnets = given_subnets(draft)
    free = free_subnets(subnets.values())
    for name, link in draft.links():
        if link.subnet is None and name in links:
            chosen = next(free, None)
            if chosen is None:
                raise NoFreeSubnetError(name)
            subnets[name] = chosen
    return subnets


def free_subnets(given: Iterable[IPv4Network]) -> Iterator[IPv4Network]:
    """Yield the /30s of the pool that touch no given subnet, in order."""
    taken = list(collapse_addresses(given))
    at = 0
    for subnet in POOL.subnets(new_prefix=30):
        while at < len(taken) and taken[at].broadcast_address < subnet.network_address:
            at += 1
        if at == len(taken) or not taken[at].overlaps(subnet):
            yield subnet


class _Paths:
    """Makes the file's paths absolute."""

    def __init__(self, base: Path, environ: Mapping[str, str]) -> None:
        self._base = base.absolute()
        self._home = environ.get("HOME")

    def absolute(self, path: str | None) -> str | None:
        """Resolve against the file's directory; `~/` is the user's home."""
        if path is not None and self._home and (path == "~" or path.startswith("~/")):
            path = self._home + path[1:]
        return str(self._base / path) if path is not None else None

    def program(self, name: str | None) -> str | None:
        """Resolve a path; a bare name is left to PATH."""
        return self.absolute(name) if name is not None and ("/" in name or name == "~") else name


def _vm(name: str, given: VmRaw | None, defaults: VmRaw | None, locate: _Paths) -> VmSpec:
    raw = _merged(given, defaults)
    return VmSpec(
        name=name,
        image=_image(raw.image, locate),
        memory=raw.memory,
        cpus=raw.cpus,
        accelerator=raw.accelerator,
        machine=raw.machine,
        qemu=locate.program(raw.qemu),
        qemu_args=tuple(raw.qemu_args),
        kernel_args=raw.kernel_args,
        health=HealthSpec(**dict(raw.health)),
    )


def _merged(given: VmRaw | None, defaults: VmRaw | None) -> VmRaw:
    """Lay a VM's own values over the defaults, key by key; within `health` too, as its keys are independent."""
    layers = [layer for layer in (defaults, given) if layer is not None]
    merged = {key: getattr(layer, key) for layer in layers for key in layer.model_fields_set}
    health = [layer.health for layer in layers]
    merged["health"] = HealthRaw.model_construct(
        **{key: getattr(layer, key) for layer in health for key in layer.model_fields_set}
    )
    return VmRaw.model_construct(**merged)


def _image(raw: str | ImageRaw, locate: _Paths) -> ImageSpec:
    if isinstance(raw, str):
        return ImageSpec(name=raw)
    return ImageSpec(
        name=None,
        kernel=locate.absolute(raw.kernel),
        initrd=locate.absolute(raw.initrd),
        disk=locate.absolute(raw.disk),
        ssh_user=raw.ssh_user,
        ssh_key=locate.absolute(raw.ssh_key),
    )


def _link(topology_name: str, name: str, raw: LinkRaw, rules: KindRules, subnet: IPv4Network) -> LinkSpec:
    # RFC 3021: a /31 has no network and broadcast address, both are hosts.
    offset = 0 if subnet.prefixlen == 31 else 1
    first, second = (
        Endpoint(
            vm=vm,
            mac=mac_address(topology_name, name, vm),
            address=IPv4Interface((int(subnet.network_address) + offset + place, subnet.prefixlen)),
        )
        for place, vm in enumerate(raw.endpoints)
    )
    given = raw.model_extra or {}
    return LinkSpec(
        name=name,
        kind=raw.kind,
        endpoints=(first, second),
        subnet=subnet,
        recovery=RecoverySpec(
            policy=raw.recovery.policy or rules.policies[0],
            mode=raw.recovery.mode,
            on_stuck=raw.recovery.on_stuck,
        ),
        queues=raw.queues,
        mtu=raw.mtu,
        options={key: option_value(rule, given.get(key, rule.default)) for key, rule in rules.keys.items()},
    )
