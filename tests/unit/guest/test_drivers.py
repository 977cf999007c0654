"""A link without an interface: the guest's kernel tells which device has no driver, and why."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.fakes.broker import made
from tests.fakes.guest import Process, guest_running
from tests.made import made_link
from vpctl.guest import ssh
from vpctl.guest.drivers import LOOK, why_no_interface
from vpctl.guest.traffic import Guest
from vpctl.rundir import Directories

DMESG = """#!/bin/sh
cat <<'END'
[ 1.0] pci 0000:01:00.0: BAR 2: assigned
[ 2.0] pcieport 0000:00:02.0: bridge to 0000:01:00.0
[ 3.0] vpctl_net 0000:01:00.0: probe failed with error -28
[ 4.0] vpctl_net 0000:09:00.0: of no interest
END
"""


def device(root: Path, address: str, *, vendor: str = "0x1af4", driver: bool = False) -> None:
    place = root / "bus/pci/devices" / address
    place.mkdir(parents=True)
    (place / "vendor").write_text(f"{vendor}\n")
    (place / "device").write_text("0x1110\n")
    if driver:
        (place / "driver").mkdir()


def looked(root: Path, cmdline: str = "quiet") -> list[str]:
    (root / "proc").mkdir()
    (root / "proc/cmdline").write_text(cmdline + "\n")
    (root / "dmesg").write_text(DMESG)
    (root / "dmesg").chmod(0o755)
    environ = {"SYS": str(root), "PROC": str(root / "proc"), "PATH": f"{root}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-c", LOOK], env=environ, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_a_device_without_a_driver_is_named_with_the_kernels_words(tmp_path: Path) -> None:
    device(tmp_path, "0000:01:00.0")
    device(tmp_path, "0000:02:00.0", driver=True)
    device(tmp_path, "0000:03:00.0", vendor="0x8086")
    assert looked(tmp_path, "quiet pci=nomsi") == [
        "no driver has taken 0000:01:00.0 (0x1af4:0x1110);",
        "[ 3.0] vpctl_net 0000:01:00.0: probe failed with error -28",
        "it was booted with pci=nomsi;",
    ]


def test_where_every_device_has_its_driver_nothing_is_said(tmp_path: Path) -> None:
    device(tmp_path, "0000:01:00.0", driver=True)
    assert looked(tmp_path) == []


async def test_the_guests_words_come_in_one_line_and_a_guest_that_says_nothing_has_none(
    directories: Directories,
) -> None:
    said = "no driver has taken\n0000:01:00.0\x1b[31m\n"

    async def answer(process: Process) -> None:
        process.stdout.write(said)
        process.exit(0)

    rundir = made(directories)
    async with guest_running(rundir, answer) as address, ssh.connection(address) as connection:
        guest = Guest(end=made_link("lan0", "vm1", "vm2").endpoints[0], ssh=connection, agent="/a")
        assert await why_no_interface(guest) == "it said `no driver has taken 0000:01:00.0?[31m`"
        said = "\n"
        assert await why_no_interface(guest) is None
