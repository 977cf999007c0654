"""What a guest's agent says of itself and of its links' interfaces, as QEMU keeps it."""

from __future__ import annotations

from vpctl.guest import heartbeat
from vpctl.guest.heartbeat import Heartbeat
from vpctl.qemu.argv import HEARTBEAT_CHARDEV, HEARTBEAT_RING_BYTES
from vpctl.supervisor.vm.machine import Machine


async def last_beat(machine: Machine) -> Heartbeat | None:
    """Return the newest heartbeat that was ever read, None if none was."""
    session = await machine.qmp()
    # Reading empties the ring, so what was read last is kept.
    text = await session.execute("ringbuf-read", {"device": HEARTBEAT_CHARDEV, "size": HEARTBEAT_RING_BYTES})
    if beats := heartbeat.parse(text):
        machine.last_beat = beats[-1]
    return machine.last_beat
