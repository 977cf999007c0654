"""A pair of guests under KVM: up, checked, and each of them killed under traffic and brought back.

`make kvm-smoke` runs this in a nested host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kvm.guests import kvm_pair
from tests.vm.commandline import Entry, Vpctl, as_begun
from tests.vm.traffic import BOOT_ID, Stream, links, vms

pytestmark = pytest.mark.kvm

KINDS = ("vhost-pci", "ivshmem-doorbell")
ADDRESSES = {"vm1": "10.77.0.1", "vm2": "10.77.0.2"}
SURVIVORS_STEPS = {
    # The default policy of the kind: relink leaves the survivor's device, and has its carrier off meanwhile.
    "vhost-pci": {"vm1": ["device_del", "DEVICE_DELETED", "device_add"], "vm2": ["set_link off", "set_link on"]},
    "ivshmem-doorbell": {end: ["device_del", "DEVICE_DELETED", "device_add"] for end in ("vm1", "vm2")},
}
"""What QMP sees at a survivor, by the kind of the link and the survivor."""


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[Vpctl]:
    """vm1 and vm2 under KVM, and a link of the kind between them; left up by each test."""
    with kvm_pair(request.param) as vpctl:
        yield vpctl


def test_both_guests_run_under_kvm_and_packets_of_every_size_cross_the_link(pair: Vpctl) -> None:
    assert {vm["accelerator"] for vm in pair.json("status")["vms"]} == {"kvm"}
    checked = pair.json("check")
    assert checked["ok"]
    assert all(path["corrupt"] == 0 for link in checked["links"] for path in link["tests"])


@pytest.mark.parametrize(("victim", "survivor"), [("vm1", "vm2"), ("vm2", "vm1")])
def test_a_guest_killed_under_traffic_comes_back_and_the_survivor_stays(
    pair: Vpctl, victim: str, survivor: str
) -> None:
    # Each command takes seconds where KVM is emulated: what a file tells is read there.
    after = pair.last_seq("smoke")
    qemu = pair.qemu("smoke", survivor)
    boot_id = pair.guest(survivor, BOOT_ID)
    stream = Stream(pair, survivor, "lan0", ADDRESSES[victim])
    flowing = stream.comes(victim)
    pair.run("crash", victim, "--how", "kill")
    report = pair.json("recover", victim)
    assert (report["ok"], report["fault"], report["check"]["ok"]) == (True, "qemu-exit", True)
    again = stream.comes(victim)
    assert again["corrupt"] == 0
    assert again["first_seq"] > flowing["last_seq"], "the survivor's sender is still the same, its numbers went on"
    stream.stop()
    assert pair.guest(survivor, BOOT_ID) == boot_id
    assert pair.qemu("smoke", survivor) == qemu
    recorded = pair.recorded("smoke")
    assert vms(recorded)[victim]["accelerator"] == "kvm"
    kind = links(recorded)["lan0"]["kind"]
    assert steps(pair.journal("smoke"), survivor, after) == SURVIVORS_STEPS[kind][survivor]


def steps(journal: list[Entry], vm: str, after: int) -> list[str]:
    """Return what was done over QMP to the link's devices of a VM, in the order in which it began."""
    entries = as_begun(entry for entry in journal if entry["seq"] > after and entry.get("vm") == vm)
    return [step for entry in entries if (step := _step(entry["type"], entry["attributes"]))]


def _step(type_: str, attributes: dict[str, Any]) -> str | None:
    if type_ == "qmp.event" and str(attributes["data"].get("device", "")).startswith("lan0."):
        return str(attributes["event"])
    if type_ == "qmp.command" and attributes["command"] in ("device_add", "device_del"):
        return str(attributes["command"])
    if type_ == "qmp.command" and attributes["command"] == "set_link":
        return f"set_link {'on' if attributes['arguments']['up'] else 'off'}"
    return None
