"""What recovery needs done; the supervisor does it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from vpctl.errors import RecoveryError, VpctlError
from vpctl.recovery.plan import Repair


class EndGoneError(RecoveryError):
    """A VM at an end of a link that is being repaired died, after its end was done: no policy can help that."""


class Hands(Protocol):
    """What recovery needs done; each method is done when it is done, and raises a VpctlError if it failed."""

    async def fence(self, vm: str) -> None:
        """Make sure that a VM's QEMU is gone: killed, and its pidfd has signalled."""

    async def free_ram(self, vm: str, generation: int) -> None:
        """Give back what a life of a VM that is over had of the host."""

    def is_booting(self, vm: str) -> bool:
        """Whether the life that is wanted has begun already: a recovery before this one was cut short."""

    async def boot(self, vm: str) -> float:
        """Create a VM again, or go on where that was cut short, to authenticated ssh; return the milliseconds."""

    async def until_ready(self, vm: str) -> None:
        """Wait until a VM is ready, whoever boots it; raises if it fails instead."""

    async def repair_of(self, link: str) -> Repair | None:
        """Plan the repair of a link from what is known now; None if both ends are plugged and up already."""

    async def prepare_host(self, link: str) -> None:
        """See that the host has what a link needs beside QEMU; idempotent."""

    async def hold(self, vm: str, link: str, generation: int) -> None:
        """See that the rings of a device at a VM's end can be gone on with, and free them of the dead other end."""

    async def link_down(self, vm: str, link: str, generation: int) -> None:
        """Have a device at a VM's end let go of the other end, its carrier off."""

    async def link_up(self, vm: str, repair: Repair) -> None:
        """Let the device that stays at a VM's end begin anew with the other end that is to come."""

    async def unplug(self, vm: str, link: str, generation: int) -> None:
        """Take a link's device out of a VM."""

    async def plug(self, vm: str, repair: Repair) -> None:
        """Put a link's end into a VM; where a repair holds rings, see that its guest goes on with them."""

    def expecting(self, link: str, vms: Collection[str]) -> AbstractAsyncContextManager[None]:
        """Have these VMs, which live, look for packets over a link until the block ends, for `verify`."""

    async def verify(self, link: str) -> float:
        """See a verified packet each way over a link; return when (CLOCK_MONOTONIC), or raise VerificationError.

        EndGoneError, at once, if an end has no device any more.
        """

    def link_lock(self, link: str) -> asyncio.Lock:
        """Return the lock that whoever repairs a link holds."""

    def policy_failed(self, repair: Repair) -> None:
        """Learn that a repair failed although its VMs live: the next one is by a policy that asks less of them."""

    def link_broken(self, link: str, reason: str) -> None:
        """Learn that the repair of a link failed, and why."""

    def is_alive(self, vm: str) -> bool:
        """Whether a VM is ready, so that it counts as a survivor."""

    def foreseen(self, error: Exception, name: str, *, vm: str | None = None, link: str | None = None) -> VpctlError:
        """Return what a step of the work `name` raised as an error; one that is not ours is journalled first."""
