"""What every link kind keeps to, and what is special about each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.made import PAIR, made_topology
from vpctl.links import LINK_KINDS
from vpctl.plan.run import plug_steps
from vpctl.rundir import RunDir
from vpctl.topology.schema import schema

RUNDIR = RunDir(name="pair", run=Path("/run/v/pair"), state=Path("/state/v/pair"))


@pytest.mark.parametrize("name", LINK_KINDS)
def test_a_kind_is_registered_under_its_own_name_with_a_policy_and_what_it_needs(name: str) -> None:
    kind = LINK_KINDS[name]
    assert kind.rules.name == name
    assert kind.rules.policies
    assert kind.rules.min_mtu <= 1500 <= kind.rules.max_mtu
    assert kind.requirements.qemu >= (7, 2)
    assert kind.requirements.devices


def test_the_schema_names_the_kinds_that_work_and_no_other() -> None:
    text = str(schema({name: kind.rules for name, kind in LINK_KINDS.items()}))
    for kind in ("vhost-pci", "ivshmem-doorbell", "ivshmem-plain", "stream", "dgram", "tap"):
        assert (f"'{kind}'" in text) == (kind in LINK_KINDS)


@pytest.mark.parametrize("first", ["vm1", "vm2"])
def test_each_end_of_a_dgram_binds_a_socket_of_its_own_and_sends_to_the_others(first: str) -> None:
    pair = made_topology(("lan0", "vm1", "vm2"), kind="dgram")
    sockets = {"vm1": "/run/v/pair/lan0.5.0", "vm2": "/run/v/pair/lan0.5.1"}
    steps = plug_steps(pair, pair.link("lan0"), 5, first=first, rundir=RUNDIR)
    assert [step.vm for step in steps] == sorted(sockets, key=lambda vm: vm != first)
    for step in steps:
        assert step.device.netdev is not None
        peer = next(path for vm, path in sockets.items() if vm != step.vm)
        assert step.device.netdev["local"] == {"type": "unix", "path": sockets[step.vm]}
        assert step.device.netdev["remote"] == {"type": "unix", "path": peer}
        assert step.device.sockets == (sockets[step.vm],)
        assert step.device.netdev_event is None, "there is no connection to wait for"


@pytest.mark.parametrize("first", ["vm1", "vm2"])
def test_a_streams_listener_is_plugged_first_and_its_client_waits_for_the_connection(first: str) -> None:
    listener, client = plug_steps(PAIR, PAIR.link("lan0"), 5, first=first, rundir=RUNDIR)
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
