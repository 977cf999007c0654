"""Links of kind dgram."""

from __future__ import annotations

import pytest

from tests.made import made_run, made_topology
from tests.unit.links.made import RUNDIR
from vpctl.plan.link import plug_steps


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
