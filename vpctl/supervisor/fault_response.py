"""Faults as they are seen: each is journalled, and has its VM, or the link that it hit, brought back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from vpctl.errors import VpctlError
from vpctl.links.devices import device_id
from vpctl.recovery.detect import Finding
from vpctl.recovery.faults import Fault, Incident, fault_of_exit
from vpctl.recovery.ops import Hands
from vpctl.recovery.state import LinkState, VmState
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.exit import VmEnd, describe_end
from vpctl.supervisor.vm.machine import Machine
from vpctl.supervisor.watch.interfaces import InterfaceWatch
from vpctl.supervisor.watch.qemu import Watch
from vpctl.tasks import FOR_EVER, ONCE, Again

LOSSES, LOSSES_SECONDS = 5, 60.0
"""How often a link's devices are put back that others remove, in how many seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectedFault:
    """The end of a VM's life as something to work on."""

    fault: Fault
    at: float
    reason: str
    status: int | None = None
    process_ended: bool = False


class Starter(Protocol):
    """Who recovers VMs."""

    hands: Hands

    def start(self, vm: str, *, automatic: bool = False) -> object:
        """Start the recovery of a VM, or join the one that runs."""

    def is_automatic(self, vm: str) -> bool:
        """Whether a VM is brought back without being asked for."""


class FaultResponse:
    """Watches VMs that are ready, and acts on what happens to them."""

    def __init__(self, state: TopologyState, group: asyncio.TaskGroup, recoveries: Starter) -> None:
        self._state = state
        self._group = group
        self._recoveries = recoveries
        self._interface_watch = InterfaceWatch(state, group, self.take_link_fault)
        self._losses: dict[str, list[float]] = {}
        """Link → when its devices were removed of late (CLOCK_MONOTONIC)."""
        self.injected: dict[str, float] = {}
        """VM → when `crash` hit it (CLOCK_MONOTONIC): the fault's true time."""

    def watch(self, machine: Machine) -> None:
        """Wait for the end of a VM that is ready, for its guest's reboot, and for what only shows when one looks."""
        generation = machine.generation
        machine.on_reset = lambda: self._take_reset(machine)
        machine.on_device_deleted = lambda device: self._take_deleted(machine, device)
        self._start(lambda: self._await_end(machine, generation), "watch", machine.name, again=FOR_EVER)
        self._start(lambda: self._look(machine, generation), "look", machine.name, again=FOR_EVER)

    def _start(self, work: Callable[[], Awaitable[None]], what: str, vm: str, *, again: Again = ONCE) -> None:
        """Start work of one VM, which ends no other's."""
        name = f"{what}-{vm}"
        self._group.create_task(self._state.contained(work, name=name, vm=vm, again=again), name=name)

    async def _look(self, machine: Machine, generation: int) -> None:
        if machine.generation != generation:
            return
        found = partial(self._take_finding, machine, generation)
        await Watch(machine, found, lambda: self._interface_watch.take(machine)).run()

    # Section: VMs

    async def _await_end(self, machine: Machine, generation: int) -> None:
        assert machine.ended is not None
        ended = await asyncio.shield(machine.ended)
        if machine.generation == generation and self._state.is_alive(machine.name):
            self.take(machine, fault_of_end(ended))

    def _take_finding(self, machine: Machine, generation: int, finding: Finding) -> None:
        if machine.generation == generation and self._state.is_alive(machine.name):
            self.take(machine, DetectedFault(fault=finding.fault, at=finding.since, reason=finding.reason))

    def take(self, machine: Machine, seen: DetectedFault) -> None:
        """Act on the end of a VM's life; its QEMU may still be there, and is fenced by the recovery."""
        attributes = {
            "fault": str(seen.fault),
            "generation": machine.generation,
            "status": seen.status,
            "reason": seen.reason,
        }
        self._state.journal.write("fault", vm=machine.name, attributes=attributes)
        for link in self._state.topology.links_of(machine.name):
            self._state.links[link.name].set_state(LinkState.DOWN)
        if seen.process_ended:
            self._state.forget(machine.name)
        if seen.fault is Fault.GUEST_POWEROFF:
            machine.set_state(VmState.STOPPED, reason="the guest powered off")
            generation = machine.generation
            self._start(lambda: self._release(machine.name, generation), "release", machine.name)
            return
        at = self.injected.pop(machine.name, seen.at)
        machine.incident = Incident(fault=seen.fault, at=at, detected_at=time.monotonic())
        machine.set_state(VmState.CRASHED, reason=seen.reason)
        if self._recoveries.is_automatic(machine.name):
            self._recoveries.start(machine.name, automatic=True)

    async def _release(self, vm: str, generation: int) -> None:
        with contextlib.suppress(VpctlError):  # a broker that dies just now has it no more
            await self._recoveries.hands.free_ram(vm, generation)

    # Section: reboots

    def _take_reset(self, machine: Machine) -> None:
        """The guest reboots: its QEMU, with every device in it, lives on."""
        reason = "the guest was reset"
        attributes = {"fault": str(Fault.GUEST_REBOOT), "generation": machine.generation, "reason": reason}
        self._state.journal.write("fault", vm=machine.name, attributes=attributes)
        machine.begin_reboot()
        for link in self._state.topology.links_of(machine.name):
            if self._state.links[link.name].state is LinkState.UP:
                self._state.links[link.name].set_state(LinkState.DOWN)
        generation = machine.generation
        self._start(lambda: self._await_reboot(machine, generation), "reboot", machine.name)

    async def _await_reboot(self, machine: Machine, generation: int) -> None:
        try:
            await machine.finish_reboot()
        except Exception as raised:
            error = self._state.foreseen(raised, name="reboot", vm=machine.name)
            if machine.generation == generation and machine.is_rebooting:
                # A QEMU that ended is `_await_end`'s affair; this is a guest that does not come back.
                reason = f"after a reboot: {error.message}"
                self.take(machine, DetectedFault(fault=Fault.GUEST_HANG, at=time.monotonic(), reason=reason))
        else:
            # It boots again in the same QEMU: links that went down only come up again.
            self._recoveries.start(machine.name)

    # Section: links

    def _take_deleted(self, machine: Machine, device: str) -> None:
        """A device has gone that nobody here has asked to go."""
        for spec in self._state.topology.links_of(machine.name):
            link = self._state.links[spec.name]
            generations = link.plugged.get(machine.name, ())
            if device in [device_id(spec.name, generation) for generation in generations]:
                # Else it is a repair's affair. It is `down` where rings stopped before their device had gone.
                if (machine.name, device) not in link.leaving and link.state in (LinkState.UP, LinkState.DOWN):
                    link.lost(machine.name)
                    reason = f"`{device}` was removed by somebody else"
                    self.take_link_fault(machine.name, spec.name, Fault.DEVICE_LOST, reason)
                return

    def take_link_fault(self, vm: str, link_name: str, fault: Fault, reason: str, at: float | None = None) -> None:
        """A link has lost something at a VM that lives: it is repaired, and nothing else.

        `at`: since when, if that is longer ago than now (CLOCK_MONOTONIC).
        """
        machine, link = self._state.machines[vm], self._state.links[link_name]
        attributes: Mapping[str, Any] = {"fault": str(fault), "reason": reason}
        self._state.journal.write("fault", vm=vm, link=link_name, attributes=attributes)
        if fault is Fault.DEVICE_LOST and self._is_lost_for_good(link_name):
            link.give_up(
                f"its devices were removed more than {LOSSES} times within {LOSSES_SECONDS:g} s, at last in `{vm}`:"
                f" `vpctl recover {vm}` puts them back"
            )
            return
        link.set_state(LinkState.DOWN)
        now = time.monotonic()
        if machine.incident is None:
            began = self.injected.pop(vm, now if at is None else at)
            machine.incident = Incident(fault=fault, at=began, detected_at=now)
        if self._state.topology.link(link_name).recovery.mode == "auto" and self._state.is_ready(vm):
            self._recoveries.start(vm, automatic=True)

    def _is_lost_for_good(self, link: str) -> bool:
        """Take in that a device of a link was removed; return whether that has happened too often of late.

        A guest may eject a device as often as it is put back, and each time its peer's is replaced as well.
        """
        now = time.monotonic()
        recent = [at for at in self._losses.get(link, ()) if now - at < LOSSES_SECONDS]
        self._losses[link] = [*recent, now] if len(recent) < LOSSES else []
        return len(recent) >= LOSSES


def fault_of_end(ended: VmEnd) -> DetectedFault:
    """Return what the end of a QEMU, or of its guest, means."""
    return DetectedFault(
        fault=fault_of_exit(ended.status, ended.signs),
        at=ended.monotonic,
        reason=describe_end(ended),
        status=ended.status,
        process_ended=ended.process_ended,
    )
