"""Bridges and taps: what `ip` is told, real ones that come and go, and hosts where none can be made."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.made import made_topology
from tests.support import IN_CI
from tests.unit.host.networks import NETWORK, unfit
from vpctl.errors import HostError
from vpctl.host.bridge import check_device, check_privilege, create, creation, interfaces, remove
from vpctl.links.kind import HostNetwork
from vpctl.plan.link import host_networks
from vpctl.process import ProcessId, identify
from vpctl.rundir import Directories, RunDir

ROOT = Path(__file__).parents[3]


needs_network = pytest.mark.skipif(
    (why := unfit()) is not None and not (IN_CI and os.getuid() == 0), reason=f"real bridges: {why}"
)


# Section: what `ip` is told


def test_what_is_there_is_only_put_right() -> None:
    fresh = creation(NETWORK, present=["lo"], uid=1000)
    again = creation(NETWORK, present=["t0", "b", "t1", "lo"], uid=1000)
    assert fresh[:3] == [
        "link add name b type bridge",
        "tuntap add dev t0 mode tap user 1000",
        "tuntap add dev t1 mode tap user 1000",
    ]
    assert fresh[3:] == again
    assert creation(NETWORK, present=["b", "t0"], uid=1000) == [fresh[2], *again]


def test_nothing_is_up_before_it_is_silent() -> None:
    lines = creation(NETWORK, present=(), uid=0)
    for name in ("b", "t0", "t1"):
        of_it = [line for line in lines if f"dev {name} " in line]
        assert of_it[-1] == f"link set dev {name} up"
        assert "mtu 9000 addrgenmode none arp off alias vpctl:pair/lan0" in of_it[-2]
    assert lines.index("link set dev b type bridge stp_state 0 mcast_snooping 0") < lines.index("link set dev b up")


# Section: hosts where none can be made


@pytest.mark.parametrize(
    ("effective", "ambient", "uid", "fit"),
    [
        ("000001ffffffffff", "0000000000000000", 0, True),
        ("00000000a80425fb", "0000000000000000", 0, False),  # root in a container of Docker's
        ("0000000000000000", "0000000000000000", 1000, False),
        ("0000000000001000", "0000000000000000", 1000, False),  # `ip` would not get it
        ("0000000000001000", "0000000000001000", 1000, True),
    ],
)
def test_the_capability_has_to_reach_the_tool_that_needs_it(
    effective: str, ambient: str, uid: int, fit: bool
) -> None:
    status = f"Name:\tpython\nCapPrm:\t{effective}\nCapEff:\t{effective}\nCapBnd:\t{effective}\nCapAmb:\t{ambient}\n"
    expected = contextlib.nullcontext() if fit else pytest.raises(HostError, match="CAP_NET_ADMIN")
    with expected:
        check_privilege(status, uid=uid)


def test_a_device_that_is_missing_is_named_with_its_module() -> None:
    with pytest.raises(HostError, match="there is no /dev/no/such-device") as caught:
        check_device("/dev/no/such-device")
    assert caught.value.hint == "sudo modprobe such_device"


def without_the_capability() -> list[str]:
    """Return what goes in front of a command to take CAP_NET_ADMIN from it; nothing for a user who has it not."""
    if os.getuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("`setpriv` is not installed")
    return [setpriv, "--bounding-set=-net_admin", "--inh-caps=-net_admin"]


@pytest.mark.parametrize("words", [["up"], ["plan"], ["doctor"], ["up", "--dry-run"]], ids=" ".join)
def test_without_the_capability_it_is_3_with_a_hint_before_anything_is_started(
    directories: Directories, words: list[str]
) -> None:
    if os.getuid() != 0 and unfit() is None:
        pytest.skip("this user has the capability")
    file = ROOT / "examples/tap.yaml"
    done = subprocess.run(
        [*without_the_capability(), sys.executable, "-m", "vpctl", *words, "-f", "json", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "VPCTL_ACCELERATOR": "tcg"},
    )
    assert done.returncode == 3, done
    data = json.loads(done.stdout)
    if words == ["doctor"]:
        (found,) = [finding for finding in data["findings"] if finding["name"] == "host network"]
        error = {"message": found["message"], "hint": found["remedy"]}
    else:
        error = data["error"]
    assert "CAP_NET_ADMIN" in error["message"] or "/dev/net/tun" in error["message"]
    assert error["hint"]
    assert not directories.run.exists()
    assert not directories.state.exists()


# Section: real ones


@asynccontextmanager
async def real(directories: Directories, name: str = "pair") -> AsyncIterator[tuple[RunDir, HostNetwork]]:
    """A bridge with its taps, for as long as the block lasts."""
    rundir = made(directories, name)
    (network,) = host_networks(made_topology(("lan0", "vm1", "vm2"), kind="tap", name=name), rundir)
    try:
        await create(network, rundir.interface_commands("lan0"))
        yield rundir, network
    finally:
        await remove(rundir)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def links() -> dict[str, dict[str, Any]]:
    return {link["ifname"]: link for link in json.loads(ip("-j", "-d", "address", "show")) if link}


@needs_network
async def test_a_bridge_is_silent_and_private_and_its_taps_are_the_users(directories: Directories) -> None:
    async with real(directories) as (_, network):
        found = links()
        bridge = found[network.bridge]
        assert bridge["linkinfo"]["info_kind"] == "bridge"
        assert bridge["linkinfo"]["info_data"]["stp_state"] == 0
        assert bridge["linkinfo"]["info_data"]["mcast_snooping"] == 0
        for name in (network.bridge, *network.taps):
            assert {"UP", "NOARP"} <= {*found[name]["flags"]}
            assert (found[name]["addr_info"], found[name]["mtu"]) == ([], 1500)
            assert found[name]["ifalias"] == "vpctl:pair/lan0"
        for tap in network.taps:
            assert found[tap]["master"] == network.bridge
            assert found[tap]["linkinfo"]["info_data"]["user"] == pwd.getpwuid(os.getuid()).pw_name


@needs_network
async def test_what_somebody_removed_or_changed_is_put_right_and_the_rest_stays(directories: Directories) -> None:
    async with real(directories) as (rundir, network):
        before = links()
        ip("link", "delete", "dev", network.bridge)
        ip("link", "delete", "dev", network.taps[1])
        ip("link", "set", "dev", network.taps[0], "mtu", "1400", "down")
        await create(network, rundir.interface_commands("lan0"))
        after = links()
        assert after[network.taps[0]]["ifindex"] == before[network.taps[0]]["ifindex"]
        for tap in network.taps:
            assert (after[tap]["master"], after[tap]["mtu"]) == (network.bridge, 1500)
            assert "UP" in after[tap]["flags"]


@needs_network
async def test_removal_needs_no_record_and_spares_other_topologies(directories: Directories) -> None:
    async with real(directories, "one") as (one, _), real(directories, "two") as (_, others):
        shutil.rmtree(one.run)
        shutil.rmtree(one.state)
        await remove(one)
        assert not [name for name in interfaces() if name.startswith(one.interface_prefix)]
        assert {others.bridge, *others.taps} <= {*interfaces()}
        await remove(one)


@needs_network
async def test_a_name_that_something_else_has_is_an_error_that_says_which_command_failed(
    directories: Directories,
) -> None:
    rundir = made(directories)
    (network,) = host_networks(made_topology(("lan0", "vm1", "vm2"), kind="tap"), rundir)
    ip("tuntap", "add", "dev", network.bridge, "mode", "tap")
    try:
        with pytest.raises(HostError, match=f"`ip link set dev {network.bridge} type bridge") as caught:
            await create(network, rundir.interface_commands("lan0"))
        assert caught.value.exit_code == 3
    finally:
        await remove(rundir)
    assert network.bridge not in interfaces()


@contextmanager
def batch(file: Path) -> Iterator[ProcessId]:
    """A process that looks like an `ip` with a batch file, until the end of the block at most."""
    argv = ["sh", "-c", "read line", "ip", "-batch", str(file)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as popen:
        found = identify(popen.pid)
        assert found is not None
        try:
            yield found
        finally:
            popen.kill()


async def test_an_ip_whose_supervisor_was_killed_is_ended_and_nobody_elses(directories: Directories) -> None:
    rundir, other = made(directories), made(directories, "pair-2")
    rundir.interface_commands("lan0").write_text("")
    with batch(rundir.interface_commands("lan0")) as orphan, batch(other.interface_commands("lan0")) as neighbour:
        await remove(rundir)
        assert (orphan.is_alive(), neighbour.is_alive()) == (False, True)
