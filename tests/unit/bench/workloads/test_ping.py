"""Pings: what a real one wrote, and what is made of it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.bench import World, recorded, says, world
from tests.fakes.guest import Process
from tests.made import made_link
from vpctl.bench.workload import Plan, WorkloadError
from vpctl.bench.workloads import ping
from vpctl.bench.workloads.ping import Pings, PingTask, PingWorkload, command, parse
from vpctl.errors import VerificationError
from vpctl.rundir import RunDir

PLAN = Plan(workloads=["ping"], duration=2)


def test_every_round_trip_is_read_in_microseconds() -> None:
    pings = parse(recorded("ping.txt"))
    assert (pings.sent, pings.received, len(pings.rtts)) == (40, 40, 40)
    assert pings.rtts[-3:] == (714.0, 1080.0, 881.0)
    assert (min(pings.rtts), max(pings.rtts)) == (603.0, 2130.0)


def test_what_is_lost_has_no_round_trip() -> None:
    pings = parse(recorded("ping-loss.txt"))
    assert (pings.sent, pings.received, len(pings.rtts)) == (25, 20, 20)


def test_a_reply_that_comes_twice_is_one_round_trip() -> None:
    text = recorded("ping-loss-dup.txt")
    assert text.count("(DUP!)") == 2
    pings = parse(text)
    assert (pings.sent, pings.received, len(pings.rtts)) == (33, 25, 25)


def test_hardly_any_time_is_a_time() -> None:
    text = recorded("ping.txt").replace("time=0.714 ms", "time<1 ms")
    assert parse(text).rtts[-3] == 1000.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ping-none.txt", "no reply to any of 2 pings"),
        ("ping-unreachable.txt", "no reply to any of 4 pings"),
        ("ping-killed.txt", "ping was cut off: .*icmp_seq=204"),
        ("ping-no-interface.txt", "ping was cut off: ping: SO_BINDTODEVICE fast9: No such device"),
    ],
)
def test_no_reply_and_no_end_are_no_figure_and_say_so(name: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=rf"(?s){message}"):
        parse(recorded(name))


def test_a_ping_that_wrote_nothing_is_told_as_that() -> None:
    with pytest.raises(WorkloadError, match="it wrote nothing"):
        parse("\n")


@given(st.sampled_from(["ping.txt", "ping-loss-dup.txt"]), st.floats(0, 1))
def test_output_that_was_cut_off_before_its_totals_is_never_a_figure(name: str, share: float) -> None:
    text = recorded(name)
    end = text.index(" received")
    with pytest.raises(WorkloadError, match="cut off"):
        parse(text[: int(end * share)])


LINE = st.one_of(
    st.from_regex(r"[0-9]* bytes from x: time[=<][0-9.]* ms( \(DUP!\))?", fullmatch=True),
    st.from_regex(r"\d* packets transmitted, \d* received", fullmatch=True),
    st.text(),
)


@given(st.lists(LINE).map("\n".join))
def test_whatever_ping_writes_is_pings_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(WorkloadError):
        pings = parse(text)
        assert isinstance(pings, Pings)
        assert pings.sent > 0
        assert all(rtt >= 0 for rtt in pings.rtts)


def test_ten_thousand_pings_come_of_the_default_and_fewer_of_quick() -> None:
    link = made_link("lan0", "vm1", "vm2")
    (task,) = PingWorkload().tasks(link, PLAN)
    (quick,) = PingWorkload().tasks(link, Plan(workloads=["ping"], duration=1, quick=True))
    assert task.seconds > quick.seconds
    assert 7 * 2 * ping.PER_SECOND >= 10_000


def test_a_ping_is_bound_to_the_links_interface_and_ends_by_itself() -> None:
    assert command(link="lan0", target="10.77.0.2", count=5, seconds=9) == "ping -A -n -I lan0 -c 5 -w 9 10.77.0.2"


def pings_across(within: World, name: str, *, status: int = 0, crossed: int) -> None:
    """Have vm1 ping as was recorded, with so many packets going over the link."""

    async def run(script: str, process: Process) -> int:
        within.cross(packets=crossed, octets=crossed * 98)
        process.stdout.write(recorded(name))
        return status

    within.vm1.programs["ping"] = run


async def test_the_figure_is_the_median_with_each_round_trip_behind_it(rundir: RunDir) -> None:
    async with world(rundir) as within:
        pings_across(within, "ping-loss.txt", crossed=25)
        (figure,) = await PingTask("vm1", "vm2", PLAN).measure(within.pair)
    assert (figure.workload, figure.metric.name, figure.metric.unit) == ("ping", "rtt", "µs")
    assert (figure.source, figure.target) == ("vm1", "vm2")
    assert len(figure.observations) == 20
    assert sorted(figure.observations)[9] <= figure.value <= sorted(figure.observations)[10]
    assert figure.extra == {"loss_percent": 20.0}
    assert within.vm1.scripts == ["exec ping -A -n -I lan0 -c 1500 -w 25 10.77.0.2"]


async def test_pings_that_went_by_another_way_are_no_figure(rundir: RunDir) -> None:
    async with world(rundir) as within:
        pings_across(within, "ping.txt", crossed=12)
        with pytest.raises(VerificationError, match="the figure is not of this link"):
            await PingTask("vm1", "vm2", PLAN).measure(within.pair)


async def test_a_ping_that_could_not_begin_is_told_in_its_own_words(rundir: RunDir) -> None:
    async with world(rundir) as within:
        within.vm1.programs["ping"] = says("", status=2, stderr=recorded("ping-no-interface.txt"))
        with pytest.raises(WorkloadError, match=r"vm1: ping failed with exit code 2: .*No such device"):
            await PingTask("vm1", "vm2", PLAN).measure(within.pair)


async def test_replies_that_are_missing_are_loss_and_no_failure(rundir: RunDir) -> None:
    async with world(rundir) as within:
        pings_across(within, "ping-loss-dup.txt", status=1, crossed=40)
        (figure,) = await PingTask("vm1", "vm2", PLAN).measure(within.pair)
    assert figure.extra["loss_percent"] == pytest.approx(24.2424, abs=0.001)
