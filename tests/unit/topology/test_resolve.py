"""Subnets that the file does not give."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import islice

from tests.unit.topology.checking import of_links
from tests.unit.topology.loading import links, loaded
from vpctl.topology.resolve import free_subnets


def test_chooses_subnets_in_file_order_around_the_given_ones() -> None:
    topology = loaded(
        links(
            "a: {kind: wire, endpoints: [vm1, vm2]}\n"
            "b: {kind: wire, endpoints: [vm1, vm2], subnet: 10.77.0.4/30}\n"
            "c: {kind: wire, endpoints: [vm1, vm2]}\n"
            "d: {kind: wire, endpoints: [vm1, vm2], subnet: 10.77.0.0/31}\n"
        )
    )
    assert [str(link.subnet) for link in topology.links] == [
        "10.77.0.8/30",
        "10.77.0.4/30",
        "10.77.0.12/30",
        "10.77.0.0/31",
    ]


def test_free_subnets_touch_no_given_one_and_come_in_order() -> None:
    given = [IPv4Network("10.77.0.16/28"), IPv4Network("10.77.0.0/30"), IPv4Network("10.0.0.0/24")]
    assert [str(subnet) for subnet in islice(free_subnets(given), 4)] == [
        "10.77.0.4/30",
        "10.77.0.8/30",
        "10.77.0.12/30",
        "10.77.0.32/30",
    ]
    assert len(list(free_subnets([]))) == 1 << 14


def test_says_when_no_subnet_is_left() -> None:
    found = of_links(
        "a: {kind: wire, endpoints: [vm1, vm2], subnet: 10.77.0.0/16}\nb: {kind: wire, endpoints: [vm1, vm2]}"
    )
    assert found == ["link `b`: no subnet is left in `10.77.0.0/16` (give it a `subnet`)"]
