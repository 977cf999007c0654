"""Workload `pktgen`: how many of the smallest frames arrive per second, sent by the kernel's own packet generator.

Counted where they arrive, by the receiving interface, in the middle of the run: what a switch drops silently, and
what is still queued when the sender stops, is in no figure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vpctl.bench.counters import confirm, counted
from vpctl.bench.guest import last_line
from vpctl.bench.workload import Figure, Metric, Pair, Plan, Row, Task, WorkloadError
from vpctl.topology.model import LinkSpec

RATE = Metric(name="rate", unit="packets/s", better="higher")

FRAME = 60
"""Bytes without FCS: the smallest frame of Ethernet."""

SETTLE_SECONDS = 0.3
"""From the generator's start to where counting begins."""

GUARD_SECONDS = 30
"""The generator ends by itself so long after it should have been stopped: nobody may be left to do it."""

RUNNING = "running"
STOP = "echo stop >/proc/net/pktgen/pgctrl"

# Every address is the peer's own: a frame to another MAC would be counted by nobody.
_SEND = """
set -e
put() {{ echo "$2" >"/proc/net/pktgen/$1"; }}
put kpktgend_0 rem_device_all
put kpktgend_0 "add_device {link}"
put {link} "count 0"
put {link} "delay 0"
put {link} "clone_skb 0"
put {link} "pkt_size {size}"
put {link} "dst {address}"
put {link} "dst_mac {mac}"
(sleep {limit}; {stop}) >/dev/null 2>&1 &
trap "kill $! 2>/dev/null" EXIT
trap "exit 143" HUP TERM
echo {running}
echo start >/proc/net/pktgen/pgctrl
cat /proc/net/pktgen/{link}
put kpktgend_0 rem_device_all
"""

_COUNT = """
counter=/sys/class/net/{link}/statistics/rx_packets
sleep {settle}
read -r packets <$counter; read -r uptime idle </proc/uptime; echo $uptime $packets
sleep {seconds}
read -r packets <$counter; read -r uptime idle </proc/uptime; echo $uptime $packets
"""

# What is queued between the guests arrives after the generator has stopped, and is not lost.
_DRAIN = """
counter=/sys/class/net/{link}/statistics/rx_packets
for turn in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  read -r before <$counter
  sleep 0.1
  read -r after <$counter
  [ $((after - before)) -gt 50 ] || break
done
"""

_SOFAR = re.compile(r"pkts-sofar: (\d{1,18})\s", re.ASCII)
_READING = re.compile(r"(\d{1,12}\.\d{1,9}) (\d{1,18})", re.ASCII)
_RESULT = re.compile(r"Result: OK: (\d{1,18})\(", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What the generator said."""

    packets: int
    seconds: float


def send_script(*, link: str, address: str, mac: str, limit: float) -> str:
    """Return the script that generates until `STOP`, or for `limit` seconds, and then tells what it sent."""
    return _SEND.format(link=link, address=address, mac=mac, limit=limit, size=FRAME, running=RUNNING, stop=STOP)


def count_script(*, link: str, seconds: float) -> str:
    """Return the script that reads the receiving interface's counter twice, `seconds` apart, by the guest's clock.

    With builtins only: a program takes its time to start where packets keep the CPU busy.
    """
    return _COUNT.format(link=link, settle=SETTLE_SECONDS, seconds=seconds)


def parse_sent(text: str) -> Sent:
    """Read /proc/net/pktgen/LINK; WorkloadError if the generator did not come to its end."""
    sofar, result = _SOFAR.search(text), _RESULT.search(text)
    if sofar is None or result is None:
        said = [line for line in text.splitlines() if "Result:" in line]
        raise WorkloadError(f"pktgen told no result: {(said or ['nothing'])[-1].strip()}")
    return Sent(packets=int(sofar[1]), seconds=int(result[1]) / 1e6)


def parse_rate(text: str) -> float:
    """Return packets per second from the two readings; WorkloadError if they are not both there."""
    try:
        (began, first), (ended, last) = _READING.findall(text)
    except ValueError as error:
        raise WorkloadError(f"the receiving interface's counter was not read twice: {text.strip()!r}") from error
    packets, seconds = int(last) - int(first), float(ended) - float(began)
    if packets < 0 or seconds <= 0:
        raise WorkloadError(f"{packets} packets in {seconds:g} s cannot be")
    return packets / seconds


class PktgenWorkload:
    """Each direction."""

    needs = ("pktgen",)

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        first, second = (end.vm for end in link.endpoints)
        return [PktgenTask(source, target, plan) for source, target in ((first, second), (second, first))]


class PktgenTask:
    """One direction."""

    def __init__(self, source: str, target: str, plan: Plan) -> None:
        self.row = Row(workload="pktgen", source=source, target=target, variant=f"{FRAME + 4} B")
        self._duration = plan.duration

    @property
    def seconds(self) -> float:
        return self._duration + SETTLE_SECONDS + 0.9

    async def measure(self, pair: Pair) -> list[Figure]:
        source, target = pair.directed(self.row.source)
        limit = self._duration + SETTLE_SECONDS + GUARD_SECONDS
        send = send_script(link=source.link, address=target.address, mac=target.end.mac, limit=limit)
        count = count_script(link=target.link, seconds=self._duration)
        async with (
            counted(source, target) as traffic,
            source.guest.serving(send, what="pktgen", ready=RUNNING, seconds=limit) as sending,
        ):
            # However long it takes to begin with counting, the generator runs until that has ended.
            counting = await target.guest.ask(count, seconds=self._duration + SETTLE_SECONDS, keep=True)
            await source.guest.ask(STOP)
            sent_by = await sending
            await target.guest.ask(_DRAIN.format(link=target.link), seconds=2)
        if sent_by.status != 0:
            raise WorkloadError(f"{source.vm}: pktgen failed with exit code {sent_by.status}: {last_line(sent_by)}")
        sent, rate = parse_sent(sent_by.stdout), parse_rate(counting)
        if sent.seconds < self._duration:
            raise WorkloadError(f"{source.vm}: pktgen ended by itself after {sent.seconds:g} s")
        assert traffic.target is not None
        received = min(traffic.target.rx_packets, sent.packets)
        if not received:
            raise WorkloadError(f"none of {sent.packets} packets of pktgen arrived at `{target.vm}`")
        confirm(traffic, source=source, target=target, packets=received, octets=received * FRAME)
        return [
            Figure(
                workload="pktgen",
                metric=RATE,
                source=self.row.source,
                target=self.row.target,
                variant=self.row.variant,
                value=rate,
                extra={
                    "loss_percent": 100.0 * (sent.packets - received) / sent.packets,
                    "sent_rate": sent.packets / sent.seconds,
                },
            )
        ]
