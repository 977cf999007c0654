"""The ends of a link under test, and what their interfaces count: the witness for every figure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vpctl.bench.guest import Guest
from vpctl.errors import VerificationError, cause_of
from vpctl.topology.model import Endpoint

COUNTERS = ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped")

CONFIRMED_SHARE = 0.98
"""Of what a receiver counted, an interface's counters have to show this much: virtio-net counts a packet as sent
when its buffer comes back, which may be a ring's length later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counters:
    """An interface's counters at one moment."""

    interface: int
    """Its number, which one that is plugged anew does not inherit."""
    rx_packets: int
    rx_bytes: int
    rx_dropped: int
    tx_packets: int
    tx_bytes: int
    tx_dropped: int

    def since(self, before: Counters) -> Counters:
        """Return the difference; VerificationError if the interface is another one, or a counter went backwards."""
        difference = {name: getattr(self, name) - getattr(before, name) for name in COUNTERS}
        backwards = [name for name, value in difference.items() if value < 0]
        if self.interface != before.interface:
            raise VerificationError("the interface was replaced in the middle of the measurement")
        if backwards:
            raise VerificationError(f"the interface's {backwards[0]} went backwards, by {-difference[backwards[0]]}")
        return Counters(interface=self.interface, **difference)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestEnd:
    """One end of a link under test."""

    guest: Guest
    end: Endpoint
    link: str

    @property
    def vm(self) -> str:
        """Its VM's name."""
        return self.end.vm

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return str(self.end.address.ip)

    async def counters(self) -> Counters:
        """Read its interface's counters; VerificationError if there is no such interface."""
        files = " ".join(["ifindex", *(f"statistics/{name}" for name in COUNTERS)])
        said = await self.guest.ask(
            f"for name in {files}; do read -r value </sys/class/net/{self.link}/$name && echo $value; done"
        )
        if len(said.split()) != len(COUNTERS) + 1:
            raise VerificationError(f"`{self.vm}` has no interface `{self.link}`", hint="vpctl status")
        return parse_counters(said)


@dataclass(slots=True)
class Traffic:
    """What both ends' interfaces counted while something was measured; filled in when that is over."""

    source: Counters | None = None
    target: Counters | None = None


@asynccontextmanager
async def counted(source: GuestEnd, target: GuestEnd) -> AsyncIterator[Traffic]:
    """Read both ends' counters before and after the block; VerificationError if an interface was replaced in it."""
    traffic = Traffic()
    before = await _both(source.counters(), target.counters())
    yield traffic
    after = await _both(source.counters(), target.counters())
    traffic.source = _since(source, before[0], after[0])
    traffic.target = _since(target, before[1], after[1])


def confirm(traffic: Traffic, *, source: GuestEnd, target: GuestEnd, packets: int = 0, octets: int = 0) -> None:
    """Raise VerificationError unless both interfaces counted what the receiver says to have received.

    Everything else that crossed is counted as well, so these are lower bounds.
    """
    assert traffic.source is not None
    assert traffic.target is not None
    for end, direction, counters in ((source, "tx", traffic.source), (target, "rx", traffic.target)):
        seen_packets: int = getattr(counters, f"{direction}_packets")
        seen_octets: int = getattr(counters, f"{direction}_bytes")
        if seen_packets < packets * CONFIRMED_SHARE or seen_octets < octets * CONFIRMED_SHARE:
            raise VerificationError(
                f"`{end.link}` of `{end.vm}` counted {seen_packets} packets, {seen_octets} bytes ({direction}), "
                f"the receiver {packets} packets, {octets} bytes: the figure is not of this link",
                hint=f"vpctl check --link {end.link}",
            )


def _since(end: GuestEnd, before: Counters, after: Counters) -> Counters:
    try:
        return after.since(before)
    except VerificationError as error:
        raise VerificationError(f"`{end.link}` of `{end.vm}`: {error.message}", hint="vpctl events") from error


async def _both(first: Awaitable[Counters], second: Awaitable[Counters]) -> tuple[Counters, Counters]:
    async def of(counters: Awaitable[Counters]) -> Counters:
        return await counters

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(of(counters), name="counters") for counters in (first, second)]
    except ExceptionGroup as failed:
        raise cause_of(failed) from failed
    return tasks[0].result(), tasks[1].result()


def parse_counters(text: str) -> Counters:
    """Read an interface's number and its counters, in the order of COUNTERS."""
    interface, *values = map(int, text.split())
    return Counters(interface=interface, **dict(zip(COUNTERS, values, strict=True)))
