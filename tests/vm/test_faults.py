"""Faults of every kind under traffic, over two kinds of link at once: detected, named, repaired; and what is none."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vm.commandline import Vpctl, kill, until, user
from tests.vm.traffic import BOOT_ID, Stream, links, other_end, vms

pytestmark = [pytest.mark.vm, pytest.mark.kvm]

LINKS = """
  lan0: {kind: stream, endpoints: [vm1, vm2]}
  shm0: {kind: ivshmem-doorbell, endpoints: [vm1, vm2]}
"""
HEARTBEAT = 4.0
HEALTH = f"{{health: {{heartbeat: {HEARTBEAT:g}s, qmp_timeout: 5s}}}}"
RECOVERED_SECONDS = 110.0
"""For a recovery, on a host that does much else."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Vpctl]:
    with user() as vpctl:
        file = vpctl.spare_file("pair", f"{{vm1: {HEALTH}, vm2: {HEALTH}}}", LINKS)
        vpctl.run("up", str(file))
        yield vpctl


def survives(vpctl: Vpctl, before: dict[str, Any], boot_id: str, vm: str) -> None:
    """A VM is the one that it was: its QEMU, its guest."""
    now = vms(vpctl.json("status"))[vm]
    assert (now["pid"], now["generation"]) == (vms(before)[vm]["pid"], vms(before)[vm]["generation"])
    assert vpctl.guest(vm, BOOT_ID) == boot_id


@pytest.mark.parametrize(
    ("how", "victim", "fault"),
    [("panic", "vm1", "guest-panic"), ("hang", "vm2", "guest-hang"), ("stop", "vm1", "qemu-stopped")],
)
def test_fault_is_named_and_both_links_come_back_under_traffic(
    pair: Vpctl, how: str, victim: str, fault: str
) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    survivor = next(vm for vm in vms(before) if vm != victim)
    boot_id = pair.guest(survivor, BOOT_ID)
    streams = [Stream(pair, survivor, link, other_end(before, link, survivor)["address"]) for link in links(before)]
    flowing = [stream.comes(victim) for stream in streams]
    crashed = pair.json("crash", victim, "--how", how)
    assert (crashed["fault"], crashed["how"]) == (fault, how)
    seen = pair.entry("pair", "fault", after=after, vm=victim)["attributes"]
    assert seen["fault"] == fault
    end = pair.entry("pair", "recovery.end", after=after, vm=victim, limit=RECOVERED_SECONDS)["attributes"]
    assert (end["fault"], end["ok"]) == (fault, True), end
    assert {link["link"] for link in end["links"]} == {"lan0", "shm0"}
    assert all(end["detect_ms"] < link["outage_ms"] <= end["total_ms"] + 0.1 for link in end["links"])
    assert end["steps"][0]["name"] == "fence"
    assert vms(pair.json("status"))[victim]["generation"] == vms(before)[victim]["generation"] + 1
    survives(pair, before, boot_id, survivor)
    for stream, was in zip(streams, flowing, strict=True):
        again = stream.comes(victim)
        assert again["corrupt"] == 0
        assert again["first_seq"] > was["last_seq"], "the survivor's sender is still the same"
    pair.guest(survivor, "pkill -f stream-send")
    faults = [entry for entry in pair.journal("pair") if entry["type"] == "fault" and entry["seq"] > after]
    assert len(faults) == 1, faults


def test_a_survivor_goes_on_while_the_peer_that_it_floods_hangs(pair: Vpctl) -> None:
    """The survivor of a crash listens for its peer, and QEMU sends from that end by a socket that blocks."""
    pair.run("crash", "vm2", "--how", "kill")
    assert pair.json("recover", "vm2")["ok"]
    before, boot_id = pair.json("status"), pair.guest("vm1", BOOT_ID)
    address = other_end(before, "lan0", "vm1")["address"].partition("/")[0]
    pair.guest("vm2", "iperf3 --server --daemon")
    until(lambda: ":5201" in pair.guest("vm2", "ss -ltn") or None, "iperf3's server")
    flood = pair.start("exec", "vm1", "--", f"iperf3 -c {address} --udp --bitrate 200M --time 300")
    counter = "cat /sys/class/net/lan0/statistics/tx_bytes"
    idle = int(pair.guest("vm1", counter))
    until(lambda: int(pair.guest("vm1", counter)) > idle + 10_000_000 or None, "a flood")
    after = pair.last_seq("pair")
    crash = pair.start("crash", "vm2", "--how", "hang")  # which waits until the fault is seen
    pair.entry("pair", "command", after=after, command="crash")
    answers = 0
    while not [e for e in pair.journal("pair") if e["seq"] > after and e["type"] == "fault"]:
        pair.guest("vm1", "true")
        answers += 1
    assert answers > 1, "a QEMU that waits for its peer answers nobody until that is gone"
    pair.entry("pair", "recovery.end", after=after, vm="vm2", ok=True, limit=RECOVERED_SECONDS)
    faults = [e for e in pair.journal("pair") if e["seq"] > after and e["type"] == "fault"]
    assert [(e["vm"], e["attributes"]["fault"]) for e in faults] == [("vm2", "guest-hang")]
    survives(pair, before, boot_id, "vm1")
    pair.guest("vm1", "pkill iperf3 || true")
    flood.wait(None)
    crash.wait()


@contextmanager
def mute(path: Path) -> Iterator[None]:
    """Listen at a socket, and never say a word: as a vhost-user back-end that hangs does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield
    path.unlink()


def test_qemu_that_waits_for_ever_for_somebody_else_is_silent_and_replaced(pair: Vpctl) -> None:
    """QEMU's main loop waits without a limit for the greeting of a back-end, and nobody hears from it meanwhile."""
    before, after = pair.json("status"), pair.last_seq("pair")
    boot_id, path = pair.guest("vm2", BOOT_ID), pair.files / "mute"
    backend = {"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": str(path)}}, "server": False}}
    with mute(path):
        pair.run("qmp", "vm1", "chardev-add", "id=mute", f"backend={json.dumps(backend)}")
        words = ("netdev_add", "type=vhost-user", "id=mute0", "chardev=mute")
        pair.run("qmp", "--timeout", "1", "vm1", *words, status=5)
        fault = pair.entry("pair", "fault", after=after, vm="vm1", limit=60)["attributes"]
        assert fault["fault"] == "qmp-silent", fault
        assert "answered nothing over QMP" in fault["reason"]
        end = pair.entry("pair", "recovery.end", after=after, vm="vm1", limit=RECOVERED_SECONDS)["attributes"]
    assert (end["fault"], end["ok"], end["steps"][0]["name"]) == ("qmp-silent", True, "fence")
    assert vms(pair.json("status"))["vm1"]["pid"] != vms(before)["vm1"]["pid"]
    survives(pair, before, boot_id, "vm2")
    assert pair.json("check")["ok"]
    faults = [entry for entry in pair.journal("pair") if entry["type"] == "fault" and entry["seq"] > after]
    assert len(faults) == 1, faults


@pytest.mark.parametrize("link", ["lan0", "shm0"])
def test_device_that_somebody_removes_is_replaced_and_nothing_else(pair: Vpctl, link: str) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    boot_ids = {vm: pair.guest(vm, BOOT_ID) for vm in vms(before)}
    generations = {name: entry["generation"] for name, entry in links(before).items()}
    pair.run("qmp", "vm2", "device_del", f"id={link}.g{generations[link]}")
    fault = pair.entry("pair", "fault", after=after, vm="vm2", link=link)["attributes"]
    assert fault["fault"] == "device-lost"
    end = pair.entry("pair", "recovery.end", after=after, vm="vm2", limit=RECOVERED_SECONDS)["attributes"]
    assert (end["fault"], end["ok"], [entry["link"] for entry in end["links"]]) == ("device-lost", True, [link])
    for vm, boot_id in boot_ids.items():
        survives(pair, before, boot_id, vm)
    now = {name: entry["generation"] for name, entry in links(pair.json("status")).items()}
    assert now == {**generations, link: generations[link] + 1}
    assert pair.json("check", "--link", link)["ok"]


@pytest.mark.parametrize(("link", "victim"), [("lan0", "vm1"), ("shm0", "vm2")])
def test_driver_that_is_wedged_under_traffic_is_found_and_its_link_repaired(
    pair: Vpctl, link: str, victim: str
) -> None:
    """A NAPI that never runs: nothing comes in at that end, and its driver holds up its own removal meanwhile."""
    before, after = pair.json("status"), pair.last_seq("pair")
    boot_ids = {vm: pair.guest(vm, BOOT_ID) for vm in vms(before)}
    sender = next(vm for vm in vms(before) if vm != victim)
    other = next(name for name in links(before) if name != link)
    stream = Stream(pair, sender, link, other_end(before, link, sender)["address"])
    flowing = stream.comes(victim)
    pair.guest(victim, f"modprobe vpctl_fault how=wedge interface={link} seconds=25")
    fault = pair.entry("pair", "fault", after=after, vm=victim, link=link, limit=60)["attributes"]
    assert fault["fault"] == "driver-wedged", fault
    end = pair.entry("pair", "recovery.end", after=after, vm=victim, limit=RECOVERED_SECONDS)["attributes"]
    assert (end["fault"], end["ok"], [entry["link"] for entry in end["links"]]) == ("driver-wedged", True, [link])
    assert [step["name"] for step in end["steps"]] == ["unplug", "unplug", "plug", "plug", "verify"]
    assert end["detect_ms"] >= HEARTBEAT * 1000
    again = stream.comes(victim)
    assert again["corrupt"] == 0
    assert again["first_seq"] > flowing["last_seq"], "the sender is still the same"
    stream.stop()
    for vm, boot_id in boot_ids.items():
        survives(pair, before, boot_id, vm)
    now = links(pair.json("status"))
    assert now[link]["generation"] == links(before)[link]["generation"] + 1
    assert now[other]["generation"] == links(before)[other]["generation"]
    assert pair.json("check")["ok"]
    pair.guest(victim, "rmmod vpctl_fault")
    faults = [e for e in pair.journal("pair") if e["seq"] > after and e["type"] == "fault"]
    assert [(e["vm"], e["attributes"]["fault"]) for e in faults] == [(victim, "driver-wedged")]


@pytest.mark.parametrize("link", ["lan0", "shm0"])
def test_link_whose_interface_a_user_has_set_down_is_down_until_that_is_up(pair: Vpctl, link: str) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    pair.guest("vm2", f"ip link set {link} down")
    down = pair.entry("pair", "link.state", after=after, link=link, limit=30)["attributes"]
    # Whichever is heard first, on a busy host: a doorbell's peer loses its carrier by it.
    assert down["state"] == "down"
    assert down["reason"] in ("vm2 has set its interface down", "vm1 has no carrier")
    shown = pair.json("status", status=1)
    assert (shown["state"], links(shown)[link]["state"]) == ("degraded", "down")
    assert links(shown)[link]["reason"] == down["reason"]
    pair.guest("vm2", f"ip link set {link} up")
    pair.entry("pair", "link.state", after=after, link=link, state="up", limit=30)
    assert pair.json("check", "--link", link)["ok"]
    assert links(pair.json("status"))[link]["generation"] == links(before)[link]["generation"], "nothing was repaired"
    assert not [e for e in pair.journal("pair") if e["seq"] > after and e["type"] in ("fault", "recovery.step")]


def test_link_whose_packets_a_user_drops_is_left_alone(pair: Vpctl) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    pair.guest("vm2", "modprobe sch_netem; tc qdisc add dev shm0 root netem loss 100%")
    time.sleep(4 * HEARTBEAT + 4)  # silence, the next look, and echoes that do not come
    now = pair.json("status")
    pair.guest("vm2", "tc qdisc del dev shm0 root")
    assert links(now)["shm0"]["generation"] == links(before)["shm0"]["generation"]
    assert not [e for e in pair.journal("pair") if e["seq"] > after and e["type"] in ("fault", "recovery.step")]
    assert pair.json("check", "--link", "shm0")["ok"]


def is_untouched(vpctl: Vpctl, before: dict[str, Any], after: int) -> None:
    """No device was replaced, and nothing was taken for a fault."""
    until(lambda: vpctl.json("status", status=None)["state"] == "up" or None, "all is up again", limit=60)
    now = links(vpctl.json("status"))
    assert {name: link["generation"] for name, link in now.items()} == {
        name: link["generation"] for name, link in links(before).items()
    }
    assert not [e for e in vpctl.journal("pair") if e["seq"] > after and e["type"] in ("fault", "recovery.step")]
    assert vpctl.json("check")["ok"]


def uses(vpctl: Vpctl) -> set[str]:
    """Return what users have made of all ends."""
    return {end["use"] for link in vpctl.json("status", status=None)["links"] for end in link["endpoints"]}


BOND = """
set -e
modprobe bonding max_bonds=0
ip link add bond0 type bond mode active-backup miimon 100
for i in lan0 shm0; do ip link set $i down; ip link set $i master bond0; done
ip link set bond0 up; ip address add 10.99.0.{number}/24 dev bond0
"""


def test_links_that_are_ports_of_a_bond_are_left_alone_and_proven_all_the_same(pair: Vpctl) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    for number, vm in enumerate(("vm1", "vm2"), 1):
        pair.guest(vm, BOND.format(number=number))
    until(lambda: uses(pair) == {"port of bond0"} or None, "the bonds are shown")
    pair.guest("vm1", "ping -c 3 -i 0.2 -W 2 10.99.0.2")
    until(lambda: pair.json("status", status=None)["state"] == "up" or None, "its ports are up again")
    assert pair.json("recover", "vm2")["healthy"]
    for link in pair.json("check")["links"]:
        assert (link["ok"], {test["protocol"] for test in link["tests"]}) == (True, {"frame"})
        assert link["not_checked"] == "UDP and TCP: vm1: port of bond0; vm2: port of bond0"
    for vm in ("vm1", "vm2"):
        assert pair.guest(vm, "cat /sys/class/net/bond0/bonding/slaves").split() == ["lan0", "shm0"]
        pair.guest(vm, "ip link del bond0; ip link set lan0 up; ip link set shm0 up")
    until(lambda: uses(pair) == {""} or None, "they are links again")
    is_untouched(pair, before, after)


def test_guest_whose_agent_is_killed_and_that_answers_no_echoes_keeps_its_links(pair: Vpctl) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    pair.guest("vm2", "sysctl -qw net.ipv4.icmp_echo_ignore_all=1; pkill -9 -f 'vpctl-agent daemon'")
    time.sleep(2 * HEARTBEAT)  # the next agent's word of links that are up is heard
    assert pair.json("recover", "vm2")["healthy"]
    assert pair.json("up", str(pair.files / "pair.yaml"))["state"] == "up"
    pair.guest("vm2", "sysctl -qw net.ipv4.icmp_echo_ignore_all=0")
    is_untouched(pair, before, after)
    assert not [e for e in pair.journal("pair") if e["seq"] > after and e["type"] == "link.state"]


def test_interface_that_a_user_has_renamed_or_moved_is_shown_and_no_fault(pair: Vpctl) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    mac = "02:aa:00:00:00:01"
    pair.guest("vm2", f"ip link set lan0 address {mac}; ip link set shm0 address {mac}")
    pair.guest("vm2", "ip link set shm0 down; ip link set shm0 name mine; ip link set mine up")
    until(lambda: uses(pair) == {"", f"MAC {mac}", f"named mine, MAC {mac}"} or None, "that is shown")
    until(lambda: pair.json("status", status=None)["state"] == "up" or None, "it is up again")
    assert pair.json("check")["ok"], "packets for the new MAC come"
    pair.guest("vm2", "ip netns add elsewhere; ip link set mine netns elsewhere; ip -n elsewhere link set mine up")
    until(lambda: "in another network namespace" in uses(pair) or None, "that is shown, too")
    began = time.monotonic()
    [link] = pair.json("check", "--link", "shm0")["links"]
    assert (link["ok"], link["tests"], link["not_checked"]) == (True, [], "vm2: in another network namespace")
    assert time.monotonic() - began < 20
    assert pair.json("recover", "vm2")["healthy"]
    own = {
        name: end["mac"] for name, link in links(before).items() for end in link["endpoints"] if end["vm"] == "vm2"
    }
    pair.guest("vm2", f"ip -n elsewhere link set mine address {own['shm0']}; ip netns del elsewhere")
    pair.guest("vm2", f"ip link set lan0 address {own['lan0']}")
    until(lambda: uses(pair) == {""} or None, "the agent has set it up again")
    is_untouched(pair, before, after)


def test_guest_that_is_paused_or_has_no_heartbeat_is_left_alone(pair: Vpctl) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    pair.run("qmp", "vm1", "stop")
    until(lambda: vms(pair.run("status", "-f", "json", status=None).data)["vm1"]["paused"] or None, "it is paused")
    status = pair.json("status", status=1)
    assert [link["state"] for link in status["links"]] == [link["state"] for link in before["links"]]
    assert "paused" in pair.run("status", status=1).stdout
    for link in pair.json("check", status=1)["links"]:  # at once: nothing is sent
        assert (link["tests"], "`vm1` is paused" in link["reason"]) == ([], True)
    for _ in range(2):  # each time that it falls silent is told
        heard = pair.last_seq("pair")
        pair.guest("vm2", "pkill -STOP -f 'vpctl-agent daemon'")
        pair.entry("pair", "warning", after=heard, vm="vm2", warning="heartbeat", limit=60)
        time.sleep(2 * HEARTBEAT)
        assert [vm["state"] for vm in pair.json("status", status=1)["vms"]] == ["ready", "ready"]
        pair.guest("vm2", "pkill -CONT -f 'vpctl-agent daemon'")
        time.sleep(HEARTBEAT)
    warnings = [entry for entry in pair.journal("pair") if entry["type"] == "warning" and entry["seq"] > after]
    assert len(warnings) < 5, "not for every look at it"
    pair.run("qmp", "vm1", "cont")
    assert pair.json("check")["ok"]
    assert [vm["pid"] for vm in pair.json("status")["vms"]] == [vm["pid"] for vm in before["vms"]]
    assert not [entry for entry in pair.journal("pair") if entry["type"] == "fault" and entry["seq"] > after]


@pytest.mark.long
def test_guest_without_the_fault_module_is_made_to_hang_all_the_same(pair: Vpctl) -> None:
    after = pair.last_seq("pair")
    pair.guest("vm2", "rm /lib/modules/*/updates/vpctl_fault.ko && ! modprobe vpctl_fault how=hang")
    assert pair.json("crash", "vm2", "--how", "hang")["fault"] == "guest-hang"
    pair.entry("pair", "recovery.end", after=after, vm="vm2", ok=True, limit=RECOVERED_SECONDS)


@pytest.mark.long
def test_guest_whose_driver_lets_go_is_found_by_recover_and_keeps_running(pair: Vpctl) -> None:
    before, after = pair.json("status"), pair.last_seq("pair")
    boot_id = pair.guest("vm1", BOOT_ID)
    pair.guest("vm1", "ip link set lan0 down")
    report = pair.json("recover", "vm1")
    assert (report["fault"], report["ok"], [entry["link"] for entry in report["links"]]) == (
        "driver-wedged",
        True,
        ["lan0"],
    )
    assert pair.entry("pair", "fault", after=after, vm="vm1")["attributes"]["fault"] == "driver-wedged"
    survives(pair, before, boot_id, "vm1")
    assert pair.json("check")["ok"]


def test_down_in_the_middle_of_a_recovery_stops_it_first(pair: Vpctl) -> None:
    after = pair.last_seq("pair")
    kill(pair.qemu("pair", "vm1"))
    pair.entry("pair", "recovery.step", after=after, vm="vm1", name="fence")
    assert pair.json("down")["stopped"] == ["pair"]
    pair.assert_nothing_left()


@pytest.mark.long
def test_guest_that_dies_again_and_again_is_given_up_and_the_others_stay(vpctl: Vpctl) -> None:
    short = "{health: {retries: 2, backoff: 100ms}}"
    file = vpctl.spare_file(
        "three",
        f"{{vm1: {short}, vm2: {{}}, vm3: {{}}}}",
        "\n  lan0: {kind: stream, endpoints: [vm1, vm2]}\n  shm0: {kind: ivshmem-doorbell, endpoints: [vm2, vm3]}",
    )
    vpctl.run("up", str(file))
    before, after = vpctl.json("status"), vpctl.last_seq("three")
    victim = kill(vpctl.qemu("three", "vm1"))
    for _ in range(2):
        victim = kill(until(lambda old=victim: another(vpctl, old), "the reborn QEMU"))  # type: ignore[misc]
    end = vpctl.entry("three", "recovery.end", after=after, vm="vm1", limit=RECOVERED_SECONDS)["attributes"]
    assert (end["ok"], end["fault"]) == (False, "qemu-exit")
    assert "SIGKILL" in end["error"]
    status = vpctl.json("status", status=1)
    assert {vm: entry["state"] for vm, entry in vms(status).items()} == {
        "vm1": "failed",
        "vm2": "ready",
        "vm3": "ready",
    }
    assert links(status)["shm0"]["state"] == "up"
    assert vpctl.json("check", "--link", "shm0")["ok"]
    assert [vms(status)[vm]["pid"] for vm in ("vm2", "vm3")] == [vms(before)[vm]["pid"] for vm in ("vm2", "vm3")]
    assert vpctl.json("recover", "vm1")["ok"], "whoever asks is not refused"


def another(vpctl: Vpctl, than: Any) -> Any:
    found = vpctl.qemu("three", "vm1")
    return found if found is not None and found != than else None
