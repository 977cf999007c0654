"""What an ivshmem server says to a QEMU: QEMU's ivshmem-spec, `docs/specs`. Pure.

Only the server speaks. A message is a signed 64-bit number, little-endian, with at most one descriptor beside it
(SCM_RIGHTS). Everything up to the region is read while `device_add` waits; what comes later may come at any time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

PROTOCOL_VERSION = 0
REGION = -1
"""The number beside which the region's descriptor comes."""

WATCHER_ID = 0
"""What clients that only look have: no device learns of them."""


MOST_VECTORS = 2048
"""Of one device: as many as MSI-X has (PCI 3.0, 6.8.2)."""


_FORMAT = struct.Struct("<q")
SIZE = _FORMAT.size
"""Bytes in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A number, and the descriptor that goes with it."""

    number: int
    fd: int | None = None

    def encode(self) -> bytes:
        """Return the message's bytes; the descriptor travels beside them."""
        return _FORMAT.pack(self.number)


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Whom a device can interrupt: its id and an eventfd for each of its vectors."""

    id: int
    eventfds: tuple[int, ...]


def decode(data: bytes) -> int:
    """Return the number of a message; struct.error unless it has 8 bytes."""
    number: int = _FORMAT.unpack(data)[0]
    return number


def greeting(own: Peer, others: Iterable[Peer], region: int) -> list[Message]:
    """Return what a client is told when it connects.

    The others come before the region, so that the doorbell works as soon as the guest sees the device. The device's
    own vectors come after it: before that QEMU 7.2 has no table for them, and dies (SIGSEGV).

    This is not the order of ivshmem-spec, which has the region third and all peers after it. QEMU takes any
    (`ivshmem_recv_setup`, 7.2 to 11.1); what else speaks the protocol is greeted by the letter.
    """
    messages = [Message(number=PROTOCOL_VERSION), Message(number=own.id)]
    messages += [message for other in others for message in joins(other)]
    return [*messages, Message(number=REGION, fd=region), *joins(own)]


def greeting_by_the_letter(own: Peer, others: Iterable[Peer], region: int) -> list[Message]:
    """Return what a client that is no QEMU is told when it connects: the order of ivshmem-spec."""
    messages = [Message(number=PROTOCOL_VERSION), Message(number=own.id), Message(number=REGION, fd=region)]
    return [*messages, *(message for other in others for message in joins(other)), *joins(own)]


def joins(peer: Peer) -> list[Message]:
    """Return what tells a client of a peer; at any time."""
    return [Message(number=peer.id, fd=fd) for fd in peer.eventfds]
