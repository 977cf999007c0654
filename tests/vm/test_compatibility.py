"""The main job on other QEMUs: `VPCTL_TEST_QEMUS` names them, separated by semicolons, as VPCTL_QEMU would."""

from __future__ import annotations

import os

import pytest

from tests.vm.commandline import EXAMPLES, Vpctl

pytestmark = [pytest.mark.vm, pytest.mark.long]

QEMUS = [command for command in os.environ.get("VPCTL_TEST_QEMUS", "").split(";") if command]


@pytest.mark.parametrize("qemu", QEMUS or [None])
def test_a_pair_comes_up_and_recovers_on_another_qemu(vpctl: Vpctl, qemu: str | None) -> None:
    if qemu is None:
        pytest.skip("VPCTL_TEST_QEMUS names no QEMU")
    environ = {"VPCTL_QEMU": qemu}
    vpctl.run("up", str(EXAMPLES / "pair.yaml"), environ=environ)
    assert vpctl.json("check")["ok"]
    for vm in ("vm1", "vm2"):
        vpctl.run("crash", vm, "--how", "kill")
        assert vpctl.json("recover", vm)["ok"]
    vpctl.guest("vm1", "echo c >/proc/sysrq-trigger &", status=0)
    vpctl.entry("pair", "fault", vm="vm1", fault="guest-panic")
    assert vpctl.json("recover", "vm1")["ok"]
    assert vpctl.json("check")["ok"]


MIXED = [(first, second) for first in ["", *QEMUS] for second in ["", *QEMUS] if first != second]


@pytest.mark.parametrize(("back", "front"), [(qemu, qemu) for qemu in QEMUS] + MIXED or [("", "")])
def test_a_guest_works_the_rings_of_another_on_any_two_qemus(vpctl: Vpctl, back: str, front: str) -> None:
    """An empty name is the QEMU that is there by itself."""
    if not QEMUS:
        pytest.skip("VPCTL_TEST_QEMUS names no QEMU")
    vms = ", ".join(f"{vm}: {{{f'qemu: {qemu!r}' if qemu else ''}}}" for vm, qemu in (("vm1", back), ("vm2", front)))
    link = "{kind: vhost-pci, endpoints: [vm1, vm2], queues: 2}"
    vpctl.run("up", str(vpctl.spare_file("pair", f"{{{vms}}}", f"{{lan0: {link}}}")))
    assert vpctl.json("check")["ok"]
    for policy in ("relink", "replug", "resume"):
        for vm in ("vm1", "vm2"):
            report = vpctl.json("recover", vm, "--force", "--policy", policy)
            used = "relink" if (policy, vm) == ("resume", "vm2") else policy
            assert (report["ok"], report["links"][0]["policy"]) == (True, used)
    seq = vpctl.last_seq("pair")
    vpctl.run("exec", "vm2", "--", "reboot", status=None)
    vpctl.entry("pair", "recovery.end", after=seq, vm="vm2", ok=True, limit=90)
    assert vpctl.json("check")["ok"]


@pytest.mark.parametrize("qemu", QEMUS or [None])
def test_a_device_is_given_peer_after_peer_and_then_unplugged_on_another_qemu(vpctl: Vpctl, qemu: str | None) -> None:
    if qemu is None:
        pytest.skip("VPCTL_TEST_QEMUS names no QEMU")
    link = "{kind: ivshmem-doorbell, endpoints: [vm1, vm2], queues: 2}"
    file = vpctl.spare_file("pair", "{vm1: {}, vm2: {}}", f"{{shm0: {link}}}")
    vpctl.run("up", str(file), environ={"VPCTL_QEMU": qemu})
    for policy, vm in (*3 * [("relink", "vm1")], ("relink", "vm2"), ("replug", "vm1"), ("relink", "vm1")):
        report = vpctl.json("recover", vm, "--force", "--policy", policy)
        assert (report["ok"], report["links"][0]["policy"]) == (True, policy)
    assert vpctl.json("check")["ok"]
