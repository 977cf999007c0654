"""Workloads `tcp`, one direction at a time, and `tcp-bidir`, both at once; with `cpu`, what their packets cost.

`cpu` is CPU seconds of both QEMU processes for each Gbit that arrived, over the same transfer as `tcp` measures, so
both are taken in one go where both are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from vpctl.bench.counters import GuestEnd, confirm, counted
from vpctl.bench.workload import Figure, Metric, Pair, Plan, Row, Task
from vpctl.bench.workloads import iperf
from vpctl.topology.model import LinkSpec

THROUGHPUT = Metric(name="throughput", unit="Mbit/s", better="higher")
CPU = Metric(name="cpu", unit="s/Gbit", better="lower")

OVERHEAD_SECONDS = 0.5
"""Of one measurement: two programs started over ssh, counters read twice."""


class TcpWorkload:
    """iperf3 with one stream from each end to the other."""

    needs = ("iperf3",)

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        first, second = (end.vm for end in link.endpoints)
        return [
            TcpTask(source, target, plan, figures=("tcp", "cpu"))
            for source, target in ((first, second), (second, first))
        ]


class CpuWorkload:
    """The same transfers for the sake of what they cost; nothing of its own where `tcp` is measured as well."""

    needs = ("iperf3",)

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        return [] if "tcp" in plan.workloads else TcpWorkload().tasks(link, plan)


class TcpBidirWorkload:
    """iperf3 with a stream in each direction at once."""

    needs = ("iperf3",)

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        first, second = (end.vm for end in link.endpoints)
        return [TcpBidirTask(first, second, plan)]


class TcpTask:
    """One direction."""

    def __init__(self, source: str, target: str, plan: Plan, *, figures: tuple[str, ...]) -> None:
        self._figures = [name for name in figures if name in plan.workloads]
        self.row = Row(workload=self._figures[0], source=source, target=target, also=tuple(self._figures[1:]))
        self._duration = plan.duration

    @property
    def seconds(self) -> float:
        return self._duration + OVERHEAD_SECONDS

    async def measure(self, pair: Pair) -> list[Figure]:
        source, target = pair.directed(self.row.source)
        async with counted(source, target) as traffic:
            cpu, began = _cpu_seconds(source, target), time.monotonic()
            end = await iperf.run(source, target, seconds=self._duration)
            cpu = _cpu_seconds(source, target) - cpu
            elapsed = time.monotonic() - began
        flow = iperf.flow(end)
        confirm(traffic, source=source, target=target, octets=flow.octets)
        return list(self._made(flow, cpu, elapsed))

    def _made(self, flow: iperf.Flow, cpu: float, elapsed: float) -> Iterator[Figure]:
        row = self.row
        if "tcp" in self._figures:
            yield Figure(
                workload="tcp",
                metric=THROUGHPUT,
                source=row.source,
                target=row.target,
                value=flow.mbit,
                extra={"retransmits": flow.retransmits},
            )
        if "cpu" in self._figures:
            yield Figure(
                workload="cpu",
                metric=CPU,
                source=row.source,
                target=row.target,
                value=cpu / (flow.octets * 8 / 1e9),
                extra={"cpu_seconds": cpu, "elapsed_seconds": elapsed},
            )


class TcpBidirTask:
    """Both directions at once; a figure for each."""

    def __init__(self, first: str, second: str, plan: Plan) -> None:
        self.row = Row(workload="tcp-bidir", source=first, target=second)
        self._duration = plan.duration

    @property
    def seconds(self) -> float:
        return self._duration + OVERHEAD_SECONDS

    async def measure(self, pair: Pair) -> list[Figure]:
        async with counted(pair.first, pair.second) as forth, counted(pair.second, pair.first) as back:
            end = await iperf.run(pair.first, pair.second, seconds=self._duration, options="--bidir")
        there, here = iperf.flow(end), iperf.flow(end, reverse=True)
        confirm(forth, source=pair.first, target=pair.second, octets=there.octets)
        confirm(back, source=pair.second, target=pair.first, octets=here.octets)
        return [
            Figure(
                workload="tcp-bidir",
                metric=THROUGHPUT,
                source=source.vm,
                target=target.vm,
                value=flow.mbit,
                extra={"retransmits": flow.retransmits},
            )
            for flow, source, target in ((there, pair.first, pair.second), (here, pair.second, pair.first))
        ]


def _cpu_seconds(*ends: GuestEnd) -> float:
    return sum(end.guest.cpu_seconds() for end in ends)
