"""Long series: vpctl killed in recoveries, again and again, and half an hour in which nothing is wrong."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.vm.commandline import Vpctl, kill, until
from tests.vm.traffic import BOOT_ID, Stream, links, other_end, vms

pytestmark = [pytest.mark.vm, pytest.mark.long]

LINKS = """
  lan0: {kind: vhost-pci, endpoints: [vm1, vm2]}
  shm0: {kind: ivshmem-doorbell, endpoints: [vm1, vm2]}
"""
VMS = "{vm1: {health: {retries: 100}}, vm2: {health: {retries: 100}}}"
"""Here a VM dies as soon as it is back, which is no sign that it will not live."""

RING = """
  ab0: {kind: vhost-pci, endpoints: [a, b]}
  bc0: {kind: ivshmem-doorbell, endpoints: [b, c]}
  cd0: {kind: stream, endpoints: [c, d]}
  da0: {kind: vhost-pci, endpoints: [d, a]}
"""
LONGEST_DELAY = 5.0
"""Seconds between a guest's death and that of the process that brings it back: longer than most recoveries here."""

RECOVERED_SECONDS = 110.0
"""For a recovery, on a host that does much else."""

QUIET_SECONDS = 60.0 * float(os.environ.get("VPCTL_TEST_QUIET_MINUTES", "30"))


def is_up(vpctl: Vpctl) -> bool | None:
    status: Any = vpctl.recorded("pair")
    whole = status is not None and status["state"] == "up" and all(vm["incident"] is None for vm in status["vms"])
    return whole or None


@pytest.mark.parametrize(("process", "times"), [("supervisor", 50), ("broker", 20)])
def test_a_recovery_whose_worker_is_killed_ends_with_everything_up(vpctl: Vpctl, process: str, times: int) -> None:
    chance = random.Random(process)
    vpctl.run("up", str(vpctl.spare_file("pair", VMS, LINKS)))
    for number in range(times):
        victim, delay = chance.choice(("vm1", "vm2")), chance.uniform(0.0, LONGEST_DELAY)
        print(f"{process} {number + 1}: {victim}, {delay:.2f} s", flush=True)
        killed_in_recovery(vpctl, process, victim, delay)


def killed_in_recovery(vpctl: Vpctl, process: str, victim: str, delay: float) -> None:
    before, after = vpctl.json("status"), vpctl.last_seq("pair")
    survivor = next(vm for vm in vms(before) if vm != victim)
    boot_id = vpctl.guest(survivor, BOOT_ID)
    streams = [Stream(vpctl, survivor, link, other_end(before, link, survivor)["address"]) for link in links(before)]
    for stream in streams:
        stream.comes(victim)
    kill(vpctl.qemu("pair", victim))
    time.sleep(delay)
    kill(vpctl.supervisor("pair") if process == "supervisor" else vpctl.broker("pair"))
    end = vpctl.entry("pair", "recovery.end", after=after, limit=RECOVERED_SECONDS, vm=victim)["attributes"]
    assert (end["ok"], end["fault"]) == (True, "qemu-exit"), end
    until(lambda: is_up(vpctl), "everything up", limit=RECOVERED_SECONDS)
    for stream in streams:
        stream.comes(victim)
    streams[0].stop()  # which ends all of that guest
    streams[1].sender.wait(None)
    until(lambda: vpctl.supervisor("pair") and vpctl.broker("pair"), "both of vpctl's processes")
    assert vpctl.json("check")["ok"]
    now = vpctl.json("status")
    assert vms(now)[survivor]["pid"] == vms(before)[survivor]["pid"]
    assert vms(now)[survivor]["generation"] == vms(before)[survivor]["generation"]
    assert vpctl.guest(survivor, BOOT_ID) == boot_id
    assert {p.pid for p in vpctl.qemus()} == {vm["pid"] for vm in now["vms"]}, "no orphan"


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Have this many programs of the host do nothing, as fast as they can."""
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_guests_and_a_host_that_are_busy_are_no_fault(vpctl: Vpctl) -> None:
    file = vpctl.spare_file("ring", "{a: {}, b: {}, c: {}, d: {}}", RING)
    before = living(vpctl, vpctl.json("up", str(file)))
    after = vpctl.last_seq("ring")
    for link in vpctl.json("status")["links"]:
        send_both_ways(vpctl, link)
    with busy_loops(4):
        deadline = time.monotonic() + QUIET_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(60.0, left))
            old = received(vpctl)
            time.sleep(2.0)
            assert all(new > old[end] for end, new in received(vpctl).items()), "iperf3 has ended"
    entries = [entry for entry in vpctl.journal("ring") if entry["seq"] > after]
    assert [e for e in entries if e["type"] in ("fault", "recovery.step", "link.state", "vm.state")] == []
    assert living(vpctl, vpctl.json("status")) == before


def living(vpctl: Vpctl, status: Any) -> list[tuple[Any, ...]]:
    """Return what is another after a VM has died, or its guest."""
    return [(vm["name"], vm["pid"], vm["generation"], vpctl.guest(vm["name"], BOOT_ID)) for vm in status["vms"]]


def send_both_ways(vpctl: Vpctl, link: Any) -> None:
    """Begin a transfer each way that does not end."""
    source, target = link["endpoints"]
    address = target["address"].partition("/")[0]
    vpctl.guest(target["vm"], f"iperf3 --server --daemon --bind {address}")
    connect = f"iperf3 -c {address} --bidir --time 0 >/tmp/{link['name']}.log 2>&1 </dev/null"
    vpctl.guest(source["vm"], f"(until {connect}; do sleep 0.2; done) >/dev/null 2>&1 &")
    until(lambda: received(vpctl)[link["name"], source["vm"]] > 1_000_000 or None, "traffic")


def received(vpctl: Vpctl) -> dict[tuple[str, str], int]:
    """Return what each end of each link has received, in bytes."""
    return {
        (link["name"], end["vm"]): int(
            vpctl.guest(end["vm"], f"cat /sys/class/net/{link['name']}/statistics/rx_bytes")
        )
        for link in vpctl.json("status")["links"]
        for end in link["endpoints"]
    }
