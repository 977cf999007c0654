"""Memory that guests share, around each plug and unplug: made and served, switched on, off and acknowledged, freed.

What is to be done is `links.kind.SharedRegion`; the broker does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from vpctl.broker import control_page
from vpctl.broker.client import BrokerClient
from vpctl.broker.control_page import ACK_SECONDS, ANSWER, SLOT, SlotState, slot_state
from vpctl.errors import HotplugError, UsageError
from vpctl.links.devices import control_memory
from vpctl.links.kind import Memory, SharedEnd, SharedRegion


async def fill(broker: BrokerClient, memory: Memory) -> None:
    """Make a memory, or clear it, and write what it begins with; nobody may have it who still works with it."""
    if not await broker.create(memory.name, memory.size):
        await broker.clear(memory.name)
    await broker.write(memory.name, *memory.content)


async def serve(broker: BrokerClient, region: SharedRegion) -> None:
    """Make and serve one generation; whatever was served of the memory before is over."""
    await broker.close(region.name)
    await fill(broker, region.memory)
    ends = [_end_spec(end) for end in region.ends]
    await broker.serve(name=region.name, memory=region.memory.name, ends=ends, watch=region.watch)


async def serve_anew(broker: BrokerClient, region: SharedRegion, number: int) -> None:
    """Serve one end anew, in a memory where the other's guest has stayed and touches nothing but its own part."""
    kept = region.ends[1 - number]
    await broker.write(region.memory.name, *region.memory.content, region.afresh[number])
    await broker.ivshmem_replace(kept.name, number, _end_spec(region.ends[number]))


def _end_spec(end: SharedEnd) -> dict[str, Any]:
    return {"name": end.name, "path": end.socket, "id": end.id, "vectors": end.vectors}


async def switch_on(broker: BrokerClient, end: SharedEnd) -> None:
    """Describe a device that is about to be plugged to its guest."""
    on = slot_state(SlotState.ON)
    await broker.write(control_memory(end.vm), (end.slot, end.description), (end.slot, on))


async def is_connected(broker: BrokerClient, number: int, end: SharedEnd) -> bool:
    """Whether the QEMU of an end's device hears the broker: not one that was served by a broker that died."""
    served = await broker.query_ivshmem(end.name)
    return served is not None and bool(served["ends"][number]["connected"])


async def switch_off(broker: BrokerClient, ends: Mapping[int, SharedEnd]) -> list[str]:
    """Have the guests let go of the devices at these ends, all at once; return the VMs whose guests do not answer.

    From here on the devices are not to be rung any more: under TCG a QEMU of 11.1 dies of it once the device goes.
    """

    async def one(number: int, end: SharedEnd) -> None:
        if not await _let_go(broker, number, end):
            silent.append(end.vm)

    silent: list[str] = []
    async with asyncio.TaskGroup() as group:
        for number, end in ends.items():
            group.create_task(one(number, end), name=f"switch-off-{end.name}-{end.vm}")
    return silent


async def _let_go(broker: BrokerClient, number: int, end: SharedEnd) -> bool:
    connected = await is_connected(broker, number, end)
    with broker.acknowledgement(end.name, number) as acknowledged:
        if not await set_state(broker, end, SlotState.OFF) or not connected:
            return False
        await broker.ring(end.name, number)
        try:
            async with asyncio.timeout(ACK_SECONDS):
                await acknowledged.wait()
        except TimeoutError:
            return False
    return True


async def change_peer(broker: BrokerClient, number: int, end: SharedEnd, *, peer: int, generation: int) -> None:
    """Give an end's device, which stays, another peer from this generation on; 0: none for now.

    Done when its guest's driver has taken that in; HotplugError if it does not.
    """
    page = control_memory(end.vm)
    before = await broker.contents(page, end.slot + SLOT.offsets["sequence"], 4)
    sequence = (int.from_bytes(before, "little") + 1) % (1 << 32)
    values = {"generation": generation, "peer": peer, "sequence": sequence}
    parts = [(end.slot + SLOT.offsets[name], control_page.number(value)) for name, value in values.items()]

    async def taken_in() -> bool:
        said = control_page.answer(await broker.contents(page, end.slot + SLOT.offsets["answer"], ANSWER.size))
        return (said.ivposition, said.sequence) == (end.id, sequence)

    with broker.acknowledgement(end.name, number) as acknowledged:
        await broker.write(page, *parts)
        await broker.ring(end.name, number)
        try:
            async with asyncio.timeout(ACK_SECONDS):
                while not await taken_in():
                    await acknowledged.wait()
                    acknowledged.clear()
        except TimeoutError as error:
            message = f"{end.vm}: the driver of `{end.name}` does not take in that it has another peer"
            raise HotplugError(message, hint="an image of one's own may have an older driver") from error


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
