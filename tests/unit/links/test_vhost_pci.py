"""Links of kind vhost-pci: room for a peer's memory, and what that memory may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.made import made_link, made_machine, made_run
from tests.unit.links.made import RUNDIR
from vpctl.links import LINK_KINDS
from vpctl.plan.link import link_args, plug_steps
from vpctl.topology.model import Topology, VmSpec


def vhost_pair(*, memory: int = 256 << 20, queues: int = 1, more: Sequence[str] = ()) -> Topology:
    link = made_link("lan0", "vm1", "vm2", kind="vhost-pci", queues=queues)
    vms = (VmSpec(name="vm1"), VmSpec(name="vm2", memory=memory, qemu_args=tuple(more)))
    return Topology(name="t", vms=vms, links=(link,))


@pytest.mark.parametrize(
    ("memory", "port", "hole"),
    [
        (256 << 20, "1G", None),
        (384 << 20, "1G", None),
        (1536 << 20, "4G", None),
        (4 << 30, "8G", None),
        (32 << 30, "64G", "128G"),
    ],
)
def test_the_back_ends_guest_has_room_for_its_peers_memory_and_the_peer_needs_none(
    memory: int, port: str, hole: str | None
) -> None:
    topology = vhost_pair(memory=memory)
    one, other = (" ".join(link_args(topology, vm)) for vm in topology.vms)
    assert re.findall(r"pref64-reserve=(\w+)", one) == [port]
    assert re.findall(r"q35-pcihost.pci-hole64-size=(\w+)", one) == ([hole] if hole else [])
    assert "ivshmem-plain" in one
    assert "reserve" not in other.replace("io-reserve", "")
    assert "ivshmem" not in other


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, None),
        ({"memory": 64 << 30}, None),
        ({"memory": 65 << 30}, "`vm2` has more memory than its peer can be shown: 64G at most"),
        ({"more": ["-trace", "enable=virtio_*"]}, None),
        ({"more": ["-numa", "node"]}, "no `-numa` in its `qemu_args`"),
        ({"more": ["-object", "memory-backend-ram,id=m,size=1G"]}, "no `memory-backend-ram,id=m,size=1G`"),
    ],
)
def test_a_front_ends_memory_is_one_that_its_peer_can_be_shown(given: dict[str, Any], wrong: str | None) -> None:
    topology = vhost_pair(**given)
    check = LINK_KINDS["vhost-pci"].rules.check
    assert check is not None
    said = check(topology.links[0], topology)
    assert said is None if wrong is None else said is not None and wrong in said


@pytest.mark.parametrize(
    ("version", "accelerator", "queues", "expected"),
    [
        ((7, 2, 22), "tcg", 1, {"vectors": 0}),
        ((7, 2, 22), "tcg", 2, {"mq": True, "vectors": 0}),
        ((9, 2, 0), "tcg", 1, {"vectors": 0}),
        ((7, 2, 22), "kvm", 1, {}),
        ((10, 0, 13), "tcg", 1, {}),
        ((11, 1, 3), "tcg", 2, {"mq": True, "vectors": 6}),
    ],
)
def test_a_front_end_has_msi_x_unless_its_qemu_would_die_of_it(
    version: tuple[int, int, int], accelerator: str, queues: int, expected: dict[str, Any]
) -> None:
    topology = vhost_pair(queues=queues)
    machines = {
        "vm1": made_machine(topology, topology.vm("vm1")),
        "vm2": made_machine(topology, topology.vm("vm2"), qemu_version=version, accelerator=accelerator),
    }
    run = made_run(topology, machines=machines)
    front, back = plug_steps(run, topology.links[0], 1, first="vm1", rundir=RUNDIR)
    assert (front.vm, back.vm) == ("vm2", "vm1"), "whoever survives, the rings come first"
    assert {key: front.device.device[key] for key in ("mq", "vectors") if key in front.device.device} == expected
    assert front.device.netdev is not None
    assert front.device.netdev["queues"] == queues
    assert back.device.device["vectors"] == 1 + 2 * queues
