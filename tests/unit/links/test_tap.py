"""Links of kind tap: what they need on the host."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.made import made_topology
from tests.unit.host.networks import of
from vpctl.plan.link import host_networks
from vpctl.rundir import Directories, RunDir


@given(st.text("abcdefghij-0123456789", min_size=1, max_size=31), st.text("abcdefghij-0123456789", min_size=1))
def test_names_fit_and_are_this_links_own(topology: str, link: str) -> None:
    rundir = RunDir(name=topology, run=Path("/run/v") / topology, state=Path("/state"))
    names = [rundir.interface(link), rundir.interface(link, end=0), rundir.interface(link, end=1)]
    assert all(len(name) == 15 and name.isalnum() and name.startswith(rundir.interface_prefix) for name in names)
    assert len({*names, rundir.interface(link + "x")}) == 4
    other = RunDir(name=topology, run=Path("/run/w") / topology, state=Path("/state"))
    assert other.interface_prefix != rundir.interface_prefix


def test_only_kinds_that_say_so_need_a_host_network(directories: Directories) -> None:
    rundir = directories.topology("pair")
    assert host_networks(made_topology(("lan0", "vm1", "vm2")), rundir) == []
    assert of("pair").devices == ("/dev/net/tun",)
