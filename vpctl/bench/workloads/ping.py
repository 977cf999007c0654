"""Workload `ping`: the distribution of round-trip times, each request sent as soon as the last one was answered."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass

from vpctl.bench.counters import confirm, counted
from vpctl.bench.guest import last_line
from vpctl.bench.workload import Figure, Metric, Pair, Plan, Row, Task, WorkloadError
from vpctl.topology.model import LinkSpec

RTT = Metric(name="rtt", unit="µs", better="lower")

PER_SECOND, QUICK = 750, 300
"""Requests for each second of the plan's duration, and with --quick: two seconds and seven repeats make the 10,000
that a p99.9 is worth something from."""

OVERHEAD_SECONDS = 0.5

# What comes twice ends in `(DUP!)`, and took its time once.
_TIME = re.compile(r"^\d+ bytes from .*time[=<](\d{1,9}(?:\.\d{1,9})?) ms$", re.MULTILINE | re.ASCII)
_TOTALS = re.compile(r"(\d{1,9}) packets transmitted, (\d{1,9}) (?:packets )?received", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pings:
    """What ping saw; microseconds."""

    sent: int
    received: int
    rtts: tuple[float, ...]


def command(*, link: str, target: str, count: int, seconds: int) -> str:
    """Return ping (iputils) in adaptive mode, bound to the interface, numbers only."""
    return f"ping -A -n -I {link} -c {count} -w {seconds} {target}"


def parse(text: str) -> Pings:
    """Read ping's output; WorkloadError if it has no totals, or none of the requests was answered."""
    totals = _TOTALS.search(text)
    if totals is None:
        raise WorkloadError(f"ping was cut off: {text.strip()[-200:] or 'it wrote nothing'}")
    rtts = tuple(float(found) * 1000 for found in _TIME.findall(text))
    sent, received = int(totals[1]), int(totals[2])
    if not rtts or not received or not sent:
        raise WorkloadError(f"no reply to any of {sent} pings")
    return Pings(sent=sent, received=received, rtts=rtts)


class PingWorkload:
    """From the first end to the second; a round trip has no other direction."""

    needs = ("ping",)

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        first, second = (end.vm for end in link.endpoints)
        return [PingTask(first, second, plan)]


class PingTask:
    """A run of pings; the figure is their median."""

    def __init__(self, source: str, target: str, plan: Plan) -> None:
        self.row = Row(workload="ping", source=source, target=target)
        self._count = QUICK if plan.quick else PER_SECOND * plan.duration
        self._limit = 10 * plan.duration + 5

    @property
    def seconds(self) -> float:
        return self._count / PER_SECOND + OVERHEAD_SECONDS

    async def measure(self, pair: Pair) -> list[Figure]:
        source, target = pair.directed(self.row.source)
        line = command(link=source.link, target=target.address, count=self._count, seconds=self._limit)
        async with counted(source, target) as traffic:
            done = await source.guest.run(f"exec {line}", seconds=self._limit)
        if done.status > 1:  # 1: some are missing
            raise WorkloadError(f"{source.vm}: ping failed with exit code {done.status}: {last_line(done)}")
        pings = parse(done.stdout)
        confirm(traffic, source=source, target=target, packets=pings.received)
        return [
            Figure(
                workload="ping",
                metric=RTT,
                source=self.row.source,
                target=self.row.target,
                value=statistics.median(pings.rtts),
                observations=pings.rtts,
                extra={"loss_percent": 100.0 * (pings.sent - pings.received) / pings.sent},
            )
        ]
