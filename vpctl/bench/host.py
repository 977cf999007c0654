"""Fingerprint of a host: what two results have to have in common before their figures may be compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vpctl.bench.results.result import GuestRecord, HostRecord
from vpctl.qemu.argv import MachineSpec

Load = tuple[float, float, float]


def load_average() -> Load:
    """Return the load of the last 1, 5 and 15 minutes."""
    one, five, fifteen = os.getloadavg()
    return round(one, 2), round(five, 2), round(fifteen, 2)


def host_record(
    machines: Sequence[MachineSpec], kernels: Mapping[str, str], *, before: Load, proc: Path = Path("/proc")
) -> HostRecord:
    """Return the fingerprint; `kernels` are the guests' own, by VM, `before` the load before anything was booted."""
    return HostRecord(
        cpu=cpu_model(proc),
        cores=len(os.sched_getaffinity(0)),
        memory=_memory(proc),
        kernel=os.uname().release,
        governor=_governor(),
        datagram_queue=_datagram_queue(),
        vms=[guest_record(machine, kernels.get(machine.vm.name, "")) for machine in machines],
        load_before=before,
        load_after=load_average(),
    )


def guest_record(machine: MachineSpec, kernel: str) -> GuestRecord:
    """Return what matters of a VM."""
    return GuestRecord(
        name=machine.vm.name,
        qemu_version=".".join(map(str, machine.qemu_version)),
        accelerator=machine.accelerator,
        cpu_model=machine.cpu_model,
        machine=machine.vm.machine,
        cpus=machine.vm.cpus,
        memory=machine.vm.memory,
        kernel=kernel,
    )


def cpu_model(proc: Path) -> str:
    """Return the CPU as /proc/cpuinfo names it."""
    for line in (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return os.uname().machine


def _memory(proc: Path) -> int:
    for line in (proc / "meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return 0


def _datagram_queue() -> int | None:
    try:
        return int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="utf-8").strip()
    except OSError:
        return None
