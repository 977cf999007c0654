"""ivshmem-doorbell by policy `relink`: the survivor's device stays, and its driver begins anew with the next peer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.commandline import Vpctl, kill, user
from tests.vm.traffic import BOOT_ID, Stream, links, other_end, vms

pytestmark = [pytest.mark.vm, pytest.mark.kvm]

LINKS = """
  shm0: {kind: ivshmem-doorbell, endpoints: [vm1, vm2], recovery: {policy: relink}}
  shm1: {kind: ivshmem-doorbell, endpoints: [vm2, vm1], queues: 2, size: 4M, recovery: {policy: relink}}
"""
NAMES = ("shm0", "shm1")
DEVICES = "; ".join(
    f"basename $(readlink /sys/class/net/{link}/device); cat /sys/class/net/{link}/ifindex" for link in NAMES
)
COMPLAINTS = r"dmesg | grep -E 'WARNING|BUG|Oops|Call Trace|vpctl_ivshmem.*(bad|garbage|refused|cannot)' || true"
RECOVERED_SECONDS = 110.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Vpctl]:
    """Two guests with two links, one each way round; each test leaves them up."""
    with user() as vpctl:
        vpctl.run("up", str(vpctl.spare_file("pair", "{vm1: {}, vm2: {}}", LINKS)))
        yield vpctl
        for vm in ("vm1", "vm2"):
            assert vpctl.guest(vm, COMPLAINTS) == "", vm


def hotplug(vpctl: Vpctl, vm: str, after: int) -> list[str]:
    """Return what was plugged and unplugged in a VM."""
    entries = (entry for entry in vpctl.journal("pair") if entry["seq"] > after and entry.get("vm") == vm)
    commands = [entry["attributes"]["command"] for entry in entries if entry["type"] == "qmp.command"]
    return [command for command in commands if command in ("device_del", "device_add", "chardev-add", "getfd")]


def fallen(vpctl: Vpctl, after: int) -> list[dict[str, Any]]:
    entries = [entry["attributes"] for entry in vpctl.journal("pair") if entry["seq"] > after]
    return [attributes for attributes in entries if attributes.get("name") == "fall-back"]


def test_guests_that_die_in_turn_come_back_to_a_survivor_whose_devices_stay(pair: Vpctl) -> None:
    for victim in ("vm1", "vm1", "vm2", "vm1"):
        status, after = pair.json("status"), pair.last_seq("pair")
        survivor = "vm2" if victim == "vm1" else "vm1"
        boot_id, devices = pair.guest(survivor, BOOT_ID), pair.guest(survivor, DEVICES)
        streams = [Stream(pair, survivor, link, other_end(status, link, survivor)["address"]) for link in NAMES]
        flowing = [stream.flows(victim) for stream in streams]
        pair.run("crash", victim, "--how", "kill")
        end = pair.entry("pair", "recovery.end", after=after, vm=victim, limit=RECOVERED_SECONDS)["attributes"]
        assert (end["ok"], end["policy"]) == (True, "relink"), end
        print(victim, {key: end[key] for key in ("survivor_ms", "boot_ms", "total_ms")}, end["links"])
        assert {(link["link"], link["policy"]) for link in end["links"]} == {(link, "relink") for link in NAMES}
        names = sorted(step["name"] for step in end["steps"])
        assert names == sorted(["fence", "boot", *2 * ["unlink", "link", "plug", "verify"]])
        assert hotplug(pair, survivor, after) == []
        assert fallen(pair, after) == []
        now = pair.json("status")
        for link in NAMES:
            before, entry = links(status)[link], links(now)[link]
            assert entry["generation"] == before["generation"] + 1
            assert entry["plugged"] == {**before["plugged"], victim: [entry["generation"]]}
        assert vms(now)[survivor]["pid"] == vms(status)[survivor]["pid"]
        assert pair.guest(survivor, BOOT_ID) == boot_id
        assert pair.guest(survivor, DEVICES) == devices
        for stream, was in zip(streams, flowing, strict=True):
            again = stream.received(victim)
            assert (again["corrupt"], again["received"] > 20) == (0, True)
            assert again["first_seq"] > was["last_seq"], "the survivor's sender is still the same"
        pair.guest(survivor, "pkill -f '[s]tream-send'")
        for stream in streams:
            stream.sender.wait(None)
    assert pair.json("check")["ok"]


def test_the_survivors_carrier_is_off_while_there_is_no_peer(pair: Vpctl) -> None:
    after, before = pair.last_seq("pair"), links(pair.json("status"))
    carriers = [f"/sys/class/net/{link}/carrier" for link in NAMES]
    assert pair.guest("vm2", f"cat {' '.join(carriers)}").split() == ["1", "1"]
    # Seen by the survivor itself: a command that asks for it later may come when the other guest is back.
    waits = "; ".join(f"while [ $(cat {carrier}) = 1 ]; do sleep 0.02; done" for carrier in carriers)
    watching = pair.start("exec", "vm2", "--", f"echo watching; {waits}; cat {' '.join(carriers)}")
    assert watching.process.stdout is not None
    assert watching.process.stdout.readline() == "watching\n"
    pair.run("crash", "vm1", "--how", "kill")
    assert watching.wait().stdout.split() == ["0", "0"]
    for link in NAMES:
        (generation,) = before[link]["plugged"]["vm2"]
        pair.entry("pair", "recovery.step", after=after, name="unlink", target=f"vm2/{link}.g{generation}", ok=True)
    pair.entry("pair", "recovery.end", after=after, vm="vm1", ok=True, limit=RECOVERED_SECONDS)
    assert pair.guest("vm2", f"cat {' '.join(carriers)}").split() == ["1", "1"]


def test_a_survivor_whose_driver_is_unbound_meanwhile_is_plugged_anew_by_the_next_attempt(pair: Vpctl) -> None:
    after = pair.last_seq("pair")
    driver = pair.guest("vm2", "readlink -f /sys/class/net/shm0/device/driver").strip()
    device = pair.guest("vm2", "basename $(readlink /sys/class/net/shm0/device)").strip()
    pair.guest("vm2", f"echo {device} >{driver}/unbind")
    pair.run("crash", "vm1", "--how", "kill")
    end = pair.entry("pair", "recovery.end", after=after, vm="vm1", limit=RECOVERED_SECONDS)["attributes"]
    assert end["ok"]
    assert {(each["from"], each["to"]) for each in fallen(pair, after)} == {("relink", "replug")}
    assert {link["link"]: link["policy"] for link in end["links"]}["shm0"] == "replug"
    assert "device_del" in hotplug(pair, "vm2", after)
    assert pair.json("check")["ok"]


def test_after_a_brokers_death_a_survivor_can_be_told_of_nobody_and_is_plugged_anew_once(pair: Vpctl) -> None:
    after = pair.last_seq("pair")
    kill(pair.broker("pair"))
    pair.entry("pair", "recovery.end", after=after, fault="broker-exit", ok=True)
    for policy in ("replug", "relink"):
        report = pair.json("recover", "vm2", "--force")
        assert report["ok"]
        assert {link["policy"] for link in report["links"]} == {policy}
    assert pair.json("check")["ok"]
