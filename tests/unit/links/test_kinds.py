"""What every link kind keeps to, and what is special about each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.made import made_link
from vpctl.links import LINK_KINDS
from vpctl.topology.model import VmSpec
from vpctl.topology.schema import schema


@pytest.mark.parametrize("name", LINK_KINDS)
def test_a_kind_is_registered_under_its_own_name_with_a_policy_and_what_it_needs(name: str) -> None:
    kind = LINK_KINDS[name]
    assert kind.rules.name == name
    assert kind.rules.policies
    assert kind.rules.min_mtu <= 1500 <= kind.rules.max_mtu
    assert kind.requirements.qemu >= (7, 2)
    assert kind.requirements.devices


def test_the_schema_names_the_kinds_that_work_and_no_other() -> None:
    text = str(schema({name: kind.rules for name, kind in LINK_KINDS.items()}))
    for kind in ("vhost-pci", "ivshmem-doorbell", "ivshmem-plain", "stream", "dgram", "tap"):
        assert (f"'{kind}'" in text) == (kind in LINK_KINDS)


@pytest.mark.parametrize(
    ("kind", "machine", "moved"),
    [
        ("stream", "pc", []),
        ("ivshmem-doorbell", "q35", []),
        ("ivshmem-doorbell", "pc", ["vm1", "vm2"]),
        ("vhost-pci", "q35", []),
        ("vhost-pci", "pc", ["vm1"]),  # vm2's is a virtio-net
    ],
)
def test_a_device_whose_memory_a_pc_moves_below_4_gib_does_not_outlive_a_reboot(
    kind: str, machine: Any, moved: list[str]
) -> None:
    link = made_link("shm0", "vm1", "vm2", kind=kind)
    ends = [VmSpec(name=name, machine=machine) for name in ("vm1", "vm2")]
    assert [vm.name for vm in ends if not LINK_KINDS[kind].outlives_reset(link, vm)] == moved
