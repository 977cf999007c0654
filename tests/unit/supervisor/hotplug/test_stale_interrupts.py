"""What a QEMU still hears of a device that has gone."""

from __future__ import annotations

import pytest

from tests.unit.supervisor.hotplug.ground import Ground
from vpctl.broker.client import BrokerClient
from vpctl.qmp import hotplug
from vpctl.qmp.session import Session
from vpctl.supervisor.hotplug import ivshmem_doorbell
from vpctl.supervisor.hotplug.hooks import Doorbell
from vpctl.supervisor.hotplug.stale_interrupts import StaleInterrupts
from vpctl.supervisor.vm.machine import Machine


@pytest.mark.parametrize("gone", [False, True])
async def test_the_places_of_a_device_that_has_gone_are_filled_before_anything_else_gets_them(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """As a supervisor leaves it that is killed between the end of a device and that."""
    done: list[str] = []

    async def present(session: Session, device: str) -> bool:
        done.append(f"look for {device}")
        return not gone

    async def unplugged(self: StaleInterrupts, machine: Machine, bell: Doorbell, before: frozenset[int]) -> None:
        done.append(f"park {bell.name}")

    async def switch_off(broker: BrokerClient, ends: object) -> list[str]:
        done.append("ask guests")
        return []

    monkeypatch.setattr(hotplug, "present", present)
    monkeypatch.setattr(StaleInterrupts, "unplugged", unplugged)
    monkeypatch.setattr(ivshmem_doorbell, "switch_off", switch_off)
    await ground.plugged()
    await ground.hands.unplug("vm1", "shm0", 1)
    order = ["park shm0.g1", "ask guests"]
    assert done == ["look for shm0.g1", *(order if gone else reversed(order))]
