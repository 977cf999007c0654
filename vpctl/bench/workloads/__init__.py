"""The workloads, each in a file of its own; this mapping is the only registry, and its order theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpctl.bench.workload import Workload
from vpctl.bench.workloads.outage import OutageWorkload
from vpctl.bench.workloads.ping import PingWorkload
from vpctl.bench.workloads.pktgen import PktgenWorkload
from vpctl.bench.workloads.tcp import CpuWorkload, TcpBidirWorkload, TcpWorkload
from vpctl.bench.workloads.udp import UdpWorkload
from vpctl.errors import UsageError

WORKLOADS: Mapping[str, Workload] = {
    "ping": PingWorkload(),
    "tcp": TcpWorkload(),
    "cpu": CpuWorkload(),
    "tcp-bidir": TcpBidirWorkload(),
    "udp": UdpWorkload(),
    "pktgen": PktgenWorkload(),
    "outage": OutageWorkload(),
}

DEFAULT = ("ping", "tcp", "cpu", "tcp-bidir", "udp", "pktgen")
"""What is measured unless something else is asked for: everything but `outage`, whose time is that of crashes."""


METRICS = ("rtt", "throughput", "cpu", "rate", "gap")
"""The metrics of them all; a threshold may be given for one."""


def chosen(names: Sequence[str], *, crash: bool = False) -> list[str]:
    """Return the workloads that are asked for, each once and in their own order; commas separate names, too.

    `crash`: a VM is to be killed, which is `outage`'s affair. Raises UsageError for an unknown name.
    """
    wanted = {word.strip() for name in names for word in name.split(",") if word.strip()}
    if unknown := sorted(wanted - set(WORKLOADS)):
        known = ", ".join(f"`{name}`" for name in WORKLOADS)
        raise UsageError(f"no workload named `{unknown[0]}`", hint=f"workloads are {known}")
    if crash and not wanted:
        return ["outage"]
    if crash and "outage" not in wanted:
        raise UsageError("a crash is measured by the workload `outage`", hint="--workload outage")
    return [name for name in WORKLOADS if name in (wanted or DEFAULT)]
