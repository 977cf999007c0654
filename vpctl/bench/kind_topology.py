"""Topologies to compare link kinds with: the pair of a link, with one link of each kind between the same guests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network

from vpctl.errors import UsageError
from vpctl.topology.check import LINKS_PER_VM
from vpctl.topology.model import Endpoint, KindRules, LinkSpec, RecoverySpec, Topology, VmSpec, mac_address
from vpctl.topology.resolve import free_subnets

LINK_NAME = 15
"""Characters of an interface's name."""

NAME = 31
"""Characters of a topology's or VM's name."""

SUFFIX = "-bench"


def parse_kinds(text: str, kinds: Mapping[str, KindRules]) -> list[str]:
    """Read `A,B[,…]`; the same kind may come twice. UsageError for an unknown kind, or fewer than two."""
    names = [word.strip() for word in text.split(",") if word.strip()]
    known = ", ".join(f"`{name}`" for name in kinds)
    for name in names:
        if name not in kinds:
            raise UsageError(f"no kind named `{name}`", hint=f"kinds are {known}")
    if len(names) < 2:
        raise UsageError("`--compare-kinds` needs two kinds at least", hint=f"kinds are {known}")
    return names


def comparison(
    topology: Topology, link: LinkSpec, names: Sequence[str], kinds: Mapping[str, KindRules], *, apart: bool = False
) -> Topology:
    """Return a topology with a link of each kind in place of `link`, between the same two VMs.

    One pair carries them all, so that they are measured in the same guests, in turn. Where a rule of a kind
    forbids that, or `apart` asks for it, each link has a pair of VMs of its own, all of them booted at once.
    Raises UsageError if a kind cannot have the link's MTU, queues or options.
    """
    for name in names:
        _require_fit(link, kinds[name])
    if not apart:
        together = _together(topology, link, names, kinds)
        if not any(_objections(together, kinds)) and len(names) <= LINKS_PER_VM:
            return together
    separate = _apart(topology, link, names, kinds)
    for objection in _objections(separate, kinds):
        raise UsageError(objection)
    return separate


def _require_fit(link: LinkSpec, rules: KindRules) -> None:
    if not rules.min_mtu <= link.mtu <= rules.max_mtu:
        raise UsageError(
            f"kind `{rules.name}` cannot carry the MTU of link `{link.name}`, {link.mtu}",
            hint=f"from {rules.min_mtu} to {rules.max_mtu}",
        )
    if link.queues > rules.max_queues:
        raise UsageError(
            f"kind `{rules.name}` cannot serve the {link.queues} queues of link `{link.name}`",
            hint=f"at most {rules.max_queues}",
        )
    for key, rule in rules.keys.items():
        # The link's own kind may know the key as well, and mean something else by it.
        wrong = rule.check(link.options[key]) if rule.check is not None and key in link.options else None
        if wrong is not None:
            raise UsageError(f"kind `{rules.name}` cannot have the `{key}` of link `{link.name}`: {wrong}")


def _together(topology: Topology, link: LinkSpec, names: Sequence[str], kinds: Mapping[str, KindRules]) -> Topology:
    own = topology_name(topology.name)
    subnets = free_subnets([])
    links = [
        _link(own, name, kinds[kind], link, [end.vm for end in link.endpoints], next(subnets))
        for name, kind in zip(link_names(names), names, strict=True)
    ]
    vms = tuple(topology.vm(end.vm) for end in link.endpoints)
    return Topology(name=own, vms=vms, links=tuple(links))


def _apart(topology: Topology, link: LinkSpec, names: Sequence[str], kinds: Mapping[str, KindRules]) -> Topology:
    own = topology_name(topology.name)
    subnets = free_subnets([])
    vms: list[VmSpec] = []
    links = []
    for number, (name, kind) in enumerate(zip(link_names(names), names, strict=True), start=1):
        pair = _vm_names([end.vm for end in link.endpoints], number)
        vms += [replace(topology.vm(end.vm), name=vm) for end, vm in zip(link.endpoints, pair, strict=True)]
        links.append(_link(own, name, kinds[kind], link, pair, next(subnets)))
    return Topology(name=own, vms=tuple(vms), links=tuple(links))


def _vm_names(vms: Sequence[str], number: int) -> list[str]:
    """Return names for a pair: the VMs' own, numbered; ones so long that they are alike once cut get a letter too."""
    for suffixes in ([f"-{number}"] * 2, [f"-{number}a", f"-{number}b"]):
        names = [vm[: NAME - len(suffix)] + suffix for vm, suffix in zip(vms, suffixes, strict=True)]
        if len(set(names)) == len(names):
            break
    return names


def _link(
    topology: str, name: str, rules: KindRules, like: LinkSpec, vms: Sequence[str], subnet: IPv4Network
) -> LinkSpec:
    first, second = (
        Endpoint(
            vm=vm,
            mac=mac_address(topology, name, vm),
            address=IPv4Interface((int(subnet.network_address) + place, subnet.prefixlen)),
        )
        for place, vm in enumerate(vms, start=1)
    )
    options = {key: like.options.get(key, rule.default) for key, rule in rules.keys.items()}
    policy = like.recovery.policy if like.kind == rules.name else rules.policies[0]
    return LinkSpec(
        name=name,
        kind=rules.name,
        endpoints=(first, second),
        subnet=subnet,
        recovery=RecoverySpec(policy=policy, mode=like.recovery.mode, on_stuck=like.recovery.on_stuck),
        queues=like.queues,
        mtu=like.mtu,
        options=options,
    )


def _objections(topology: Topology, kinds: Mapping[str, KindRules]) -> Iterator[str]:
    """Yield what the kinds' own rules have against their links."""
    for link in topology.links:
        check = kinds[link.kind].check
        wrong = check(link, topology) if check is not None else None
        if wrong is not None:
            yield f"link `{link.name}`: {wrong}"


def topology_name(name: str) -> str:
    """Return the name under which the pair runs, beside a topology that may run already."""
    return name[: NAME - len(SUFFIX)] + SUFFIX


def link_names(kinds: Sequence[str]) -> list[str]:
    """Return a link's name for each kind: the kind's own, cut to an interface's length; numbered where it repeats."""
    names: list[str] = []
    for kind in kinds:
        suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        cut = (kind[: LINK_NAME - len(suffix)].rstrip("-") + suffix for suffix in suffixes)
        names.append(next(name for name in cut if name not in names))
    return names
