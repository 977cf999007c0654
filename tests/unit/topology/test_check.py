"""The rules that need more than one value, and the choice of subnets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.topology.checking import of_links
from tests.unit.topology.loading import HEAD, KINDS, links, loaded, problems
from vpctl.topology import check


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("kind: wire, endpoints: [vm1, vm3]", "no VM named `vm3` (did you mean `vm2`? VMs are `vm1`, `vm2`)"),
        ("kind: wire, endpoints: [vm1, vm1]", "both endpoints are `vm1` (a link joins two different VMs)"),
        (
            "kind: wire, endpoints: [vm1]",
            "`endpoints`: a link has two endpoints, not 1 (more VMs are joined by more links)",
        ),
        (
            "kind: wire, endpoints: vm1",
            "`endpoints`: expected a list, got the string `vm1` (for instance `endpoints: [vm1, vm2]`)",
        ),
        (
            "kind: wird, endpoints: [vm1, vm2]",
            "no kind named `wird` (did you mean `wire`? kinds are `wire`, `shared`)",
        ),
        (
            "kind: wire, endpoints: [vm1, vm2], size: 1M",
            "key `size` is not for kind `wire` (kinds that know it: `shared`)",
        ),
        (
            "kind: wire, endpoints: [vm1, vm2], sise: 1M",
            "unknown key `sise` (keys are `kind`, `endpoints`, `subnet`, `queues`, `mtu`, `recovery`)",
        ),
        (
            "kind: wire, endpoints: [vm1, vm2], policy: replug",
            "unknown key `policy` (it belongs into `recovery: {policy: …}`)",
        ),
        (
            "kind: shared, endpoints: [vm1, vm2], sise: 1M",
            "unknown key `sise` (did you mean `size`? keys are `kind`, `endpoints`, `subnet`, `queues`, `mtu`, "
            "`recovery`, `size`, `vectors`, `label`, `polling`)",
        ),
        (
            "kind: wire, endpoints: [vm1, vm2], recovery: {policy: relink}",
            "kind `wire` has no policy `relink` (known is `replug`)",
        ),
        (
            "kind: shared, endpoints: [vm1, vm2], queues: 5",
            "5 queues are more than kind `shared` can serve (at most 4)",
        ),
        (
            "kind: shared, endpoints: [vm1, vm2], mtu: 99",
            "kind `shared` cannot carry an MTU of 99 (from 100 to 9000)",
        ),
        ("kind: shared, endpoints: [vm1, vm2], size: 3M", "`size`: 3145728 is not a power of two"),
        ("kind: shared, endpoints: [vm1, vm2], size: 512M", "`size` is more than 268435456 bytes"),
        ("kind: shared, endpoints: [vm1, vm2], vectors: true", "`vectors`: expected an integer, got `true`"),
        ("kind: shared, endpoints: [vm1, vm2], label: 1", "`label`: expected a string, got `1`"),
        ("kind: shared, endpoints: [vm1, vm2], polling: on", "`polling`: expected a boolean, got `on`"),
    ],
)
def test_explains_a_wrong_link(keys: str, expected: str) -> None:
    assert of_links(f"lan0: {{{keys}}}") == [f"link `lan0`: {expected}"]


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [
        ("10.77.0.1/30", "has host bits set (did you mean `10.77.0.0/30`?)"),
        ("10.77.0.0/32", "has no room for two hosts (a /31 or /30 is the smallest)"),
        ("10.77.0.0/33", "is not an IPv4 network (for instance `10.77.0.0/30`)"),
        ("10.77.0.256/30", "is not an IPv4 network (for instance `10.77.0.0/30`)"),
        (
            "10.0.2.0/30",
            "overlaps `10.0.2.0/24`, the management network of every guest (without `subnet`, a free one is chosen)",
        ),
        ("127.1.0.0/16", "overlaps `127.0.0.0/8`, the loopback network (without `subnet`, a free one is chosen)"),
        ("224.0.0.0/24", "overlaps `224.0.0.0/4`, multicast (without `subnet`, a free one is chosen)"),
    ],
)
def test_explains_a_subnet_that_cannot_be(subnet: str, expected: str) -> None:
    found = of_links(f"lan0: {{kind: wire, endpoints: [vm1, vm2], subnet: {subnet}}}")
    assert found == [f"link `lan0`: subnet `{subnet}` {expected}"]


@pytest.mark.parametrize("subnet", ["10.77.0.0", "fd00::/64", "10.77.0.0/255.255.0.0", "x"])
def test_a_subnet_is_written_as_address_and_prefix(subnet: str) -> None:
    found = of_links(f"lan0: {{kind: wire, endpoints: [vm1, vm2], subnet: '{subnet}'}}")
    assert found == [f"link `lan0`: `subnet`: `{subnet}` is not an IPv4 network (for instance `10.77.0.0/30`)"]


def test_every_overlap_is_reported_at_the_later_link() -> None:
    found = problems(
        links(
            "a: {kind: wire, endpoints: [vm1, vm2], subnet: 10.1.0.0/24}\n"
            "b: {kind: wire, endpoints: [vm1, vm2], subnet: 10.1.0.128/25}\n"
            "c: {kind: wire, endpoints: [vm1, vm2], subnet: 10.2.0.0/24}\n"
            "d: {kind: wire, endpoints: [vm1, vm2], subnet: 10.1.0.0/16}\n"
        )
    )
    assert [line.split(" (")[0] for line in found] == [
        "6:50 link `b`: subnet `10.1.0.128/25` overlaps that of link `a`, `10.1.0.0/24`",
        "8:50 link `d`: subnet `10.1.0.0/16` overlaps that of link `a`, `10.1.0.0/24`",
    ]


def test_both_addresses_of_a_31_are_hosts() -> None:
    (link,) = loaded(links("lan0: {kind: wire, endpoints: [vm1, vm2], subnet: 10.1.0.2/31}")).links
    assert [str(end.address) for end in link.endpoints] == ["10.1.0.2/31", "10.1.0.3/31"]


def test_a_vm_has_a_slot_for_each_of_its_links() -> None:
    many = "\n".join(f"l{number}: {{kind: wire, endpoints: [vm1, vm2]}}" for number in range(check.LINKS_PER_VM))
    assert len(loaded(links(many)).links_of("vm1")) == check.LINKS_PER_VM
    assert of_links(many + "\nover: {kind: wire, endpoints: [vm1, vm2]}") == [
        f"link `over`: VM `{vm}` has more than {check.LINKS_PER_VM} links (there are no more PCI slots)"
        for vm in ("vm1", "vm2")
    ]


def test_a_mac_that_two_ends_share_is_reported() -> None:
    topology = loaded(links("a: {kind: wire, endpoints: [vm1, vm2]}\nb: {kind: wire, endpoints: [vm1, vm2]}"))
    assert list(check.macs_differ(topology, KINDS)) == []
    first, second = topology.links
    ends = (replace(second.endpoints[0], mac=first.endpoints[1].mac), second.endpoints[1])
    (found,) = check.macs_differ(replace(topology, links=(first, replace(second, endpoints=ends))), KINDS)
    assert found.message == "link `b`: its MAC at `vm1` is also one of link `a`"


def test_a_kind_judges_only_links_that_are_sound() -> None:
    text = HEAD + "vms: {vm1: {memory: 12Q}, vm2: }\nlinks:\n"
    text += "  a: {kind: shared, endpoints: [vm1, vm2], size: 512M}\n"
    assert [line.split(" (")[0] for line in problems(text)] == ["3:21 VM `vm1`: `memory`: `12Q` is not a size"]


def test_defaults_are_judged_at_their_own_place() -> None:
    (found,) = problems(HEAD + "defaults: {image: maxi}\nvms: {vm1: , vm2: }")
    assert found.startswith("3:19 `defaults`: no image named `maxi`")
