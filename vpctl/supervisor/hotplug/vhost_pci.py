"""Links whose one end works the other's rings: the broker's part around each plug and unplug (`links.base.Backing`).

The front end's VM is called front here, the one whose driver works its rings, back.
"""

from __future__ import annotations

from collections.abc import Callable

from vpctl.broker.client import BrokerClient
from vpctl.broker.control_page import SlotState
from vpctl.errors import NotFoundError, RecoveryError, UsageError
from vpctl.links.devices import control_memory, device_id, ram_memory
from vpctl.links.kind import Backing
from vpctl.plan.link import backing, front_end, plugged_device
from vpctl.recovery.plan import Repair
from vpctl.recovery.state import FrontView
from vpctl.supervisor.hotplug.backends import EVERY_FEATURE, Front, Fronts
from vpctl.supervisor.hotplug.hooks import Around, Doorbell, require_nobody_holds
from vpctl.supervisor.hotplug.slots import free, set_state
from vpctl.supervisor.state import World

ATTEMPTS = 5
"""At rings that are started anew just when they are served."""


class Backings(Around):
    """Of links with a `Backing`."""

    def __init__(self, world: World, broker: Callable[[], BrokerClient], fronts: Fronts) -> None:
        self._world = world
        self._broker = broker
        self._fronts = fronts

    # Section: what is known

    async def front(self, link: str) -> Front | None:
        """Return what the broker knows of a link's front end; None if it serves none, or none is plugged."""
        device = self._front_device(link)
        return await self._fronts.of(device) if device is not None else None

    def view(self, link: str, front: Front | None) -> FrontView | None:
        """Return what a repair has to know of a link's front end, of which `front` is known; None: it has none."""
        vm = front_end(self._world.topology.link(link))
        if vm is None:
            return None
        if front is None or not front.connected:
            return FrontView(vm=vm, served=False, live=False)
        # A device in whose QEMU these rings may still be heard goes only when they have stopped.
        silent = front.session is None or self._back_device(link) is None
        return FrontView(vm=vm, fresh=silent and front.attached is None, live=front.session is not None)

    def works(self, link: str, front: Front | None) -> bool:
        """Whether a link's rings, of which `front` is known, are worked by the device that is plugged."""
        return front is not None and front.works and front.attached == self._back_device(link)

    def _front_device(self, link: str) -> str | None:
        return self._device_at(link, front_end(self._world.topology.link(link)))

    def _back_device(self, link: str) -> str | None:
        spec = self._world.topology.link(link)
        front = front_end(spec)
        return self._device_at(link, spec.peer_of(front).vm) if front is not None else None

    def _device_at(self, link: str, vm: str | None) -> str | None:
        """Return the device that is plugged into a VM, the newest if there are several."""
        plugged = self._world.links[link].plugged.get(vm or "", [])
        return device_id(link, plugged[-1]) if plugged else None

    # Section: plugging

    async def before_plug(self, vm: str, repair: Repair) -> None:
        backed = self._of(repair.link, repair.generation)
        if vm == backed.front.vm:
            require_nobody_holds(self._world, repair.link)
            await self._serve_front(repair.link, backed)
        else:
            if repair.hold:
                await self._require_rings(repair.link)
            await self._attach(repair.link, backed)

    async def _serve_front(self, link: str, backed: Backing) -> None:
        """Be the back-end of a front end that is about to come; those of earlier generations are over."""
        broker, front, offer = self._broker(), backed.front, self._world.links[link].offer
        for other in await self._fronts.all():
            if other.name.rpartition(".")[0] == link:
                await broker.backend_close(other.name)
        await broker.backend_open(
            name=front.name,
            path=front.socket,
            ram=ram_memory(front.vm, self._world.machines[front.vm].generation),
            features=EVERY_FEATURE if offer is None else offer,
            queue_pairs=front.queue_pairs,
            many_regions=front.many_regions,
        )

    async def _attach(self, link: str, backed: Backing) -> None:
        """Serve the front end's rings to the device that is about to come, as soon as there are any."""
        device, end = self._front_device(link), backed.back
        if device is None:
            raise NotFoundError(f"link `{link}` has no front end in `{backed.front.vm}`")
        for attempt in range(1, ATTEMPTS + 1):
            session = await self._fronts.until_ready(backed.front.vm, device)
            try:
                await self._broker().attach(
                    backend=device,
                    session=session,
                    name=backed.name,
                    path=end.socket,
                    id=end.id,
                    vectors=end.vectors,
                    control=control_memory(end.vm),
                    slot=end.slot,
                    description=end.description,
                )
            except UsageError:  # another session has begun
                if attempt == ATTEMPTS:
                    raise
            else:
                return

    # Section: going on with rings

    async def hold(self, link: str) -> None:
        """Free a front end's rings of the device that worked them, whose QEMU is gone; the front end sees nothing."""
        require_nobody_holds(self._world, link, but=front_end(self._world.topology.link(link)))
        front = await self._require_rings(link)
        await self._broker().detach(front.name)

    async def _require_rings(self, link: str) -> Front:
        """Return the front end whose rings are to be gone on with; RecoveryError if that is not possible."""
        front = await self.front(link)
        if front is None or front.session is None:
            raise RecoveryError(f"link `{link}` has no rings any more that could be gone on with")
        if front.disorder is not None:
            raise RecoveryError(f"link `{link}` has rings that cannot be gone on with: {front.disorder}")
        return front

    async def until_taken_up(self, link: str) -> None:
        """Wait until the back end's driver says that it works the rings; HotplugError if it does not."""
        if (device := self._front_device(link)) is not None:
            await self._fronts.until_taken_up(device)

    # Section: a device that stays

    async def part(self, vm: str, link: str, generation: int) -> None:
        await self.before_unplug(vm, link, generation)
        await self._set_link(vm, link, generation, up=False)

    async def join(self, vm: str, repair: Repair, generation: int) -> None:
        await self._set_link(vm, repair.link, generation, up=True)

    async def _set_link(self, vm: str, link: str, generation: int, *, up: bool) -> None:
        """Set the link of a device, by its netdev: that one's state is what QEMU starts a back-end by."""
        world = self._world
        device = plugged_device(world.run, world.topology.link(link), generation, vm=vm, rundir=world.rundir)
        session = await world.machines[vm].qmp()
        await session.execute("set_link", {"name": device.ids().netdev, "up": up})

    # Section: unplugging

    async def before_unplug(self, vm: str, link: str, generation: int) -> None:
        """Have the back end's driver let go of the rings, of whichever end the device goes first."""
        backed = self._of(link, generation)
        for front in await self._fronts.all():
            if front.attached is not None and front.attached == self._attached_at(vm, backed, front):
                acknowledged = await self._broker().detach(front.name)
                silent = [] if acknowledged else [backed.back.vm]
                attributes = {"device": front.attached, "silent": silent}
                self._world.journal.write("link.off", link=link, attributes=attributes)
                return
        if vm == backed.back.vm:
            # Its broker has died: the slot says so, and nobody can tell the driver to look.
            await set_state(self._broker(), backed.back, SlotState.OFF)

    def _attached_at(self, vm: str, backed: Backing, front: Front) -> str | None:
        """Return the device that is to be detached if it is this front's."""
        if vm == backed.front.vm:
            return front.attached if front.name == backed.front.name else None
        return backed.name

    async def after_unplug(self, vm: str, link: str, generation: int) -> None:
        backed = self._of(link, generation)
        if vm == backed.front.vm:
            await self._broker().backend_close(backed.front.name)
        else:
            await free(self._broker(), backed.back)

    def doorbell(self, vm: str, link: str, generation: int) -> Doorbell | None:
        backed = self._of(link, generation)
        if vm != backed.back.vm:
            return None
        return Doorbell(name=backed.name, end=0, vectors=backed.back.vectors)

    def _of(self, link: str, generation: int) -> Backing:
        world = self._world
        found = backing(world.run, world.topology.link(link), generation, rundir=world.rundir)
        assert found is not None
        return found
