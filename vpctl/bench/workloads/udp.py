"""Workload `udp`: the highest throughput at which (almost) nothing is lost, found by search, for each frame size.

Sizes are those of RFC 2544, whole Ethernet frames with their FCS: 64 bytes are 18 of UDP payload.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from vpctl.bench.counters import confirm, counted
from vpctl.bench.workload import Figure, Metric, Pair, Plan, Row, Task
from vpctl.bench.workloads import iperf
from vpctl.topology.model import LinkSpec

THROUGHPUT = Metric(name="throughput", unit="Mbit/s", better="higher")

FRAME_SIZES = (64, 512, 1518)
QUICK_SIZE = 1518
OVERHEAD = 14 + 20 + 8 + 4
"""Bytes of Ethernet, IPv4, UDP and FCS around a payload."""

LOSS_PERCENT = 0.1
"""That much counts as no loss: one late tick of a host loses some datagrams at any rate."""

FIRST_PROBES, LATER_PROBES, QUICK_PROBES = 8, 4, 3
CLOSE_ENOUGH = 1.05
"""The search ends when a rate that loses is no further than this above one that does not."""

STEP = 1.2
"""From a rate that loses nothing to the next one; squared each time, where nobody knows how far it is."""

LEAST = 0.01
"""Mbit/s: below that nothing is tried; and iperf3 takes a rate of 0 for no limit at all."""

PROBE_SECONDS = 1
OVERHEAD_SECONDS = 0.35
BUFFER = 4 << 20
UNLIMITED = math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What came of one offered rate; Mbit/s of UDP payload."""

    offered: float
    """What the sender sent, which may be less than it was asked for."""
    received: float
    loss_percent: float

    @property
    def ok(self) -> bool:
        """Whether it counts as without loss."""
        return self.loss_percent <= LOSS_PERCENT


def search(previous: float | None, probes: int) -> Generator[float, Probe, Probe | None]:
    """Yield rates (Mbit/s, or UNLIMITED) to be tried, take in what came of each; return the best without loss.

    `previous` is what an earlier search found, to begin there; without it the first rate is UNLIMITED, since that
    tells what the receiver takes in at most. Pure; at most `probes` rates.
    """
    low, high, step, best = 0.0, math.inf, STEP, None
    rate = previous if previous else UNLIMITED
    for _ in range(probes):
        probe = yield rate
        if probe.ok:
            best = probe if best is None or probe.received > best.received else best
            if probe.offered < 0.9 * rate:
                break  # the sender has no more to give
            low = max(low, rate)
            rate = min(low * step, math.sqrt(low * high))
            step = step if previous else step * step
        else:
            high = min(high, rate, probe.offered or rate)
            # Under overload the receiver takes in less than it could at the right rate, or about as much.
            guess = probe.received * (0.95 if rate == UNLIMITED else 0.9)
            rate = math.sqrt(low * high) if low else min(guess, high / STEP)
            step = STEP
        if rate < LEAST or (low and high / low <= CLOSE_ENOUGH):
            break
    return best


def payload(frame: int) -> int:
    """Return the UDP payload of a frame."""
    return frame - OVERHEAD


def frame_sizes(mtu: int, *, quick: bool) -> list[int]:
    """Return the sizes of frames that a link of this MTU is measured with."""
    largest = mtu + 18
    if quick:
        return [min(QUICK_SIZE, largest)]
    return sorted({size for size in FRAME_SIZES if size < largest} | {largest})


def options(*, rate: float, size: int, buffer: int) -> str:
    """Return iperf3's options for one probe: `rate` in Mbit/s, `size` of the payload."""
    bandwidth = "0" if rate == UNLIMITED else f"{rate * 1e6:.0f}"
    return f"-u -b {bandwidth} -l {size} -w {min(BUFFER, buffer // 2)}"


class UdpWorkload:
    """Each direction, each frame size."""

    needs = ("iperf3",)

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        first, second = (end.vm for end in link.endpoints)
        return [
            UdpTask(source, target, size, quick=plan.quick)
            for size in frame_sizes(link.mtu, quick=plan.quick)
            for source, target in ((first, second), (second, first))
        ]


class UdpTask:
    """The search in one direction, with one size; each begins where the last one ended."""

    def __init__(self, source: str, target: str, frame: int, *, quick: bool) -> None:
        self.row = Row(workload="udp", source=source, target=target, variant=f"{frame} B")
        self._payload = payload(frame)
        self._quick = quick
        self._previous: float | None = None

    @property
    def seconds(self) -> float:
        return (2.5 if self._quick else 3.5) * (PROBE_SECONDS + OVERHEAD_SECONDS)

    async def measure(self, pair: Pair) -> list[Figure]:
        probes = FIRST_PROBES if self._previous is None else QUICK_PROBES if self._quick else LATER_PROBES
        searching = search(self._previous, probes)
        tried, rate = 1, next(searching)
        while True:
            probe = await self._probe(pair, rate)
            try:
                rate = searching.send(probe)
            except StopIteration as end:
                best: Probe | None = end.value
                break
            tried += 1
        # The best so far: a round that a busy host has slowed down must not hold the next ones back.
        self._previous = max(self._previous or 0.0, best.received) if best is not None else None
        return [
            Figure(
                workload="udp",
                metric=THROUGHPUT,
                source=self.row.source,
                target=self.row.target,
                variant=self.row.variant,
                value=best.received if best is not None else 0.0,
                extra={
                    "loss_percent": best.loss_percent if best is not None else probe.loss_percent,
                    "probes": tried,
                },
            )
        ]

    async def _probe(self, pair: Pair, rate: float) -> Probe:
        source, target = pair.directed(self.row.source)
        buffer = min(source.guest.facts.buffer, target.guest.facts.buffer)
        wanted = options(rate=rate, size=self._payload, buffer=buffer)
        async with counted(source, target) as traffic:
            end = await iperf.run(source, target, seconds=PROBE_SECONDS, options=wanted)
        flow = iperf.flow(end)
        confirm(traffic, source=source, target=target, packets=flow.packets, octets=flow.octets)
        return Probe(offered=flow.sent_mbit, received=flow.mbit, loss_percent=flow.loss_percent)
