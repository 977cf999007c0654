"""In what two results differ besides their figures: what makes a comparison say little about vpctl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vpctl.bench.results.result import BenchResult, GuestRecord, HostRecord

BUSY = 0.5
"""Load per core, of the last minute before a run, from which on something else ran on the host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Difference:
    """One property of one thing; equal ones of several things are told in one sentence."""

    what: str
    old: object
    new: object
    of: str = ""


def host_differences(old: BenchResult, new: BenchResult) -> list[str]:
    """Return a sentence for each difference of host, guests, links and settings, and for a host that was busy."""
    found = [
        *_host(old.host, new.host),
        *_guests(old.host.vms, new.host.vms),
        *_links(old, new),
        *_settings(old, new),
    ]
    told: dict[_Difference, list[str]] = {}
    for difference in found:
        same = _Difference(what=difference.what, old=difference.old, new=difference.new)
        told.setdefault(same, []).append(difference.of)
    sentences = [
        f"{each.what} differs{_of(names)}: {each.old} in OLD, {each.new} in NEW" for each, names in told.items()
    ]
    return [*sentences, *_membership(old, new), *_busy("OLD", old.host), *_busy("NEW", new.host)]


def _of(names: Iterable[str]) -> str:
    named = [name for name in names if name]
    return f" ({', '.join(named)})" if named else ""


def _differing(of: str, *properties: tuple[str, object, object]) -> Iterator[_Difference]:
    for what, old, new in properties:
        if old != new:
            yield _Difference(what=what, old=old, new=new, of=of)


def _host(old: HostRecord, new: HostRecord) -> Iterator[_Difference]:
    yield from _differing(
        "",
        ("the host's CPU", old.cpu, new.cpu),
        ("the host's number of cores", old.cores, new.cores),
        ("the host's kernel", old.kernel, new.kernel),
        ("the host's frequency governor", old.governor or "none", new.governor or "none"),
        ("the host's net.unix.max_dgram_qlen", old.datagram_queue, new.datagram_queue),
    )


def _guests(old: Iterable[GuestRecord], new: Iterable[GuestRecord]) -> Iterator[_Difference]:
    theirs = {vm.name: vm for vm in new}
    for before in old:
        after = theirs.get(before.name)
        if after is not None:
            yield from _differing(
                before.name,
                ("QEMU", before.qemu_version, after.qemu_version),
                ("the accelerator", before.accelerator, after.accelerator),
                ("the CPU model", before.cpu_model, after.cpu_model),
                ("the machine", before.machine, after.machine),
                ("the number of CPUs", before.cpus, after.cpus),
                ("the memory", _mebibytes(before.memory), _mebibytes(after.memory)),
                ("the guest's kernel", before.kernel, after.kernel),
            )


def _mebibytes(octets: int) -> str:
    return f"{octets / (1 << 20):.0f}M"


def _links(old: BenchResult, new: BenchResult) -> Iterator[_Difference]:
    theirs = {(link.name, link.kind): link for link in new.links}
    for before in old.links:
        after = theirs.get((before.name, before.kind))
        if after is not None:
            yield from _differing(
                before.name,
                ("the MTU", before.mtu, after.mtu),
                ("the number of queues", before.queues, after.queues),
                ("the order of endpoints", ", ".join(before.endpoints), ", ".join(after.endpoints)),
            )
        elif kinds := [link.kind for link in new.links if link.name == before.name]:
            yield _Difference(what="the kind", old=before.kind, new=", ".join(kinds), of=before.name)


def _settings(old: BenchResult, new: BenchResult) -> Iterator[_Difference]:
    before, after = old.settings, new.settings
    yield from _differing(
        "",
        ("the duration of a measurement", f"{before.duration} s", f"{after.duration} s"),
        ("`--quick`", _yes(before.quick), _yes(after.quick)),
        ("the VM that `outage` kills", before.crash or "none", after.crash or "none"),
    )


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _membership(old: BenchResult, new: BenchResult) -> Iterator[str]:
    """Tell VMs that only one has: as many guests as there are share the host."""
    ours, theirs = [[vm.name for vm in result.host.vms] for result in (old, new)]
    for which, mine, others in (("OLD", ours, theirs), ("NEW", theirs, ours)):
        alone = [name for name in mine if name not in others]
        if alone:
            yield f"only {which} ran the VM{'s' if len(alone) > 1 else ''} {', '.join(alone)}"


def _busy(which: str, host: HostRecord) -> Iterator[str]:
    load = host.load_before[0]
    if load > BUSY * host.cores:
        cores = f"{host.cores} core{'s' if host.cores != 1 else ''}"
        yield f"the host was busy before {which} began: load {load:.2f} on {cores}"
