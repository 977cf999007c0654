"""Boots that cannot work: each fails at once or in time, says why and what to do, and leaves nothing but its logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.qemu import DEVICES, fake_qemu
from tests.vm.commandline import Vpctl, kill, until

pytestmark = pytest.mark.vm


def failed(vpctl: Vpctl, file: Path, status: int, *options: str, **environ: str) -> dict[str, Any]:
    """Run an `up` that has to fail with this exit code and to leave nothing running; return its error."""
    done = vpctl.run("up", "-f", "json", *options, str(file), status=status, environ=environ)
    vpctl.assert_nothing_left(logs=True)
    error: dict[str, Any] = done.data["error"]
    assert error["hint"]
    return error


# Section: what the host lacks


def test_missing_qemu_is_named(vpctl: Vpctl) -> None:
    error = failed(vpctl, vpctl.spare_file("alone"), 3, VPCTL_QEMU="/nowhere/qemu")
    assert error["code"] == "host"
    assert "/nowhere/qemu" in error["message"]


def test_qemu_that_is_too_old_is_refused(vpctl: Vpctl, tmp_path: Path) -> None:
    (old,) = fake_qemu(tmp_path, version="QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2)")
    file = vpctl.spare_file("pair", "{vm1: {}, vm2: {}}", "{lan0: {kind: stream, endpoints: [vm1, vm2]}}")
    error = failed(vpctl, file, 3, VPCTL_QEMU=old, VPCTL_CACHE_DIR=str(tmp_path / "cache"))
    assert "6.2.0" in error["message"]
    assert "7.2" in error["message"] + error["hint"]


def test_qemu_without_a_needed_device_is_refused(vpctl: Vpctl, tmp_path: Path) -> None:
    (lacking,) = fake_qemu(tmp_path, devices=tuple(name for name in DEVICES if name != "pcie-root-port"))
    file = vpctl.spare_file("pair", "{vm1: {}, vm2: {}}", "{lan0: {kind: stream, endpoints: [vm1, vm2]}}")
    error = failed(vpctl, file, 3, VPCTL_QEMU=lacking, VPCTL_CACHE_DIR=str(tmp_path / "cache"))
    assert "pcie-root-port" in error["message"]


def test_socket_path_that_is_too_long_is_refused(vpctl: Vpctl, tmp_path: Path) -> None:
    error = failed(vpctl, vpctl.spare_file("alone"), 3, VPCTL_RUN_DIR=str(tmp_path / ("x" * 90)))
    assert "longer than 107" in error["message"]
    assert "VPCTL_RUN_DIR" in error["hint"]


def test_memory_that_the_host_cannot_serve_is_refused(vpctl: Vpctl) -> None:
    error = failed(vpctl, vpctl.spare_file("alone", "{vm1: {memory: 900G}, vm2: {memory: 900G}}"), 3)
    assert error["code"] == "host"
    assert "memory" in error["message"]


# Section: what the file says


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (os.urandom(4096), "topology.yaml"),
        (b"\x7fELF\x02\x01\x01" + bytes(2000), "topology.yaml"),
        (b"&a [*a, *a]", "topology.yaml"),
        (b"a: &a [x]\nb: &b [*a,*a,*a,*a]\n" * 3, "topology.yaml"),
        (b"!!python/object/apply:os.system ['touch pwned']\n", "topology.yaml"),
        (b"{" * 100_000, "topology.yaml"),
        (b"", "topology.yaml"),
    ],
    ids=["random", "elf", "cycle", "anchors", "tag", "deep", "empty"],
)
def test_hostile_file_is_a_problem_with_a_place(vpctl: Vpctl, content: bytes, told: str) -> None:
    file = vpctl.files / "topology.yaml"
    file.write_bytes(content)
    error = vpctl.run("up", "-f", "json", str(file), status=2).data["error"]
    assert error["code"] == "topology"
    assert told in error["where"]
    assert not (vpctl.files / "pwned").exists()
    vpctl.assert_nothing_left()


@pytest.mark.parametrize("path", ["/dev/zero", "/nowhere/file.yaml", "/tmp"])
def test_what_is_no_file_is_refused(vpctl: Vpctl, path: str) -> None:
    error = vpctl.run("up", "-f", "json", path, status=2).data["error"]
    assert error["code"] == "usage"
    assert path in error["message"]


# Section: boots


def test_qemu_that_refuses_its_command_line_says_so(vpctl: Vpctl) -> None:
    error = failed(vpctl, vpctl.spare_file("alone", "{vm1: {qemu_args: [-device, no-such-device]}}"), 4)
    assert "`vm1`" in error["message"]
    assert "exit code 1" in error["message"]
    assert "'no-such-device' is not a valid device model name" in error["details"]
    assert "its command line is in" in error["details"]
    logs = vpctl.json("logs", "vm1")
    assert "no-such-device" in logs["files"]["qemu.log"]


def test_early_panic_fails_at_once_with_what_the_kernel_said(vpctl: Vpctl) -> None:
    error = failed(vpctl, vpctl.spare_file("alone", "{vm1: {kernel_args: rdinit=/nowhere}}"), 4)
    assert "panic" in error["message"]
    assert "Kernel panic - not syncing" in error["details"]


def test_guest_whose_ssh_never_answers_is_given_up_in_time(vpctl: Vpctl) -> None:
    # The limit is that of each stage: a busy host takes more than 5 s to the kernel's first word.
    # Without its driver the management NIC is not there: the guest comes up, and nobody can log in.
    file = vpctl.spare_file("alone", "{vm1: {kernel_args: module_blacklist=virtio_net}}")
    error = failed(vpctl, file, 4, "--boot-timeout", "12")
    assert error["code"] == "timeout"
    assert "boot stage `ssh`" in error["message"]
    assert "not within 12 s" in error["message"]
    assert "vpctl:" in error["details"]


@pytest.mark.long
def test_failed_up_that_is_to_be_kept_stays_to_be_looked_at(vpctl: Vpctl) -> None:
    file = vpctl.spare_file("alone", "{vm1: {kernel_args: module_blacklist=virtio_net}}")
    vpctl.run("up", "--keep", "--boot-timeout", "3", str(file), status=4)
    status = vpctl.json("status", status=1)
    assert [vm["state"] for vm in status["vms"]] == ["failed"]
    assert vpctl.json("qmp", "vm1", "query-status")["return"]["status"] == "running"


def test_qemu_killed_during_boot_fails_at_once_with_everything_one_needs(vpctl: Vpctl) -> None:
    up = vpctl.start("up", "-f", "json", str(vpctl.spare_file("alone", "{vm1: {}, vm2: {}}")))
    vpctl.entry("alone", "vm.state", vm="vm2", stage="kernel", state="begin")
    kill(until(lambda: vpctl.qemu("alone", "vm2"), "QEMU"))
    error = up.wait(4).data["error"]
    vpctl.assert_nothing_left(logs=True)
    assert "`vm2`: boot stage `kernel`: QEMU was killed by SIGKILL" in error["message"]
    argv = Path(error["details"].rpartition("its command line is in ")[2].strip()).read_text()
    assert "qemu-system" in argv
    assert "guest=vm2" in argv
    # It did not wait for the other one's boot.
    assert not [e for e in vpctl.journal("alone") if e.get("vm") == "vm1" and e["attributes"].get("state") == "ready"]
    # Whoever repairs the cause simply comes again.
    assert vpctl.json("up", str(vpctl.files / "alone.yaml"))["state"] == "up"


@pytest.mark.long
def test_a_link_that_carries_no_packets_is_said_and_left_running(vpctl: Vpctl) -> None:
    deaf = '{vm1: {}, vm2: {kernel_args: "sysctl.net.ipv4.icmp_echo_ignore_all=1"}}'
    file = vpctl.spare_file("deaf", deaf, "{lan0: {kind: stream, endpoints: [vm1, vm2]}}")
    done = vpctl.run("up", "-f", "json", str(file), status=1)
    assert "link `lan0`: no packets from `vm1` to `vm2`" in done.stderr
    assert {(check["from"], check["ok"]) for check in done.data["checks"]} == {("vm1", False), ("vm2", True)}
    status = vpctl.json("status", status=1)
    assert [vm["state"] for vm in status["vms"]] == ["ready", "ready"]
    assert status["links"][0]["state"] == "failed"
    # Mended from inside, it is repaired by the next `up`.
    vpctl.guest("vm2", "sysctl -q net.ipv4.icmp_echo_ignore_all=0")
    assert all(check["ok"] for check in vpctl.json("up", str(file))["checks"])
    assert vpctl.json("status")["links"][0]["state"] == "up"
