"""Virtio-net ends whose rings stop and start by themselves: the other end follows, and nobody calls it a fault.

A driver that is unbound and bound, or a guest that reboots, begins with new rings. The broker has seen to it that the
old ones are let go of; here the device that showed them is unplugged, and plugged again for the new ones. A broker
that died has taken every virtio-net end's back-end along: those links are made anew at both ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from itertools import count
from typing import Any

from vpctl import wait
from vpctl.broker.client import BrokerGoneError
from vpctl.errors import InternalError, VpctlError
from vpctl.plan.link import virtio_net_end
from vpctl.recovery import execute
from vpctl.recovery.faults import Fault
from vpctl.recovery.plan import RELINK, REPLUG
from vpctl.recovery.report import Recorder
from vpctl.recovery.state import LinkState
from vpctl.supervisor.hotplug.backends import EVERY_FEATURE, BackendStatus
from vpctl.supervisor.hotplug.ops import Hands
from vpctl.supervisor.recover import Recoveries
from vpctl.supervisor.state import TopologyState
from vpctl.tasks import Again

AGAIN = Again(first=0.2, most=3)
"""When a repair is tried again that has ended by a mistake of ours."""

TakeFault = Callable[[str, str, Fault, str], None]
"""Is told of a fault that hit a link: at which VM, which link, which fault, and why it is thought to be one."""


class VringWatch:
    """Looks at a link when something was told of it, and after every change of broker or supervisor."""

    def __init__(
        self,
        state: TopologyState,
        hands: Hands,
        recoveries: Recoveries,
        group: asyncio.TaskGroup,
        take_fault: TakeFault,
    ) -> None:
        self._state = state
        self._hands = hands
        self._recoveries = recoveries
        self._group = group
        self._take_fault = take_fault
        self._lost: set[str] = set()
        """The virtio-net ends' devices whose back-end was found to be lost."""
        self._links = [link.name for link in state.topology.links if virtio_net_end(link) is not None]
        self._pending: set[str] = set()

    def look(self, link: str) -> None:
        """Look at a link as soon as nobody else repairs it, and at what it is then."""
        self._hands.backends.wake()
        if link in self._links and link not in self._pending:
            self._pending.add(link)
            name = f"follow-{link}"
            look = self._state.contained(lambda: self._look(link), name=name, link=link)
            self._group.create_task(look, name=name)

    def look_at_all(self) -> None:
        """Look at every link: what was told while nobody listened is lost."""
        for link in self._links:
            self.look(link)

    async def _look(self, link: str) -> None:
        """Look at a link; again where what was to be done ended by a mistake of ours."""
        for attempt in count(1):
            error = await self._error_of_look(link)
            pause = AGAIN.pause(attempt)
            if not isinstance(error, InternalError) or pause is None:
                return
            await wait.pause(pause)

    async def _error_of_look(self, link_name: str) -> VpctlError | None:
        """Look at a link, and return what kept its repair from being done."""
        link = self._state.links[link_name]
        try:
            async with link.lock:
                self._pending.discard(link_name)  # what is told from here on is looked at again
                if await self._prepare(link_name):
                    await execute.repair_held(link_name, self._hands, self._recorder("follow"))
        except Exception as raised:
            error = self._state.foreseen(raised, name="follow", link=link_name)
            if isinstance(error, BrokerGoneError):
                return None  # the next one is looked at as well
            attributes: dict[str, Any] = {"name": "follow", "target": link_name, "ok": False, "error": error.message}
            self._state.journal.write("recovery.step", link=link_name, attributes=attributes)
            link.set_state(LinkState.FAILED)
            return error
        return None

    async def _prepare(self, link_name: str) -> bool:
        """Let go of rings that are over; return whether the link can be plugged again now."""
        state, link = self._state, self._state.links[link_name]
        spec = state.topology.link(link_name)
        owner = virtio_net_end(spec)
        assert owner is not None
        back_vm = spec.peer_of(owner).vm
        backend = await self._hands.vhost_pci.backend(link_name)
        if not (state.is_alive(owner) and state.is_alive(back_vm) and link.plugged.get(owner)):
            return False  # a recovery's affair
        if backend is None or not backend.connected:
            link.set_state(LinkState.DOWN)
            if backend is not None:  # else its broker has died, and `_remake` sees to it
                await self._examine_loss(link_name, owner, backend)
            return False
        if self._hands.vhost_pci.works(link_name, backend):
            return self._restrict(link_name, backend)
        link.set_state(LinkState.DOWN)
        if backend.session is not None:
            # They run already, and may ring the old device's interrupts: their link is set down for its unplug.
            link.asked = RELINK
            return True
        for generation in sorted(link.plugged.get(back_vm, ()), reverse=True):
            await self._hands.unplug(back_vm, link_name, generation)
        return False

    async def _examine_loss(self, link: str, vm: str, backend: BackendStatus) -> None:
        """See whether a virtio-net end that is not connected has lost its back-end, or has ended itself."""
        if backend.name in self._lost:
            return
        if not await self._state.machines[vm].answers():
            return  # it is QEMU that has ended, and the next word is of that
        if all(self._state.is_alive(end.vm) for end in self._state.topology.link(link).endpoints):
            self._lost.add(backend.name)
            reason = backend.refused or "QEMU lives, and is connected to it no more"
            self._take_fault(vm, link, Fault.BACKEND_LOST, f"`{backend.name}` has no back-end: {reason}")

    def _restrict(self, link_name: str, backend: BackendStatus) -> bool:
        """Take in that the vhost-pci end's driver refuses some of what was negotiated; return whether it does."""
        if backend.accepted is None or not (refused := backend.features & ~backend.accepted):
            return False
        link = self._state.links[link_name]
        link.restrict((link.offer if link.offer is not None else EVERY_FEATURE) & ~refused)
        attributes = {"refused": refused, "negotiated": backend.features}
        self._state.journal.write("link.offer", link=link_name, attributes=attributes)
        link.set_state(LinkState.DOWN)
        link.asked = REPLUG  # an offer is made to a new device
        return True

    def _recorder(self, policy: str, died: float | None = None) -> Recorder:
        now = time.monotonic()
        return Recorder(
            vm="",
            fault=Fault.BROKER_EXIT,
            policy=policy,
            fault_at=died if died is not None else now,
            detected_at=now,
            on_step=self._recoveries.progress,
        )

    def broker_returned(self, died: float, adopted: Collection[str]) -> None:
        """Begin to make the links anew whose back-ends died with their broker, at `died` (CLOCK_MONOTONIC)."""
        name = "remake-links"
        remake = self._state.contained(lambda: self._remake(died, adopted), name=name)
        self._group.create_task(remake, name=name)

    async def _remake(self, died: float, adopted: Collection[str]) -> None:
        """See it through, and report on the broker's death."""
        links = [link for link in self._links if self._is_orphaned(link)]
        for link in links:
            self._state.links[link].set_state(LinkState.DOWN)
        recorder = self._recorder("replug", died)
        for attempt in count(1):
            errors = await execute.connect_links(links, self._hands, recorder)
            pause = AGAIN.pause(attempt)
            if pause is None or not any(isinstance(error, InternalError) for error in errors):
                break
            if any(isinstance(error, BrokerGoneError) for error in errors):
                break  # the next one's death, or return, is told as well
            await wait.pause(pause)
        back = {link: self._state.links[link].state is LinkState.UP for link in links}
        report = recorder.result(ok=not errors, total_ms=recorder.since_fault(), links=back)
        attributes = {**report, "vm": None, "adopted": sorted(adopted)}
        if errors:
            attributes["error"] = errors[0].message
        self._state.journal.write("recovery.end", attributes=attributes)

    def _is_orphaned(self, link_name: str) -> bool:
        """Whether a link has a virtio-net end that works with nobody now, and nobody else who sees to it."""
        spec, link = self._state.topology.link(link_name), self._state.links[link_name]
        alive = all(self._state.is_alive(end.vm) for end in spec.endpoints)
        return alive and bool(link.plugged.get(virtio_net_end(spec) or ""))
