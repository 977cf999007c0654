"""What the guests say of their ends of each link, with every heartbeat: a link that is up carries packets.

An end whose interface is gone, down or without carrier is its guest's affair: a driver is unbound, a user has set it
down. The link is `down` for as long as that lasts, and nothing is repaired. One that a user has made a port of
something, or has moved to another network namespace, is neither off nor silent: that is what it is now. An end that
is up, and to which nothing comes although it asks, is looked into: if neither guest gets an echo from the other, its
driver is wedged. Unless a user has something look at the link's packets, a netem for instance, which may be what
drops them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from vpctl.guest import traffic
from vpctl.guest.heartbeat import EndState, Heartbeat, LinkEnd
from vpctl.recovery.faults import Fault
from vpctl.recovery.state import LinkState
from vpctl.supervisor.link import Link
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.machine import Machine

LOOKS = 2
"""In a row that an end has to be off: what is on its way in or out may have been seen in between."""

CARRIER_LOOKS = 3
"""The same without a carrier, which may be what the other end has done: that one is to be heard first."""

PROBE_SECONDS = 4.0
"""For an echo over a link to which nothing has come for longer than that."""

AGAIN_SECONDS = 5.0
LONGEST_AGAIN_SECONDS = 300.0
"""Between two looks into a link that has failed and over which something comes; the pause doubles."""

OFF = frozenset({EndState.ABSENT, EndState.DOWN, EndState.NO_CARRIER})

WORDS = {
    EndState.ABSENT: "has no interface of the link's",
    EndState.DOWN: "has set its interface down",
    EndState.NO_CARRIER: "has no carrier",
}

TakeFault = Callable[[str, str, Fault, str, float], None]
"""Is told of a fault that hit a link: at which VM, which link, which fault, why it is thought to be one, and since
when (CLOCK_MONOTONIC)."""


class InterfaceWatch:
    """Watches what the guests' agents say of the interfaces of all links."""

    def __init__(self, state: TopologyState, group: asyncio.TaskGroup, take_fault: TakeFault) -> None:
        self._state = state
        self._group = group
        self._take_fault = take_fault
        self._off: dict[tuple[str, str], int] = {}
        """(Link, VM) → the looks in a row at which that end was off."""
        self._seen: dict[str, Heartbeat] = {}
        """VM → the beat that was taken in last."""
        self._again: dict[str, tuple[float, float, int]] = {}
        """Link that has failed → when it may be looked into next (CLOCK_MONOTONIC), the pause after that, and its
        generation."""
        self._examined: set[str] = set()
        """The links that are looked into just now."""

    def take(self, machine: Machine) -> None:
        """Take in a VM's newest heartbeat."""
        beat = machine.last_beat
        if beat is None or beat == self._seen.get(machine.name):
            return
        self._seen[machine.name] = beat
        for spec in self._state.topology.links_of(machine.name):
            link = self._state.links[spec.name]
            if self._is_undisturbed(link):
                self._take_end(link, machine, beat.end(spec.name))
            else:
                self._off.pop((spec.name, machine.name), None)

    def _is_undisturbed(self, link: Link) -> bool:
        """Whether no repair of a link runs, and both of its guests are there and run."""
        ends = self._state.topology.link(link.name).endpoints
        there = all(self._state.is_ready(end.vm) for end in ends)
        return not link.lock.locked() and there and not self._state.paused(link.name)

    def _take_end(self, link: Link, machine: Machine, end: LinkEnd) -> None:
        place = (link.name, machine.name)
        if end.state in OFF:
            self._off[place] = self._off.get(place, 0) + 1
            looks = CARRIER_LOOKS if end.state is EndState.NO_CARRIER else LOOKS
            if self._off[place] >= looks and link.state is LinkState.UP:
                link.rest(f"{machine.name} {WORDS[end.state]}")
            return
        self._off.pop(place, None)
        if link.rests:
            if not self._is_off(link.name):
                self._examine(link, machine, end)
        elif link.state is LinkState.UP and self._is_silent(machine, end):
            self._examine(link, machine, end)
        elif link.state is LinkState.FAILED and self._is_heard(end) and self._may_look_again(link):
            # It was given up on, perhaps since a busy host was late, and packets come.
            self._examine(link, machine, end)

    def _may_look_again(self, link: Link) -> bool:
        """Whether it is time to look into a link that has failed: ever more seldom, as one end alone may be heard."""
        now, generation = time.monotonic(), link.generation
        due, pause, of = self._again.get(link.name, (0.0, AGAIN_SECONDS, generation))
        if of != generation:
            due, pause = 0.0, AGAIN_SECONDS
        if now < due:
            return False
        self._again[link.name] = (now + pause, min(2 * pause, LONGEST_AGAIN_SECONDS), generation)
        return True

    def _is_off(self, link: str) -> bool:
        """Whether an end of a link was off at the last look at its VM."""
        return any((link, spec.vm) in self._off for spec in self._state.topology.link(link).endpoints)

    @staticmethod
    def _is_silent(machine: Machine, end: LinkEnd) -> bool:
        return end.state is EndState.UP and end.silent >= machine.spec.vm.health.heartbeat

    @staticmethod
    def _is_heard(end: LinkEnd) -> bool:
        return end.state is EndState.UP and end.silent == 0

    def _examine(self, link: Link, machine: Machine, end: LinkEnd) -> None:
        if link.name not in self._examined:
            self._examined.add(link.name)
            since = time.monotonic() - end.silent
            look = partial(self._look_into, link, machine, since, silent=self._is_silent(machine, end))
            name = f"examine-{link.name}"
            self._group.create_task(self._state.contained(look, name=name, link=link.name), name=name)

    async def _look_into(self, link: Link, machine: Machine, since: float, *, silent: bool) -> None:
        """See whether packets flow; if they do, that is what counts, whatever was said."""
        try:
            generation = link.generation
            if silent and await self._state.filters(link.name):
                return  # a user loses these packets, and may want to; asked first, as it may be over after the echoes
            checks = await self._state.probe(link.name, count=0, seconds=PROBE_SECONDS)
            if link.generation != generation or not self._is_undisturbed(link):
                return  # somebody else's affair by now
            if all(check["ok"] for check in checks):
                if link.rests or link.state is LinkState.FAILED:
                    link.set_state(LinkState.UP)
            elif silent and self._are_deaf(link.name, [check.get("reason") for check in checks]):
                seconds = time.monotonic() - since
                reason = f"nothing has come over `{link.name}` for {seconds:.0f} s, and no echo from either guest"
                self._take_fault(machine.name, link.name, Fault.DRIVER_WEDGED, reason, since)
        finally:
            self._examined.discard(link.name)

    def _are_deaf(self, link: str, reasons: list[str | None]) -> bool:
        """Whether both guests have asked each other in vain, by the addresses that they were given."""
        ends = self._state.topology.link(link).endpoints
        beats = [self._seen.get(end.vm) for end in ends]
        up = all(beat is not None and beat.end(link).state is EndState.UP for beat in beats)
        ports = any(beat is not None and beat.end(link).master for beat in beats)
        return up and not ports and all(reason == traffic.NO_ANSWER for reason in reasons)
