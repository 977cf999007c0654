"""A VM that boots the user's own kernel, initrd and disk, without anything of ours in it.

It is a hard one: silent on its serial console, and hardened as the CIS benchmarks ask: nothing in /tmp is executed.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.vm.commandline import Vpctl
from tests.vm.traffic import vms
from vpctl import image
from vpctl.rundir import Directories

pytestmark = pytest.mark.vm

TOPOLOGY = """
version: 1
name: own
vms:
  mine: {image: {kernel: vmlinuz, initrd: initrd.img, disk: disk.squashfs}, kernel_args: quiet 8250.nr_uarts=0}
  micro: {}
links:
  lan0: {kind: stream, endpoints: [mine, micro]}
"""


NOEXEC = """#!/bin/sh
for place in /tmp /var/tmp /dev/shm; do
    mkdir -p $place
    mount -t tmpfs -o noexec,nosuid,nodev,mode=1777 tmpfs $place
done
exec /usr/sbin/dropbear.real "$@"
"""
"""Stands before the ssh server."""


def own_files(vpctl: Vpctl, directories: Directories) -> Path:
    """Make boot files of an image that has no agent, beside the topology; return the disk."""
    if shutil.which("unsquashfs") is None:
        pytest.skip("`unsquashfs` is not installed (squashfs-tools)")
    built = image.installed(directories.images)[0]
    assert built.initrd is not None
    assert built.disk is not None
    shutil.copy(built.kernel, vpctl.files / "vmlinuz")
    shutil.copy(built.initrd, vpctl.files / "initrd.img")
    root, disk = vpctl.files / "root", vpctl.files / "disk.squashfs"
    subprocess.run(["unsquashfs", "-q", "-n", "-d", root, built.disk], check=True, stdout=subprocess.DEVNULL)
    (root / "usr/bin/vpctl-agent").unlink()
    server = root / "usr/sbin/dropbear"
    server.rename(root / "usr/sbin/dropbear.real")
    server.write_text(NOEXEC)
    server.chmod(0o755)
    packing = ["mksquashfs", str(root), str(disk), "-quiet", "-no-progress", "-comp", "lz4"]
    subprocess.run(packing, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    return disk


def test_an_own_image_gets_the_agent_over_ssh_and_keeps_its_disk_as_it_was(
    vpctl: Vpctl, directories: Directories
) -> None:
    disk = own_files(vpctl, directories)
    before = disk.read_bytes()
    status = vpctl.json("up", str(vpctl.file(TOPOLOGY)))
    assert all(check["ok"] for check in status["checks"])
    assert vpctl.guest("mine", "dmesg | grep -c ttyS0: || true").strip() == "0"
    mine = vms(status)["mine"]
    assert mine["ssh"]["host_key"], "pinned at the first login"
    assert vpctl.rundir("own").known_hosts_of("mine").read_text() == f"* {mine['ssh']['host_key']}\n"
    assert vpctl.guest("mine", "test -e /usr/bin/vpctl-agent || echo none").strip() == "none"
    assert "10.77.0.1/30" in vpctl.guest("mine", "ip -brief address show lan0")
    vpctl.guest("mine", "echo scratch | dd of=/dev/vda bs=1 conv=notrunc 2>/dev/null; sync")
    assert vpctl.json("check")["ok"]

    vpctl.run("crash", "mine", "--how", "kill")
    report = vpctl.json("recover", "mine")
    assert report["ok"]
    assert "10.77.0.1/30" in vpctl.guest("mine", "ip -brief address show lan0")
    assert disk.read_bytes() == before


@pytest.mark.long
def test_an_own_image_without_heartbeats_lives_as_long_as_its_ssh_does(
    vpctl: Vpctl, directories: Directories
) -> None:
    own_files(vpctl, directories)
    mine = "mine: {image: {kernel: vmlinuz, initrd: initrd.img, disk: disk.squashfs}"
    assert mine in TOPOLOGY
    heartbeat = 4.0
    text = TOPOLOGY.replace(mine, f"{mine}, health: {{heartbeat: {heartbeat:g}s}}")
    vpctl.run("up", str(vpctl.file(text)))
    after, pid = vpctl.last_seq("own"), vms(vpctl.json("status"))["mine"]["pid"]
    vpctl.guest("mine", "pkill -KILL -f '[v]pctl-agent daemon'")
    time.sleep(3 * heartbeat)
    status = vpctl.json("status")
    assert (vms(status)["mine"]["state"], vms(status)["mine"]["pid"]) == ("ready", pid)
    assert not [entry for entry in vpctl.journal("own") if entry["type"] == "fault" and entry["seq"] > after]
    assert vpctl.json("recover", "mine")["healthy"], "and whoever asks is told the same"
    vpctl.guest("mine", "nohup sh -c 'sleep 1; pkill -STOP dropbear; pkill -STOP sshd' >/dev/null 2>&1 &")
    fault = vpctl.entry("own", "fault", after=after, vm="mine", limit=90)["attributes"]
    assert fault["fault"] == "guest-hang", fault
    end = vpctl.entry("own", "recovery.end", after=after, vm="mine", limit=110)["attributes"]
    assert (end["fault"], end["ok"]) == ("guest-hang", True)
    assert vpctl.json("check")["ok"]


def test_a_missing_kernel_is_named_before_anything_starts(vpctl: Vpctl) -> None:
    done = vpctl.run("up", str(vpctl.file(TOPOLOGY)), status=2)
    assert "kernel of the image does not exist" in done.stderr
    assert str(vpctl.files / "vmlinuz") in done.stderr
    vpctl.assert_nothing_left()
