"""What the links of a run need, over every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import assert_golden
from tests.made import PAIR, made_run, made_topology
from tests.unit.plan.runs import MIXED, mixed
from vpctl.broker.control_page import HOST_ID, PAGE_SIZE, SLOT, SLOT_SIZE
from vpctl.broker.memfd import placeholder
from vpctl.links import LINK_KINDS
from vpctl.links.kind import PlugStep, SharedEnd
from vpctl.plan.link import (
    control_page,
    link_args,
    plug_steps,
    plugged_device,
    ram,
    shared_memory,
    shared_region,
    vhost_pci_pair,
    virtio_net_end,
)
from vpctl.rundir import RunDir
from vpctl.topology.model import LinkSpec, Topology, VmSpec

RUNDIR = RunDir(name="pair", run=Path("/run/v/pair"), state=Path("/state/v/pair"))

QEMU_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
"""What QEMU takes for an id (`id_wellformed`)."""


def ids(words: tuple[str, ...]) -> list[str]:
    return [found for word in words for found in re.findall(r"(?:^|,)id=([^,]*)", word)]


def test_a_vms_ports_have_numbers_of_their_own_and_each_link_has_one() -> None:
    words = link_args(MIXED, MIXED.vm("vm1"))
    assert ids(words) == ["port-lan0", "port-a-long-linkname", "port-x"]
    for key in ("chassis", "slot"):
        assert [re.findall(f",{key}=([0-9]+)", word) for word in words if word != "-device"] == [["1"], ["2"], ["3"]]


def test_a_pc_needs_no_ports() -> None:
    assert link_args(MIXED, MIXED.vm("old")) == ()


@pytest.mark.parametrize("kind", LINK_KINDS)
@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("first", ["vm1", "vm2"])
def test_the_steps_that_plug_a_link_are_the_ones_that_were_read_and_approved(
    kind: str, machine: str, first: str
) -> None:
    vms = [VmSpec(name=name, machine=machine) for name in ("vm1", "vm2")]  # type: ignore[arg-type]
    topology = made_topology(("lan0", "vm1", "vm2"), vms=vms, kind=kind)
    steps = [
        {"vm": step.vm, "execute": command, "arguments": arguments}
        for step in plug_steps(made_run(topology), topology.link("lan0"), 2, first=first, rundir=RUNDIR)
        for command, arguments in step.device.commands()
    ]
    assert_golden(f"plug/{kind}-{machine}-{first}-first.json", json.dumps(steps, indent=1) + "\n")


@given(st.sampled_from(list(LINK_KINDS)), st.integers(0, 2), st.integers(1, 9999), st.booleans())
def test_every_generation_has_ids_and_sockets_that_no_other_has(
    kind: str, number: int, generation: int, swapped: bool
) -> None:
    topology = mixed(kind)
    link = topology.links[number]
    first, second = (end.vm for end in (reversed(link.endpoints) if swapped else link.endpoints))
    if virtio_net_end(link) is not None:
        second, first = (end.vm for end in link.endpoints)
    run = made_run(topology)
    steps = plug_steps(run, link, generation, first=first, rundir=RUNDIR)
    later = plug_steps(run, link, generation + 1, first=first, rundir=RUNDIR)
    assert [step.vm for step in steps] == [first, second]
    for step, next_ in zip(steps, later, strict=True):
        own = {arguments["id"] for _, arguments in step.device.commands() if "id" in arguments}
        assert all(QEMU_ID.fullmatch(name) for name in own)
        assert not own & {arguments.get("id") for _, arguments in next_.device.commands()}
        assert not {*step.device.sockets} & {*next_.device.sockets}
        assert mac_of(topology, link, generation, step) == link.end_of(step.vm).mac  # names and ARP survive a re-plug
        assert plugged_device(run, link, generation, vm=step.vm, rundir=RUNDIR).ids() == step.device.ids()
    ports = {step.vm: step.device.device["bus"] for step in steps}
    for vm, bus in ports.items():
        assert bus == "pci.0" or bus in ids(link_args(topology, topology.vm(vm)))
    checked = max(len(str(path)) for path in RUNDIR.sockets([], [link.name]))
    for step in steps:
        assert all(len(path) <= checked for path in step.device.sockets), "its length was checked beforehand"


def mac_of(topology: Topology, link: LinkSpec, generation: int, step: PlugStep) -> str:
    """Return the MAC that a device has: from QEMU, or from its place in the guest's control page."""
    run = made_run(topology)
    shared, backed = (
        shared_region(run, link, generation, rundir=RUNDIR),
        vhost_pci_pair(run, link, generation, rundir=RUNDIR),
    )
    if "mac" in step.device.device:
        return str(step.device.device["mac"])
    ends = shared.ends if shared is not None else (backed.vhost_pci_end,) if backed is not None else ()
    (end,) = (end for end in ends if end.vm == step.vm)
    mac = SLOT.unpack(end.description)["mac"]
    assert isinstance(mac, bytes)
    return mac.hex(":")


@given(st.integers(0, 2), st.integers(1, 9999))
def test_a_guests_devices_of_shared_memory_have_slots_and_ids_of_their_own(number: int, generation: int) -> None:
    topology = mixed("ivshmem-doorbell")
    for vm in topology.vms:
        ends = [
            end
            for link in topology.links_of(vm.name)
            for end in shared_ends(topology, link, generation + (link is topology.links[number]))
            if end.vm == vm.name
        ]
        slots = [SLOT.unpack(end.description) for end in ends]
        assert [slot["ivposition"] for slot in slots] == [end.id for end in ends]
        assert len({HOST_ID, *(end.id for end in ends)}) == 1 + len(ends)
        assert len({end.slot for end in ends}) == len(ends)
        assert all(SLOT_SIZE <= end.slot <= PAGE_SIZE - SLOT_SIZE for end in ends)


def shared_ends(topology: Topology, link: LinkSpec, generation: int) -> Sequence[SharedEnd]:
    shared = shared_region(made_run(topology), link, generation, rundir=RUNDIR)
    assert shared is not None
    one, other = (SLOT.unpack(end.description) for end in shared.ends)
    assert (one["peer"], other["peer"]) == (other["ivposition"], one["ivposition"])
    assert (one["role"], other["role"]) == (0, 1)
    assert shared.memory.name == sharing_name(topology, link), "the memory is the same for every generation"
    return shared.ends


def sharing_name(topology: Topology, link: LinkSpec) -> str:
    first = shared_region(made_run(topology), link, 1, rundir=RUNDIR)
    assert first is not None
    return first.memory.name


def test_a_vm_has_one_control_page_if_one_of_its_devices_has_memory_to_show() -> None:
    links = made_topology(("shm0", "vm1", "vm2"), ("shm1", "vm1", "vm2"), kind="ivshmem-doorbell").links
    topology = replace(made_topology(("lan0", "vm2", "vm3")), vms=made_topology(vms=["vm1", "vm2", "vm3"]).vms)
    topology = replace(topology, links=(*links, *topology.links))
    devices = {vm.name: [word for word in link_args(topology, vm) if "ivshmem" in word] for vm in topology.vms}
    assert {vm: len(words) for vm, words in devices.items()} == {"vm1": 1, "vm2": 1, "vm3": 0}
    page = control_page(topology, topology.vm("vm1"))
    assert page is not None
    assert any(placeholder(page.name) in word for word in link_args(topology, topology.vm("vm1")))
    assert control_page(topology, topology.vm("vm3")) is None
    assert shared_memory(topology) == 2 * (16 << 20)


def test_a_vm_that_a_link_does_not_touch_has_no_device_of_it() -> None:
    with pytest.raises(KeyError):
        plugged_device(made_run(MIXED), MIXED.link("x"), 1, vm="vm2", rundir=RUNDIR)


def test_a_vm_whose_memory_a_peer_maps_has_a_new_one_for_each_life_of_a_size_that_the_peers_qemu_survives() -> None:
    vms = [VmSpec(name="vm1"), VmSpec(name="vm2", memory=384 << 20)]
    topology = made_topology(("lan0", "vm1", "vm2"), vms=vms, kind="vhost-pci")
    assert ram(topology, topology.vm("vm1"), 1) is None
    lives = [ram(topology, topology.vm("vm2"), generation) for generation in (1, 2)]
    assert [(memory.name, memory.size) for memory in lives if memory is not None] == [
        ("ram/vm2.g1", 512 << 20),
        ("ram/vm2.g2", 512 << 20),
    ]
    assert ram(PAIR, PAIR.vm("vm2"), 1) is None
    assert shared_memory(topology) == 0, "it is the guest's, which counts as that"


def test_a_front_ends_device_keeps_its_description_while_the_other_end_has_a_newer_one() -> None:
    run = made_run(made_topology(("lan0", "vm1", "vm2"), kind="vhost-pci"))
    link = run.topology.links[0]
    first, third = (vhost_pci_pair(run, link, generation, rundir=RUNDIR) for generation in (1, 3))
    assert first is not None
    assert third is not None
    end, worker = first.virtio_net_end, third.vhost_pci_end
    assert (end.vm, end.name, end.socket) == (
        "vm2",
        "lan0.g1",
        "/run/v/pair/lan0.1.1",
    )
    assert (worker.vm, third.name, worker.socket) == (
        "vm1",
        "lan0.g3",
        "/run/v/pair/lan0.3.0",
    )
    assert third.vhost_pci_end.id != first.vhost_pci_end.id
    slot = SLOT.unpack(third.vhost_pci_end.description)
    assert (slot["kind"], slot["ivposition"], slot["generation"]) == (2, third.vhost_pci_end.id, 3)
    assert vhost_pci_pair(made_run(PAIR), PAIR.links[0], 1, rundir=RUNDIR) is None
