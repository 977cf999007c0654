"""pktgen: what the kernel's generator wrote in a real guest, and packets counted where they arrive."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.bench import World, recorded, says, world
from tests.fakes.guest import Process
from tests.made import made_link
from vpctl.bench.workload import Plan, WorkloadError
from vpctl.bench.workloads.pktgen import (
    STOP,
    PktgenTask,
    PktgenWorkload,
    Sent,
    count_script,
    parse_rate,
    parse_sent,
    send_script,
)
from vpctl.errors import VerificationError
from vpctl.rundir import RunDir

PLAN = Plan(workloads=["pktgen"], duration=1)


def test_a_run_that_came_to_its_end_has_sent_so_many_packets_in_so_many_seconds() -> None:
    assert parse_sent(recorded("pktgen.txt")) == Sent(packets=49877, seconds=0.955989)
    assert parse_sent(recorded("pktgen-down.txt")) == Sent(packets=14326, seconds=0.463585)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pktgen-running.txt", "told no result: Result: Starting"),
        ("pktgen-idle.txt", "told no result: Result: OK: pkt_size=60"),
        ("pktgen-no-device.txt", "told no result: nothing"),
    ],
)
def test_a_generator_that_did_not_come_to_its_end_is_told_in_its_own_words(name: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        parse_sent(recorded(name))


@given(st.floats(0, 1, exclude_max=True))
def test_a_result_that_was_cut_off_is_none(share: float) -> None:
    text = recorded("pktgen.txt")
    end = text.index("(c946315")
    with pytest.raises(WorkloadError):
        parse_sent(text[: int(end * share)])


@given(st.text() | st.from_regex(r"pkts-sofar: \d*  errors: 0\nResult: OK: \d*\(", fullmatch=True))
def test_whatever_the_generator_writes_is_a_number_of_packets_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(WorkloadError):
        sent = parse_sent(text)
        assert sent.packets >= 0
        assert sent.seconds >= 0


def test_the_rate_is_of_the_time_between_two_readings() -> None:
    assert parse_rate("100.10 5000\n102.60 55000\n") == 20_000
    assert parse_rate("100.10 5000\n102.60 5000\n") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not read twice"),
        ("100.10 5000\n", "not read twice"),
        ("100.10 5000\n101.10\n", "not read twice"),
        ("1.10 1\n2.10 2\n3.10 3\n", "not read twice"),
        ("nan nan\nnan nan\n", "not read twice"),
        ("100.10 5000\n100.10 6000\n", "cannot be"),
        ("100.10 5000\n101.10 4000\n", "cannot be"),
    ],
)
def test_anything_else_but_two_readings_is_no_rate(text: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        parse_rate(text)


@given(st.text() | st.from_regex(r"([\d.]* [\d.]*\n){1,2}", fullmatch=True))
def test_whatever_is_read_of_the_counter_is_a_rate_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(WorkloadError):
        assert parse_rate(text) >= 0


def test_each_direction_is_measured_with_the_smallest_frame() -> None:
    rows = [str(task.row) for task in PktgenWorkload().tasks(made_link("lan0", "vm1", "vm2"), PLAN)]
    assert rows == ["pktgen 64 B vm1 to vm2", "pktgen 64 B vm2 to vm1"]


def test_frames_go_to_the_peers_own_addresses_and_the_generator_ends_even_if_nobody_stops_it() -> None:
    script = send_script(link="lan0", address="10.77.0.2", mac="02:00:00:00:00:02", limit=31.3)
    assert 'put lan0 "dst 10.77.0.2"' in script
    assert 'put lan0 "dst_mac 02:00:00:00:00:02"' in script
    assert 'put lan0 "pkt_size 60"' in script
    assert f"(sleep 31.3; {STOP}) " in script
    assert "{" not in script.replace("put() {", "")


async def test_the_counters_script_gives_what_is_read() -> None:
    script = count_script(link="lo", seconds=0.1)
    shell = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=asyncio.subprocess.PIPE)
    output, _ = await shell.communicate()
    assert parse_rate(output.decode()) >= 0


def generates(within: World, *, name: str = "pktgen.txt", arrived: int, seconds: str | None = None) -> list[str]:
    """Have vm1 send as was recorded, and so many of it arrive at vm2; returns the order of what happened."""
    stopped, order = asyncio.Event(), list[str]()
    text = recorded(name) if seconds is None else recorded(name).replace("OK: 955989(", f"OK: {seconds}(")

    async def send(script: str, process: Process) -> int:
        order.append("start")
        process.stdout.write("running\n")
        await stopped.wait()
        process.stdout.write(text)
        return 0

    async def count(script: str, process: Process) -> int:
        order.append("count")
        assert not stopped.is_set()
        process.stdout.write("10.00 1000\n12.00 91000\n")
        within.vm1.count("tx", 49877, 49877 * 60)
        within.vm2.count("rx", arrived, arrived * 60)
        return 0

    async def stop(script: str, process: Process) -> int:
        order.append("stop")
        stopped.set()
        return 0

    async def drain(script: str, process: Process) -> int:
        order.append("drain")
        return 0

    within.vm1.programs |= {"add_device lan0": send, STOP: stop}
    within.vm2.programs |= {"uptime": count, "for turn": drain}
    return order


async def test_packets_are_counted_where_they_arrive_while_the_generator_runs(rundir: RunDir) -> None:
    async with world(rundir) as within:
        order = generates(within, arrived=40000, seconds="1600000")
        (figure,) = await PktgenTask("vm1", "vm2", PLAN).measure(within.pair)
    assert order == ["start", "count", "stop", "drain"]
    assert (figure.workload, figure.metric.name, figure.variant) == ("pktgen", "rate", "64 B")
    assert figure.value == 45_000
    assert figure.extra["loss_percent"] == pytest.approx(100 * 9877 / 49877)
    assert figure.extra["sent_rate"] == pytest.approx(49877 / 1.6)
    assert "10.00 1000\n12.00 91000\n" in [record.stdout for record in within.raw.records]


async def test_a_generator_that_ended_by_itself_gives_no_rate(rundir: RunDir) -> None:
    async with world(rundir) as within:
        generates(within, name="pktgen-down.txt", arrived=14326)
        with pytest.raises(WorkloadError, match=r"vm1: pktgen ended by itself after 0\.463585 s"):
            await PktgenTask("vm1", "vm2", PLAN).measure(within.pair)


async def test_packets_of_which_none_arrive_are_no_figure(rundir: RunDir) -> None:
    async with world(rundir) as within:
        generates(within, arrived=0, seconds="1600000")
        with pytest.raises(WorkloadError, match="none of 49877 packets of pktgen arrived at `vm2`"):
            await PktgenTask("vm1", "vm2", PLAN).measure(within.pair)


async def test_more_than_was_sent_is_no_loss(rundir: RunDir) -> None:
    async with world(rundir) as within:
        generates(within, arrived=49990, seconds="1600000")
        (figure,) = await PktgenTask("vm1", "vm2", PLAN).measure(within.pair)
    assert figure.extra["loss_percent"] == 0


async def test_a_generator_that_cannot_begin_is_told_in_its_own_words(rundir: RunDir) -> None:
    async with world(rundir) as within:
        within.vm1.programs["add_device"] = says("", status=1, stderr=recorded("pktgen-no-device.txt"))
        with pytest.raises(VerificationError, match=r"^vm1: pktgen failed with exit code 1: .*No such device$"):
            await PktgenTask("vm1", "vm2", PLAN).measure(within.pair)


async def test_a_generator_that_fails_after_it_began_is_told_with_its_exit_code(rundir: RunDir) -> None:
    async with world(rundir) as within:
        generates(within, arrived=40000)
        within.vm1.programs["add_device lan0"] = says("running\n", status=2, stderr="sh: start: Invalid argument\n")
        with pytest.raises(WorkloadError, match="vm1: pktgen failed with exit code 2: sh: start: Invalid argument"):
            await PktgenTask("vm1", "vm2", PLAN).measure(within.pair)
