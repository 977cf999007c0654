"""Back-ends of the broker that are waited for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.vhost_user_frontend import Frontend
from tests.unit.supervisor.fronted import (
    QEMU,
    Ground,
    ground_in,
    memory,
)
from vpctl.errors import HotplugError
from vpctl.rundir import Directories
from vpctl.supervisor.hotplug import backends


@pytest.fixture
async def ground(directories: Directories, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    monkeypatch.setattr(backends, "LOOK_AGAIN_SECONDS", 0.02)  # nobody tells most of these tests
    async with ground_in(directories) as made:
        yield made


async def test_a_driver_that_never_starts_its_rings_is_named(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "RINGS_SECONDS", 0.1)
    ground.link.begin(1)
    await ground.hands.plug("vm2", ground.repair())
    with pytest.raises(HotplugError, match="its QEMU has let go of the back-end"):
        await ground.hands.plug("vm1", ground.repair())
    frontend = Frontend(Path(ground.vhost_pci_pair(1).virtio_net_end.socket), memory("ram/vm2.g1"), dialect=QEMU)
    await frontend.connect()
    await frontend.greet()
    with pytest.raises(HotplugError, match="no driver has started the rings") as caught:
        await ground.hands.plug("vm1", ground.repair())
    assert "vpctl exec vm2" in (caught.value.hint or "")
    frontend.close()
    os.close(frontend.ram)
    assert ground.qemus["vm1"].names() == []
