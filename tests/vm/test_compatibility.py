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
