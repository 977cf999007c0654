"""A survivor whose guest lives, and does not let go of a device: `on_stuck`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.commandline import Vpctl, until, user
from tests.vm.traffic import BOOT_ID, links, vms

pytestmark = [pytest.mark.vm, pytest.mark.long]

LINKS = """
  a0: {kind: stream, endpoints: [a, hub]}
  b0: {kind: stream, endpoints: [b, hub], recovery: {on_stuck: reset-survivor}}
"""
ONCE = "{health: {retries: 1}}"
RECOVERED_SECONDS = 170.0
"""For a recovery in which a guest is given half a minute to let go."""

GPE = "/sys/firmware/acpi/interrupts/gpe01"
"""The event by which QEMU's machines tell a guest of hotplug; a guest that has it off hears of none."""


@pytest.fixture(scope="module")
def trio() -> Iterator[Vpctl]:
    """A hub with two others; each test leaves them up."""
    with user() as vpctl:
        vpctl.run("up", str(vpctl.spare_file("trio", f"{{hub: {{}}, a: {ONCE}, b: {ONCE}}}", LINKS)))
        yield vpctl


def test_a_recovery_fails_at_a_survivor_that_does_not_let_go_and_leaves_it_as_it_is(trio: Vpctl) -> None:
    before, after, boot_id = trio.json("status"), trio.last_seq("trio"), trio.guest("hub", BOOT_ID)
    trio.guest("hub", f"echo disable >{GPE}")
    trio.run("crash", "a", "--how", "kill")
    end = trio.entry("trio", "recovery.end", after=after, vm="a", limit=RECOVERED_SECONDS)["attributes"]
    assert not end["ok"]
    assert "hub" in end["error"]
    assert "a0.g1" in end["error"]
    unplugs = [step for step in end["steps"] if step["name"] == "unplug"]
    assert [(step["target"], step["ok"]) for step in unplugs] == [("hub/a0.g1", False)]
    status = trio.json("status", status=1)
    assert vms(status)["hub"]["state"] == "ready"
    assert vms(status)["hub"]["pid"] == vms(before)["hub"]["pid"]
    assert trio.guest("hub", BOOT_ID) == boot_id
    assert links(status)["b0"]["state"] == "up"
    assert trio.json("check", "--link", "b0")["ok"]
    trio.guest("hub", f"echo enable >{GPE}")
    assert trio.json("recover", "a")["ok"], "once it lets go, whoever asks is helped"
    assert trio.guest("hub", BOOT_ID) == boot_id


def test_a_driver_that_is_wedged_for_good_is_ended_by_a_reset_where_that_is_allowed(trio: Vpctl) -> None:
    before, after, boot_id = trio.json("status"), trio.last_seq("trio"), trio.guest("hub", BOOT_ID)
    trio.guest("hub", "modprobe vpctl_fault how=wedge interface=b0")
    faults = [trio.entry("trio", "fault", after=after, link="b0", limit=RECOVERED_SECONDS)["attributes"]["fault"]]
    faults += [trio.entry("trio", "fault", after=after, fault="guest-reboot", limit=RECOVERED_SECONDS)["vm"]]
    assert faults == ["driver-wedged", "hub"]
    trio.entry("trio", "link.state", after=trio.last_seq("trio"), link="b0", state="up", limit=RECOVERED_SECONDS)
    until(lambda: trio.recorded("trio")["state"] == "up" or None, "everything up", limit=RECOVERED_SECONDS)
    status = trio.json("status")
    assert vms(status)["hub"]["pid"] == vms(before)["hub"]["pid"], "its QEMU stays"
    assert trio.guest("hub", BOOT_ID) != boot_id
    assert trio.json("check")["ok"]


def test_a_survivor_that_does_not_let_go_is_reset_where_that_is_allowed(trio: Vpctl) -> None:
    before, after, boot_id = trio.json("status"), trio.last_seq("trio"), trio.guest("hub", BOOT_ID)
    trio.guest("hub", f"echo disable >{GPE}")
    trio.run("crash", "b", "--how", "kill")
    fault = trio.entry("trio", "fault", after=after, vm="hub", limit=RECOVERED_SECONDS)["attributes"]
    assert fault["fault"] == "guest-reboot"
    end = trio.entry("trio", "recovery.end", after=after, vm="b", limit=RECOVERED_SECONDS)["attributes"]
    assert (end["ok"], [link["link"] for link in end["links"]]) == (True, ["b0"])
    trio.entry("trio", "recovery.end", after=after, vm="hub", ok=True, limit=RECOVERED_SECONDS)
    status = trio.json("status")
    assert vms(status)["hub"]["pid"] == vms(before)["hub"]["pid"], "its QEMU stays"
    assert trio.guest("hub", BOOT_ID) != boot_id
    assert trio.json("check")["ok"]
