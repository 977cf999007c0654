"""Plans of devices: pure data."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from tests.unit.qmp.devices import ADDS, ASKS, FULL, REMOVES
from vpctl.qmp.hotplug import DevicePlan


def test_plans_are_pure_data_without_asyncio() -> None:
    code = "import sys, vpctl.qmp.device, vpctl.qmp.replies; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_plan_lists_its_commands_in_qemus_order() -> None:
    assert [name for name, _ in FULL.commands()] == [name for name in ADDS if name != ASKS]
    assert [name for name, _ in FULL.ids().commands()] == REMOVES
    assert FULL.ids().commands()[0] == ("device_del", {"id": "d1"})


def test_objects_are_removed_in_reverse() -> None:
    plan = replace(FULL, objects=({"id": "m1"}, {"id": "m2"}))
    assert [arguments["id"] for name, arguments in plan.ids().commands() if name == "object-del"] == ["m2", "m1"]


def test_plan_of_a_bare_device_is_one_command_each_way() -> None:
    plan = DevicePlan(device={"driver": "virtio-rng-pci", "id": "r0"})
    assert plan.commands() == [("device_add", {"driver": "virtio-rng-pci", "id": "r0"})]
    assert plan.ids().commands() == [("device_del", {"id": "r0"})]
