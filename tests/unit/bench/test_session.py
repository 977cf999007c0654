"""From a status to a result: guests that are logged in to, rows put together, links that are found broken."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.bench import Inside, World, recorded, says, world
from tests.fakes.guest import Process, guest_running, shell
from tests.made import PAIR, made_run
from vpctl.bench.guest import Raw
from vpctl.bench.results.result import BenchResult, GuestRecord, HostRecord, RawRecord
from vpctl.bench.runner import FailedMeasurement, Outcome, Runner
from vpctl.bench.session import MANY_OBSERVATIONS, Request, assemble, guests, measure, open_guest, samples, why_broken
from vpctl.bench.workload import Crash, Figure, Metric, Plan, Row, WorkloadError
from vpctl.errors import NotFoundError
from vpctl.guest.ssh import Address, GuestSshError
from vpctl.rundir import RunDir

RTT = Metric(name="rtt", unit="µs", better="lower")
MBIT = Metric(name="throughput", unit="Mbit/s", better="higher")


def figure(workload: str, value: float, **more: Any) -> Figure:
    metric = RTT if workload == "ping" else MBIT
    given = {"workload": workload, "metric": metric, "source": "vm1", "target": "vm2", "value": value}
    return Figure(**{**given, **more})


def outcome(**figures: Sequence[Figure]) -> Outcome:
    return Outcome(figures={link: list(found) for link, found in figures.items()})


KINDS = {"lan0": "stream", "lan1": "dgram"}

# Section: rows


def test_a_row_has_a_value_per_repeat_their_median_and_what_else_was_seen_each_time() -> None:
    found = outcome(
        lan0=[figure("tcp", value, extra={"retransmits": value / 10, "x": 1}) for value in (30.0, 10.0, 20.0)]
    )
    (row,) = samples(found, KINDS)
    assert (row.link, row.kind, row.workload, row.metric) == ("lan0", "stream", "tcp", "throughput")
    assert (row.unit, row.better, row.source, row.target, row.variant) == ("Mbit/s", "higher", "vm1", "vm2", None)
    assert (row.values, row.median) == ([30.0, 10.0, 20.0], 20.0)
    assert row.extra == {"retransmits": [3.0, 1.0, 2.0], "x": [1, 1, 1]}
    assert row.interval is not None
    assert row.interval[0] <= row.median <= row.interval[1]
    assert (row.p50, row.p99, row.observations) == (None, None, None)


@pytest.mark.parametrize("count", [MANY_OBSERVATIONS - 2, MANY_OBSERVATIONS])
def test_percentiles_are_of_every_single_observation_and_the_rarest_one_of_many_only(count: int) -> None:
    half = count // 2
    found = outcome(
        lan0=[
            figure("ping", 1.0, observations=tuple(map(float, range(1, half + 1)))),
            figure("ping", 2.0, observations=tuple(map(float, range(half + 1, count + 1)))),
        ]
    )
    (row,) = samples(found, KINDS)
    assert row.observations == count
    assert row.p50 == count / 2
    assert row.p90 == pytest.approx(0.9 * count, abs=1)
    assert row.p95 == pytest.approx(0.95 * count, abs=1)
    assert row.p99 == pytest.approx(0.99 * count, abs=1)
    assert row.p999 == (9990 if count == MANY_OBSERVATIONS else None)
    written = row.model_dump(by_alias=True, exclude_none=True)
    assert ("p99.9" in written) is (count == MANY_OBSERVATIONS)


def test_rows_come_workload_by_workload_with_their_links_beneath_each_other() -> None:
    def both(size: str) -> list[Figure]:
        return [figure("udp", 1, variant=size), figure("udp", 1, variant=size, source="vm2", target="vm1")]

    found = outcome(
        lan0=[*both("64 B"), *both("1518 B"), figure("ping", 1)],
        lan1=[figure("ping", 1), figure("outage", 1), *both("64 B"), *both("1518 B")],
    )
    assert [(row.workload, row.variant, row.source, row.link) for row in samples(found, KINDS)] == [
        ("ping", None, "vm1", "lan0"),
        ("ping", None, "vm1", "lan1"),
        *(
            ("udp", variant, source, link)
            for variant in ("64 B", "1518 B")
            for source in ("vm1", "vm2")
            for link in ("lan0", "lan1")
        ),
        ("outage", None, "vm1", "lan1"),
    ]


def test_values_that_something_else_distinguishes_are_in_rows_of_their_own() -> None:
    figures = [
        figure("tcp", 1),
        figure("cpu", 2),
        figure("tcp", 3, source="vm2", target="vm1"),
        figure("udp", 4, variant="64 B"),
        figure("udp", 5, variant="512 B"),
    ]
    rows = list(samples(outcome(lan0=figures, lan1=figures), KINDS))
    assert sorted(row.values[0] for row in rows) == sorted(2 * [1, 2, 3, 4, 5])
    assert len({row.key for row in rows}) == len(rows) == 10


# Section: results

HOST = HostRecord(cpu="c", cores=1, memory=1, kernel="k", vms=[], load_before=(0, 0, 0), load_after=(0, 0, 0))


def assembled(found: Outcome, **plan: Any) -> BenchResult:
    given: dict[str, Any] = {"workloads": ["ping", "tcp"], "duration": 2, **plan}
    request = Request(run=made_run(), links=PAIR.links, plan=Plan(**given), repeats=7, load_before=(0.1, 0.2, 0.3))
    raw = Raw(records=[record()])
    return assemble(request, found, host=HOST, started="2024-05-06T07:08:09+00:00", seconds=3.5, raw=raw)


def record() -> RawRecord:
    return RawRecord(
        link="lan0", workload="ping", vm="vm1", round=1, command="ping", status=0, stdout="o", stderr="e"
    )


def test_a_result_tells_what_was_asked_what_came_of_it_and_what_did_not() -> None:
    found = outcome(lan0=[figure("ping", 1.0)])
    row = Row(workload="tcp", source="vm1", target="vm2", variant="64 B")
    found.failures.append(
        FailedMeasurement(link="lan0", row=row, round_=2, error=WorkloadError("nothing", hint="look"))
    )
    found.skipped["lan0", "tcp"] = "it failed"
    found.seconds["lan0", "ping"] = 1.23456
    result = assembled(found, quick=True)
    assert (result.topology, result.seconds, result.started) == ("pair", 3.5, "2024-05-06T07:08:09+00:00")
    assert [(link.name, link.kind, link.endpoints, link.mtu, link.queues) for link in result.links] == [
        ("lan0", "stream", ("vm1", "vm2"), 1500, 1)
    ]
    assert result.settings.model_dump() == {
        "workloads": ["ping", "tcp"],
        "repeats": 7,
        "duration": 2,
        "quick": True,
        "crash": None,
    }
    (failure,) = result.failures
    assert failure.model_dump(by_alias=True) == {
        **{"link": "lan0", "kind": "stream", "workload": "tcp", "from": "vm1", "to": "vm2", "variant": "64 B"},
        **{"round": 2, "message": "nothing", "hint": "look"},
    }
    assert [(skip.workload, skip.reason) for skip in result.skipped] == [("tcp", "it failed")]
    assert [(timing.workload, timing.seconds) for timing in result.timings] == [("ping", 1.235)]
    assert result.raw == [record()]


def test_a_result_survives_its_file() -> None:
    result = assembled(outcome(lan0=[figure("ping", 1.0, observations=(1.0, 2.0)), figure("ping", 2.0)]))
    assert BenchResult.model_validate_json(json.dumps(result.as_json())) == result


def test_the_vm_that_was_killed_is_told() -> None:
    async def nothing() -> None: ...

    crash = Crash(vm="vm2", kill=nothing, recover=nothing, ready=nothing)
    assert assembled(outcome(lan0=[]), crash=crash).settings.crash == "vm2"


# Section: guests


def entry(address: Address, *, vm: str = "vm1", **changed: Any) -> dict[str, Any]:
    """Return a VM as `status` has it; this process is its QEMU."""
    ssh = {"port": address.port, "user": "root", "identity": str(address.identity), "host_key": address.host_key}
    return {"name": vm, "state": "ready", "pid": os.getpid(), "ssh": ssh, **changed}


@dataclass(slots=True)
class Running:
    """Two guests, and the status that tells of them."""

    vm1: Inside
    vm2: Inside
    status: dict[str, Any]


FACTS = "6.1.0\nrmem_max 212992\nbuffer 8388608\n"


@asynccontextmanager
async def running(rundir: RunDir) -> AsyncIterator[Running]:
    """Have two guests that can be logged in to for as long as the block lasts."""
    insides = [Inside(vm, programs={"uname -r": says(FACTS), "echo 212992": says("")}) for vm in ("vm1", "vm2")]
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(guest_running(rundir, shell(one.run))) for one in insides]
        entries = [entry(address, vm=one.vm) for address, one in zip(addresses, insides, strict=True)]
        yield Running(vm1=insides[0], vm2=insides[1], status={"vms": entries})


async def test_a_guest_is_what_its_status_says(rundir: RunDir) -> None:
    async with guest_running(rundir) as address:
        guest = open_guest(entry(address), Raw())
        assert (guest.vm, guest.address, guest.process.pid) == ("vm1", address, os.getpid())
        assert guest.agent == "/usr/bin/vpctl-agent"
        assert open_guest(entry(address, agent="/run/agent"), Raw()).agent == "/run/agent"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"state": "crashed", "pid": None}, "VM `vm1` is crashed, not ready"),
        ({"state": "booting"}, "VM `vm1` is booting, not ready"),
        ({"pid": None}, "the QEMU of VM `vm1` has ended"),
        ({"pid": 1 << 22}, "the QEMU of VM `vm1` has ended"),
    ],
)
async def test_a_vm_that_is_not_ready_cannot_be_measured(
    rundir: RunDir, changed: dict[str, Any], message: str
) -> None:
    async with guest_running(rundir) as address:
        with pytest.raises(NotFoundError, match=message) as caught:
            open_guest(entry(address, **changed), Raw())
    assert caught.value.hint == "vpctl recover vm1"


async def test_guests_are_prepared_for_the_block_and_left_as_they_were(rundir: RunDir) -> None:
    async with running(rundir) as found:
        async with guests(found.status, ["vm1", "vm2"], Raw()) as opened:
            assert set(opened) == {"vm1", "vm2"}
            assert all(guest.facts.buffer == 8388608 for guest in opened.values())
        for inside in (found.vm1, found.vm2):
            prepare, restore = inside.scripts
            assert "iperf3 ping" in prepare
            assert restore == "echo 212992 >/proc/sys/net/core/rmem_max"
        with pytest.raises(GuestSshError, match="not logged in"):
            await opened["vm1"].run("true", seconds=1)


async def test_a_vm_that_is_not_asked_for_is_left_alone(rundir: RunDir) -> None:
    async with running(rundir) as found, guests(found.status, ["vm2"], Raw()) as opened:
        assert set(opened) == {"vm2"}
        assert found.vm1.scripts == []


async def test_guests_are_left_as_they_were_when_the_block_fails_or_one_of_them_is_gone(rundir: RunDir) -> None:
    async with running(rundir) as found:
        with pytest.raises(ZeroDivisionError):
            async with guests(found.status, ["vm1", "vm2"], Raw()) as opened:
                await opened["vm1"].close()
                raise ZeroDivisionError
        assert len(found.vm1.scripts) == 1
        assert found.vm2.scripts[-1].startswith("echo 212992 ")


async def test_a_guest_that_does_not_let_us_in_is_one_error_of_ours(rundir: RunDir) -> None:
    async with running(rundir) as found:
        found.status["vms"][1]["ssh"]["port"] = 1
        with pytest.raises(GuestSshError, match="no ssh into vm2"):
            async with guests(found.status, ["vm1", "vm2"], Raw()):
                pytest.fail("it was entered")


# Section: links


def probes(within: World, **replies: dict[str, Any]) -> None:
    """Have each guest's agent answer a probe."""
    for inside in (within.vm1, within.vm2):
        reply = replies[inside.vm]
        inside.programs["/a probe lan0"] = says(json.dumps(reply), status=0 if reply["ok"] else 1)


WELL = {"ok": True, "loss_percent": 0.0, "rtt_ms": 1.0, "corrupt": 0}


async def test_a_link_that_carries_packets_both_ways_is_not_broken(rundir: RunDir) -> None:
    async with world(rundir) as within:
        probes(within, vm1=WELL, vm2=WELL)
        assert await why_broken(within.pair) is None


async def test_a_link_that_carries_them_one_way_only_is_broken_and_the_way_is_named(rundir: RunDir) -> None:
    async with world(rundir) as within:
        probes(within, vm1=WELL, vm2={"ok": False, "error": "timeout"})
        assert await why_broken(within.pair) == "no packets from `vm2` to `vm1`: timeout"


async def test_a_connection_that_broke_is_made_again_before_the_link_is_judged(rundir: RunDir) -> None:
    async with world(rundir) as within:
        probes(within, vm1=WELL, vm2=WELL)
        await within.pair.first.guest.close()
        assert await why_broken(within.pair) is None
        assert (await within.pair.first.guest.run("/a probe lan0", seconds=1)).status == 0


async def test_a_guest_that_does_not_let_us_in_any_more_breaks_its_link(rundir: RunDir) -> None:
    async with world(rundir) as within:
        probes(within, vm1=WELL, vm2=WELL)
        guest = within.pair.second.guest
        guest.address = Address(vm="vm2", port=1, user="root", identity=rundir.identity, host_key=None)
        assert "no ssh into vm2" in (await why_broken(within.pair) or "")


# Section: all of it


class Silent:
    """An observer that nobody listens to."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def began(self, link: str, row: Row, round_: int) -> None: ...

    def measured(self, link: str, figures: Sequence[Figure], round_: int, left: float) -> None: ...

    def failed(self, failure: FailedMeasurement) -> None: ...

    def broken(self, link: str, reason: str) -> None: ...


async def test_a_link_is_measured_from_the_status_to_the_result(rundir: RunDir) -> None:
    async with running(rundir) as found:

        async def ping(script: str, process: Process) -> int:
            found.vm1.count("tx", 40, 4000)
            found.vm2.count("rx", 40, 4000)
            process.stdout.write(recorded("ping.txt"))
            return 0

        found.vm1.programs["ping -A"] = ping
        found.vm2.programs["uname -r"] = says(FACTS + "missing iperf3\n")
        raw = Raw()
        plan = Plan(workloads=["ping", "tcp"], duration=1)
        request = Request(run=made_run(), links=PAIR.links, plan=plan, repeats=3, load_before=(0, 0, 0))
        async with guests(found.status, ["vm1", "vm2"], raw) as opened:
            result = await measure(request, opened, raw=raw, observer=Silent)
    (row,) = result.samples
    assert (row.link, row.workload, row.values, row.observations) == ("lan0", "ping", [row.median] * 3, 120)
    assert [(skip.workload, skip.reason) for skip in result.skipped] == [("tcp", "`vm2` has no `iperf3`")]
    assert [(vm.name, vm.kernel) for vm in result.host.vms] == [("vm1", "6.1.0"), ("vm2", "6.1.0")]
    assert all(isinstance(vm, GuestRecord) for vm in result.host.vms)
    assert result.seconds >= 0
    pings = [one for one in raw.records if one.workload == "ping" and one.stdout == recorded("ping.txt")]
    assert [one.round for one in pings] == [0, 1, 2, 3]
