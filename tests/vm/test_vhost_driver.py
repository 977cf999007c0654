"""The guest's driver for vhost-pci links, in two real guests, with a host played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.ivshmem_host import ControlPage, control_pages
from tests.fakes.vhost_host import Host
from tests.vm.booting import QEMU, Guest, booted
from tests.vm.test_driver import BAD_WORDS, CPU
from vpctl.broker.control_page import AnswerState
from vpctl.broker.vhost_user import Feature
from vpctl.image import GuestImage, ensure
from vpctl.log import Log
from vpctl.rundir import Directories
from vpctl.wait import until

pytestmark = [
    pytest.mark.vm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"`{QEMU}` is not installed"),
]

MTU = 9000
VM1 = ["-M", "q35", "-device", "pcie-root-port,id=rp1,chassis=1,slot=1,pref64-reserve=1G"]
VM2 = ["-M", "q35,memory-backend=ram"]
MACS = (b"\x52\x56\x77\0\0\1", b"\x52\x56\x77\0\0\2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """vm1, which has the driver, and vm2, an ordinary guest with virtio-net; the link is plugged in vm1."""

    guests: tuple[Guest, Guest]
    page: ControlPage
    host: Host

    @property
    def vm1(self) -> Guest:
        """The back-end's guest."""
        return self.guests[0]

    @property
    def vm2(self) -> Guest:
        """The front-end's guest."""
        return self.guests[1]

    async def plug(self) -> None:
        """Plug the device into vm1, for the rings as they are now."""
        host = self.host
        device = host.begin(await host.wait_ready())
        name = f"link{host.generation}"
        address = {"type": "unix", "data": {"path": str(device.path)}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        await self.vm1.session.execute("chardev-add", {"id": f"c-{name}", "backend": backend})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(host.serve())
            options = {"driver": "ivshmem-doorbell", "id": name, "chardev": f"c-{name}", "bus": "rp1"}
            await self.vm1.session.execute("device_add", {**options, "vectors": device.vectors})

    async def unplug(self) -> None:
        """Unplug it; the freed descriptors are taken by idle ones (QEMU 7.2 under TCG)."""
        device, name = self.host.device, f"link{self.host.generation}"
        assert device is not None
        await self.host.off()
        session = self.vm1.session
        with session.expect("DEVICE_DELETED", match=lambda event: event["data"].get("device") == name) as gone:
            await session.execute("device_del", {"id": name})
            await gone.wait(20)
        await session.execute("chardev-remove", {"id": f"c-{name}"})
        for number in range(4 + 2 * device.vectors):
            idle = os.eventfd(0, os.EFD_CLOEXEC)
            await session.send_fd(f"idle-{self.host.generation}-{number}", idle)
            os.close(idle)
        self.host.drop_device()

    async def replug(self) -> None:
        """Begin a generation."""
        await self.unplug()
        await self.plug()

    async def ping(self, count: int = 3, size: int = 56, seconds: float = 15, role: int = 0, to: str = "") -> None:
        """Ping the other guest until so many answers in a row have come."""

        async def answered() -> bool | None:
            target = to or f"10.77.0.{2 - role}"
            out = await self.guests[role].run(f"ping -c {count} -i 0.1 -W 1 -s {size} {target} || true")
            return True if f" {count} received" in out else None

        await until(answered, timeout=seconds, what="answers to ping", every=0.1)

    async def counters(self) -> dict[str, int]:
        """Return what the driver counts."""
        lines = (await self.vm1.run("ethtool -S shm0")).splitlines()[1:]
        return {name.strip(): int(value) for name, _, value in (line.rpartition(":") for line in lines)}

    async def flood(self, seconds: int = 2) -> None:
        """Begin traffic in both directions, and leave it running."""
        for role, guest in enumerate(self.guests):
            await guest.run(f"(timeout {seconds} ping -f -s 8000 10.77.0.{2 - role} >/dev/null 2>&1 &)")

    async def wait_for_carrier(self, value: str) -> None:
        """Wait until vm1's interface has it, or has not."""

        async def look() -> bool | None:
            return True if (await self.vm1.run("cat /sys/class/net/shm0/carrier")).strip() == value else None

        await until(look, timeout=5, what=f"carrier {value}", every=0.05)


async def the_image() -> GuestImage:
    return await ensure(cache=Directories.from_environment().images, log=Log())


@asynccontextmanager
async def linked_pair(
    *, queue_pairs: int = 1, mtu: int = MTU, more: tuple[list[str], list[str]] = ([], []), **host_options: int
) -> AsyncIterator[Pair]:
    """Boot two guests, plug the link, and wait until it carries packets. vm1's kernel must not complain."""
    image = await the_image()
    directory = Path(tempfile.mkdtemp(prefix="vp", dir="/tmp"))
    links = [f"{mac.hex(':')} shm0 10.77.0.{role + 1}/24 {mtu}\n" for role, mac in enumerate(MACS)]
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        [page] = stack.enter_context(control_pages(1))
        host = Host(
            directory=directory, page=page, mac=MACS[0], queue_pairs=queue_pairs, mtu=mtu, **host_options
        )
        await stack.enter_async_context(host.running())
        vm2 = await stack.enter_async_context(
            booted(image, *VM2, *host.front_options, *more[1], name="vm2", links=links[1], cpu=CPU)
        )
        vm1 = await stack.enter_async_context(
            booted(image, *VM1, *page.options, *more[0], name="vm1", links=links[0], cpu=CPU)
        )
        pair = Pair(guests=(vm1, vm2), page=page, host=host)
        await pair.plug()
        await pair.ping()
        yield pair
        await no_complaints(vm1)


async def no_complaints(guest: Guest) -> None:
    lines = (await guest.run("dmesg")).splitlines()
    assert [line for line in lines if any(word in line for word in BAD_WORDS)] == []


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair() -> AsyncIterator[Pair]:
    """One pair for all tests that leave it as it was."""
    async with linked_pair() as linked:
        yield linked


async def test_the_interface_is_what_the_slot_says(pair: Pair) -> None:
    [shm0] = json.loads(await pair.vm1.run("ip -j -d link show shm0"))
    assert (shm0["address"], shm0["mtu"], shm0["max_mtu"]) == (MACS[0].hex(":"), MTU, 65521)
    information = await pair.vm1.run("ethtool -i shm0; ethtool shm0; ethtool -l shm0; ethtool -k shm0")
    for line in ("driver: vpctl_ivshmem", "Link detected: yes", "tcp-segmentation-offload: on"):
        assert line in information
    assert pair.host.answer.state == AnswerState.ON
    assert pair.host.device is not None
    assert pair.host.answer.features == pair.host.device.wiring.features
