"""The search for the rate without loss: over simulated links, and with iperf3 as it answered."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fakes.bench import World, recorded, serves, world
from tests.fakes.guest import Process
from tests.made import made_link
from vpctl.bench.guest import GuestFacts
from vpctl.bench.workload import Plan, WorkloadError
from vpctl.bench.workloads.udp import (
    CLOSE_ENOUGH,
    FIRST_PROBES,
    LATER_PROBES,
    LOSS_PERCENT,
    STEP,
    UNLIMITED,
    Probe,
    UdpTask,
    UdpWorkload,
    frame_sizes,
    options,
    payload,
    search,
)
from vpctl.errors import VerificationError
from vpctl.rundir import RunDir


@dataclass(slots=True)
class Link:
    """A link as the search sees it; Mbit/s."""

    capacity: float
    sender: float = math.inf
    """What the sender has to give."""
    collapse: float = 0.0
    """How much of its capacity a receiver loses under an endless overload: it is busy with dropping."""
    least_loss: float = 0.0
    """Percent that are lost at any rate."""
    tried: list[float] = field(default_factory=list)
    seen: list[Probe] = field(default_factory=list)

    def probe(self, rate: float) -> Probe:
        """Offer a rate."""
        self.tried.append(rate)
        offered = min(rate, self.sender, 1e6)
        arrived = offered
        if offered > self.capacity:
            arrived = self.capacity * (1 - self.collapse * (1 - self.capacity / offered))
        arrived *= 1 - self.least_loss / 100
        self.seen.append(Probe(offered=offered, received=arrived, loss_percent=100 * (offered - arrived) / offered))
        return self.seen[-1]

    @property
    def most(self) -> float:
        """What can be found at most."""
        return min(self.capacity, self.sender)


def found(probe: Callable[[float], Probe], *, previous: float | None = None, probes: int) -> Probe | None:
    """Search to the end."""
    searching = search(previous, probes)
    rate = next(searching)
    while True:
        try:
            rate = searching.send(probe(rate))
        except StopIteration as end:
            best: Probe | None = end.value
            return best


CAPACITY = st.floats(1, 1e4)
SURPLUS = st.floats(0.1, 100)
"""How many times the link's capacity a sender has."""


PROBE = st.builds(
    Probe, offered=st.floats(0, 1e5), received=st.floats(0, 1e5), loss_percent=st.floats(0, 100) | st.just(0.0)
)


@given(st.lists(PROBE, min_size=9, max_size=9), st.none() | st.floats(0, 1e5), st.integers(1, 9))
def test_whatever_is_seen_the_best_probe_without_loss_is_found_in_as_many_probes_as_are_allowed(
    script: list[Probe], previous: float | None, probes: int
) -> None:
    given_, tried = iter(script), []
    seen: list[Probe] = []

    def probe(rate: float) -> Probe:
        tried.append(rate)
        seen.append(next(given_))
        return seen[-1]

    best = found(probe, previous=previous, probes=probes)
    assert 1 <= len(tried) <= probes
    assert all(rate > 0 for rate in tried)
    assert tried[0] == (previous or UNLIMITED)
    for number, (rate, one) in enumerate(zip(tried, seen, strict=True)):
        if one.loss_percent > LOSS_PERCENT:
            assert all(later < rate for later in tried[number + 1 :])
    well = [one for one in seen if one.loss_percent <= LOSS_PERCENT]
    assert best == max(well, key=lambda one: one.received, default=None)


@given(CAPACITY, SURPLUS)
@example(100.0, 1.04)
def test_a_link_that_takes_in_what_it_can_is_found_within_a_step(capacity: float, surplus: float) -> None:
    link = Link(capacity, sender=capacity * surplus)
    best = found(link.probe, probes=FIRST_PROBES)
    assert best is not None
    assert link.most / CLOSE_ENOUGH**2 <= best.received <= link.most


@given(CAPACITY, SURPLUS, st.floats(0, 0.9))
def test_a_receiver_that_overload_brings_down_is_still_found(
    capacity: float, surplus: float, collapse: float
) -> None:
    link = Link(capacity, sender=capacity * surplus, collapse=collapse)
    best = found(link.probe, probes=FIRST_PROBES)
    assert best is not None
    assert 0.6 * link.most <= best.received <= link.most
    # With probes enough it gets as near as it says that it does.
    patient = found(Link(capacity, sender=capacity * surplus, collapse=collapse).probe, probes=30)
    assert patient is not None
    assert patient.received >= link.most / CLOSE_ENOUGH**2


@given(CAPACITY, SURPLUS, st.floats(0, 0.9), st.floats(1 / STEP, STEP))
def test_what_was_found_before_is_found_again_in_few_probes(
    capacity: float, surplus: float, collapse: float, change: float
) -> None:
    link = Link(capacity, sender=capacity * surplus, collapse=collapse)
    best = found(link.probe, previous=link.most * change, probes=LATER_PROBES)
    assert link.tried[0] == link.most * change
    assert best is not None
    assert link.most / STEP <= best.received <= link.most


@given(CAPACITY, st.floats(0.1, 0.99))
def test_a_sender_that_gives_all_it_has_without_loss_is_asked_once(capacity: float, share: float) -> None:
    link = Link(capacity, sender=capacity * share)
    best = found(link.probe, probes=FIRST_PROBES)
    assert link.tried == [UNLIMITED]
    assert best is not None
    assert best.received == link.sender


@given(CAPACITY, SURPLUS, st.floats(2 * LOSS_PERCENT, 100), st.none() | st.floats(0.1, 1e4))
def test_a_link_that_loses_at_any_rate_has_none(
    capacity: float, surplus: float, loss: float, previous: float | None
) -> None:
    link = Link(capacity, sender=capacity * surplus, least_loss=loss)
    assert found(link.probe, previous=previous, probes=FIRST_PROBES) is None
    assert all(after < before for before, after in zip(link.tried, link.tried[1:], strict=False))


def test_a_probe_of_which_nothing_arrived_is_not_followed_by_one_without_limit() -> None:
    link = Link(10, least_loss=100)
    assert found(link.probe, previous=5.0, probes=FIRST_PROBES) is None
    assert link.tried == [5.0]


def test_frames_are_those_of_rfc_2544_and_the_largest_that_the_link_carries() -> None:
    assert frame_sizes(1500, quick=False) == [64, 512, 1518]
    assert frame_sizes(9000, quick=False) == [64, 512, 1518, 9018]
    assert frame_sizes(600, quick=False) == [64, 512, 618]
    assert frame_sizes(68, quick=False) == [64, 86]
    assert frame_sizes(1500, quick=True) == frame_sizes(9000, quick=True) == [1518]
    assert frame_sizes(600, quick=True) == [618]


@given(st.integers(68, 65535), st.booleans())
def test_every_frame_fits_the_link_and_has_room_for_iperfs_own_header(mtu: int, quick: bool) -> None:
    sizes = frame_sizes(mtu, quick=quick)
    assert sizes == sorted(set(sizes))
    assert all(16 <= payload(size) <= 65507 and payload(size) + 28 <= mtu for size in sizes)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(UNLIMITED, "-u -b 0 -l 1472 -w 4194304"), (12.3456789, "-u -b 12345679 -l 1472 -w 4194304")],
)
def test_iperf_is_told_bits_per_second_and_no_limit_as_0(rate: float, expected: str) -> None:
    assert options(rate=rate, size=1472, buffer=8 << 20) == expected


@given(st.integers(0, 64 << 20))
def test_iperf_is_not_told_to_take_a_larger_buffer_than_the_guest_allows(limit: int) -> None:
    assert int(options(rate=1.0, size=18, buffer=limit).split("-w ")[1]) <= limit


def test_each_size_goes_each_way() -> None:
    link = made_link("lan0", "vm1", "vm2")
    rows = [str(task.row) for task in UdpWorkload().tasks(link, Plan(workloads=["udp"], duration=1))]
    assert rows == [f"udp {size} B {way}" for size in (64, 512, 1518) for way in ("vm1 to vm2", "vm2 to vm1")]


def carries(within: World, link: Link, *, confirmed: float = 1.0) -> None:
    """Have vm1's iperf3 tell of vm2's what a simulated link makes of the rate that it is asked for."""
    template = json.loads(recorded("iperf-udp-5M.json"))
    over = asyncio.Event()

    async def client(script: str, process: Process) -> int:
        words = script.split()
        size, bandwidth = int(words[words.index("-l") + 1]), float(words[words.index("-b") + 1])
        probe = link.probe(bandwidth / 1e6 if bandwidth else UNLIMITED)
        sent, received = (round(mbit * 1e6 / 8 / size) for mbit in (probe.offered, probe.received))
        template["end"]["sum_sent"] |= {"bytes": sent * size, "seconds": 1.0, "packets": sent}
        template["end"]["sum_received"] |= {"bytes": received * size, "seconds": 1.0, "packets": sent}
        template["end"]["sum_received"]["lost_packets"] = sent - received
        within.cross(packets=round(received * confirmed), octets=round(received * confirmed * (size + 42)))
        process.stdout.write(json.dumps(template))
        over.set()
        return 0

    async def server(script: str, process: Process) -> int:
        over.clear()
        return await serves("Server listening\n", over)(script, process)

    within.vm1.programs["iperf3 -c"] = client
    within.vm2.programs["iperf3 -s"] = server


async def test_rounds_begin_where_the_best_one_ended(rundir: RunDir) -> None:
    async with world(rundir) as within:
        link = Link(40.0, sender=400.0)
        carries(within, link)
        task = UdpTask("vm1", "vm2", 1518, quick=False)
        (first,) = await task.measure(within.pair)
        assert link.tried[0] == UNLIMITED
        assert first.extra["probes"] == len(link.tried)
        link.tried.clear()
        link.capacity = 20.0  # a busy host
        await task.measure(within.pair)
        link.tried.clear()
        link.capacity = 40.0
        (third,) = await task.measure(within.pair)
    assert first.value == pytest.approx(40, rel=0.05)
    assert link.tried[0] == pytest.approx(first.value, rel=0.01)
    assert third.value == pytest.approx(40, rel=0.05)
    assert (first.workload, first.variant, first.source, first.target) == ("udp", "1518 B", "vm1", "vm2")


async def test_both_guests_buffers_are_what_their_limits_allow(rundir: RunDir) -> None:
    async with world(rundir) as within:
        for guest, buffer in ((within.pair.first.guest, 1 << 20), (within.pair.second.guest, 8 << 20)):
            guest.facts = GuestFacts(kernel="", missing=frozenset(), buffer=buffer, limits={})
        carries(within, Link(40.0, sender=30.0))
        await UdpTask("vm1", "vm2", 64, quick=True).measure(within.pair)
    (script,) = within.vm1.scripts
    assert "-l 18 " in script
    assert script.endswith(f"-w {1 << 19}")


async def test_a_link_that_loses_at_every_rate_carries_nothing_without_loss(rundir: RunDir) -> None:
    async with world(rundir) as within:
        link = Link(40.0, least_loss=3.0)
        carries(within, link)
        task = UdpTask("vm1", "vm2", 1518, quick=False)
        (figure,) = await task.measure(within.pair)
        assert figure.value == 0.0
        assert figure.extra["loss_percent"] == pytest.approx(3.0, abs=0.1)
        link.tried.clear()
        await task.measure(within.pair)
    assert link.tried[0] == UNLIMITED  # there is nothing to begin with


async def test_datagrams_that_the_interfaces_did_not_see_are_no_figure(rundir: RunDir) -> None:
    async with world(rundir) as within:
        carries(within, Link(40.0, sender=30.0), confirmed=0.9)
        with pytest.raises(VerificationError, match="not of this link"):
            await UdpTask("vm1", "vm2", 1518, quick=True).measure(within.pair)


async def test_one_probe_that_fails_is_a_measurement_that_fails(rundir: RunDir) -> None:
    async with world(rundir) as within:
        carries(within, Link(40.0, sender=30.0))

        async def client(script: str, process: Process) -> int:
            process.stdout.write(recorded("iperf-udp-none.json"))
            return 124

        within.vm1.programs["iperf3 -c"] = client
        with pytest.raises(WorkloadError, match="the client has terminated"):
            await UdpTask("vm1", "vm2", 1518, quick=True).measure(within.pair)
