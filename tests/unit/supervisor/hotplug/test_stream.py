"""A netdev that accepts the other end's connection has to listen before that one is plugged."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.errors import HotplugError
from vpctl.links.kind import PlugStep
from vpctl.plan.link import plug_steps
from vpctl.rundir import Directories
from vpctl.supervisor.hotplug import stream


@pytest.fixture
def steps(directories: Directories) -> Sequence[PlugStep]:
    run = made_run(made_topology(("lan0", "vm1", "vm2")))
    return plug_steps(run, run.topology.link("lan0"), 1, first="vm1", rundir=made(directories))


async def test_a_socket_that_comes_to_listen_later_is_waited_for(steps: Sequence[PlugStep]) -> None:
    path = steps[0].device.accepts
    assert path is not None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        waiting = asyncio.create_task(stream.until_listening(steps))
        await asyncio.sleep(0.05)
        assert not waiting.done(), "bound is not listening"
        listener.listen()
        async with asyncio.timeout(5):
            await waiting


async def test_one_that_never_does_is_named(steps: Sequence[PlugStep], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LISTENING_SECONDS", 0.05)
    with pytest.raises(HotplugError, match=r"vm1: a socket at .*lan0\.1"):
        await stream.until_listening(steps)


async def test_where_nobody_listens_nobody_waits(directories: Directories) -> None:
    run = made_run(made_topology(("lan0", "vm1", "vm2"), kind="dgram"))
    await stream.until_listening(plug_steps(run, run.topology.link("lan0"), 1, first="vm1", rundir=made(directories)))
