"""A guest of the micro image by a QEMU command line of our own: nothing of vpctl above QMP and ssh takes part."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import PATIENCE, until
from vpctl.guest import heartbeat
from vpctl.guest.heartbeat import Heartbeat
from vpctl.guest.keys import run_keys
from vpctl.guest.ssh import Address, connection, run
from vpctl.image import GuestImage, ensure
from vpctl.log import Log
from vpctl.process import running
from vpctl.qemu.accelerator import cpu_model
from vpctl.qemu.argv import accel_option
from vpctl.qmp.session import Session, connect
from vpctl.rundir import Directories

QEMU = os.environ.get("VPCTL_QEMU") or "qemu-system-x86_64"


ACCELERATOR = os.environ.get("VPCTL_ACCELERATOR") or "tcg"


def guest_cpu() -> str:
    """Return the CPU model that vpctl gives guests."""
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    assert version is not None
    return cpu_model(ACCELERATOR, (int(version[1]), int(version[2]), int(version[3])))


BOOT_SECONDS = 120.0  # on a busy host, under TCG, the second boot of Linux 7 has taken more than 60

IMAGES = [
    pytest.param(("micro", (6, 1)), id="micro"),
    pytest.param(("micro13", (6, 12)), id="micro13", marks=pytest.mark.long),
    pytest.param(("micro13-backports", (6, 13)), id="micro13-backports", marks=pytest.mark.long),
]
"""The images there are, and the oldest kernel that each may have: a fixture's parameters, and `built`'s."""


async def built(name: str, oldest: tuple[int, int]) -> GuestImage:
    """Return an image of vpctl's, from the cache that people use: a build takes minutes."""
    image = await ensure(name, cache=Directories.from_environment().images, log=Log())
    major, minor, _ = str(image.manifest["kernel"]).split(".", 2)
    assert (int(major), int(minor)) >= oldest
    return image


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """A guest that has announced its ssh server."""

    session: Session
    process: asyncio.subprocess.Process
    address: Address
    serial: Path
    console: Path

    async def run(self, script: str, *, timeout: float = 30.0) -> str:
        """Run a shell script in the guest; what it printed, and a failure if it failed."""
        async with connection(self.address) as ssh:
            done = await run(ssh, ["sh", "-ec", script], vm=self.address.vm, timeout=timeout * PATIENCE)
        assert done.status == 0, done
        return done.stdout

    async def beats(self) -> list[Heartbeat]:
        """Take what the ring buffer holds."""
        text = await self.session.execute("ringbuf-read", {"device": "heart", "size": 65536})
        return heartbeat.parse(text)

    async def wait_for_links(self, *links: str) -> Heartbeat:
        """Wait for a beat that names just these links."""
        seen: list[Heartbeat] = []

        async def look() -> Heartbeat | None:
            seen.extend(await self.beats())
            return next((beat for beat in seen if tuple(beat.links) == links), None)

        return await until(look, timeout=10, what=f"a beat with {links}", last_seen=lambda: f"{seen[-3:]}")


@asynccontextmanager
async def booted(
    image: GuestImage, *options: str, name: str = "vm1", links: str | None = "", cpu: str | None = None
) -> AsyncIterator[Guest]:
    """Boot a guest to its word that ssh listens; it is gone after the block. Without `links` it gets no settings."""
    root = Path(tempfile.mkdtemp(prefix="vi", dir="/tmp"))
    directories = Directories(run=root / "r", state=root / "s", cache=image.directory.parent)
    rundir = directories.topology("t")
    rundir.run.mkdir(parents=True, mode=0o700)
    keys = run_keys(rundir)
    serial, console = root / "serial.log", root / "console"
    argv = [QEMU, *machine_args(image, cpu or guest_cpu()), "-qmp", f"unix:{root / 'qmp'},server=on,wait=off"]
    argv += [
        "-chardev",
        f"socket,id=con,path={console},server=on,wait=off,logfile={serial}",
        "-serial",
        "chardev:con",
    ]
    if links is not None:
        contents = {
            "hostname": name.encode(),
            "authorized_keys": f"{keys.public}\n".encode(),
            "host_key": keys.host_key_dropbear,
            "links": links.encode(),
        }
        for item, content in contents.items():
            (root / item).write_bytes(content)
            argv += ["-fw_cfg", f"name=opt/vpctl/{item},file={root / item}"]
    try:
        async with (
            running([*argv, *options]) as process,
            connect(root / "qmp", vm=name, timeout=10 * PATIENCE) as session,
        ):
            await wait_for_line(serial, "vpctl: ssh")
            table = await session.execute("human-monitor-command", {"command-line": "info usernet"})
            forward = re.search(r"HOST_FORWARD.*127\.0\.0\.1\s+(\d+)", table)
            assert forward, table
            address = Address(
                vm=name, port=int(forward[1]), user="root", identity=rundir.identity, host_key=keys.host_public
            )
            yield Guest(session=session, process=process, address=address, serial=serial, console=console)
    finally:
        shutil.rmtree(root)


def machine_args(image: GuestImage, cpu: str) -> list[str]:
    return [
        "-nodefaults", "-display", "none", "-accel", accel_option(ACCELERATOR),
        "-cpu", cpu, "-smp", "1,maxcpus=2", "-m", "256M",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", image.kernel_args,
        "-drive", f"if=none,id=root,format=raw,readonly=on,file={image.disk}",
        "-device", "virtio-blk-pci,drive=root,serial=vpctl-root",
        "-netdev", "user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:0-:22",
        "-device", "virtio-net-pci,netdev=mgmt,mac=52:56:00:00:00:01,romfile=",
        "-device", "virtio-serial-pci", "-chardev", "ringbuf,id=heart,size=65536",
        "-device", "virtserialport,chardev=heart,name=org.vpctl.heartbeat",
        "-device", "pvpanic", "-action", "panic=pause",
    ]  # fmt: skip


async def wait_for_line(serial: Path, line: str, *, times: int = 1) -> None:
    async def look() -> bool | None:
        return True if read(serial).splitlines().count(line) >= times else None

    await until(look, timeout=BOOT_SECONDS, what=f"`{line}` on the console", last_seen=lambda: read(serial)[-500:])


def read(serial: Path) -> str:
    return serial.read_text(errors="replace") if serial.exists() else ""


Q35 = ["-M", "q35", "-device", "pcie-root-port,id=rp1,chassis=1,slot=1"]
