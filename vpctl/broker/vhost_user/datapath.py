"""What a vhost-user back-end's control plane needs of whatever carries the packets: the device of the other guest.

The one there is: `ivshmem_datapath`, an ivshmem-doorbell device. A QEMU with a device made for it would be another.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Any, Protocol

from vpctl.broker.control_page import PeerRegion


@dataclass(frozen=True, kw_only=True, slots=True)
class Eventfd:
    """An eventfd: the kernel's id of it, by which two are the same, and a descriptor."""

    id: int
    fd: int = field(compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vring:
    """One ring of a front-end that works: offsets in its memory's file, its size, its eventfds.

    The descriptors stay their owner's: a data path duplicates what it keeps. Two rings are the same if only their
    calls differ.
    """

    desc: int
    avail: int
    used: int
    size: int
    kick: Eventfd
    call: Eventfd = field(compare=False)

    def waiting(self, ram: int) -> int:
        """Return how many chains of descriptors wait in it, as its memory says: its size at most, if in order."""
        (used,) = struct.unpack("<H", os.pread(ram, 2, self.used + 2))  # first: what is available only grows
        (available,) = struct.unpack("<H", os.pread(ram, 2, self.avail + 2))
        waiting: int = (available - used) & 0xFFFF
        return waiting


@dataclass(frozen=True, kw_only=True, slots=True)
class VringSet:
    """All that a data path works with; ring r is the front-end's virtqueue r."""

    features: int
    regions: tuple[PeerRegion, ...]
    rings: tuple[Vring, ...]

    @property
    def queue_pairs(self) -> int:
        """How many pairs of rings there are."""
        return len(self.rings) // 2


class Datapath(Protocol):
    """Lets another guest work a front-end's rings."""

    @property
    def name(self) -> str:
        """The device that is attached."""

    @property
    def is_on(self) -> bool:
        """Whether a guest may be working the rings: from `attach` until it has let go, or has not in time."""

    def attach(self, vrings: VringSet) -> None:
        """Show the rings to the guest; OSError, with nothing left behind, if that fails."""

    def change_call(self, ring: int, call: Eventfd) -> None:
        """Have the guest ring another eventfd for a ring; OSError, and all is as it was, if that fails."""

    async def off(self) -> bool:
        """Have the guest let go of the rings; True if it has, False if it does not say so in time. Idempotent."""

    def detach(self) -> None:
        """End what the device is served by, and close everything; idempotent. `off` comes first."""

    def as_json(self) -> dict[str, Any]:
        """Return what `query_ivshmem` tells of it."""
