"""Memory that guests share, around each plug and unplug: made and served, switched on, off and acknowledged, freed.

What is to be done is `links.base.Sharing`; the broker does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from vpctl.broker.client import BrokerClient
from vpctl.broker.control_page import SlotState, slot_state
from vpctl.errors import UsageError
from vpctl.links.base import Memory, SharedEnd, Sharing, control_memory

ACK_SECONDS = 3.0
"""For a guest to let go of a device; a driver takes about a millisecond, a guest that hangs or has none for ever."""


async def fill(broker: BrokerClient, memory: Memory) -> None:
    """Make a memory, or clear it, and write what it begins with; nobody may have it who still works with it."""
    if not await broker.make(memory.name, memory.size):
        await broker.clear(memory.name)
    await broker.write(memory.name, *memory.content)


async def serve(broker: BrokerClient, sharing: Sharing) -> None:
    """Make and serve one generation; whatever was served of the memory before is over."""
    await broker.close(sharing.name)
    await fill(broker, sharing.memory)
    ends = [{"path": end.socket, "id": end.id, "vectors": end.vectors} for end in sharing.ends]
    await broker.serve(name=sharing.name, memory=sharing.memory.name, ends=ends)


async def switch_on(broker: BrokerClient, end: SharedEnd) -> None:
    """Describe a device that is about to be plugged to its guest."""
    on = slot_state(SlotState.ON)
    await broker.write(control_memory(end.vm), (end.slot, end.description), (end.slot, on))


async def switch_off(broker: BrokerClient, sharing: Sharing, vms: Collection[str]) -> list[str]:
    """Have the guests let go of the devices at these ends, all at once; return the VMs whose guests do not answer.

    From here on the devices are not to be rung any more: under TCG a QEMU of 11.1 dies of it once the device goes.
    """
    served = await broker.served(sharing.name)
    connected = [end["connected"] for end in served["ends"]] if served is not None else [False] * len(sharing.ends)

    async def one(number: int, end: SharedEnd) -> None:
        if not await _let_go(broker, sharing, number, end, rung=connected[number]):
            silent.append(end.vm)

    silent: list[str] = []
    async with asyncio.TaskGroup() as group:
        for number, end in enumerate(sharing.ends):
            if end.vm in vms:
                group.create_task(one(number, end), name=f"switch-off-{sharing.name}-{end.vm}")
    return silent


async def _let_go(broker: BrokerClient, sharing: Sharing, number: int, end: SharedEnd, *, rung: bool) -> bool:
    with broker.acknowledgement(sharing.name, number) as acknowledged:
        if not await set_state(broker, end, SlotState.OFF) or not rung:
            return False
        await broker.ring(sharing.name, number)
        try:
            async with asyncio.timeout(ACK_SECONDS):
                await acknowledged.wait()
        except TimeoutError:
            return False
    return True


async def free(broker: BrokerClient, end: SharedEnd) -> None:
    """Let the guest know that a device is gone for certain."""
    await set_state(broker, end, SlotState.FREE)


async def set_state(broker: BrokerClient, end: SharedEnd, state: SlotState) -> bool:
    """Set a slot's state; False where a broker that died has taken the control page along."""
    try:
        await broker.write(control_memory(end.vm), (end.slot, slot_state(state)))
    except UsageError:
        return False
    return True
