"""Links of kind stream."""

from __future__ import annotations

import pytest

from tests.made import PAIR, made_run
from tests.unit.links.made import RUNDIR
from vpctl.plan.link import plug_steps


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
