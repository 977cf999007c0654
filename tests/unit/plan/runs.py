"""Runs of every kind."""

from __future__ import annotations

from tests.made import made_topology
from vpctl.topology.model import Topology, VmSpec


def mixed(kind: str) -> Topology:
    links = ("lan0", "vm1", "vm2"), ("a-long-linkname", "vm2", "vm1"), ("x", "vm1", "old")
    return made_topology(*links, vms=[VmSpec(name="old", machine="pc")], kind=kind)


MIXED = mixed("stream")
