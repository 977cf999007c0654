"""Links where one guest works the other's rings: a hub that is vhost-pci end twice and virtio-net end once.

Every way to lose an end, or to begin anew without losing one.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vm.commandline import EXAMPLES, Entry, Vpctl, as_begun, kill, until, user

pytestmark = [pytest.mark.vm, pytest.mark.kvm]

KIND = "vhost-pci"
HUB = f"""
version: 1
name: hub
vms: {{hub: {{}}, a: {{memory: 384M}}, b: {{cpus: 2}}, c: {{}}}}
links:
  a0: {{kind: {KIND}, endpoints: [hub, a], recovery: {{policy: replug}}}}
  b0: {{kind: {KIND}, endpoints: [hub, b], queues: 2, mtu: 9000, recovery: {{policy: replug}}}}
  c0: {{kind: {KIND}, endpoints: [c, hub], recovery: {{policy: replug}}}}
"""
ENDS = {"a0": ("hub", "a"), "b0": ("hub", "b"), "c0": ("c", "hub")}
"""Link → vhost-pci end and virtio-net end."""
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
COMPLAINTS = r"dmesg | grep -E 'WARNING|BUG|Oops|Call Trace|vpctl_ivshmem.*(bad|garbage|refused)' || true"
VIRTIO = "basename $(readlink /sys/class/net/{link}/device)"


@pytest.fixture(scope="module")
def hub() -> Iterator[Vpctl]:
    """A hub and three others; each test leaves it up."""
    with user() as vpctl:
        up = vpctl.json("up", str(vpctl.file(HUB, "hub.yaml")))
        assert sorted(check["link"] for check in up["checks"] if check["ok"]) == sorted(2 * [*ENDS])
        assert up["state"] == "up"
        yield vpctl
        for vm in ("hub", "a", "b", "c"):
            assert vpctl.guest(vm, COMPLAINTS) == "", vm


def vms(vpctl: Vpctl) -> dict[str, Any]:
    """Return the VMs of the topology, which is up, by name."""
    status = vpctl.json("status")
    assert status["state"] == "up"
    return {vm["name"]: vm for vm in status["vms"]}


def links(vpctl: Vpctl) -> dict[str, Any]:
    return {link["name"]: link for link in vpctl.json("status", status=None)["links"]}


def generations(vpctl: Vpctl) -> dict[str, int]:
    return {name: link["generation"] for name, link in links(vpctl).items()}


def address(vpctl: Vpctl, link: str, vm: str) -> str:
    """Return the address of a link's end."""
    ends = {end["vm"]: end["address"] for end in links(vpctl)[link]["endpoints"]}
    return str(ends[vm]).partition("/")[0]


@contextmanager
def traffic(vpctl: Vpctl, sender: str, link: str, receiver: str) -> Iterator[None]:
    """Have a guest send without an end, and see that it arrived when the block is over."""
    sending = f"vpctl-agent stream-send {link} {address(vpctl, link, receiver)} --rate 500"
    command = vpctl.start("exec", sender, "--", sending)
    yield
    stream = json.loads(vpctl.guest(receiver, f"vpctl-agent stream-recv {link} --duration-ms 300"))
    assert stream["received"] > 50
    vpctl.guest(sender, "pkill -f '[s]tream-send'")
    command.wait(None)


def of_device(entry: Entry, device: str) -> str | None:
    """Return what a journal entry says of a device: a command, or the event that its guest has let go of it."""
    attributes = entry["attributes"]
    if entry["type"] == "qmp.command" and attributes["arguments"].get("id") == device:
        return str(attributes["command"])
    if entry["type"] == "qmp.event" and attributes["data"].get("device") == device:
        return str(attributes["event"])
    return None


def steps(vpctl: Vpctl, name: str, vm: str, *devices: str, after: int) -> list[str]:
    """Return what was done to these devices of a VM, as it began."""
    entries = as_begun(entry for entry in vpctl.journal(name) if entry["seq"] > after and entry.get("vm") == vm)
    found = (of_device(entry, device) for entry in entries for device in devices)
    return [step for step in found if step in ("device_add", "device_del", "DEVICE_DELETED")]


def test_every_size_of_every_protocol_crosses_each_link(hub: Vpctl) -> None:
    checked = hub.json("check")
    assert [(link["link"], link["ok"]) for link in checked["links"]] == [(link, True) for link in ENDS]


def test_the_back_ends_device_shows_all_of_its_peers_memory_above_4_gib(hub: Vpctl) -> None:
    sizes = {"a0": 512 << 20, "b0": 256 << 20, "c0": 256 << 20}
    for link, (back, _) in ENDS.items():
        begin, end, _ = hub.guest(back, f"sed -n 3p /sys/class/net/{link}/device/resource").split()
        assert int(begin, 16) >= 1 << 32, link
        assert int(end, 16) - int(begin, 16) + 1 == sizes[link]


def test_a_front_end_is_an_ordinary_virtio_net_with_the_queues_that_were_asked_for(hub: Vpctl) -> None:
    for link, (back, front) in ENDS.items():
        assert "virtio_net" in hub.guest(front, f"ethtool -i {link}")
        assert "virtio_net" not in hub.guest(back, f"ethtool -i {link}")
    for vm in ENDS["b0"]:
        assert len(hub.guest(vm, "ls -d /sys/class/net/b0/queues/rx-*").split()) == 2


def test_a_front_ends_driver_refuses_an_xdp_program_that_its_packets_would_be_too_large_for(
    hub: Vpctl, tmp_path: Path
) -> None:
    program = tmp_path / "attach_xdp"
    source = Path(__file__).with_name("attach_xdp.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", str(program), str(source)], check=True)
    hub.run("cp", str(program), "a:/tmp/attach_xdp")
    assert hub.guest("a", "chmod +x /tmp/attach_xdp; /tmp/attach_xdp a0", status=1) == "Operation not supported\n"
    assert hub.json("check", "--link", "a0")["ok"]


@pytest.mark.parametrize("end", [0, 1])
def test_packets_come_to_an_end_whose_mac_was_changed(hub: Vpctl, end: int) -> None:
    vm = ENDS["a0"][end]
    own = hub.guest(vm, "cat /sys/class/net/a0/address; ip link set a0 address 02:aa:00:00:00:01").strip()
    assert hub.json("check", "--link", "a0")["ok"]
    hub.guest(vm, f"ip link set a0 address {own}")
    assert hub.json("check", "--link", "a0")["ok"]


@pytest.mark.parametrize("victim", ["a", "b", "hub", "c"])
def test_a_guest_killed_under_traffic_comes_back_with_all_its_links(hub: Vpctl, victim: str) -> None:
    before, links_before = vms(hub), links(hub)
    touched = [link for link, ends in ENDS.items() if victim in ends]
    link = touched[0]
    survivor = next(vm for vm in ENDS[link] if vm != victim)
    boot_id = hub.guest(survivor, BOOT_ID)
    seq = hub.last_seq("hub")
    with traffic(hub, survivor, link, victim):
        hub.run("crash", victim, "--how", "kill")
        report = hub.json("recover", victim)
    assert (report["ok"], report["policy"], report["fault"]) == (True, "replug", "qemu-exit")
    assert report["check"]["ok"]
    assert hub.guest(survivor, BOOT_ID) == boot_id
    after = vms(hub)
    assert {vm for vm in after if after[vm]["pid"] != before[vm]["pid"]} == {victim}
    assert generations(hub) == {name: entry["generation"] + (name in touched) for name, entry in links_before.items()}
    for name in touched:
        peer = next(vm for vm in ENDS[name] if vm != victim)
        (old,) = links_before[name]["plugged"][peer]
        (new,) = links(hub)[name]["plugged"][peer]
        done = steps(hub, "hub", peer, f"{name}.g{old}", f"{name}.g{new}", after=seq)
        assert done == ["device_del", "DEVICE_DELETED", "device_add"]
    assert 0 < report["survivor_ms"] < report["boot_ms"]


@pytest.mark.parametrize("end", [0, 1])
def test_a_device_that_somebody_removes_is_replaced(hub: Vpctl, end: int) -> None:
    before, vm = vms(hub), ENDS["a0"][end]
    seq = hub.last_seq("hub")
    (generation,) = links(hub)["a0"]["plugged"][vm]
    hub.run("qmp", vm, "device_del", f"id=a0.g{generation}")
    hub.entry("hub", "fault", after=seq, vm=vm, link="a0", fault="device-lost")
    hub.entry("hub", "recovery.end", after=seq, vm=vm, fault="device-lost", ok=True)
    assert hub.json("check", "--link", "a0")["ok"]
    assert {name: entry["pid"] for name, entry in vms(hub).items()} == {n: e["pid"] for n, e in before.items()}


def test_ssh_connections_that_are_made_while_a_device_goes_do_not_get_in_its_place(hub: Vpctl) -> None:
    """QEMU has a descriptor for each, of the lowest number that is free, and still listens where the device was."""
    before = vms(hub)
    port = before["hub"]["ssh"]["port"]
    for _ in range(3):
        hub.run("crash", "b", "--how", "kill")
        for _ in range(12):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                time.sleep(0.1)  # the guest's greeting makes its descriptor readable
                connection.shutdown(socket.SHUT_RDWR)
        assert hub.json("recover", "b")["ok"]
    assert vms(hub)["hub"]["pid"] == before["hub"]["pid"]


def test_a_front_ends_driver_that_is_unbound_and_bound_again_gets_new_rings_worked(hub: Vpctl) -> None:
    before, links_before = vms(hub), links(hub)
    device = hub.guest("a", VIRTIO.format(link="a0")).strip()
    driver = "/sys/bus/virtio/drivers/virtio_net"
    seq = hub.last_seq("hub")
    hub.guest("a", f"echo {device} >{driver}/unbind")
    hub.entry("hub", "link.state", after=seq, link="a0", state="down")
    until(lambda: True if not links(hub)["a0"]["plugged"]["hub"] else None, "the hub's device is gone")
    hub.guest("a", f"echo {device} >{driver}/bind")
    hub.entry("hub", "link.state", after=seq, link="a0", state="up")
    assert hub.json("check", "--link", "a0")["ok"]
    assert {name: vm["pid"] for name, vm in vms(hub).items()} == {name: vm["pid"] for name, vm in before.items()}
    plugged = links(hub)["a0"]["plugged"]
    assert plugged["a"] == links_before["a0"]["plugged"]["a"], "nothing of the virtio-net end was replugged"
    assert plugged["hub"] == [links_before["a0"]["generation"] + 1]
    assert generations(hub) == {name: entry["generation"] + (name == "a0") for name, entry in links_before.items()}


def test_rings_that_start_again_after_another_device_has_gone_do_not_look_for_its_memory(hub: Vpctl) -> None:
    """The hub is c0's virtio-net end; its device of a0, whose BAR c0's back-end was told of, goes meanwhile."""
    before = vms(hub)
    driver = "/sys/bus/virtio/drivers/virtio_net"
    devices = {vm: hub.guest(vm, VIRTIO.format(link=link)).strip() for vm, link in (("hub", "c0"), ("a", "a0"))}
    seq = hub.last_seq("hub")
    for vm, link in (("hub", "c0"), ("a", "a0")):
        hub.guest(vm, f"echo {devices[vm]} >{driver}/unbind")
        hub.entry("hub", "link.state", after=seq, link=link, state="down")
    until(lambda: True if not links(hub)["a0"]["plugged"]["hub"] else None, "the hub's device is gone")
    for vm, link in (("hub", "c0"), ("a", "a0")):
        hub.guest(vm, f"echo {devices[vm]} >{driver}/bind")
        hub.entry("hub", "link.state", after=seq, link=link, state="up")
    assert hub.json("check")["ok"]
    assert {name: vm["pid"] for name, vm in vms(hub).items()} == {name: vm["pid"] for name, vm in before.items()}


def test_a_front_ends_guest_that_reboots_keeps_its_device_and_gets_its_rings_worked(hub: Vpctl) -> None:
    before, links_before = vms(hub), links(hub)
    seq = hub.last_seq("hub")
    hub.run("exec", "a", "--", "reboot", status=None)
    hub.entry("hub", "recovery.end", after=seq, vm="a", ok=True, limit=90)
    assert hub.json("check", "--link", "a0")["ok"]
    assert {name: vm["pid"] for name, vm in vms(hub).items()} == {name: vm["pid"] for name, vm in before.items()}
    assert links(hub)["a0"]["plugged"]["a"] == links_before["a0"]["plugged"]["a"]
    assert generations(hub) == {name: entry["generation"] + (name == "a0") for name, entry in links_before.items()}


def test_a_back_ends_guest_that_reboots_goes_on_where_it_was(hub: Vpctl) -> None:
    before, links_before = vms(hub), links(hub)
    seq = hub.last_seq("hub")
    hub.run("exec", "hub", "--", "reboot", status=None)
    hub.entry("hub", "recovery.end", after=seq, vm="hub", ok=True, limit=90)
    assert hub.json("check")["ok"]
    assert {name: vm["pid"] for name, vm in vms(hub).items()} == {name: vm["pid"] for name, vm in before.items()}
    # The hub is virtio-net end of c0: that one has new rings.
    assert generations(hub) == {name: entry["generation"] + (name == "c0") for name, entry in links_before.items()}
    for link in ("a0", "b0"):
        assert links(hub)[link]["plugged"] == links_before[link]["plugged"]


@pytest.mark.parametrize("end", [0, 1])
def test_an_interface_that_is_set_down_and_up_again_carries_packets_and_nothing_is_replugged(
    hub: Vpctl, end: int
) -> None:
    before = links(hub)
    vm = ENDS["a0"][end]
    for _ in range(3):
        hub.guest(vm, "ip link set a0 down && sleep 0.2 && ip link set a0 up")
    assert hub.json("check", "--link", "a0")["ok"]
    assert links(hub) == before


def test_a_back_ends_driver_that_is_unbound_and_bound_again_goes_on_where_it_was(hub: Vpctl) -> None:
    before = links(hub)
    driver = hub.guest("hub", "readlink -f /sys/class/net/a0/device/driver").strip()
    device = hub.guest("hub", VIRTIO.format(link="a0")).strip()
    hub.guest("hub", f"echo {device} >{driver}/unbind && sleep 0.2 && echo {device} >{driver}/bind")
    until(lambda: True if "a0" in hub.guest("hub", "ls /sys/class/net") else None, "the interface")
    assert hub.json("check", "--link", "a0")["ok"]
    assert links(hub) == before


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_a_supervisor_that_is_killed_is_no_event_for_a_link(hub: Vpctl, kills: int) -> None:
    before = links(hub)
    hub.guest("a", "iperf3 --server --daemon --one-off")
    seq = hub.last_seq("hub")
    iperf = f"iperf3 -c {address(hub, 'a0', 'a')} --bidir --time {4 + 2 * (kills - 3)} --interval 0.5 --json"
    running = hub.start("exec", "hub", "--", iperf)
    for _ in range(kills):
        kill(hub.supervisor("hub"))
        hub.entry("hub", "command", after=seq, command="take-over")
        seq = hub.last_seq("hub")
    result = json.loads(running.wait().stdout)
    assert "error" not in result
    assert min(part["sum"]["bytes"] for part in result["intervals"]) > 0, "no half second without packets"
    assert links(hub) == before
    assert hub.json("check")["ok"]


def test_a_survivor_that_dies_while_it_waits_for_the_others_boot_costs_no_third_guest_its_link(hub: Vpctl) -> None:
    """By `relink` its device was to stay; it is looked for when the hub's guest is there, and has gone by then."""
    before = vms(hub)
    (device,) = links(hub)["a0"]["plugged"]["a"]  # may be older than the link's newest generation, which is the hub's
    seq = hub.last_seq("hub")
    recovering = hub.start("recover", "-f", "json", "hub", "--force", "--policy", "relink")
    unlinked = f"a/a0.g{device}"
    hub.entry("hub", "recovery.step", after=seq, name="unlink", target=unlinked, ok=True, limit=90)
    kill(hub.qemu("hub", "a"))
    for vm in ("hub", "a"):
        hub.entry("hub", "recovery.end", after=seq, vm=vm, ok=True, limit=150)
    recovering.wait(None, limit=150)
    entries = [entry for entry in hub.journal("hub") if entry["seq"] > seq]
    assert [entry for entry in entries if entry["type"] == "warning"] == []
    failed = [entry["link"] for entry in entries if entry["attributes"].get("state") == "failed" and "link" in entry]
    assert set(failed) <= {"a0"}, "the others were not hit"
    after = {name: vm["generation"] - before[name]["generation"] for name, vm in vms(hub).items()}
    assert after == {"hub": 1, "a": 1, "b": 0, "c": 0}
    assert hub.json("check")["ok"]


def test_a_broker_that_is_killed_under_traffic_has_its_links_made_anew(hub: Vpctl) -> None:
    before, links_before = vms(hub), generations(hub)
    seq = hub.last_seq("hub")
    with traffic(hub, "hub", "a0", "a"):
        kill(hub.broker("hub"))
        ended = hub.entry("hub", "recovery.end", after=seq, fault="broker-exit", limit=90)["attributes"]
        assert "error" not in ended, ended
        assert (ended["ok"], sorted(link["link"] for link in ended["links"])) == (True, sorted(ENDS))
    assert hub.json("check")["ok"]
    assert {name: vm["pid"] for name, vm in vms(hub).items()} == {name: vm["pid"] for name, vm in before.items()}
    assert generations(hub) == {name: generation + 1 for name, generation in links_before.items()}
    left = {path.name for link in ENDS for path in hub.rundir("hub").run.glob(f"{link}.*")}
    assert left == {f"{link}.{generation}.1" for link, generation in generations(hub).items()}, (
        "the dead one's are gone"
    )


def test_a_supervisor_killed_in_the_middle_of_a_repair_is_followed_by_one_that_ends_it(hub: Vpctl) -> None:
    seq = hub.last_seq("hub")
    hub.run("crash", "a", "--how", "kill")
    hub.entry("hub", "link.off", after=seq, link="a0")
    kill(hub.supervisor("hub"))
    hub.entry("hub", "link.state", after=seq, link="a0", state="up", limit=90)
    assert hub.json("recover", "a")["ok"]
    assert hub.json("check")["ok"]


@pytest.fixture(scope="module")
def seed() -> Iterator[Vpctl]:
    with user() as vpctl:
        vpctl.json("up", str(EXAMPLES / "seed-crash.yaml"))
        yield vpctl


def test_when_the_vhost_pci_guest_crashes_the_virtio_net_guest_gets_a_new_device(seed: Vpctl) -> None:
    """The seed, 2.1: the admin kills and re-creates it, does device_del and device_add at the virtio-net guest."""
    seq = seed.last_seq("seed-crash")
    boot_id = seed.guest("vm2", BOOT_ID)
    generation = generations(seed)["lan0"]
    seed.run("crash", "vm1", "--how", "kill")
    report = seed.json("recover", "vm1")
    assert (report["ok"], report["policy"], report["check"]["ok"]) == (True, "replug", True)
    done = steps(seed, "seed-crash", "vm2", f"lan0.g{generation}", f"lan0.g{generation + 1}", after=seq)
    assert done == ["device_del", "DEVICE_DELETED", "device_add"]
    assert seed.guest("vm2", BOOT_ID) == boot_id
    assert seed.guest("vm1", "ping -c 3 -W 2 vm2").count("bytes from") == 3


def test_when_the_virtio_net_guest_crashes_the_vhost_pci_device_is_destroyed_and_made_anew(seed: Vpctl) -> None:
    """The seed, 2.2: the socket's end has the device destroyed; the guest that boots again gets a new one."""
    seq = seed.last_seq("seed-crash")
    boot_id = seed.guest("vm1", BOOT_ID)
    generation = generations(seed)["lan0"]
    seed.run("crash", "vm2", "--how", "kill")
    report = seed.json("recover", "vm2")
    assert (report["ok"], report["policy"], report["check"]["ok"]) == (True, "replug", True)
    done = steps(seed, "seed-crash", "vm1", f"lan0.g{generation}", f"lan0.g{generation + 1}", after=seq)
    assert done == ["device_del", "DEVICE_DELETED", "device_add"]
    journal = [entry for entry in seed.journal("seed-crash") if entry["seq"] > seq]
    destroyed = next(e["seq"] for e in journal if of_device(e, f"lan0.g{generation}") == "DEVICE_DELETED")
    booted = next(e["seq"] for e in journal if e.get("vm") == "vm2" and e["attributes"].get("state") == "ready")
    made = next(e["seq"] for e in journal if e.get("vm") == "vm1" and of_device(e, f"lan0.g{generation + 1}"))
    assert destroyed < booted < made
    assert seed.guest("vm1", BOOT_ID) == boot_id
    assert seed.guest("vm1", "ping -c 3 -W 2 vm2").count("bytes from") == 3


def test_the_example_comes_up_and_nothing_is_left_of_it(vpctl: Vpctl) -> None:
    up = vpctl.json("up", str(EXAMPLES / f"{KIND}.yaml"))
    assert all(check["ok"] for check in up["checks"])
    assert re.search(r"memfd:vpctl:ram/vm2\.g1", maps(vpctl, "vm2"))
    assert re.search(r"memfd:vpctl:ram/vm2\.g1", maps(vpctl, "vm1")), "vm1 has vm2's memory"
    vpctl.run("down")
    vpctl.assert_nothing_left()


def test_by_relink_a_front_end_has_its_carrier_off_meanwhile_and_keeps_its_device(vpctl: Vpctl) -> None:
    vpctl.json("up", str(EXAMPLES / f"{KIND}.yaml"))
    boot_id, seq = vpctl.guest("vm2", BOOT_ID), vpctl.last_seq(KIND)
    vpctl.run("crash", "vm1", "--how", "kill")
    vpctl.entry(KIND, "recovery.step", after=seq, name="unlink")
    assert vpctl.guest("vm2", "cat /sys/class/net/lan0/carrier") == "0\n"
    report = vpctl.json("recover", "vm1")
    assert (report["ok"], report["policy"]) == (True, "relink")
    assert [step["name"] for step in report["steps"]] == ["fence", "boot", "unlink", "link", "plug", "verify"]
    assert links(vpctl)["lan0"]["plugged"] == {"vm1": [2], "vm2": [1]}
    assert steps(vpctl, KIND, "vm2", "lan0.g1", "lan0.g2", after=seq) == []
    assert vpctl.guest("vm2", f"{BOOT_ID}; cat /sys/class/net/lan0/carrier") == f"{boot_id}1\n"
    report = vpctl.json("recover", "vm1", "--force", "--policy", "replug")
    assert (report["ok"], report["policy"]) == (True, "replug")
    assert links(vpctl)["lan0"]["plugged"] == {"vm1": [3], "vm2": [3]}


@pytest.mark.long
def test_a_pc_that_reboots_gets_a_new_device_whose_memory_is_above_4_gib(vpctl: Vpctl) -> None:
    lan0 = f"{{lan0: {{kind: {KIND}, endpoints: [vm1, vm2]}}}}"
    vpctl.json("up", str(vpctl.spare_file("pair", "{vm1: {machine: pc}, vm2: {machine: pc}}", lan0)))
    seq = vpctl.last_seq("pair")
    vpctl.run("exec", "vm1", "--", "reboot", status=None)
    vpctl.entry("pair", "recovery.end", after=seq, vm="vm1", ok=True, limit=90)
    assert links(vpctl)["lan0"]["plugged"] == {"vm1": [2], "vm2": [1]}
    begin = vpctl.guest("vm1", "sed -n 3p /sys/class/net/lan0/device/resource").split()[0]
    assert int(begin, 16) >= 1 << 32


def maps(vpctl: Vpctl, vm: str) -> str:
    process = vpctl.qemu(KIND, vm)
    assert process is not None
    return Path(f"/proc/{process.pid}/maps").read_text()


def test_an_up_that_was_killed_leaves_nothing_behind_after_down(vpctl: Vpctl) -> None:
    up = vpctl.start("up", str(EXAMPLES / f"{KIND}.yaml"))
    until(lambda: vpctl.qemu(KIND, "vm1"), "a QEMU")
    up.process.kill()
    up.wait(-signal.SIGKILL)
    kill(vpctl.supervisor(KIND))
    kill(vpctl.broker(KIND))
    assert vpctl.json("down", KIND)["stopped"] == [KIND]
    vpctl.assert_nothing_left()
