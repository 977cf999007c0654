"""How much memory guests may have: what the host has left, and what its cgroups allow this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vpctl.errors import HostError
from vpctl.topology.model import Topology

OVERHEAD = 96 << 20
"""Of a QEMU itself, beside its guest's memory: translated code (64 MiB under TCG), device state, threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Available:
    """What can be had, in bytes: without swapping, and with; and what sets the limit."""

    memory: int
    with_swap: int
    limited_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """What topologies ask for against what there is."""

    needed: int
    available: Available

    @property
    def fits(self) -> bool:
        """Whether it can be served at all."""
        return self.needed <= self.available.with_swap

    @property
    def swaps(self) -> bool:
        """Whether it can be served by swapping only."""
        return self.needed > self.available.memory

    @property
    def message(self) -> str:
        """The figures, in words."""
        return (
            f"guests need {_mib(self.needed)} MiB ({OVERHEAD >> 20} MiB per VM for QEMU itself included), "
            f"{_mib(self.available.memory)} MiB are available ({self.available.limited_by})"
        )


MEMORY_REMEDY = "lower `memory:` of the VMs, run fewer of them, or stop another topology with `vpctl down NAME`"


def memory_need(
    *topologies: Topology, shared: int = 0, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> MemoryNeed:
    """Compare what all VMs of these topologies, and their links (`shared`), need together with what is available."""
    needed = shared + sum(vm.memory + OVERHEAD for topology in topologies for vm in topology.vms)
    return MemoryNeed(needed=needed, available=available_memory(proc=proc, cgroups=cgroups))


def check_memory(
    topology: Topology, *, shared: int = 0, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> None:
    """Raise HostError if the host cannot serve a topology's memory, before anything of it is started.

    `shared` is what its links take beside.
    """
    need = memory_need(topology, shared=shared, proc=proc, cgroups=cgroups)
    if not need.fits:
        raise HostError(f"not enough memory: {need.message}", hint=MEMORY_REMEDY)


def available_memory(*, proc: Path, cgroups: Path) -> Available:
    """Return the smallest of what the host, its overcommit rule and each cgroup of this process leave."""
    host = _meminfo(proc)
    memory, swap = host["MemAvailable"], host.get("SwapFree", 0)
    candidates = [Available(memory=memory, with_swap=memory + swap, limited_by="the host's MemAvailable")]
    if _number(proc / "sys/vm/overcommit_memory") == 2:
        left = max(0, host["CommitLimit"] - host["Committed_AS"])
        candidates.append(Available(memory=left, with_swap=left, limited_by="vm.overcommit_memory=2"))
    for name, left in _cgroup_room(proc, cgroups):
        candidates.append(Available(memory=left, with_swap=left, limited_by=f"the memory cgroup {name}"))
    return min(candidates, key=lambda candidate: candidate.with_swap)


def _meminfo(proc: Path) -> dict[str, int]:
    """Return /proc/meminfo in bytes."""
    lines = (line.split() for line in (proc / "meminfo").read_text(encoding="utf-8").splitlines())
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if len(words) == 3}


def _cgroup_room(proc: Path, cgroups: Path) -> Iterator[tuple[str, int]]:
    """Yield, for each limited cgroup from this process's to the root, its name and what it has left.

    Inside a container the path in /proc/self/cgroup may not exist below /sys/fs/cgroup; its root then is ours.
    """
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        here = root / path.lstrip("/")
        for directory in [root] if not here.is_dir() else [here, *here.parents]:
            if directory == root.parent:
                break
            left = _room(directory, *names)
            if left is not None:
                yield f"/{directory.relative_to(root)}".replace("/.", "/"), left


def _room(directory: Path, limit_name: str, usage_name: str, reclaimable_name: str) -> int | None:
    limit, usage = _number(directory / limit_name), _number(directory / usage_name)
    if limit is None or usage is None:
        return None
    stat = (line.split() for line in _text(directory / "memory.stat").splitlines())
    reclaimable = sum(int(words[1]) for words in stat if words[0] == reclaimable_name)
    return max(0, limit - usage + reclaimable)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _mib(size: int) -> int:
    return size >> 20
