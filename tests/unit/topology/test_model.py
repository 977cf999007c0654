"""The model: reading back what was written, MACs, ends and peers."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.topology.loading import links, loaded
from vpctl.topology.model import (
    Endpoint,
    HealthSpec,
    ImageSpec,
    LinkSpec,
    RecoverySpec,
    Topology,
    VmSpec,
    mac_address,
    topology_from_json,
    topology_to_json,
)

NAMES = st.from_regex("[a-z][a-z0-9-]{0,14}", fullmatch=True)
TEXTS = st.text(max_size=20)
SECONDS = st.floats(0.001, 86400, allow_nan=False)
PATHS = st.none() | TEXTS

HEALTH = st.builds(HealthSpec, heartbeat=SECONDS, qmp_timeout=SECONDS, retries=st.integers(0, 100), backoff=SECONDS)
IMAGES = st.builds(
    ImageSpec, name=st.none() | NAMES, kernel=PATHS, initrd=PATHS, disk=PATHS, ssh_user=NAMES, ssh_key=PATHS
)
VMS = st.builds(
    VmSpec,
    name=NAMES,
    image=IMAGES,
    memory=st.integers(1, 1 << 40),
    cpus=st.integers(1, 255),
    accelerator=st.sampled_from(["auto", "kvm", "tcg"]),
    machine=st.sampled_from(["q35", "pc"]),
    qemu=PATHS,
    qemu_args=st.lists(TEXTS).map(tuple),
    kernel_args=TEXTS,
    health=HEALTH,
)
SUBNETS = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(8, 31),
)
ENDS = st.builds(
    Endpoint,
    vm=NAMES,
    mac=st.builds(mac_address, NAMES, NAMES, NAMES),
    address=st.builds(
        lambda address, length: IPv4Interface((address, length)), st.integers(0, 2**32 - 1), st.integers(8, 31)
    ),
)
LINKS = st.builds(
    LinkSpec,
    name=NAMES,
    kind=NAMES,
    endpoints=st.tuples(ENDS, ENDS),
    subnet=SUBNETS,
    recovery=st.builds(RecoverySpec, policy=NAMES),
    queues=st.integers(1, 64),
    mtu=st.integers(68, 65535),
    options=st.dictionaries(NAMES, st.none() | st.booleans() | st.integers() | TEXTS),
)
TOPOLOGIES = st.builds(
    Topology, name=NAMES, vms=st.lists(VMS, max_size=4).map(tuple), links=st.lists(LINKS, max_size=4).map(tuple)
)


@settings(deadline=None)
@given(TOPOLOGIES)
def test_reads_back_what_was_written(topology: Topology) -> None:
    assert topology_from_json(json.loads(json.dumps(topology_to_json(topology)))) == topology


def test_a_loaded_topology_reads_back() -> None:
    topology = loaded(links("a: {kind: shared, endpoints: [vm1, vm2]}\nb: {kind: wire, endpoints: [vm2, vm1]}"))
    assert topology_from_json(json.loads(json.dumps(topology_to_json(topology)))) == topology


@settings(deadline=None)
@given(NAMES, NAMES, NAMES)
def test_a_mac_is_locally_administered_and_unicast(topology: str, link: str, vm: str) -> None:
    octets = [int(octet, 16) for octet in mac_address(topology, link, vm).split(":")]
    assert len(octets) == 6
    assert octets[0] & 3 == 2


def test_a_mac_never_changes() -> None:
    assert mac_address("pair", "lan0", "vm1") == mac_address("pair", "lan0", "vm1")
    different = {mac_address(t, "lan0", v) for t in ("pair", "chain") for v in ("vm1", "vm2")}
    assert len(different) == 4


def test_finds_ends_peers_and_links() -> None:
    topology = loaded(
        links(
            "a: {kind: wire, endpoints: [vm1, vm2]}\nb: {kind: wire, endpoints: [vm2, vm3]}",
            "vms: {vm1: , vm2: , vm3: }\n",
        )
    )
    link = topology.link("a")
    assert (link.end_of("vm1").vm, link.peer_of("vm1").vm, link.peer_of("vm2").vm) == ("vm1", "vm2", "vm1")
    assert [link.name for link in topology.links_of("vm2")] == ["a", "b"]
    assert topology.vm("vm3").name == "vm3"
    for lookup in (link.end_of, link.peer_of, topology.vm, topology.link):
        with pytest.raises(KeyError):
            lookup("nobody")
