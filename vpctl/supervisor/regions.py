"""Regions that both guests of a link share: the broker's part around each plug and unplug (`links.base.Sharing`)."""

from __future__ import annotations

from collections.abc import Callable

from vpctl.broker.client import BrokerClient
from vpctl.links.base import Sharing
from vpctl.plan.run import sharing
from vpctl.recovery.plan import Repair
from vpctl.supervisor.around import Around, Doorbell, require_nobody_holds
from vpctl.supervisor.sharing import free, serve, switch_off, switch_on
from vpctl.supervisor.world import World


class Regions(Around):
    """Of links with a `Sharing`."""

    def __init__(self, world: World, broker: Callable[[], BrokerClient]) -> None:
        self._world = world
        self._broker = broker
        self._off: set[str] = set()
        """The generations that all guests were told to let go of."""

    async def before_plug(self, vm: str, repair: Repair) -> None:
        shared = self._of(repair.link, repair.generation)
        if vm == repair.first:
            require_nobody_holds(self._world, repair.link)
            await serve(self._broker(), shared)
        if (end := shared.end_of(vm)) is not None:
            await switch_on(self._broker(), end[1])

    async def before_unplug(self, vm: str, link: str, generation: int) -> None:
        """Have all ends let go before the first device of a generation goes, so that none of them rings another's."""
        shared = self._of(link, generation)
        if shared.name in self._off:
            return
        known = self._world.links[link]
        vms = [
            other
            for other, generations in known.plugged.items()
            if generation in generations and self._world.is_alive(other)
        ]
        silent = await switch_off(self._broker(), shared, vms)
        self._world.journal.write("link.off", link=link, attributes={"device": shared.name, "silent": silent})
        self._off.add(shared.name)

    async def after_unplug(self, vm: str, link: str, generation: int) -> None:
        if (served := self._of(link, generation).end_of(vm)) is not None:
            await free(self._broker(), served[1])

    def doorbell(self, vm: str, link: str, generation: int) -> Doorbell | None:
        shared = self._of(link, generation)
        if (served := shared.end_of(vm)) is None:
            return None
        number, end = served
        return Doorbell(name=shared.name, end=number, vectors=end.vectors)

    def _of(self, link: str, generation: int) -> Sharing:
        world = self._world
        found = sharing(world.run, world.topology.link(link), generation, rundir=world.rundir)
        assert found is not None
        return found
