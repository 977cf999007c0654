"""The connection between a virtio-net end's QEMU and its back-end, the broker, ends while everybody lives."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.commandline import Vpctl, user
from tests.vm.traffic import BOOT_ID, Stream, links, other_end, vms
from vpctl.broker.client import connect

pytestmark = [pytest.mark.vm, pytest.mark.kvm]

LINKS = """
  lan0: {kind: vhost-pci, endpoints: [vm1, vm2]}
  lan1: {kind: vhost-pci, endpoints: [vm2, vm1], recovery: {mode: manual}}
"""
RECOVERED_SECONDS = 110.0
PIDFD_GETFD = 438
"""The number of the system call, the same on every architecture; Python has no name for it."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Vpctl]:
    """Each of two guests is a vhost-pci end and a virtio-net end; each test leaves both links up."""
    with user() as vpctl:
        vpctl.run("up", str(vpctl.spare_file("pair", "{vm1: {}, vm2: {}}", LINKS)))
        yield vpctl


def front(vpctl: Vpctl, link: str) -> Any:
    """Return what the broker knows of a link's virtio-net end."""

    async def ask() -> Any:
        async with connect(vpctl.rundir("pair")) as broker:
            return next(each for each in await broker.query_backends() if each["name"].startswith(f"{link}."))

    return asyncio.run(ask())


def connected(path: str) -> set[str]:
    """Return how /proc names the sockets that were accepted at a path."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return {f"socket:[{row[6]}]" for row in rows if row[5:6] == ["03"] and row[-1] == path}


def cut(vpctl: Vpctl, link: str) -> None:
    """Shut a virtio-net end's connection down, as whoever may debug the broker can: neither end is asked."""
    broker, wanted = vpctl.broker("pair"), connected(front(vpctl, link)["path"])
    assert broker is not None
    pidfd = broker.open_pidfd()
    assert pidfd is not None
    try:
        for entry in Path(f"/proc/{broker.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()) not in wanted:
                    continue
                copy = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, int(entry.name), 0)
                if copy < 0:
                    pytest.skip(f"this user may not debug its processes: {os.strerror(ctypes.get_errno())}")
                with socket.socket(fileno=copy) as connection:
                    connection.shutdown(socket.SHUT_RDWR)
                return
    finally:
        os.close(pidfd)
    raise AssertionError(f"no connection of `{link}` among the broker's descriptors")


def identities(vpctl: Vpctl) -> dict[str, tuple[Any, str]]:
    pids = {vm: entry["pid"] for vm, entry in vms(vpctl.json("status", status=None)).items()}
    return {vm: (pid, vpctl.guest(vm, BOOT_ID)) for vm, pid in pids.items()}


def test_a_front_end_that_loses_its_back_end_under_traffic_gets_it_back_by_itself(pair: Vpctl) -> None:
    status, after, before = pair.json("status"), pair.last_seq("pair"), identities(pair)
    stream = Stream(pair, "vm2", "lan0", other_end(status, "lan0", "vm2")["address"])
    flowing = stream.flows("vm1")
    cut(pair, "lan0")
    fault = pair.entry("pair", "fault", after=after, vm="vm2", link="lan0")["attributes"]
    assert fault["fault"] == "backend-lost"
    assert f"`{front(pair, 'lan0')['name'].rpartition('.')[0]}" in fault["reason"]
    end = pair.entry("pair", "recovery.end", after=after, vm="vm2", limit=RECOVERED_SECONDS)["attributes"]
    print({key: end[key] for key in ("detect_ms", "survivor_ms", "total_ms")}, end["links"], end["steps"])
    assert (end["fault"], end["ok"], [link["link"] for link in end["links"]]) == ("backend-lost", True, ["lan0"])
    assert end["links"][0]["policy"] == "replug", "its device has a back-end for the first time only"
    assert "boot" not in [step["name"] for step in end["steps"]]
    assert identities(pair) == before
    again = stream.received("vm1")
    assert (again["corrupt"], again["received"] > 20) == (0, True)
    assert again["first_seq"] > flowing["last_seq"], "the sender is still the same"
    stream.stop()
    now = pair.json("status")
    assert links(now)["lan1"]["generation"] == links(status)["lan1"]["generation"]
    assert pair.json("check")["ok"]
    faults = [entry for entry in pair.journal("pair") if entry["type"] == "fault" and entry["seq"] > after]
    assert len(faults) == 1, faults


def test_where_links_are_repaired_by_hand_a_lost_back_end_is_named_and_waits(pair: Vpctl) -> None:
    after, before = pair.last_seq("pair"), identities(pair)
    cut(pair, "lan1")
    fault = pair.entry("pair", "fault", after=after, vm="vm1", link="lan1")["attributes"]
    assert fault["fault"] == "backend-lost"
    status = pair.json("status", status=1)
    assert {name: link["state"] for name, link in links(status).items()} == {"lan0": "up", "lan1": "down"}
    report = pair.json("recover", "vm1")
    assert (report["fault"], report["ok"], [link["link"] for link in report["links"]]) == (
        "backend-lost",
        True,
        ["lan1"],
    )
    assert identities(pair) == before
    assert pair.json("check")["ok"]
