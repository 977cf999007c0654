"""What a link of kind tap needs on the host, and whether this one can have it."""

from __future__ import annotations

from pathlib import Path

from tests.made import made_topology
from vpctl.errors import HostError
from vpctl.host import bridge
from vpctl.links.kind import HostNetwork
from vpctl.plan.link import host_networks
from vpctl.rundir import RunDir

NETWORK = HostNetwork(bridge="b", taps=("t0", "t1"), mtu=9000, label="vpctl:pair/lan0", devices=("/dev/net/tun",))


def unfit() -> str | None:
    try:
        bridge.require([NETWORK])
    except HostError as error:
        return error.message
    return None


def of(topology: str, link: str = "lan0") -> HostNetwork:
    (found,) = host_networks(
        made_topology((link, "vm1", "vm2"), kind="tap"),
        RunDir(name=topology, run=Path("/run/v") / topology, state=Path("/state")),
    )
    return found
