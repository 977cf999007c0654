"""Crashes under traffic, and what comes back by itself or when asked: killed QEMUs, panics, reboots, power-offs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.commandline import EXAMPLES, Entry, Vpctl, as_begun, kill, until, user
from tests.vm.traffic import BOOT_ID, Stream, links, other_end, vms

pytestmark = [pytest.mark.vm, pytest.mark.kvm]


@pytest.fixture(scope="module")
def chain() -> Iterator[Vpctl]:
    """left - west0 - middle - east0 - right; each test leaves it up, whatever generations it has got to."""
    with user() as vpctl:
        vpctl.run("up", str(EXAMPLES / "chain.yaml"))
        yield vpctl


def steps_at(journal: list[Entry], vm: str, link: str, after: int) -> list[tuple[str, str]]:
    """Return the QMP commands and events at a VM that concern one link's devices: (what, id), as they began."""
    found = []
    for entry in as_begun(journal):
        if entry["seq"] <= after or entry.get("vm") != vm:
            continue
        attributes = entry["attributes"]
        if entry["type"] == "qmp.command" and attributes["command"] in HOTPLUG:
            found.append((attributes["command"], attributes["arguments"]["id"]))
        elif entry["type"] == "qmp.event" and attributes["event"] == "DEVICE_DELETED":
            found.append(("DEVICE_DELETED", attributes["data"].get("device", "")))
    return [(what, name) for what, name in found if name.startswith(f"{link}.")]


HOTPLUG = ("device_del", "netdev_del", "netdev_add", "device_add")


def assert_repaired(vpctl: Vpctl, before: dict[str, Any], after: int, *, vm: str, survivors: dict[str, str]) -> None:
    """A VM has come back as a new generation, the survivors (VM → link) as they were, every link whole again."""
    status = vpctl.json("status")
    old, new = vms(before), vms(status)
    assert status["state"] == "up"
    assert new[vm]["generation"] == old[vm]["generation"] + 1
    assert new[vm]["pid"] != old[vm]["pid"]
    for survivor, link in survivors.items():
        assert new[survivor]["pid"] == old[survivor]["pid"]
        assert new[survivor]["generation"] == old[survivor]["generation"]
        was, now = (links(s)[link]["generation"] for s in (before, status))
        assert now == was + 1
        assert steps_at(vpctl.journal("chain"), survivor, link, after) == [
            ("device_del", f"{link}.g{was}"),
            ("DEVICE_DELETED", f"{link}.g{was}"),
            ("netdev_del", f"{link}.g{was}.net"),
            ("netdev_add", f"{link}.g{now}.net"),
            ("device_add", f"{link}.g{now}"),
        ], "what is unplugged is gone before the next is plugged"
    repaired = [link for name, link in links(status).items() if name in survivors.values()]
    shown = [
        (end["address"], vpctl.start("exec", end["vm"], "--", f"ip -o -4 address show dev {link['name']}"))
        for link in repaired
        for end in link["endpoints"]
    ]
    for address, command in shown:
        assert address in command.wait().stdout
    for link in repaired:
        assert vpctl.json("check", "--link", link["name"])["ok"]


def assert_report(report: dict[str, Any], vm: str, fault: str, names: list[str]) -> None:
    """The report of a recovery is as contracted."""
    assert (report["vm"], report["fault"], report["policy"], report["ok"]) == (vm, fault, "replug", True)
    assert {step["name"] for step in report["steps"]} >= {"fence", "boot", "unplug", "plug", "verify"}
    for step in report["steps"]:
        assert {"name", "target", "at_ms", "ms"} <= step.keys()
    assert [step["at_ms"] for step in report["steps"]] == sorted(step["at_ms"] for step in report["steps"])
    times = [report[key] for key in ("detect_ms", "survivor_ms", "boot_ms", "total_ms")]
    assert 0 <= times[0] < times[1] < times[3]
    assert report["overhead_ms"] == pytest.approx(report["total_ms"] - report["boot_ms"], abs=0.2)
    assert sorted(entry["link"] for entry in report["links"]) == sorted(names)
    assert all(entry["ok"] and 0 < entry["outage_ms"] <= report["total_ms"] + 0.1 for entry in report["links"])


@pytest.mark.parametrize(
    ("victim", "survivor", "link"),
    [
        pytest.param("left", "middle", "west0", id="listener"),
        # The test of the middle guest has a victim that connects, too.
        pytest.param("right", "middle", "east0", id="client", marks=pytest.mark.long),
    ],
)
def test_killed_guest_and_its_link_come_back_under_traffic(
    chain: Vpctl, victim: str, survivor: str, link: str
) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    stream = Stream(chain, survivor, link, other_end(before, link, survivor)["address"])
    flowing = stream.flows(victim)
    boot_id = chain.guest(survivor, BOOT_ID)
    crashed = chain.json("crash", victim, "--how", "kill")
    assert crashed["pid"] == vms(before)[victim]["pid"]
    joined = chain.json("recover", victim)
    assert_report(joined, victim, "qemu-exit", [link])
    assert joined["check"]["ok"]
    assert_repaired(chain, before, after, vm=victim, survivors={survivor: link})
    assert chain.guest(survivor, BOOT_ID) == boot_id
    again = stream.received(victim)
    assert (again["corrupt"], again["received"] > 20) == (0, True)
    assert again["first_seq"] > flowing["last_seq"], "the survivor's sender is still the same, its numbers went on"
    stream.stop()
    ended = chain.entry("chain", "recovery.end", after=after, vm=victim)
    assert {key: joined[key] for key in ended["attributes"]} == ended["attributes"]
    faults = [e["attributes"] for e in chain.journal("chain") if e["type"] == "fault" and e["seq"] > after]
    assert [(fault["fault"], fault["status"]) for fault in faults] == [("qemu-exit", -9)]


def test_middle_guest_killed_from_outside_comes_back_with_both_links_by_itself(chain: Vpctl) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    stream = Stream(chain, "left", "west0", other_end(before, "west0", "left")["address"])
    flowing = stream.flows("middle", ms=300, more_than=10)
    kill(chain.qemu("chain", "middle"))
    chain.entry("chain", "recovery.end", after=after, vm="middle", ok=True)  # nobody asked for it
    assert_repaired(chain, before, after, vm="middle", survivors={"left": "west0", "right": "east0"})
    assert stream.received("middle", ms=300)["first_seq"] > flowing["last_seq"]
    stream.stop()


@pytest.mark.long
def test_two_neighbours_killed_at_once_both_come_back(chain: Vpctl) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    victims = [chain.qemu("chain", name) for name in ("left", "middle")]
    for victim in victims:
        kill(victim)
    for name in ("left", "middle"):
        chain.entry("chain", "recovery.end", after=after, vm=name, ok=True)
    status = chain.json("status")
    assert status["state"] == "up"
    assert vms(status)["right"]["pid"] == vms(before)["right"]["pid"]
    for name in ("left", "middle"):
        assert vms(status)[name]["generation"] == vms(before)[name]["generation"] + 1
    assert chain.json("check")["ok"]


@pytest.mark.long
def test_guest_killed_again_while_it_is_reborn_comes_back_at_a_further_try(chain: Vpctl) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    first = kill(chain.qemu("chain", "right"))
    second = until(lambda: other(chain.qemu("chain", "right"), first), "the reborn QEMU")
    chain.entry("chain", "vm.state", after=after, vm="right", stage="kernel", state="begin")
    joined = chain.start("recover", "-f", "json", "right")
    kill(second)
    report = joined.wait().data
    assert report["ok"]
    failed = chain.entry("chain", "recovery.step", after=after, vm="right", attempt=1)
    assert "SIGKILL" in failed["attributes"]["error"]
    status = chain.json("status")
    assert vms(status)["right"]["generation"] == vms(before)["right"]["generation"] + 2
    assert vms(status)["middle"]["pid"] == vms(before)["middle"]["pid"]
    assert chain.json("check", "--link", "east0")["ok"]


def other(process: Any, than: Any) -> Any:
    return process if process is not None and process != than else None


def test_recover_leaves_a_guest_that_is_well_alone(chain: Vpctl) -> None:
    before = chain.json("status")
    report = chain.json("recover", "left")
    assert (report["ok"], report["healthy"], report["steps"]) == (True, True, [])
    status = chain.json("status")
    assert [vm["pid"] for vm in status["vms"]] == [vm["pid"] for vm in before["vms"]]
    assert links(status)["west0"]["generation"] == links(before)["west0"]["generation"]
    assert "is well" in chain.run("recover", "left").stdout


@pytest.mark.long
def test_dry_run_shows_the_steps_and_force_takes_them(chain: Vpctl) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    plan = chain.json("recover", "left", "--force", "--dry-run")
    old = links(before)["west0"]["generation"]
    generation = vms(before)["left"]["generation"]
    assert [(step["name"], step["target"]) for step in plan["steps"]] == [
        ("fence", "left"),
        ("unplug", f"middle/west0.g{old}"),
        ("plug", f"middle/west0.g{old + 1}"),
        ("boot", f"left (generation {generation + 1})"),
        ("plug", f"left/west0.g{old + 1}"),
        ("verify", "west0"),
    ]
    assert chain.last_seq("chain") == after, "nothing was done"
    report = chain.json("recover", "left", "--force")
    done = [(step["name"], step["target"].partition(" ")[0]) for step in report["steps"]]
    assert sorted(done) == sorted((step["name"], step["target"].partition(" ")[0]) for step in plan["steps"])
    assert_repaired(chain, before, after, vm="left", survivors={"middle": "west0"})


@pytest.mark.long
def test_reboot_repairs_links_only(chain: Vpctl) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    boot_id = chain.guest("middle", BOOT_ID)
    stream = Stream(chain, "left", "west0", other_end(before, "west0", "left")["address"])
    chain.run("exec", "middle", "--", "reboot", status=None)
    chain.entry("chain", "fault", after=after, vm="middle", fault="guest-reboot")
    assert chain.json("status", status=1)["state"] == "degraded"
    report = chain.entry("chain", "recovery.end", after=after, vm="middle")["attributes"]
    assert (report["fault"], report["ok"]) == ("guest-reboot", True)
    status = chain.json("status")
    assert [vm["pid"] for vm in status["vms"]] == [vm["pid"] for vm in before["vms"]]
    assert vms(status)["middle"]["generation"] == vms(before)["middle"]["generation"]
    assert chain.guest("middle", BOOT_ID) != boot_id
    assert chain.json("check")["ok"]
    assert stream.received("middle")["received"] > 20
    stream.stop()


@pytest.mark.long
def test_guest_killed_while_its_neighbour_reboots(chain: Vpctl) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    chain.run("exec", "middle", "--", "reboot", status=None)
    chain.entry("chain", "fault", after=after, vm="middle", fault="guest-reboot")
    kill(chain.qemu("chain", "left"))
    for name in ("left", "middle"):
        chain.entry("chain", "recovery.end", after=after, vm=name, ok=True)
    status = chain.json("status")
    assert (status["state"], vms(status)["middle"]["pid"]) == ("up", vms(before)["middle"]["pid"])
    assert chain.json("check")["ok"]


def test_panic_after_ready_is_told_apart_and_recovered(chain: Vpctl) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    chain.start("exec", "right", "--", "echo c >/proc/sysrq-trigger")
    fault = chain.entry("chain", "fault", after=after, vm="right")["attributes"]
    assert (fault["fault"], fault["status"]) == ("guest-panic", None)
    assert chain.json("recover", "right")["fault"] == "guest-panic"
    assert "Kernel panic" in chain.rundir("chain").generation("right", vms(before)["right"]["generation"]).joinpath(
        "serial.log"
    ).read_text(errors="replace"), "the logs of the dead are kept"
    assert_repaired(chain, before, after, vm="right", survivors={"middle": "east0"})


def test_power_off_is_no_crash_and_up_starts_it_again(chain: Vpctl) -> None:
    before = chain.json("status")
    after = chain.last_seq("chain")
    chain.run("exec", "right", "--", "poweroff", status=None)
    fault = chain.entry("chain", "fault", after=after, vm="right")["attributes"]
    assert (fault["fault"], fault["status"]) == ("guest-poweroff", 0)
    chain.entry("chain", "vm.state", after=after, vm="right", state="stopped")
    status = chain.json("status", status=1)
    assert (vms(status)["right"]["state"], vms(status)["right"]["pid"]) == ("stopped", None)
    assert links(status)["east0"]["state"] == "down"
    refused = chain.run("exec", "right", "--", "true", status=255)
    assert "is stopped" in refused.stderr
    assert chain.json("check", "--link", "west0")["ok"]
    assert not [e for e in chain.journal("chain") if e["seq"] > after and e["type"] == "recovery.step"]
    up = chain.json("up", str(EXAMPLES / "chain.yaml"))
    assert up["state"] == "up"
    assert_repaired(chain, before, after, vm="right", survivors={"middle": "east0"})


def test_manual_recovery_waits_to_be_asked(vpctl: Vpctl) -> None:
    lan0 = "{lan0: {kind: stream, endpoints: [vm1, vm2], recovery: {mode: manual}}}"
    vpctl.run("up", str(vpctl.spare_file("pair", "{vm1: {}, vm2: {}}", lan0)))
    before = vpctl.json("status")
    vpctl.run("crash", "vm1", "--how", "kill")
    status = vpctl.json("status", status=1)
    assert (vms(status)["vm1"]["state"], links(status)["lan0"]["state"]) == ("crashed", "down")
    # What is done by itself is begun at once: a command later it would show.
    assert "is crashed" in vpctl.run("exec", "vm1", "--", "true", status=255).stderr
    assert vms(vpctl.json("status", status=1))["vm1"]["state"] == "crashed"
    refused = vpctl.run("recover", "-f", "json", "vm1", "--policy", "relink", status=2).data["error"]
    assert "replug" in refused["hint"]
    assert vpctl.json("recover", "vm1")["ok"]
    after = vpctl.json("status")
    assert (after["state"], vms(after)["vm2"]["pid"]) == ("up", vms(before)["vm2"]["pid"])
    # The same for a device that somebody removes: it is noticed, and waits.
    seq = vpctl.last_seq("pair")
    vpctl.run("qmp", "vm2", "device_del", f"id=lan0.g{links(after)['lan0']['generation']}")
    vpctl.entry("pair", "fault", after=seq, vm="vm2", link="lan0", fault="device-lost")
    assert links(vpctl.json("status", status=1))["lan0"]["state"] == "down"
    report = vpctl.json("recover", "vm2")
    assert (report["fault"], report["ok"]) == ("device-lost", True)
    assert [vm["pid"] for vm in vpctl.json("status")["vms"]] == [vm["pid"] for vm in after["vms"]]


@pytest.mark.long
def test_what_is_done_by_itself_leaves_links_alone_that_are_repaired_by_hand(vpctl: Vpctl) -> None:
    ends = "kind: stream, endpoints: [vm1, vm2]"
    both = f"{{lan0: {{{ends}}}, lan1: {{{ends}, recovery: {{mode: manual}}}}}}"
    vpctl.run("up", str(vpctl.spare_file("pair", "{vm1: {}, vm2: {}}", both)))
    seq = vpctl.last_seq("pair")
    vpctl.run("crash", "vm1", "--how", "kill")
    end = vpctl.entry("pair", "recovery.end", after=seq, vm="vm1", limit=120)["attributes"]
    assert (end["ok"], [link["link"] for link in end["links"]]) == (True, ["lan0"])
    status = vpctl.json("status", status=1)
    assert {name: link["state"] for name, link in links(status).items()} == {"lan0": "up", "lan1": "down"}
    pids = {vm: entry["pid"] for vm, entry in vms(status).items()}
    assert vpctl.json("recover", "vm1")["ok"]
    status = vpctl.json("status")
    assert {vm: entry["pid"] for vm, entry in vms(status).items()} == pids
