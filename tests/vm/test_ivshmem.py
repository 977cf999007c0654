"""Links over shared memory: a hub with three others, two links between one pair, and every way to lose an end."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.vm.commandline import EXAMPLES, Vpctl, kill, until, user
from vpctl.process import open_files

pytestmark = [pytest.mark.vm, pytest.mark.kvm]

KIND = "ivshmem-doorbell"
HUB = f"""
version: 1
name: hub
vms: {{hub: {{}}, a: {{}}, b: {{machine: pc}}, c: {{}}}}
links:
  a0: {{kind: {KIND}, endpoints: [hub, a]}}
  a1: {{kind: {KIND}, endpoints: [a, hub], size: 1M}}
  b0: {{kind: {KIND}, endpoints: [hub, b], queues: 2, size: 64M, mtu: 9000}}
  c0: {{kind: {KIND}, endpoints: [c, hub]}}
"""
LINKS = ("a0", "a1", "b0", "c0")
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
COMPLAINTS = r"dmesg | grep -E 'WARNING|BUG|Oops|Call Trace|vpctl_ivshmem.*(bad|garbage|refused)' || true"
IDLE_PERCENT = 15
"""Of a CPU, by a QEMU's main loop while nothing happens: one that spins takes all that it gets."""


@pytest.fixture(scope="module")
def hub() -> Iterator[Vpctl]:
    """A hub and three others, one of them a pc; each test leaves it up."""
    with user() as vpctl:
        up = vpctl.json("up", str(vpctl.file(HUB, "hub.yaml")))
        assert sorted(check["link"] for check in up["checks"] if check["ok"]) == sorted(2 * LINKS)
        assert up["state"] == "up"
        yield vpctl
        for vm in ("hub", "a", "b", "c"):
            assert vpctl.guest(vm, COMPLAINTS) == "", vm


def facts(vpctl: Vpctl, name: str = "hub") -> dict[str, Any]:
    """Return the VMs of a topology that is up, by name."""
    status = vpctl.json("status", name)
    assert status["state"] == "up"
    return {vm["name"]: vm for vm in status["vms"]}


def generations(vpctl: Vpctl, name: str = "hub") -> dict[str, int]:
    return {link["name"]: link["generation"] for link in vpctl.json("status", name)["links"]}


def main_loop_ticks(pid: int) -> int:
    """Return the CPU time of a QEMU's main loop so far, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def assert_idle(vms: Mapping[str, Mapping[str, Any]]) -> None:
    """Nobody's main loop spins."""
    seconds = 2.0
    before = {name: main_loop_ticks(vm["pid"]) for name, vm in vms.items()}
    time.sleep(seconds)
    spent = {name: (main_loop_ticks(vm["pid"]) - before[name]) / seconds for name, vm in vms.items()}
    assert max(spent.values()) < IDLE_PERCENT, f"percent of a CPU: {spent}"


def assert_no_socket_of_an_earlier_generation(vpctl: Vpctl) -> None:
    assert [path.name for link in LINKS for path in vpctl.rundir("hub").run.glob(f"{link}.[0-9]*")] == []


def test_every_size_of_every_protocol_crosses_each_link(hub: Vpctl) -> None:
    checked = hub.json("check")
    assert [(link["link"], link["ok"]) for link in checked["links"]] == [(link, True) for link in LINKS]
    assert_idle(facts(hub))
    assert_no_socket_of_an_earlier_generation(hub)


def test_each_devices_memory_lies_above_4_gib_and_has_the_size_that_was_asked_for(hub: Vpctl) -> None:
    sizes = {"a0": 16 << 20, "a1": 1 << 20, "b0": 64 << 20, "c0": 16 << 20}
    ends = [("hub", link) for link in LINKS] + [("a", "a0"), ("a", "a1"), ("b", "b0"), ("c", "c0")]
    for vm, link in ends:
        begin, end, _ = hub.guest(vm, f"sed -n 3p /sys/class/net/{link}/device/resource").split()
        assert int(begin, 16) >= 1 << 32, f"{link} at {vm}"
        assert int(end, 16) - int(begin, 16) + 1 == sizes[link]


@pytest.mark.parametrize("victim", ["a", "b", "hub"])
def test_a_guest_killed_under_traffic_comes_back_with_all_its_links(hub: Vpctl, victim: str) -> None:
    before, links_before = facts(hub), generations(hub)
    sender = "hub" if victim != "hub" else "a"
    touched = {"a": ["a0", "a1"], "b": ["b0"], "hub": list(LINKS)}[victim]
    boot_id = hub.guest(sender, BOOT_ID)
    status = hub.json("status")
    peers = {
        link["name"]: end["address"].split("/")[0]
        for link in status["links"]
        for end in link["endpoints"]
        if {end["vm"] for end in link["endpoints"]} == {sender, victim} and end["vm"] == victim
    }
    sending = [f"vpctl-agent stream-send {link} {address} --rate 500" for link, address in peers.items()]
    traffic = hub.start("exec", sender, "--", f"{' & '.join(sending)} & wait")
    hub.run("crash", victim, "--how", "kill")
    report = hub.json("recover", victim)
    assert (report["ok"], report["policy"], report["fault"]) == (True, "replug", "qemu-exit")
    assert report["check"]["ok"]
    for link in peers:
        stream = json.loads(hub.guest(victim, f"vpctl-agent stream-recv {link} --duration-ms 300"))
        assert stream["received"] > 50
    assert hub.guest(sender, f"pkill -f '[s]tream-send'; {BOOT_ID}") == boot_id
    traffic.wait(None)
    after = facts(hub)
    assert {vm for vm in after if after[vm]["pid"] != before[vm]["pid"]} == {victim}
    assert generations(hub) == {link: links_before[link] + (link in touched) for link in LINKS}
    assert_idle(after)
    assert_no_socket_of_an_earlier_generation(hub)


def test_a_guest_that_reboots_keeps_its_devices(hub: Vpctl) -> None:
    before, links_before = facts(hub), generations(hub)
    seq = hub.last_seq("hub")
    hub.run("exec", "a", "--", "reboot", status=None)
    hub.entry("hub", "recovery.end", after=seq, vm="a", ok=True, limit=90)
    after = facts(hub)
    assert {name: vm["pid"] for name, vm in after.items()} == {name: vm["pid"] for name, vm in before.items()}
    assert generations(hub) == links_before


def test_links_carry_on_without_their_broker_and_are_repaired_by_the_next_one(hub: Vpctl) -> None:
    seq = hub.last_seq("hub")
    kill(hub.broker("hub"))
    hub.entry("hub", "recovery.end", after=seq, fault="broker-exit", ok=True)
    assert hub.json("check")["ok"], "nobody needs a broker to talk"
    seq = hub.last_seq("hub")
    hub.run("crash", "c", "--how", "kill")
    assert hub.json("recover", "c")["ok"]
    assert hub.entry("hub", "link.off", after=seq, link="c0")["attributes"]["silent"] == ["hub"]
    assert_idle(facts(hub))


def test_a_supervisor_killed_in_the_middle_of_a_repair_is_followed_by_one_that_ends_it(hub: Vpctl) -> None:
    seq = hub.last_seq("hub")
    hub.run("crash", "a", "--how", "kill")
    hub.entry("hub", "link.off", after=seq, link="a0")
    kill(hub.supervisor("hub"))
    hub.entry("hub", "command", after=seq, command="take-over")
    for link in ("a0", "a1"):
        hub.entry("hub", "link.state", after=seq, link=link, state="up", limit=90)
    assert hub.json("check", "--link", "a0")["ok"]
    assert hub.json("check", "--link", "a1")["ok"]
    assert_idle(facts(hub))
    assert_no_socket_of_an_earlier_generation(hub)


def test_parked_descriptors_are_counted_where_people_look(hub: Vpctl) -> None:
    parked = {name: vm["parked_fds"] for name, vm in facts(hub).items()}
    shown = hub.run("status", "-v", "hub").stdout
    assert "PARKED FDS" in shown
    assert any(line.split()[0] == "a" and line.split()[-1] == str(parked["a"]) for line in shown.splitlines() if line)


def test_the_example_comes_up_and_nothing_is_left_of_it(vpctl: Vpctl) -> None:
    up = vpctl.json("up", str(EXAMPLES / f"{KIND}.yaml"))
    assert all(check["ok"] for check in up["checks"])
    vpctl.run("down")
    vpctl.assert_nothing_left()


def test_an_up_that_was_killed_leaves_nothing_behind_after_down(vpctl: Vpctl) -> None:
    up = vpctl.start("up", str(EXAMPLES / f"{KIND}.yaml"))
    until(lambda: vpctl.qemu(KIND, "vm1"), "a QEMU")
    up.process.kill()
    up.wait(-signal.SIGKILL)
    kill(vpctl.supervisor(KIND))
    kill(vpctl.broker(KIND))
    assert vpctl.json("down", KIND)["stopped"] == [KIND]
    vpctl.assert_nothing_left()


@pytest.mark.long
def test_twenty_unplugs_under_traffic_cost_a_survivor_its_parked_descriptors_and_nothing_else(vpctl: Vpctl) -> None:
    links = f"{{shm0: {{kind: {KIND}, endpoints: [vm1, vm2]}}, shm1: {{kind: {KIND}, endpoints: [vm2, vm1]}}}}"
    vpctl.json("up", str(vpctl.spare_file("pair", "{vm1: {}, vm2: {}}", links)))
    survivor = facts(vpctl, "pair")["vm2"]
    pid, boot_id = survivor["pid"], vpctl.guest("vm2", BOOT_ID)
    addresses = {
        link["name"]: end["address"].split("/")[0]
        for link in vpctl.json("status")["links"]
        for end in link["endpoints"]
        if end["vm"] == "vm1"
    }
    sending = [f"vpctl-agent stream-send {link} {address} --rate 1000" for link, address in addresses.items()]
    traffic = vpctl.start("exec", "vm2", "--", f"{' & '.join(sending)} & wait")
    seen = []
    for _ in range(20):
        assert vpctl.json("recover", "vm1", "--force")["ok"]
        vm2 = facts(vpctl, "pair")["vm2"]
        seen.append((len(open_files(pid)) - vm2["parked_fds"], vm2["parked_fds"], heap(pid)))
    print(f"open files beside the parked ones, parked, heap KiB: {seen}")
    vpctl.guest("vm2", "pkill -f '[s]tream-send'")
    traffic.wait(None)
    files, parked, memory = zip(*seen, strict=True)
    assert max(files[3:]) <= max(files[:3])
    assert parked[-1] <= 8 * 40
    assert memory[-1] - memory[4] < 1024
    assert regions(pid) == 2
    assert vpctl.guest("vm2", BOOT_ID) == boot_id
    assert vpctl.guest("vm2", COMPLAINTS) == ""
    assert_idle(facts(vpctl, "pair"))


def heap(pid: int) -> int:
    """Return what of a QEMU's heap is resident, in KiB: its devices are there.

    The guest's memory is not, nor TCG's translations, of which there are more and more whatever kind a link has.
    """
    found = re.search(r" \[heap\]\n.*?^Rss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps").read_text(), re.M | re.S)
    assert found is not None
    return int(found[1])


def regions(pid: int) -> int:
    """Return how many regions a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text().count("/memfd:vpctl:region/")
