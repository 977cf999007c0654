"""vhost-pci links whose virtio-net end is not touched: its rings are gone on with, and TCP lives on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vm.commandline import Vpctl, until, user
from tests.vm.traffic import BOOT_ID, Stream, links, other_end, vms
from vpctl.broker.client import connect
from vpctl.broker.control_page import PEER_RING, peer_ring_offset, slot_offset

pytestmark = [pytest.mark.vm, pytest.mark.kvm]

LAN0 = "{lan0: {kind: vhost-pci, endpoints: [vm1, vm2], recovery: {policy: resume}}}"
DEVICE = "cd /sys/class/net/lan0; basename $(readlink device); cat ifindex carrier_changes; ethtool -i lan0"
"""All that changes when a virtio-net end's device is another one, or was without its carrier."""
RECOVERED_SECONDS = 110.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Vpctl]:
    """vm1, the vhost-pci end, and vm2, the virtio-net end; each test leaves them up."""
    with user() as vpctl:
        vpctl.run("up", str(vpctl.spare_file("pair", "{vm1: {health: {backoff: 8s}}, vm2: {}}", LAN0)))
        yield vpctl


def front(vpctl: Vpctl) -> Any:
    """Return what the broker knows of the virtio-net end."""

    async def ask() -> Any:
        async with connect(vpctl.rundir("pair")) as broker:
            (found,) = await broker.query_backends()
            return found

    return asyncio.run(ask())


def entries(vpctl: Vpctl, after: int, type_: str, vm: str) -> list[dict[str, Any]]:
    found = (entry for entry in vpctl.journal("pair") if entry["seq"] > after and entry.get("vm") == vm)
    return [entry["attributes"] for entry in found if entry["type"] == type_]


def unexpected(vpctl: Vpctl, vm: str) -> int:
    """Return how many datagrams have come to a guest that nobody there waited for."""
    names, values = (line.split() for line in vpctl.guest(vm, "grep ^Udp: /proc/net/snmp").splitlines())
    return int(values[names.index("NoPorts")])


def test_a_back_end_that_is_killed_under_traffic_goes_on_and_the_front_end_notices_nothing(pair: Vpctl) -> None:
    status, before, after = pair.json("status"), front(pair), pair.last_seq("pair")
    boot_id, device = pair.guest("vm2", BOOT_ID), pair.guest("vm2", DEVICE)
    address = other_end(status, "lan0", "vm2")["address"].partition("/")[0]
    stream = Stream(pair, "vm2", "lan0", address)
    flowing = stream.flows("vm1")
    pair.run("crash", "vm1", "--how", "kill")
    waiting = json.loads(pair.guest("vm2", f"vpctl-agent stream-send lan0 {address} --rate 200 --duration-ms 1000"))
    fenced = pair.entry("pair", "recovery.step", after=after, vm="vm1", name="hold")["attributes"]
    assert (fenced["target"], fenced["ok"]) == ("vm2/lan0.g1", True)
    end = pair.entry("pair", "recovery.end", after=after, vm="vm1", limit=RECOVERED_SECONDS)["attributes"]
    assert (end["ok"], end["fault"], end["policy"], end["links"][0]["policy"]) == (
        True,
        "qemu-exit",
        "resume",
        "resume",
    )
    print({key: end[key] for key in ("survivor_ms", "boot_ms", "total_ms")}, end["links"])
    assert [step["name"] for step in end["steps"]] == ["fence", "boot", "hold", "resume", "verify"]
    assert waiting["sent"] > 100
    assert unexpected(pair, "vm1") >= waiting["sent"], "what waited in the ring was delivered"
    assert entries(pair, after, "qmp.command", "vm2") == []
    now = front(pair)
    assert (now["name"], now["session"], now["messages"]) == (before["name"], before["session"], before["messages"])
    assert pair.guest("vm2", BOOT_ID) == boot_id
    assert pair.guest("vm2", DEVICE) == device
    assert vms(pair.json("status"))["vm2"]["pid"] == vms(status)["vm2"]["pid"]
    assert links(pair.json("status"))["lan0"]["plugged"] == {"vm1": [2], "vm2": [1]}
    again = stream.received("vm1")
    assert (again["corrupt"], again["received"] > 20) == (0, True)
    assert again["first_seq"] > flowing["last_seq"], "the virtio-net end's sender is still the same"
    stream.stop()
    assert pair.json("check")["ok"]


def test_a_front_end_that_dies_is_made_anew_whatever_the_policy(pair: Vpctl) -> None:
    before = links(pair.json("status"))["lan0"]["generation"]
    boot_id = pair.guest("vm1", BOOT_ID)
    pair.run("crash", "vm2", "--how", "kill")
    report = pair.json("recover", "vm2")
    assert (report["ok"], report["policy"], report["links"][0]["policy"]) == (True, "resume", "relink")
    assert [step["name"] for step in report["steps"]] == ["fence", "boot", "unplug", "plug", "plug", "verify"]
    plugged = links(pair.json("status"))["lan0"]["plugged"]
    assert plugged == {"vm1": [before + 1], "vm2": [before + 1]}
    assert pair.guest("vm1", BOOT_ID) == boot_id


def test_a_dry_run_lists_what_resume_would_do_and_recover_does_it(pair: Vpctl) -> None:
    generation = links(pair.json("status"))["lan0"]["generation"]
    (device,) = links(pair.json("status"))["lan0"]["plugged"]["vm2"]
    planned = pair.json("recover", "vm1", "--force", "--policy", "resume", "--dry-run")["steps"]
    assert [(step["name"], step["target"].partition(" ")[0]) for step in planned] == [
        ("fence", "vm1"),
        ("hold", f"vm2/lan0.g{device}"),
        ("boot", "vm1"),
        ("resume", f"vm1/lan0.g{generation + 1}"),
        ("verify", "lan0"),
    ]
    report = pair.json("recover", "vm1", "--force", "--policy", "resume")
    assert (report["ok"], report["links"][0]["policy"]) == (True, "resume")
    done = {(step["name"], step["target"]) for step in report["steps"]}
    assert done == {(step["name"], step["target"].partition(" ")[0]) for step in planned}


@contextmanager
def memory(vpctl: Vpctl, name: str) -> Iterator[int]:
    """Yield a descriptor of one of the broker's memories, to read and to write."""
    broker = vpctl.broker("pair")
    assert broker is not None
    for entry in Path(f"/proc/{broker.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if f"memfd:vpctl:{name} " in str(entry.readlink()):
                fd = os.open(entry, os.O_RDWR)
                break
    else:
        raise KeyError(name)
    try:
        yield fd
    finally:
        os.close(fd)


def test_rings_that_cannot_be_gone_on_with_are_begun_anew_by_the_next_attempt(pair: Vpctl) -> None:
    """vm2's receive ring is put out of order from outside while nobody uses it, and in order before the next try."""
    after, life = pair.last_seq("pair"), vms(pair.json("status"))["vm2"]["generation"]
    with memory(pair, "control/vm1") as page:
        ring = PEER_RING.unpack(os.pread(page, PEER_RING.size, slot_offset(0) + peer_ring_offset(0)))
    at = ring["avail"]
    assert isinstance(at, int)
    with memory(pair, f"ram/vm2.g{life}") as ram:
        pair.run("crash", "vm1", "--how", "kill")
        pair.entry("pair", "recovery.step", after=after, name="hold", ok=True)  # until then it is read as it was
        (right,) = struct.unpack("<H", os.pread(ram, 2, at + 2))
        os.pwrite(ram, struct.pack("<H", (right + 0x4000) & 0xFFFF), at + 2)
        failed = pair.entry("pair", "recovery.step", after=after, vm="vm1", attempt=1, limit=RECOVERED_SECONDS)
        assert "cannot be gone on with: ring 0" in failed["attributes"]["error"]
        os.pwrite(ram, struct.pack("<H", right), at + 2)
    fallen = pair.entry("pair", "recovery.step", after=after, link="lan0", name="fall-back")["attributes"]
    assert (fallen["from"], fallen["to"]) == ("resume", "relink")
    end = pair.entry("pair", "recovery.end", after=after, vm="vm1", limit=RECOVERED_SECONDS)["attributes"]
    assert (end["ok"], end["policy"], end["links"][0]["policy"]) == (True, "resume", "relink")
    assert [(step["name"], step["ok"]) for step in end["steps"] if step["name"] not in ("fence", "boot")] == [
        ("hold", True),
        ("resume", False),
        ("unlink", True),
        ("link", True),
        ("plug", True),
        ("verify", True),
    ]
    report = pair.json("recover", "vm1", "--force")
    assert report["links"][0]["policy"] == "resume", "a link that was up since is gone on with again"


def connections(vpctl: Vpctl, server: str) -> list[str]:
    """Return vm2's TCP connections to an address."""
    return vpctl.guest("vm2", f"ss -Htn state established dst {server}").splitlines()


@pytest.mark.parametrize("rebound", ["vm1", "vm2"])
def test_a_tcp_connection_lives_on_when_an_ends_driver_is_unbound_and_bound_again(pair: Vpctl, rebound: str) -> None:
    after = pair.last_seq("pair")
    server = other_end(pair.json("status"), "lan0", "vm2")["address"].partition("/")[0]
    device = pair.guest(rebound, "basename $(readlink /sys/class/net/lan0/device)").strip()
    driver = pair.guest(rebound, "readlink -f /sys/class/net/lan0/device/driver").strip()
    pair.guest("vm1", "iperf3 --server --daemon --one-off")
    running = pair.start("exec", "vm2", "--", f"iperf3 -c {server} --bidir --time 12 --interval 0.5 --json")
    until(lambda: len(connections(pair, server)) == 3 or None, "iperf3's connections: to agree, and each direction's")
    pair.guest(rebound, f"echo {device} >{driver}/unbind && sleep 0.3 && echo {device} >{driver}/bind")
    if rebound == "vm2":
        pair.entry("pair", "link.state", after=after, link="lan0", state="up")
    result = json.loads(running.wait().stdout)
    assert "error" not in result
    last = [stream["bytes"] for stream in result["intervals"][-2]["streams"]]
    assert min(last) > 0, "both directions carry data at the end again"
    assert pair.json("check")["ok"]
