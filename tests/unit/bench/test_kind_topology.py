"""Topologies to compare link kinds with; the kinds exist only here."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made import made_link
from vpctl.bench.kind_topology import comparison, link_names, parse_kinds, topology_name
from vpctl.errors import UsageError
from vpctl.topology.check import LINKS_PER_VM
from vpctl.topology.model import (
    Key,
    KindRules,
    LinkSpec,
    RecoverySpec,
    Topology,
    VmSpec,
    topology_from_json,
    topology_to_json,
)

VM_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
INTERFACE = re.compile(r"[a-z][a-z0-9-]{0,14}")


def alone(link: LinkSpec, topology: Topology) -> str | None:
    """A kind's own rule: no VM has another link."""
    others = {other.name for end in link.endpoints for other in topology.links_of(end.vm)} - {link.name}
    return "it wants its VMs to itself" if others else None


def never(link: LinkSpec, topology: Topology) -> str | None:
    return f"`{topology.vm(link.endpoints[0].vm).name}` is too small"


def even(size: int) -> str | None:
    return None if size % 2 == 0 else f"{size} is odd"


SIZE = Key(kind="size", default=4, help="")
KINDS = {
    rules.name: rules
    for rules in (
        KindRules(name="wire", policies=("replug",), max_queues=4, keys={"size": SIZE}),
        KindRules(name="shm", policies=("relink", "replug"), keys={"size": replace(SIZE, check=even), "mode": SIZE}),
        KindRules(name="narrow", policies=("replug",), min_mtu=100, max_mtu=1500),
        KindRules(name="hermit", policies=("replug",), max_queues=4, check=alone),
        KindRules(name="impossible", policies=("replug",), check=never),
        KindRules(name="ivshmem-doorbell", policies=("replug",)),
        KindRules(name="ivshmem-doorbell2", policies=("replug",)),
    )
}


def made(link: LinkSpec, *more: VmSpec) -> Topology:
    """Return a topology of a link, and VMs that it does not touch."""
    vms = [VmSpec(name=end.vm, memory=(number + 1) << 27) for number, end in enumerate(link.endpoints)]
    return Topology(name="pair", vms=(*vms, *more), links=(link,))


LAN0 = made_link("lan0", "vm1", "vm2", kind="wire", options={"size": 8})


def test_kinds_are_read_with_blanks_and_the_same_twice() -> None:
    assert parse_kinds("wire, shm,,wire", KINDS) == ["wire", "shm", "wire"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("wire,string", "no kind named `string`"), ("wire", "two kinds at least"), ("", "two kinds at least")],
)
def test_unknown_kinds_and_too_few_are_an_error_with_those_that_are_known(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_kinds(text, KINDS)
    assert "`wire`, `shm`" in (caught.value.hint or "")


def test_one_pair_carries_a_link_of_each_kind() -> None:
    topology = comparison(made(LAN0, VmSpec(name="vm3")), LAN0, ["wire", "shm"], KINDS)
    assert topology.name == "pair-bench"
    assert [vm.name for vm in topology.vms] == ["vm1", "vm2"]
    assert [vm.memory for vm in topology.vms] == [1 << 27, 2 << 27]
    assert [(link.name, link.kind) for link in topology.links] == [("wire", "wire"), ("shm", "shm")]
    assert all([end.vm for end in link.endpoints] == ["vm1", "vm2"] for link in topology.links)
    assert len({link.subnet for link in topology.links}) == 2


def test_a_link_keeps_what_its_new_kind_knows_too_and_has_the_kinds_own_default_of_the_rest() -> None:
    link = replace(LAN0, mtu=9000, recovery=RecoverySpec(policy="replug", mode="manual", on_stuck="reset-survivor"))
    wire, shm = comparison(made(link), link, ["wire", "shm"], KINDS).links
    assert (wire.mtu, shm.mtu) == (9000, 9000)
    assert (wire.options, shm.options) == ({"size": 8}, {"size": 8, "mode": 4})
    assert wire.recovery == link.recovery
    assert shm.recovery == replace(link.recovery, policy="relink")


def test_an_option_that_means_something_else_to_a_kind_is_an_error() -> None:
    link = replace(LAN0, options={"size": 7})
    with pytest.raises(UsageError, match="kind `shm` cannot have the `size` of link `lan0`: 7 is odd"):
        comparison(made(link), link, ["wire", "shm"], KINDS)


def test_the_first_end_stays_the_first_and_has_the_first_address() -> None:
    link = made_link("lan0", "vm2", "vm1", kind="wire")
    for apart in (False, True):
        for derived in comparison(made(link), link, ["wire", "shm"], KINDS, apart=apart).links:
            first, second = derived.endpoints
            assert first.vm.startswith("vm2")
            assert [str(end.address.ip) for end in (first, second)] == [str(ip) for ip in derived.subnet.hosts()]


def test_the_same_kind_twice_is_two_links() -> None:
    topology = comparison(made(LAN0), LAN0, ["wire", "wire", "wire"], KINDS)
    assert [(link.name, link.kind) for link in topology.links] == [
        *(("wire", "wire"), ("wire-2", "wire"), ("wire-3", "wire"))
    ]


def test_apart_each_kind_has_a_pair_of_its_own() -> None:
    topology = comparison(made(LAN0), LAN0, ["wire", "wire"], KINDS, apart=True)
    assert [vm.name for vm in topology.vms] == ["vm1-1", "vm2-1", "vm1-2", "vm2-2"]
    assert [vm.memory for vm in topology.vms] == [1 << 27, 2 << 27] * 2
    assert [[end.vm for end in link.endpoints] for link in topology.links] == [["vm1-1", "vm2-1"], ["vm1-2", "vm2-2"]]


def test_a_kind_that_does_not_stand_others_gets_pairs_of_their_own() -> None:
    topology = comparison(made(LAN0), LAN0, ["wire", "hermit"], KINDS)
    assert len(topology.vms) == 4
    assert all(len(topology.links_of(vm.name)) == 1 for vm in topology.vms)


def test_more_links_than_a_vm_has_room_for_are_apart() -> None:
    most = comparison(made(LAN0), LAN0, ["wire"] * LINKS_PER_VM, KINDS)
    assert len(most.vms) == 2
    more = comparison(made(LAN0), LAN0, ["wire"] * (LINKS_PER_VM + 1), KINDS)
    assert len(more.vms) == 2 * (LINKS_PER_VM + 1)


@pytest.mark.parametrize("apart", [False, True])
def test_a_kind_that_cannot_be_had_at_all_says_why(apart: bool) -> None:
    with pytest.raises(UsageError, match="link `impossible`: `vm1-2` is too small"):
        comparison(made(LAN0), LAN0, ["wire", "impossible"], KINDS, apart=apart)


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        ({"mtu": 9000}, "kind `narrow` cannot carry the MTU of link `lan0`, 9000", "from 100 to 1500"),
        ({"mtu": 68}, "kind `narrow` cannot carry the MTU of link `lan0`, 68", "from 100 to 1500"),
        ({"queues": 4}, "kind `narrow` cannot serve the 4 queues of link `lan0`", "at most 1"),
    ],
)
def test_what_a_kind_cannot_have_is_named_with_its_limits(changed: dict[str, int], message: str, hint: str) -> None:
    link = made_link("lan0", "vm1", "vm2", kind="wire", **changed)
    for names in (["wire", "narrow"], ["narrow", "wire"]):
        with pytest.raises(UsageError, match=message) as caught:
            comparison(made(link), link, names, KINDS)
        assert caught.value.hint == hint


def test_links_are_named_by_their_kinds_cut_to_an_interfaces_length() -> None:
    assert link_names(["ivshmem-doorbell", "wire", "ivshmem-doorbell", "wire"]) == [
        *("ivshmem-doorbel", "wire", "ivshmem-doorb-2", "wire-2")
    ]
    assert link_names(["ivshmem-doorbell", "ivshmem-doorbell2"]) == ["ivshmem-doorbel", "ivshmem-doorb-2"]
    assert link_names(["abcdefghijkl-mnop"] * 2) == ["abcdefghijkl-mn", "abcdefghijkl-2"]


def test_a_topology_runs_beside_the_one_that_it_is_derived_from() -> None:
    assert topology_name("pair") == "pair-bench"
    assert topology_name("a" * 31) == "a" * 25 + "-bench"


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)


@given(
    st.lists(NAMES, min_size=2, max_size=2, unique=True) | st.just(["a" * 30 + "1", "a" * 30 + "2"]),
    st.lists(st.sampled_from(sorted(set(KINDS) - {"impossible"})), min_size=2, max_size=30),
    st.booleans(),
    NAMES,
)
def test_whatever_is_compared_all_names_addresses_and_macs_differ_and_are_of_a_files_form(
    vms: list[str], names: list[str], apart: bool, name: str
) -> None:
    link = made_link("lan0", vms[0], vms[1], kind="wire")
    topology = comparison(replace(made(link), name=name), link, names, KINDS, apart=apart)
    assert [derived.kind for derived in topology.links] == names
    assert VM_NAME.fullmatch(topology.name)
    assert all(VM_NAME.fullmatch(vm.name) for vm in topology.vms)
    assert all(INTERFACE.fullmatch(derived.name) for derived in topology.links)
    ends = [end for derived in topology.links for end in derived.endpoints]
    assert len({derived.name for derived in topology.links}) == len(names)
    assert len({vm.name for vm in topology.vms}) == len(topology.vms)
    assert len({end.mac for end in ends}) == len({end.address for end in ends}) == len(ends)
    assert {end.vm for end in ends} == {vm.name for vm in topology.vms}
    assert all(derived.endpoints[0].vm != derived.endpoints[1].vm for derived in topology.links)
    written = json.dumps(topology_to_json(topology))
    assert topology_from_json(json.loads(written)) == topology
