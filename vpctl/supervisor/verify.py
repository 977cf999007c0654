"""Seeing packets flow over a link that is being repaired, as soon as they do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vpctl import wait
from vpctl.guest import traffic
from vpctl.recovery.ops import EndGoneError
from vpctl.supervisor.state import TopologyState

EARLY_SECONDS = 120.0
"""For how long at most a guest looks for one that boots; then it looks again, when that one is there."""

START_SECONDS = 2.0
"""For a probe to begin in a guest, and to tell that it has seen nothing."""

Entry = Mapping[str, Any]
"""What a probe found, see `traffic.probe`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One guest's search for the first packets, and when its end was seen (CLOCK_MONOTONIC)."""

    entry: Entry
    at: float


class Verification:
    """Probes of links. An echo that comes back intact crossed both ways, so one guest's are enough.

    A command takes half a second to start in a guest that QEMU emulates and that has just booted. So the guests that
    have lived through it all look from before the other end is there.
    """

    def __init__(self, state: TopologyState) -> None:
        self._state = state
        self._probes: dict[str, dict[str, asyncio.Task[Probe]]] = {}
        """Of each link that is being put together: VM → its look."""

    @contextlib.asynccontextmanager
    async def expecting(self, link: str, vms: Collection[str]) -> AsyncIterator[None]:
        """Have these guests look for packets over a link as long as the block lasts."""
        probes = self._probes[link] = {vm: self._probe(link, vm, EARLY_SECONDS) for vm in vms}
        try:
            yield
        finally:
            del self._probes[link]
            await cancel(probes.values())

    async def verify(self, link: str) -> float:
        """See an echo each way over a link whose ends are both plugged, and return when that was (CLOCK_MONOTONIC).

        To be called while its packets are expected. Raises VerificationError if none come within
        `traffic.PROBE_SECONDS`, and EndGoneError as soon as an end has gone: whoever brings that VM back waits
        for this repair to end.
        """
        return await wait.first(self._see(link), unless=self._end_gone(link))

    async def _end_gone(self, link_name: str) -> EndGoneError:
        """Wait until an end of a link has no device, or no guest."""
        link, ends = self._state.links[link_name], self._state.topology.link(link_name).endpoints
        machines = [self._state.machines[end.vm] for end in ends]
        while True:
            changes = [asyncio.ensure_future(machine.changed.wait()) for machine in machines]
            try:
                for machine in machines:
                    if not self._state.is_alive(machine.name) or not link.plugged.get(machine.name):
                        return EndGoneError(f"link `{link_name}` has lost its end in `{machine.name}`")
                await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()

    async def _see(self, link: str) -> float:
        """See it as soon as it is this link's turn, or by a look that has begun before and has seen it."""
        for probe in self._probes[link].values():
            if probe.done() and not failed(probe):
                return probe.result().at
        async with self._state.turn(link):  # from here on its time counts
            return await self._see_now(link)

    async def _see_now(self, link: str) -> float:
        probes = self._probes[link]
        source, target = (end.vm for end in self._state.topology.link(link).endpoints)
        for vm in (source, target):
            if vm not in probes or failed(probes[vm]):
                probes[vm] = self._probe(link, vm, traffic.PROBE_SECONDS)
        entries: list[Entry] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(traffic.PROBE_SECONDS + START_SECONDS):
                for next_ in asyncio.as_completed(probes.values()):
                    probe = await next_
                    if probe.entry["ok"]:
                        return probe.at
                    entries.append(probe.entry)
        if await self._state.why_not_provable(link):
            return time.monotonic()  # as far as anyone can tell, and as its user wants it
        unseen = traffic.unanswered(link, source, target, f"no intact reply within {traffic.PROBE_SECONDS:g} s")
        raise traffic.no_packets(entries[0] if entries else unseen)

    def _probe(self, link: str, vm: str, seconds: float) -> asyncio.Task[Probe]:
        async def probe() -> Probe:
            # No more than the first: where a queue has grown meanwhile, the next may well be dropped.
            entry = await self._state.probe_from(link, vm, count=0, seconds=seconds)
            return Probe(entry=entry, at=time.monotonic())

        return asyncio.create_task(probe(), name=f"look-{vm}-{link}")


def failed(probe: asyncio.Task[Probe]) -> bool:
    """Whether a look has ended without a proof."""
    return probe.done() and not probe.result().entry["ok"]


async def cancel(probes: Collection[asyncio.Task[Probe]]) -> None:
    """Cancel looks, and wait until each has ended."""
    for probe in probes:
        probe.cancel()
    await asyncio.gather(*probes, return_exceptions=True)
