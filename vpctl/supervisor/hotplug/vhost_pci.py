"""Run-time part of `vhost-pci`: one end, with our driver, works the vrings of the other's virtio-net.

What is done is a `links.kind.VhostPciPair`: the broker serves each end before its plug, and no more after its unplug.
"""

from __future__ import annotations

from collections.abc import Callable

from vpctl.broker.client import BrokerClient
from vpctl.broker.control_page import SlotState
from vpctl.errors import NotFoundError, RecoveryError, UsageError
from vpctl.links.devices import control_memory, device_id, ram_memory
from vpctl.links.kind import VhostPciPair
from vpctl.plan.link import plugged_device, vhost_pci_pair, virtio_net_end
from vpctl.recovery.plan import Repair
from vpctl.recovery.state import RingsView
from vpctl.supervisor.hotplug.backends import EVERY_FEATURE, Backends, BackendStatus
from vpctl.supervisor.hotplug.hooks import Doorbell, PlugHooks, require_nobody_holds
from vpctl.supervisor.hotplug.slots import free, set_state
from vpctl.supervisor.state import TopologyState

ATTEMPTS = 5
"""At rings that are started anew just when they are served."""


class VhostPciHooks(PlugHooks):
    """Hooks of links with a `VhostPciPair`."""

    def __init__(self, state: TopologyState, broker: Callable[[], BrokerClient], backends: Backends) -> None:
        self._state = state
        self._broker = broker
        self._backends = backends

    # Section: what is known

    async def backend(self, link: str) -> BackendStatus | None:
        """Return what the broker knows of a link's virtio-net end; None if it serves none, or none is plugged."""
        device = self._virtio_net_device(link)
        return await self._backends.of(device) if device is not None else None

    def view(self, link: str, backend: BackendStatus | None) -> RingsView | None:
        """Return what a repair has to know of a link's rings, given their `backend`; None: it has none."""
        vm = virtio_net_end(self._state.topology.link(link))
        if vm is None:
            return None
        if backend is None or not backend.connected:
            return RingsView(vm=vm, served=False, running=False)
        # A device in whose QEMU these rings may still be heard goes only when they have stopped.
        silent = backend.session is None or self._vhost_pci_device(link) is None
        return RingsView(vm=vm, idle=silent and backend.attached is None, running=backend.session is not None)

    def works(self, link: str, backend: BackendStatus | None) -> bool:
        """Whether a link's rings, of which `backend` is known, are worked by the device that is plugged."""
        return backend is not None and backend.works and backend.attached == self._vhost_pci_device(link)

    def _virtio_net_device(self, link: str) -> str | None:
        return self._device_at(link, virtio_net_end(self._state.topology.link(link)))

    def _vhost_pci_device(self, link: str) -> str | None:
        spec = self._state.topology.link(link)
        owner = virtio_net_end(spec)
        return self._device_at(link, spec.peer_of(owner).vm) if owner is not None else None

    def _device_at(self, link: str, vm: str | None) -> str | None:
        """Return the device that is plugged into a VM, the newest if there are several."""
        plugged = self._state.links[link].plugged.get(vm or "", [])
        return device_id(link, plugged[-1]) if plugged else None

    # Section: plugging

    async def before_plug(self, vm: str, repair: Repair) -> None:
        pair = self._of(repair.link, repair.generation)
        if vm == pair.virtio_net_end.vm:
            require_nobody_holds(self._state, repair.link)
            await self._serve_backend(repair.link, pair)
        else:
            if repair.hold:
                await self._require_rings(repair.link)
            await self._attach(repair.link, pair)

    async def _serve_backend(self, link: str, pair: VhostPciPair) -> None:
        """Be the back-end of a virtio-net end that is about to come; those of earlier generations are over."""
        broker, end, offer = self._broker(), pair.virtio_net_end, self._state.links[link].offer
        for other in await self._backends.all():
            if other.name.rpartition(".")[0] == link:
                await broker.backend_close(other.name)
        await broker.backend_open(
            name=end.name,
            path=end.socket,
            ram=ram_memory(end.vm, self._state.machines[end.vm].generation),
            features=EVERY_FEATURE if offer is None else offer,
            queue_pairs=end.queue_pairs,
            many_regions=end.many_regions,
        )

    async def _attach(self, link: str, pair: VhostPciPair) -> None:
        """Serve the virtio-net end's rings to the device that is about to come, as soon as there are any."""
        device, end = self._virtio_net_device(link), pair.vhost_pci_end
        if device is None:
            raise NotFoundError(f"link `{link}` has no virtio-net end in `{pair.virtio_net_end.vm}`")
        for attempt in range(1, ATTEMPTS + 1):
            session = await self._backends.until_ready(pair.virtio_net_end.vm, device)
            try:
                await self._broker().attach(
                    backend=device,
                    session=session,
                    name=pair.name,
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
        """Free rings of the device that worked them, whose QEMU is gone; the virtio-net end sees nothing of it."""
        require_nobody_holds(self._state, link, but=virtio_net_end(self._state.topology.link(link)))
        backend = await self._require_rings(link)
        await self._broker().detach(backend.name)

    async def _require_rings(self, link: str) -> BackendStatus:
        """Return the virtio-net end whose rings are to be gone on with; RecoveryError if that is not possible."""
        backend = await self.backend(link)
        if backend is None or backend.session is None:
            raise RecoveryError(f"link `{link}` has no rings any more that could be gone on with")
        if backend.disorder is not None:
            raise RecoveryError(f"link `{link}` has rings that cannot be gone on with: {backend.disorder}")
        return backend

    async def until_taken_up(self, link: str) -> None:
        """Wait until the vhost-pci end's driver says that it works the rings; HotplugError if it does not."""
        if (device := self._virtio_net_device(link)) is not None:
            await self._backends.until_taken_up(device)

    # Section: a device that stays

    async def link_down(self, vm: str, link: str, generation: int) -> None:
        await self.before_unplug(vm, link, generation)
        await self._set_link(vm, link, generation, up=False)

    async def link_up(self, vm: str, repair: Repair, generation: int) -> None:
        await self._set_link(vm, repair.link, generation, up=True)

    async def _set_link(self, vm: str, link: str, generation: int, *, up: bool) -> None:
        """Set the link of a device, by its netdev: that one's state is what QEMU starts a back-end by."""
        state = self._state
        device = plugged_device(state.run, state.topology.link(link), generation, vm=vm, rundir=state.rundir)
        session = await state.machines[vm].qmp()
        await session.execute("set_link", {"name": device.ids().netdev, "up": up})

    # Section: unplugging

    async def before_unplug(self, vm: str, link: str, generation: int) -> None:
        """Have the vhost-pci end's driver let go of the rings, of whichever end the device goes first."""
        pair = self._of(link, generation)
        for backend in await self._backends.all():
            if backend.attached is not None and backend.attached == self._attached_at(vm, pair, backend):
                acknowledged = await self._broker().detach(backend.name)
                silent = [] if acknowledged else [pair.vhost_pci_end.vm]
                attributes = {"device": backend.attached, "silent": silent}
                self._state.journal.write("link.off", link=link, attributes=attributes)
                return
        if vm == pair.vhost_pci_end.vm:
            # Its broker has died: the slot says so, and nobody can tell the driver to look.
            await set_state(self._broker(), pair.vhost_pci_end, SlotState.OFF)

    def _attached_at(self, vm: str, pair: VhostPciPair, backend: BackendStatus) -> str | None:
        """Return the device that is to be detached if it is this backend's."""
        if vm == pair.virtio_net_end.vm:
            return backend.attached if backend.name == pair.virtio_net_end.name else None
        return pair.name

    async def after_unplug(self, vm: str, link: str, generation: int) -> None:
        pair = self._of(link, generation)
        if vm == pair.virtio_net_end.vm:
            await self._broker().backend_close(pair.virtio_net_end.name)
        else:
            await free(self._broker(), pair.vhost_pci_end)

    def doorbell(self, vm: str, link: str, generation: int) -> Doorbell | None:
        pair = self._of(link, generation)
        if vm != pair.vhost_pci_end.vm:
            return None
        return Doorbell(name=pair.name, end=0, vectors=pair.vhost_pci_end.vectors)

    def _of(self, link: str, generation: int) -> VhostPciPair:
        state = self._state
        found = vhost_pci_pair(state.run, state.topology.link(link), generation, rundir=state.rundir)
        assert found is not None
        return found
