"""Root ports and PCI holes: room for what a device shows."""

from __future__ import annotations

import re

import pytest

from tests.made import made_run, made_topology
from tests.unit.links.made import RUNDIR, link_of
from vpctl.links import LINK_KINDS
from vpctl.plan.link import control_page, link_args, shared_memory, shared_region
from vpctl.topology.model import Topology, VmSpec


@pytest.mark.parametrize(
    ("size", "ports", "hole"),
    [
        (16 << 20, ["1G"], None),
        (512 << 20, ["1G"], None),
        (1 << 30, ["2G"], None),
        (4 << 30, ["8G"], None),
        (16 << 30, ["32G"], "64G"),
        (64 << 30, ["128G"], "256G"),
    ],
)
def test_a_q35_has_room_for_the_memory_above_4_gib_at_each_port(
    size: int, ports: list[str], hole: str | None
) -> None:
    words = link_args_of(size, machine="q35")
    assert re.findall(r"pref64-reserve=(\w+)", words) == ports
    assert re.findall(r"q35-pcihost.pci-hole64-size=(\w+)", words) == ([hole] if hole else [])


@pytest.mark.parametrize(("size", "hole"), [(16 << 20, None), (1 << 30, None), (2 << 30, "4G"), (4 << 30, "8G")])
def test_a_pc_has_no_ports_and_a_hole_that_is_large_enough(size: int, hole: str | None) -> None:
    words = link_args_of(size, machine="pc")
    assert "pcie-root-port" not in words
    assert re.findall(r"i440FX-pcihost.pci-hole64-size=(\w+)", words) == ([hole] if hole else [])


def link_args_of(size: int, *, machine: str) -> str:
    vms = tuple(VmSpec(name=name, machine=machine) for name in ("vm1", "vm2"))  # type: ignore[arg-type]
    topology = Topology(name="t", vms=vms, links=(link_of(options={"size": size}),))
    return " ".join(link_args(topology, topology.vm("vm1")))


@pytest.mark.parametrize("kind", [name for name in LINK_KINDS if name not in ("ivshmem-doorbell", "vhost-pci")])
def test_a_kind_without_shared_memory_has_nothing_of_it(kind: str) -> None:
    pair = made_topology(("lan0", "vm1", "vm2"), kind=kind)
    assert shared_region(made_run(pair), pair.link("lan0"), 1, rundir=RUNDIR) is None
    assert control_page(pair, pair.vm("vm1")) is None
    assert shared_memory(pair) == 0
    assert not [word for word in link_args(pair, pair.vm("vm1")) if "ivshmem" in word or "global" in word]
