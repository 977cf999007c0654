"""Which links a benchmark measures, and when it refuses to."""

from __future__ import annotations

import pytest

from tests.made import made_topology
from vpctl.client import bench
from vpctl.errors import NotFoundError, VerificationError
from vpctl.topology.model import Topology


@pytest.fixture
def topology() -> Topology:
    return made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm1", "vm2"))


def test_without_a_choice_every_link_is_measured_and_a_choice_keeps_its_order(topology: Topology) -> None:
    assert [link.name for link in bench.chosen_links(topology, [])] == ["lan0", "lan1"]
    assert [link.name for link in bench.chosen_links(topology, ["lan1", "lan0", "lan1"])] == ["lan1", "lan0"]


def test_an_unknown_link_is_named_with_those_there_are(topology: Topology) -> None:
    with pytest.raises(NotFoundError, match="no link named `lan9`") as caught:
        bench.chosen_links(topology, ["lan9"])
    assert caught.value.hint == "links are `lan0`, `lan1`"


def test_a_topology_without_links_is_told_so() -> None:
    with pytest.raises(NotFoundError, match="has no links"):
        bench.chosen_links(made_topology(vms=("vm1",)), [])


def test_a_link_that_is_not_up_is_not_measured(topology: Topology) -> None:
    status = {"links": [{"name": "lan0", "state": "up"}, {"name": "lan1", "state": "recovering"}]}
    bench.require_up(status, topology.links[:1])
    with pytest.raises(VerificationError, match="link `lan1` is recovering"):
        bench.require_up(status, topology.links)
