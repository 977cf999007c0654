"""Doorbell devices in QEMUs that never forget how they heard one: noted at the plug, cured at the unplug.

Why, and how: `fd_parking`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from vpctl.broker.client import BrokerClient
from vpctl.errors import VpctlError
from vpctl.process import open_files
from vpctl.qmp.hotplug import StepError
from vpctl.qmp.session import Session
from vpctl.supervisor.hotplug.fd_parking import (
    find_interrupts,
    leaves_handlers,
    low_numbers_left_free,
    lowest_free,
    park,
)
from vpctl.supervisor.hotplug.hooks import Doorbell
from vpctl.supervisor.vm.machine import Machine


class StaleInterrupts:
    """Knows, by the VM, which descriptors are to be replaced when a device has gone."""

    def __init__(self, broker: Callable[[], BrokerClient]) -> None:
        self._broker = broker

    @asynccontextmanager
    async def plugging(self, machine: Machine, session: Session, bell: Doorbell) -> AsyncIterator[None]:
        """Keep numbers free below those that a device's descriptors get; the plug is the block."""
        if not leaves_handlers(machine.spec.accelerator):
            yield
            return
        async with low_numbers_left_free(session):
            before = files_of(machine)
            try:
                yield
            except StepError as error:
                late = error
            else:
                await self._plugged(machine, bell)
                return
        await self._failed(machine, bell, before, late)
        raise late

    async def _plugged(self, machine: Machine, bell: Doorbell) -> None:
        """Learn by which descriptors a QEMU hears a device that was just plugged."""
        if machine.process is not None:
            served = await self._broker().query_ivshmem(bell.name)
            machine.hears(bell.name, await find_interrupts(machine.process.pid, served, bell.end))

    async def unplugged(self, machine: Machine, bell: Doorbell, before: frozenset[int]) -> None:
        """Cure a QEMU, which had the descriptors `before`, of a device that was in it."""
        # Where nobody knows which were the interrupts, all that the device had counts as such.
        await self._park(machine, bell, machine.interrupts.get(bell.name) or before - files_of(machine))

    async def _failed(self, machine: Machine, bell: Doorbell, before: frozenset[int], error: StepError) -> None:
        """Cure a QEMU, which had the descriptors `before`, of a device that came too late and was taken out again."""
        if error.step == "device_add" and error.reply is None:
            # Beside both ends' interrupts it had the memory, the connection to the broker, the host's own interrupt.
            with contextlib.suppress(VpctlError):
                await self._park(machine, bell, lowest_free(before, 2 * bell.vectors + 3))

    async def _park(self, machine: Machine, bell: Doorbell, heard: Collection[int]) -> None:
        if machine.process is not None and leaves_handlers(machine.spec.accelerator):
            session = await machine.qmp()
            machine.parked(bell.name, await park(session, machine.process.pid, heard, name=bell.name))


def files_of(machine: Machine) -> frozenset[int]:
    """Return the numbers of the descriptors that a VM's QEMU has."""
    return open_files(machine.process.pid) if machine.process is not None else frozenset()
