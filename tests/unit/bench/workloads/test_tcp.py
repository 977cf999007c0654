"""TCP transfers and what they cost, between two guests that answer as real ones did."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.bench import World, recorded, serves, world
from tests.fakes.guest import Process
from tests.made import made_link
from vpctl.bench.workload import Figure, Plan
from vpctl.bench.workloads.tcp import CpuWorkload, TcpBidirTask, TcpBidirWorkload, TcpTask, TcpWorkload
from vpctl.errors import VerificationError
from vpctl.rundir import RunDir

LINK = made_link("lan0", "vm1", "vm2")
BOTH = Plan(workloads=["tcp", "cpu"], duration=1)


def test_cpu_is_measured_by_the_transfers_of_tcp_or_by_its_own() -> None:
    assert [str(task.row) for task in TcpWorkload().tasks(LINK, BOTH)] == ["tcp vm1 to vm2", "tcp vm2 to vm1"]
    assert [task.row.also for task in TcpWorkload().tasks(LINK, BOTH)] == [("cpu",), ("cpu",)]
    assert CpuWorkload().tasks(LINK, BOTH) == []
    alone = Plan(workloads=["cpu"], duration=1)
    assert [str(task.row) for task in CpuWorkload().tasks(LINK, alone)] == ["cpu vm1 to vm2", "cpu vm2 to vm1"]
    assert [str(task.row) for task in TcpBidirWorkload().tasks(LINK, BOTH)] == ["tcp-bidir vm1 to vm2"]


def transfers(within: World, name: str, *, forth: float, back: float = 0.0, from_: str = "vm1") -> None:
    """Have iperf3 say what was recorded, and that share of its octets cross the link each way."""
    end = json.loads(recorded(name))["end"]
    source, target = (within.vm1, within.vm2) if from_ == "vm1" else (within.vm2, within.vm1)
    over = asyncio.Event()

    async def client(script: str, process: Process) -> int:
        within.cross(packets=1000, octets=int(end["sum_received"]["bytes"] * forth), back=from_ != "vm1")
        reverse: dict[str, Any] = end.get("sum_received_bidir_reverse", {"bytes": 0})
        within.cross(packets=1000, octets=int(reverse["bytes"] * back), back=from_ == "vm1")
        spin()
        process.stdout.write(recorded(name))
        over.set()
        return 0

    target.programs["iperf3 -s"] = serves("Server listening\n", over)
    source.programs["iperf3 -c"] = client


def spin() -> None:
    """Take CPU time: this process stands for both QEMUs."""
    sum(number * number for number in range(1_000_000))


@pytest.mark.parametrize("source", ["vm1", "vm2"])
async def test_throughput_and_its_price_come_of_one_transfer(rundir: RunDir, source: str) -> None:
    target = "vm2" if source == "vm1" else "vm1"
    async with world(rundir) as within:
        transfers(within, "iperf-tcp.json", forth=1.01, from_=source)
        figures = await TcpTask(source, target, BOTH, figures=("tcp", "cpu")).measure(within.pair)
    tcp, cpu = figures
    assert [(f.workload, f.metric.name, f.source, f.target) for f in figures] == [
        ("tcp", "throughput", source, target),
        ("cpu", "cpu", source, target),
    ]
    received = json.loads(recorded("iperf-tcp.json"))["end"]["sum_received"]
    assert tcp.value == pytest.approx(received["bits_per_second"] / 1e6)
    assert cpu.extra["cpu_seconds"] > 0
    assert cpu.value == pytest.approx(cpu.extra["cpu_seconds"] / (received["bytes"] * 8 / 1e9))
    # Both ends' QEMU is this process here, so it counts twice.
    assert cpu.extra["cpu_seconds"] <= 2 * cpu.extra["elapsed_seconds"] + 0.1


async def test_only_what_was_asked_for_is_told(rundir: RunDir) -> None:
    async with world(rundir) as within:
        transfers(within, "iperf-tcp.json", forth=1)
        plan = Plan(workloads=["cpu"], duration=1)
        figures = await TcpTask("vm1", "vm2", plan, figures=("tcp", "cpu")).measure(within.pair)
    assert [figure.workload for figure in figures] == ["cpu"]


async def test_a_transfer_that_the_interfaces_did_not_see_is_no_figure(rundir: RunDir) -> None:
    async with world(rundir) as within:
        transfers(within, "iperf-tcp.json", forth=0.9)
        with pytest.raises(VerificationError, match=r"`lan0` of `vm1` counted .* \(tx\).*not of this link") as caught:
            await TcpTask("vm1", "vm2", BOTH, figures=("tcp", "cpu")).measure(within.pair)
    assert caught.value.hint == "vpctl check --link lan0"


async def test_both_ways_at_once_are_a_figure_for_each(rundir: RunDir) -> None:
    async with world(rundir) as within:
        transfers(within, "iperf-tcp-bidir.json", forth=1, back=1)
        there, back = await TcpBidirTask("vm1", "vm2", BOTH).measure(within.pair)
    end = json.loads(recorded("iperf-tcp-bidir.json"))["end"]

    def told(figure: Figure) -> tuple[str, str, float]:
        return figure.source, figure.target, round(figure.value, 3)

    assert told(there) == ("vm1", "vm2", round(end["sum_received"]["bits_per_second"] / 1e6, 3))
    assert told(back) == ("vm2", "vm1", round(end["sum_received_bidir_reverse"]["bits_per_second"] / 1e6, 3))


@pytest.mark.parametrize(("forth", "back", "blamed"), [(1, 0.9, "vm2"), (0.9, 1, "vm1")])
async def test_each_way_is_confirmed_by_itself(rundir: RunDir, forth: float, back: float, blamed: str) -> None:
    async with world(rundir) as within:
        transfers(within, "iperf-tcp-bidir.json", forth=forth, back=back)
        with pytest.raises(VerificationError, match=f"of `{blamed}` counted"):
            await TcpBidirTask("vm1", "vm2", BOTH).measure(within.pair)
