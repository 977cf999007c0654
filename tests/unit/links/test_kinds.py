"""What every link kind keeps to, and what is special about each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.made import PAIR, made_link, made_machine, made_run, made_topology
from vpctl.errors import TopologyError
from vpctl.links import LINK_KINDS
from vpctl.plan.run import control_page, link_args, plug_steps, shared_memory, sharing
from vpctl.rundir import RunDir
from vpctl.topology.load import load
from vpctl.topology.model import LinkSpec, Topology, VmSpec
from vpctl.topology.schema import schema

RUNDIR = RunDir(name="pair", run=Path("/run/v/pair"), state=Path("/state/v/pair"))


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


def link_of(**more: Any) -> LinkSpec:
    return made_link("shm0", "vm1", "vm2", kind="ivshmem-doorbell", **more)


@pytest.mark.parametrize(
    ("size", "wrong"),
    [
        ("16M", None),
        ("1M", None),
        ("64G", None),
        ("24M", "25165824 is not a power of two, such as 16777216 or 33554432"),
        ("512K", "is not between 1M and 64G"),
        ("128G", "is not between 1M and 64G"),
    ],
)
def test_the_size_of_a_shared_memory_is_one_that_qemu_survives(size: str, wrong: str | None) -> None:
    text = "version: 1\nname: t\nvms: {a: {}, b: {}}\nlinks:\n"
    text += f"  shm0: {{kind: ivshmem-doorbell, endpoints: [a, b], size: {size}}}\n"
    kinds = {name: kind.rules for name, kind in LINK_KINDS.items()}
    if wrong is None:
        load(text, file="t.yaml", kinds=kinds, environ={}, base=Path("/"))
        return
    with pytest.raises(TopologyError) as caught:
        load(text, file="t.yaml", kinds=kinds, environ={}, base=Path("/"))
    (problem,) = caught.value.problems
    assert wrong in problem.message
    assert str(problem.where).startswith("t.yaml:5:")


def test_a_shared_memory_that_is_too_small_for_its_queues_is_refused() -> None:
    check = LINK_KINDS["ivshmem-doorbell"].rules.check
    assert check is not None
    assert check(link_of(queues=1, options={"size": 1 << 20}), PAIR) is None
    assert (
        check(link_of(queues=2, options={"size": 1 << 20}), PAIR) == "`size` is too small for 2 queues: 2M at least"
    )
    assert check(link_of(queues=16, options={"size": 16 << 20}), PAIR) is None


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
    assert sharing(made_run(pair), pair.link("lan0"), 1, rundir=RUNDIR) is None
    assert control_page(pair, pair.vm("vm1")) is None
    assert shared_memory(pair) == 0
    assert not [word for word in link_args(pair, pair.vm("vm1")) if "ivshmem" in word or "global" in word]


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


@pytest.mark.parametrize("first", ["vm1", "vm2"])
def test_each_end_of_a_dgram_binds_a_socket_of_its_own_and_sends_to_the_others(first: str) -> None:
    pair = made_topology(("lan0", "vm1", "vm2"), kind="dgram")
    sockets = {"vm1": "/run/v/pair/lan0.5.0", "vm2": "/run/v/pair/lan0.5.1"}
    steps = plug_steps(made_run(pair), pair.link("lan0"), 5, first=first, rundir=RUNDIR)
    assert [step.vm for step in steps] == sorted(sockets, key=lambda vm: vm != first)
    for step in steps:
        assert step.device.netdev is not None
        peer = next(path for vm, path in sockets.items() if vm != step.vm)
        assert step.device.netdev["local"] == {"type": "unix", "path": sockets[step.vm]}
        assert step.device.netdev["remote"] == {"type": "unix", "path": peer}
        assert step.device.sockets == (sockets[step.vm],)
        assert step.device.netdev_event is None, "there is no connection to wait for"


@pytest.mark.parametrize("first", ["vm1", "vm2"])
def test_a_streams_listener_is_plugged_first_and_its_client_waits_for_the_connection(first: str) -> None:
    listener, client = plug_steps(made_run(PAIR), PAIR.link("lan0"), 5, first=first, rundir=RUNDIR)
    assert listener.vm == first
    assert listener.device.netdev is not None
    assert client.device.netdev is not None
    assert (listener.device.netdev["server"], client.device.netdev["server"]) == (True, False)
    assert listener.device.netdev["addr"] == client.device.netdev["addr"]
    assert listener.device.netdev["addr"]["path"] == "/run/v/pair/lan0.5"
    assert (listener.device.sockets, client.device.sockets) == (("/run/v/pair/lan0.5",), ())
    assert listener.device.netdev_event is None
    assert (listener.device.netdev_down, client.device.netdev_down) == (True, False)
    assert client.device.netdev_event == "NETDEV_STREAM_CONNECTED"


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
