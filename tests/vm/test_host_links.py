"""Links that carry packets by the host: datagram sockets, and a bridge with taps; a q35 and a pc with one of each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import IN_CI
from tests.vm.commandline import EXAMPLES, Vpctl, kill, until, user
from vpctl.errors import HostError
from vpctl.host.bridge import interfaces, require
from vpctl.links.kind import HostNetwork
from vpctl.plan.link import host_networks
from vpctl.plan.run import run_from_json
from vpctl.rundir import RunDir, read_json

pytestmark = [pytest.mark.vm, pytest.mark.kvm]

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
ANY = HostNetwork(bridge="", taps=("", ""), mtu=1500, label="", devices=("/dev/net/tun",))


def lacks() -> str | None:
    """Return why this user can have no bridge; None where that is no excuse."""
    try:
        require([ANY])
    except HostError as error:
        return None if IN_CI and os.getuid() == 0 else error.message
    return None


needs_bridges = pytest.mark.skipif(lacks() is not None, reason=f"kind tap: {lacks()}")
KINDS = ["dgram"] if lacks() is not None else ["dgram", "tap"]


@pytest.fixture(scope="module")
def pair() -> Iterator[Vpctl]:
    """vm1, a q35, and vm2, a pc; each link is called as its kind. Each test leaves it up."""
    with user() as vpctl:
        links = ", ".join(f"{kind}: {{kind: {kind}, endpoints: [vm1, vm2]}}" for kind in KINDS)
        up = vpctl.json("up", str(vpctl.spare_file("pair", "{vm1: {}, vm2: {machine: pc}}", f"{{{links}}}")))
        assert [check["link"] for check in up["checks"] if check["ok"]] == [kind for kind in KINDS for _ in range(2)]
        yield vpctl


def ours(rundir: RunDir) -> list[str]:
    """Return the names of a topology's interfaces on the host."""
    return sorted(name for name in interfaces() if name.startswith(rundir.interface_prefix))


def bridge_of(vpctl: Vpctl, name: str) -> HostNetwork:
    rundir = vpctl.rundir(name)
    spec: Any = read_json(rundir.spec)
    (network,) = host_networks(run_from_json(spec).topology, rundir)
    return network


def test_every_size_of_every_protocol_crosses_each_link(pair: Vpctl) -> None:
    checked = pair.json("check")
    assert [(link["link"], link["ok"]) for link in checked["links"]] == [(kind, True) for kind in KINDS]


@pytest.mark.parametrize(("victim", "survivor"), [("vm1", "vm2"), ("vm2", "vm1")])
def test_a_guest_killed_under_traffic_comes_back_with_every_link(pair: Vpctl, victim: str, survivor: str) -> None:
    before = pair.json("status")
    boot_id = pair.guest(survivor, BOOT_ID)
    sending = [
        f"vpctl-agent stream-send {link} {address.split('/')[0]} --rate 100"
        for link, address in peers(before, survivor).items()
    ]
    traffic = pair.start("exec", survivor, "--", f"{' & '.join(sending)} & wait")
    pair.run("crash", victim, "--how", "kill")
    report = pair.json("recover", victim)
    assert (report["ok"], report["policy"], report["fault"]) == (True, "replug", "qemu-exit")
    assert report["check"]["ok"]
    after = pair.json("status")
    pids = [{vm["name"]: vm["pid"] for vm in status["vms"]} for status in (before, after)]
    assert pids[0][survivor] == pids[1][survivor]
    listening = "; ".join(f"vpctl-agent stream-recv {link} --duration-ms 300" for link in KINDS)
    for line in pair.guest(victim, listening).splitlines():
        assert json.loads(line)["received"] > 10
    # In brackets, or the shell that says it would end itself.
    assert pair.guest(survivor, f"pkill -f '[s]tream-send'; {BOOT_ID}") == boot_id
    traffic.wait(None)  # its shell ends with it
    generation = next(link["generation"] for link in after["links"] if link["name"] == "dgram")
    assert sorted(path.name for path in pair.rundir("pair").run.glob("dgram.*")) == [
        f"dgram.{generation}.{end}" for end in (0, 1)
    ], "no socket of an earlier generation is left"


def peers(status: dict[str, Any], vm: str) -> dict[str, str]:
    """Return the address of each link's other end."""
    return {link["name"]: end["address"] for link in status["links"] for end in link["endpoints"] if end["vm"] != vm}


@needs_bridges
def test_the_host_says_nothing_on_the_bridge_and_has_no_address_there(pair: Vpctl) -> None:
    network = bridge_of(pair, "pair")
    host = json.loads(subprocess.run(["ip", "-j", "address"], capture_output=True, check=True).stdout)
    addresses = {link["ifname"]: link["addr_info"] for link in host if link}
    assert [addresses[name] for name in (network.bridge, *network.taps)] == [[], [], []]
    infos = [entry for entries in addresses.values() for entry in entries]
    hosts = [entry["local"] for entry in infos if (entry["family"], entry["scope"]) == ("inet", "global")]
    pair.guest("vm1", f"arping -c 1 -w 1 -I tap {(hosts or ['127.0.0.1'])[0]} >/dev/null; true")
    assert Path(f"/sys/class/net/{network.bridge}/statistics/tx_packets").read_text() == "0\n"


@needs_bridges
def test_up_puts_back_a_bridge_that_somebody_removed(pair: Vpctl) -> None:
    before = pair.json("status")
    subprocess.run(["ip", "link", "delete", "dev", bridge_of(pair, "pair").bridge], check=True)
    after = pair.json("up", str(pair.files / "pair.yaml"))
    assert all(check["ok"] for check in after["checks"])
    assert (after["vms"], after["links"]) == (before["vms"], before["links"]), "nothing was plugged anew"


@needs_bridges
@pytest.mark.long
def test_recover_puts_back_a_tap_that_somebody_removed(pair: Vpctl) -> None:
    before = pair.json("status")
    subprocess.run(["ip", "link", "delete", "dev", bridge_of(pair, "pair").taps[0]], check=True)
    assert pair.json("recover", "vm1")["ok"]
    after = pair.json("status")
    assert [vm["pid"] for vm in after["vms"]] == [vm["pid"] for vm in before["vms"]]
    assert (after["state"], len(ours(pair.rundir("pair")))) == ("up", 3)


def test_down_leaves_no_bridge_although_broker_and_supervisor_were_killed_and_the_file_is_gone(pair: Vpctl) -> None:
    rundir = pair.rundir("pair")
    assert len(ours(rundir)) == (3 if "tap" in KINDS else 0)
    (pair.files / "pair.yaml").unlink()
    kill_both(pair, "pair")
    assert pair.json("down")["stopped"] == ["pair"]
    assert ours(rundir) == []
    pair.assert_nothing_left()


def kill_both(vpctl: Vpctl, name: str) -> None:
    """Kill supervisor and broker, so that none of them can start the other."""
    both = [vpctl.supervisor(name), vpctl.broker(name)]
    for process in both:
        assert process is not None
        process.signal(signal.SIGSTOP)
    for process in both:
        kill(process)


@needs_bridges
def test_an_up_that_was_killed_leaves_nothing_behind_after_down(vpctl: Vpctl) -> None:
    rundir = vpctl.rundir("tap")
    up = vpctl.start("up", str(EXAMPLES / "tap.yaml"))
    until(lambda: ours(rundir) or None, "a bridge or a tap")
    supervisor = vpctl.supervisor("tap")
    up.process.kill()
    up.wait(-signal.SIGKILL)
    kill(supervisor)
    assert vpctl.json("down", "tap")["stopped"] == ["tap"]
    assert ours(rundir) == []
    vpctl.assert_nothing_left()


@needs_bridges
def test_an_interrupted_up_leaves_no_bridge(vpctl: Vpctl) -> None:
    rundir = vpctl.rundir("tap")
    up = vpctl.start("up", "-f", "json", str(EXAMPLES / "tap.yaml"))
    until(lambda: True if len(ours(rundir)) == 3 else None, "the bridge and its taps")
    up.process.send_signal(signal.SIGINT)
    assert up.wait(130).data["error"]["code"] == "interrupted"
    assert ours(rundir) == []
    vpctl.assert_nothing_left(logs=True)


@needs_bridges
def test_a_failed_up_leaves_no_bridge(vpctl: Vpctl) -> None:
    rundir = vpctl.rundir("tap")
    lan0 = "{lan0: {kind: tap, endpoints: [vm1, vm2]}}"
    broken = vpctl.spare_file("tap", "{vm1: {}, vm2: {kernel_args: root=/dev/none panic=-1}}", lan0)
    up = vpctl.start("up", "-f", "json", "--boot-timeout", "2", str(broken))
    until(lambda: True if len(ours(rundir)) == 3 else None, "the bridge and its taps")
    assert up.wait(4).data["error"]["code"] == "timeout"
    assert ours(rundir) == []
