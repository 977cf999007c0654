"""Run-time part of `ivshmem-doorbell`: the broker serves a `links.kind.SharedRegion` around each plug and unplug."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from vpctl.broker.client import BrokerClient
from vpctl.errors import UsageError
from vpctl.links.devices import device_id
from vpctl.links.kind import SharedEnd, SharedRegion
from vpctl.plan.link import shared_region
from vpctl.recovery.plan import Repair
from vpctl.supervisor.hotplug.hooks import Doorbell, PlugHooks, require_nobody_holds
from vpctl.supervisor.hotplug.slots import change_peer, free, is_connected, serve, serve_anew, switch_off, switch_on
from vpctl.supervisor.state import TopologyState

NOBODY = 0
"""The peer's id while there is none."""


class IvshmemDoorbellHooks(PlugHooks):
    """Hooks of links with a `SharedRegion`."""

    def __init__(self, state: TopologyState, broker: Callable[[], BrokerClient]) -> None:
        self._state = state
        self._broker = broker
        self._off: set[str] = set()
        """The devices' names, that is their generations, that all guests were told to let go of."""

    async def before_plug(self, vm: str, repair: Repair) -> None:
        shared = self._of(repair.link, repair.generation, kept=self._kept(repair))
        if vm == repair.first:
            require_nobody_holds(self._state, repair.link)
            await serve(self._broker(), shared)
        if (end := shared.end_of(vm)) is not None:
            await switch_on(self._broker(), end[1])

    async def before_unplug(self, vm: str, link: str, generation: int) -> None:
        """Have all ends let go before the first device goes, so that none of them rings another's."""
        name = device_id(link, generation)
        if name in self._off:
            return
        plugged = self._state.links[link].plugged
        newest = {other: max(there) for other, there in plugged.items() if there and self._state.is_alive(other)}
        ends = dict(self._end(other, link, number) for other, number in newest.items())
        silent = await switch_off(self._broker(), ends)
        self._state.journal.write("link.off", link=link, attributes={"device": name, "silent": silent})
        self._off.update(device_id(link, number) for there in plugged.values() for number in there)

    async def after_unplug(self, vm: str, link: str, generation: int) -> None:
        if (served := self._of(link, generation).end_of(vm)) is not None:
            await free(self._broker(), served[1])

    def doorbell(self, vm: str, link: str, generation: int) -> Doorbell | None:
        shared = self._of(link, generation)
        if (served := shared.end_of(vm)) is None:
            return None
        number, end = served
        return Doorbell(name=end.name, end=number, vectors=end.vectors)

    # Section: a device that stays

    async def unreachable(self, link: str) -> list[str]:
        """Return the VMs whose device of a link can be given no other peer: its broker has died."""
        silent = []
        for vm, there in self._state.links[link].plugged.items():
            if there and not await is_connected(self._broker(), *self._end(vm, link, there[-1])):
                silent.append(vm)
        return silent

    async def link_down(self, vm: str, link: str, generation: int) -> None:
        """Have a VM's driver let go of a peer that is dead; its device stays."""
        number, end = self._end(vm, link, generation)
        await change_peer(self._broker(), number, end, peer=NOBODY, generation=generation)

    async def link_up(self, vm: str, repair: Repair, generation: int) -> None:
        """Begin with another peer: the device of a VM stays, that of the other is about to come."""
        require_nobody_holds(self._state, repair.link, but=vm)
        shared = self._of(repair.link, repair.generation, kept={vm: generation})
        number, end = self._end(vm, repair.link, generation)
        other = shared.ends[1 - number]
        await serve_anew(self._broker(), shared, 1 - number)
        await change_peer(self._broker(), number, end, peer=other.id, generation=repair.generation)

    def _kept(self, repair: Repair) -> dict[str, int]:
        return {vm: self._state.links[repair.link].kept(vm) for vm in repair.keep}

    def _end(self, vm: str, link: str, generation: int) -> tuple[int, SharedEnd]:
        """Return number and end of a VM's device."""
        found = self._of(link, generation).end_of(vm)
        if found is None:
            raise UsageError(f"link `{link}` has no end in `{vm}`")
        return found

    def _of(self, link: str, generation: int, *, kept: Mapping[str, int] = MappingProxyType({})) -> SharedRegion:
        state = self._state
        found = shared_region(state.run, state.topology.link(link), generation, rundir=state.rundir, kept=kept)
        assert found is not None
        return found
