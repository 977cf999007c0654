"""What a link kind needs done beside QEMU's part, around each plug and unplug of an end; most kinds need nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from vpctl.errors import RecoveryError
from vpctl.recovery.plan import Repair
from vpctl.supervisor.state import TopologyState


@dataclass(frozen=True, kw_only=True, slots=True)
class Doorbell:
    """An ivshmem-doorbell device at an end of a link, and where the broker serves it; see `stale_interrupts`."""

    name: str
    """Of the device, and of what is served."""
    end: int
    vectors: int


class PlugHooks(Protocol):
    """What a link kind does around plug and unplug; a method returns when it is done, or raises a VpctlError."""

    async def before_plug(self, vm: str, repair: Repair) -> None:
        """Do what has to be there when a VM's QEMU is told of its end."""
        return

    async def before_unplug(self, vm: str, link: str, generation: int) -> None:
        """Have whoever works with a device let go of it."""
        return

    async def after_unplug(self, vm: str, link: str, generation: int) -> None:
        """Take away what was there for a device that is gone."""
        return

    async def link_down(self, vm: str, link: str, generation: int) -> None:
        """Have a device that stays let go of the other end, its carrier off; only of kinds that can keep one."""
        return

    async def link_up(self, vm: str, repair: Repair, generation: int) -> None:
        """Let a device that stays, of this generation, begin anew with the other end that is to come."""
        return

    async def unreachable(self, link: str) -> Collection[str]:
        """Return the VMs whose device of a link can be given no other peer."""
        return ()

    def doorbell(self, vm: str, link: str, generation: int) -> Doorbell | None:
        """Return the doorbell device that an end is; None: it is none."""
        return None


class NoHooks(PlugHooks):
    """Hooks of a kind that needs nothing."""


def require_nobody_holds(state: TopologyState, link: str, *, but: str | None = None) -> None:
    """Raise RecoveryError if a VM, `but` this one, still has a device of a link: a QEMU that hangs may wake up."""
    plugged = state.links[link].plugged
    if holders := [vm for vm, generations in plugged.items() if generations and vm != but]:
        message = f"`{holders[0]}` still has a device of link `{link}`"
        raise RecoveryError(message, hint=f"vpctl recover {holders[0]}")
