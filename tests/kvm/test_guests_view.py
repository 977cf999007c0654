"""What a guest sees of KVM: how its shared memory is mapped, what CPU it has, and its clocks after a pause."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.kvm.guests import kvm_pair
from tests.vm.commandline import Vpctl

pytestmark = pytest.mark.kvm

MAPPINGS = """
mkdir -p /tmp/debug; mount -t debugfs none /tmp/debug 2>/dev/null || true
cat /sys/class/net/lan0/device/resource; echo --; cat /tmp/debug/x86/pat_memtype_list
"""
FOUR_GIB = 1 << 32
BAR2 = 2


@pytest.fixture(scope="module", params=["vhost-pci", "ivshmem-doorbell"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, Vpctl]]:
    with kvm_pair(request.param) as vpctl:
        yield request.param, vpctl


def test_the_shared_memory_is_above_4_gib_and_mapped_write_back(pair: tuple[str, Vpctl]) -> None:
    """AMD's nested paging honours the guest's memory type, and firmware makes what lies below 4 GiB uncached."""
    kind, vpctl = pair
    for vm in ("vm1",) if kind == "vhost-pci" else ("vm1", "vm2"):
        assert_write_back(vpctl, vm)


def assert_write_back(vpctl: Vpctl, vm: str) -> None:
    """The memory of a guest's end of the link lies above 4 GiB, and its kernel maps it write-back."""
    resources, _, types = vpctl.guest(vm, MAPPINGS).partition("--")
    start, end, _ = (int(word, 16) for word in resources.splitlines()[BAR2].split())
    assert start >= FOUR_GIB
    assert {kind for first, last, kind in memory_types(types) if first <= end and last >= start} == {"write-back"}, (
        types
    )


def memory_types(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield first and last address, and memory type, of each range that the guest's kernel keeps a type for."""
    for line in text.splitlines():
        if match := re.search(r"\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\] (\S+)", line):
            yield int(match[1], 16), int(match[2], 16) - 1, match[3]


def test_a_guest_has_the_hosts_cpu_and_kvms_clock(pair: tuple[str, Vpctl]) -> None:
    _, vpctl = pair
    for vm in ("vm1", "vm2"):
        said = vpctl.guest(vm, "cat /sys/devices/system/clocksource/clocksource0/available_clocksource; dmesg")
        assert "kvm-clock" in said.splitlines()[0]
        assert "Hypervisor detected: KVM" in said


def test_a_guest_that_was_paused_goes_on_and_its_link_too(pair: tuple[str, Vpctl]) -> None:
    """A pause of the whole VM, as a debugger or a snapshot makes, is no fault; its clocks are those of KVM's."""
    _, vpctl = pair
    before = vpctl.json("status")
    after = vpctl.last_seq("smoke")
    clock = "cut -d' ' -f1 /proc/uptime"
    uptime = float(vpctl.guest("vm2", clock))
    began = time.monotonic()
    vpctl.run("qmp", "vm2", "stop")
    time.sleep(15)
    vpctl.run("qmp", "vm2", "cont")
    passed = float(vpctl.guest("vm2", clock)) - uptime
    took = time.monotonic() - began
    print(json.dumps({"uptime went on by": round(passed, 1), "while on the host passed": round(took, 1)}))
    assert vpctl.json("check")["ok"]
    status = vpctl.json("status")
    assert [vm["pid"] for vm in status["vms"]] == [vm["pid"] for vm in before["vms"]]
    faults = [entry for entry in vpctl.journal("smoke") if entry["type"] == "fault" and entry["seq"] > after]
    assert faults == []


def test_on_a_pc_a_guest_that_reboots_has_its_memory_above_4_gib_again() -> None:
    """A pc's firmware puts the BAR below 4 GiB at a reboot; the link is replugged, and above again."""
    with kvm_pair("ivshmem-doorbell", more=", machine: pc") as vpctl:
        before = vpctl.json("status")
        after = vpctl.last_seq("smoke")
        vpctl.run("exec", "vm1", "--", "reboot", status=None)
        vpctl.entry("smoke", "recovery.end", after=after, vm="vm1", ok=True, limit=120)
        assert vpctl.json("status")["vms"][0]["pid"] == before["vms"][0]["pid"]
        assert_write_back(vpctl, "vm1")
        assert vpctl.json("check")["ok"]
