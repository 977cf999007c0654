"""The rules that need more than one value: one function each, every one of them run over every file.

A rule yields what it finds and never fails; it passes over what is missing, because that was reported already.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from vpctl.topology import values
from vpctl.topology.model import Key, KindRules, Topology
from vpctl.topology.problems import Path, listed, quoted, unknown
from vpctl.topology.qemu_args import refused, refused_in_command
from vpctl.topology.raw import FileRaw, LinkRaw, RecoveryRaw, VmRaw

LINKS_PER_VM = 24
"""PCI slots that a VM keeps free for links: q35 has 32, the rest belong to the machine and its disks."""

KERNEL_ARGS = 2047 - 255
"""Bytes of `kernel_args`: an x86 kernel takes 2047 (COMMAND_LINE_SIZE, Linux 6.12), and vpctl has words too."""

FORBIDDEN_SUBNETS = {
    IPv4Network("10.0.2.0/24"): "the management network of every guest",
    IPv4Network("127.0.0.0/8"): "the loopback network",
    IPv4Network("0.0.0.0/8"): "reserved",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a rule found: where (`at_key`: the key itself, not its value), what, and what to do."""

    path: Path
    message: str
    hint: str | None = None
    at_key: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What the rules look at: the sound part of a file, and the names that are known."""

    file: FileRaw
    vm_names: Collection[str]
    """Every VM that the file names, the broken ones too."""
    kinds: Mapping[str, KindRules]
    images: Collection[str]

    def links(self) -> Iterator[tuple[str, LinkRaw]]:
        """Yield the links by name, in the file's order."""
        yield from (self.file.links or {}).items()

    def links_of_known_kind(self) -> Iterator[tuple[str, LinkRaw, KindRules]]:
        """Yield the links whose kind exists, with its rules."""
        for name, link in self.links():
            if link.kind in self.kinds:
                yield name, link, self.kinds[link.kind]


def endpoints_are_known(draft: Draft) -> Iterator[Finding]:
    """Every endpoint is a VM of this file."""
    if not draft.vm_names:
        return
    for name, link in draft.links():
        for place, vm in enumerate(link.endpoints):
            if vm not in draft.vm_names:
                message = f"link {quoted(name)}: no VM named {quoted(vm)}"
                yield Finding(
                    path=("links", name, "endpoints", place),
                    message=message,
                    hint=unknown(vm, draft.vm_names, plural="VMs"),
                )


def endpoints_differ(draft: Draft) -> Iterator[Finding]:
    """A link joins two VMs, not one with itself."""
    for name, link in draft.links():
        if link.endpoints and len(set(link.endpoints)) == 1:
            message = f"link {quoted(name)}: both endpoints are {quoted(link.endpoints[0])}"
            yield Finding(
                path=("links", name, "endpoints", 1), message=message, hint="a link joins two different VMs"
            )


def vms_have_slots(draft: Draft) -> Iterator[Finding]:
    """A VM has a PCI slot for each of its links."""
    ends: Counter[str] = Counter()
    for name, link in draft.links():
        for place, vm in enumerate(link.endpoints):
            ends[vm] += 1
            if ends[vm] == LINKS_PER_VM + 1:
                message = f"link {quoted(name)}: VM {quoted(vm)} has more than {LINKS_PER_VM} links"
                yield Finding(
                    path=("links", name, "endpoints", place), message=message, hint="there are no more PCI slots"
                )


def images_are_known(draft: Draft) -> Iterator[Finding]:
    """An image that is given by name is one that vpctl builds."""
    owners: list[tuple[Path, VmRaw | None]] = [(("defaults",), draft.file.defaults)]
    owners += [(("vms", name), vm) for name, vm in draft.file.vms.items()]
    for path, vm in owners:
        if vm is None or not isinstance(vm.image, str) or vm.image in draft.images:
            continue
        hint = unknown(vm.image, draft.images, plural="images")
        if "/" in vm.image:
            hint = "an image of your own is a mapping: `image: {kernel: …, initrd: …, disk: …}`"
        owner = f"VM {quoted(path[1])}" if len(path) > 1 else "`defaults`"
        yield Finding(path=(*path, "image"), message=f"{owner}: no image named {quoted(vm.image)}", hint=hint)


def qemu_args_leave_vpctl_its_own(draft: Draft) -> Iterator[Finding]:
    """No argument for QEMU breaks what vpctl relies on."""
    owners: list[tuple[Path, VmRaw | None]] = [(("defaults",), draft.file.defaults)]
    owners += [(("vms", name), vm) for name, vm in draft.file.vms.items()]
    for path, vm in owners:
        if vm is None:
            continue
        owner = f"VM {quoted(path[1])}" if len(path) > 1 else "`defaults`"
        for found in refused(vm.qemu_args):
            message = f"{owner}: {quoted(found.word)} in `qemu_args`: {found.reason}"
            yield Finding(path=(*path, "qemu_args", found.place), message=message, hint=found.hint)
        for found in refused_in_command(_words(vm.qemu)):
            message = f"{owner}: {quoted(found.word)} in `qemu`: {found.reason}"
            yield Finding(path=(*path, "qemu"), message=message, hint=found.hint)


def _words(command: str | None) -> list[str]:
    """Split a command as a shell does; one that cannot be has no words, and is refused where it is to be run."""
    try:
        return shlex.split(command or "")
    except ValueError:
        return []


def kernel_args_fit(draft: Draft) -> Iterator[Finding]:
    """The guest's kernel sees all of its command line, vpctl's own words included."""
    owners: list[tuple[Path, VmRaw | None]] = [(("defaults",), draft.file.defaults)]
    owners += [(("vms", name), vm) for name, vm in draft.file.vms.items()]
    for path, vm in owners:
        size = len(vm.kernel_args.encode()) if vm is not None else 0
        if size > KERNEL_ARGS:
            owner = f"VM {quoted(path[1])}" if len(path) > 1 else "`defaults`"
            message = f"{owner}: `kernel_args` has {size} bytes, whose end the kernel would not see"
            yield Finding(path=(*path, "kernel_args"), message=message, hint=f"at most {KERNEL_ARGS} bytes")


def kinds_are_known(draft: Draft) -> Iterator[Finding]:
    """Every link is of a kind that works."""
    for name, link in draft.links():
        if link.kind and link.kind not in draft.kinds:
            yield Finding(
                path=("links", name, "kind"),
                message=f"link {quoted(name)}: no kind named {quoted(link.kind)}",
                hint=unknown(link.kind, draft.kinds, plural="kinds"),
            )


def keys_fit_the_kind(draft: Draft) -> Iterator[Finding]:
    """A key that only some kinds know stands only in links of those kinds."""
    for name, link in draft.links():
        rules = draft.kinds.get(link.kind)
        for key in link.model_extra or {}:
            owners = [kind.name for kind in draft.kinds.values() if key in kind.keys]
            if (rules is not None and key in rules.keys) or (rules is None and owners):
                continue
            path = ("links", name, key)
            if owners:
                message = f"link {quoted(name)}: key {quoted(key)} is not for kind {quoted(link.kind)}"
                yield Finding(path=path, message=message, hint=f"kinds that know it: {listed(owners)}", at_key=True)
                continue
            known = [*LinkRaw.model_fields, *(rules.keys if rules is not None else ())]
            message = f"link {quoted(name)}: unknown key {quoted(key)}"
            hint = unknown(key, known, plural="keys")
            if key in RecoveryRaw.model_fields:
                hint = f"it belongs into `recovery: {{{key}: …}}`"
            yield Finding(path=path, message=message, hint=hint, at_key=True)


def options_are_sound(draft: Draft) -> Iterator[Finding]:
    """The values of a kind's own keys have its types and meet its rules."""
    for name, link, rules in draft.links_of_known_kind():
        for key, value in (link.model_extra or {}).items():
            if key not in rules.keys:
                continue
            try:
                option_value(rules.keys[key], value)
            except values.WrongValueError as error:
                message = f"link {quoted(name)}: {quoted(key)}: {error.message}"
                yield Finding(path=("links", name, key), message=message, hint=error.hint)


def policies_fit_the_kind(draft: Draft) -> Iterator[Finding]:
    """A link's recovery policy is one of its kind's."""
    for name, link, rules in draft.links_of_known_kind():
        policy = link.recovery.policy
        if policy is not None and policy not in rules.policies:
            message = f"link {quoted(name)}: kind {quoted(rules.name)} has no policy {quoted(policy)}"
            yield Finding(
                path=("links", name, "recovery", "policy"),
                message=message,
                hint=unknown(policy, rules.policies, plural="policies"),
            )


def queues_fit_the_kind(draft: Draft) -> Iterator[Finding]:
    """A link has no more queues than its kind can serve."""
    for name, link, rules in draft.links_of_known_kind():
        if link.queues > rules.max_queues:
            message = f"link {quoted(name)}: {link.queues} queues are more than kind {quoted(rules.name)} can serve"
            yield Finding(path=("links", name, "queues"), message=message, hint=f"at most {rules.max_queues}")


def mtu_fits_the_kind(draft: Draft) -> Iterator[Finding]:
    """A link's MTU is one that its kind can carry."""
    for name, link, rules in draft.links_of_known_kind():
        if not rules.min_mtu <= link.mtu <= rules.max_mtu:
            message = f"link {quoted(name)}: kind {quoted(rules.name)} cannot carry an MTU of {link.mtu}"
            hint = f"from {rules.min_mtu} to {rules.max_mtu}"
            yield Finding(path=("links", name, "mtu"), message=message, hint=hint)


def subnets_are_usable(draft: Draft) -> Iterator[Finding]:
    """A given subnet is IPv4, has room for two hosts, and is no network that a guest has a use for already."""
    for name, link in draft.links():
        if link.subnet is None:
            continue
        wrong = _what_is_wrong_with_subnet(link.subnet)
        if wrong is not None:
            message = f"link {quoted(name)}: subnet {quoted(link.subnet)} {wrong[0]}"
            yield Finding(path=("links", name, "subnet"), message=message, hint=wrong[1])


def subnets_do_not_overlap(draft: Draft) -> Iterator[Finding]:
    """Two links never share an address; the later one is told."""
    given = given_subnets(draft)
    holders: dict[IPv4Network, str] = {}
    parts: dict[IPv4Network, str] = {}
    for name, subnet in given.items():
        # Two subnets overlap only if one lies within the other.
        around = [subnet.supernet(new_prefix=length) for length in range(subnet.prefixlen + 1)]
        first = parts.get(subnet) or next((holders[wider] for wider in around if wider in holders), None)
        if first is not None:
            message = f"subnet `{subnet}` overlaps that of link {quoted(first)}, `{given[first]}`"
            yield Finding(
                path=("links", name, "subnet"),
                message=f"link {quoted(name)}: {message}",
                hint="without `subnet`, a free one is chosen",
            )
        holders.setdefault(subnet, name)
        for wider in around:
            parts.setdefault(wider, name)


RULES: tuple[Callable[[Draft], Iterator[Finding]], ...] = (
    endpoints_are_known,
    endpoints_differ,
    vms_have_slots,
    images_are_known,
    kernel_args_fit,
    qemu_args_leave_vpctl_its_own,
    kinds_are_known,
    keys_fit_the_kind,
    options_are_sound,
    policies_fit_the_kind,
    queues_fit_the_kind,
    mtu_fits_the_kind,
    subnets_are_usable,
    subnets_do_not_overlap,
)


def macs_differ(topology: Topology, kinds: Mapping[str, KindRules]) -> Iterator[Finding]:
    """No two ends have the same MAC, which is a hash and could collide."""
    seen: dict[str, str] = {}
    for link in topology.links:
        for end in link.endpoints:
            if end.mac in seen:
                message = f"link {quoted(link.name)}: its MAC at {quoted(end.vm)} is also one of link {seen[end.mac]}"
                hint = "MACs are made from the names of topology, link and VM: rename the link"
                yield Finding(path=("links", link.name), message=message, hint=hint, at_key=True)
            seen[end.mac] = quoted(link.name)


def kinds_agree(topology: Topology, kinds: Mapping[str, KindRules]) -> Iterator[Finding]:
    """Each kind's own rule holds for its links."""
    for link in topology.links:
        check = kinds[link.kind].check
        wrong = check(link, topology) if check is not None else None
        if wrong is not None:
            yield Finding(path=("links", link.name), message=f"link {quoted(link.name)}: {wrong}", at_key=True)


TOPOLOGY_RULES: tuple[Callable[[Topology, Mapping[str, KindRules]], Iterator[Finding]], ...] = (
    macs_differ,
    kinds_agree,
)


def given_subnets(draft: Draft) -> dict[str, IPv4Network]:
    """Return the usable subnets that the file gives, by link."""
    return {
        name: IPv4Network(link.subnet)
        for name, link in draft.links()
        if link.subnet is not None and _what_is_wrong_with_subnet(link.subnet) is None
    }


def option_value(key: Key, value: object) -> object:
    """Return the value of a kind's own key, sizes in bytes; raises WrongValueError."""
    types = {"integer": int, "string": str, "boolean": bool}
    if key.kind == "size":
        value = values.size(value)
    elif not isinstance(value, types[key.kind]) or (key.kind == "integer" and isinstance(value, bool)):
        article = "an" if key.kind == "integer" else "a"
        raise values.WrongValueError(f"expected {article} {key.kind}, got {quoted(value)}")
    wrong = key.check(value) if key.check is not None else None
    if wrong is not None:
        raise values.WrongValueError(wrong)
    return value


def _what_is_wrong_with_subnet(text: str) -> tuple[str, str | None] | None:
    try:
        network = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        return "is not an IPv4 network", "for instance `10.77.0.0/30`"
    if network.prefixlen > 31:
        return "has no room for two hosts", "a /31 or /30 is the smallest"
    if not text.startswith(f"{network.network_address}/"):
        return "has host bits set", f"did you mean `{network}`?"
    for forbidden, reason in FORBIDDEN_SUBNETS.items():
        if network.overlaps(forbidden):
            return f"overlaps `{forbidden}`, {reason}", "without `subnet`, a free one is chosen"
    return None
