"""The micro image, booted: what the host relies on in it, by QEMU command lines of this test's own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support import until
from tests.vm.booting import IMAGES, Q35, QEMU, Guest, booted, built, wait_for_line
from vpctl.guest.heartbeat import Heartbeat
from vpctl.guest.ssh import GuestSshError, connection
from vpctl.image import GuestImage

MAC = "52:56:77:00:00:0a"
LINKS = f"{MAC} lan0 10.77.0.1/24 1400\n52:56:77:00:00:0b lan1 10.78.0.1/30 1500\n"

pytestmark = [
    pytest.mark.vm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"`{QEMU}` is not installed"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=IMAGES)
async def image(request: pytest.FixtureRequest) -> GuestImage:
    return await built(*request.param)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def guest(image: GuestImage) -> AsyncIterator[Guest]:
    """One guest for all tests that leave it as it was."""
    async with booted(image, *Q35, links=LINKS) as running_guest:
        yield running_guest


async def test_every_tool_that_people_and_benchmarks_use_is_there(guest: Guest) -> None:
    tools = (
        "bash ip tc ss bridge iperf3 ping ethtool tcpdump modprobe lspci taskset nc ps vi less vpctl-agent poweroff"
    )
    found = await guest.run(f"for tool in {tools}; do command -v $tool >/dev/null || echo missing: $tool; done")
    assert found == ""
    # There, and with every library that they need.
    await guest.run(
        "iperf3 --version; tcpdump --version; ethtool --version; ping -V; bash --version; vpctl-agent --version"
    )


async def test_modules_load_and_the_traffic_control_kinds_work(guest: Guest) -> None:
    await guest.run(
        "for m in pktgen tun 8021q bridge veth vhost_net sch_netem sch_tbf uio_pci_generic; do modprobe $m; done"
    )
    # What is a module in one kernel is built into another.
    built_in = "sed 's|.*/||; s|.ko$||; s|-|_|g' /lib/modules/$(uname -r)/modules.builtin"
    loaded = (await guest.run(f"lsmod; {built_in}")).split()
    for module in ("pvpanic_mmio", "pvpanic_pci", "virtio_console", "virtio_net", "qemu_fw_cfg", "pktgen", "tun"):
        assert module in loaded
    assert "vpctl_ivshmem" in loaded  # by init, and without a word where there is no device for it
    assert "vpctl_ivshmem 0000:" not in await guest.run("dmesg; test ! -e /usr/src/linux-headers-$(uname -r)")
    await guest.run("tc qdisc add dev lo root netem delay 1ms; tc qdisc del dev lo root; test -c /dev/net/tun")


async def test_the_settings_of_the_host_are_applied(guest: Guest) -> None:
    assert (await guest.run("hostname")).strip() == "vm1"
    addresses = json.loads(await guest.run("ip -j address"))
    management = next(interface for interface in addresses if interface["ifname"] == "mgmt")
    assert [info["local"] for info in management["addr_info"] if info["family"] == "inet"] == ["10.0.2.15"]
    assert (await guest.run("stat -c %a /root/.ssh/authorized_keys /run/vpctl/host_key")).split() == ["600", "600"]
    assert (await guest.run("cat /proc/sys/net/ipv6/conf/all/disable_ipv6")).strip() == "0"


async def test_files_go_both_ways_by_sftp(guest: Guest, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "there").write_bytes(content)
    async with connection(guest.address) as ssh, ssh.start_sftp_client() as sftp:
        await sftp.put(str(tmp_path / "there"), "/tmp/file")
        await sftp.get("/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content


async def test_the_heart_beats_once_a_second_with_rising_numbers(guest: Guest) -> None:
    await guest.beats()
    collected: list[Heartbeat] = []

    async def three() -> bool | None:
        collected.extend(await guest.beats())
        return True if len(collected) >= 3 else None

    await until(three, timeout=8, what="three beats")
    numbers = [beat.seq for beat in collected]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    pace = (collected[-1].uptime_ms - collected[0].uptime_ms) / (len(collected) - 1)
    assert 700 < pace < 1300
    assert {beat.boot_id for beat in collected} == {(await guest.run("cat /proc/sys/kernel/random/boot_id")).strip()}


@pytest.mark.long
async def test_a_guest_that_has_run_much_comes_back_from_a_reset_as_fast_as_it_boots(image: GuestImage) -> None:
    began = time.monotonic()
    async with booted(image, *Q35) as guest:
        boot = time.monotonic() - began
        await guest.run("i=0; while [ $i -lt 300 ]; do ip link show lo >/dev/null; i=$((i + 1)); done", timeout=300)
        began = time.monotonic()
        await guest.session.execute("system_reset")
        await wait_for_line(guest.serial, "vpctl: ssh", times=2)
        assert time.monotonic() - began < 10 * boot


async def test_a_plugged_link_gets_name_address_and_mtu_and_gets_them_again(guest: Guest) -> None:
    network = {"type": "user", "id": "n0", "restrict": True, "net": "10.77.0.0/24", "host": "10.77.0.2"}
    await guest.session.execute("netdev_add", network)
    device = {"driver": "virtio-net-pci", "id": "d0", "netdev": "n0", "mac": MAC, "bus": "rp1", "romfile": ""}
    await guest.session.execute("device_add", device)
    await guest.wait_for_links("lan0")
    await check_lan0(guest)
    answer = json.loads(await guest.run("vpctl-agent probe lan0 10.77.0.2"))
    assert answer["ok"], answer
    assert (answer["received"], answer["corrupt"], answer["mac"]) == (5, 0, MAC)

    name = "$(basename $(readlink /sys/class/net/lan0/device))"
    await guest.run(f"d={name}; cd /sys/bus/virtio/drivers/virtio_net; echo $d >unbind; echo $d >bind")
    await guest.wait_for_links()
    await guest.wait_for_links("lan0")
    await check_lan0(guest)

    with guest.session.expect("DEVICE_DELETED", match=lambda event: event["data"].get("device") == "d0") as gone:
        await guest.session.execute("device_del", {"id": "d0"})
        await gone.wait(20)
    await guest.session.execute("netdev_del", {"id": "n0"})
    await guest.wait_for_links()


async def check_lan0(guest: Guest) -> None:
    [lan0] = json.loads(await guest.run("ip -j address show dev lan0"))
    assert (lan0["mtu"], lan0["address"], "UP" in lan0["flags"]) == (1400, MAC, True)
    addresses = [(info["local"], info["prefixlen"]) for info in lan0["addr_info"] if info["family"] == "inet"]
    assert addresses == [("10.77.0.1", 24)]


async def test_a_virtual_interface_with_a_links_mac_is_not_taken_for_the_link(guest: Guest) -> None:
    # A bridge over a link has the link's MAC; at each beat the agent looks for links that are still missing.
    await guest.run("ip link add br0 address 52:56:77:00:00:0b type bridge; sleep 1.2; ip link show br0")
    await guest.run("ip link del br0")


async def test_orphans_are_reaped(guest: Guest) -> None:
    await guest.run("for i in 1 2 3; do (sleep 0.1 &); done; sleep 0.5")
    states = (await guest.run("ps -eo stat=")).split()
    assert [state for state in states if state.startswith("Z")] == []


async def test_a_killed_agent_and_ssh_server_come_back(guest: Guest) -> None:
    # Each connection is a dropbear of its own; the one with the lowest pid listens.
    pids = "pidof vpctl-agent; pidof dropbear | tr ' ' '\\n' | sort -n | head -1"
    agent, server = (await guest.run(pids)).split()
    await guest.run(f"kill -9 {agent}; kill -9 {server}")

    async def respawned() -> bool | None:
        try:
            now = (await guest.run(f"sleep 0.3; {pids}")).split()
        except GuestSshError:
            return None
        return True if len(now) == 2 and now[0] != agent else None

    await until(respawned, timeout=10, what="a new agent and ssh server", every=0.3)


@pytest.mark.long
async def test_a_reboot_leaves_nothing_of_the_last_life_and_poweroff_ends_qemu(image: GuestImage) -> None:
    async with booted(image, "-M", "pc", links=LINKS) as guest:
        await guest.run("echo here >/etc/left-over; echo here >/usr/bin/left-over")
        first = (await guest.beats())[-1].boot_id
        with guest.session.expect("RESET") as reset:
            await order(guest, "reboot")
            await reset.wait(20)
        await wait_for_line(guest.serial, "vpctl: ssh", times=2)
        assert await guest.run("ls /etc/left-over /usr/bin/left-over 2>/dev/null || true") == ""
        assert (await guest.beats())[-1].boot_id != first
        await order(guest, "poweroff")
        async with asyncio.timeout(20):
            assert await guest.process.wait() == 0


async def order(guest: Guest, command: str) -> None:
    """Give an order that ends the connection it comes by."""
    async with connection(guest.address) as ssh:
        await ssh.run(command, check=False)


async def test_a_panic_is_told_to_the_host(image: GuestImage) -> None:
    async with booted(image, *Q35, links=LINKS) as guest:
        with guest.session.expect("GUEST_PANICKED") as panicked:
            async with connection(guest.address) as ssh:
                await ssh.create_process("echo c >/proc/sysrq-trigger")
                event = await panicked.wait(20)
        assert event["data"]["action"] == "pause"
        text = guest.serial.read_text(errors="replace")
        assert "Kernel panic - not syncing" in text, text[-500:]


async def test_without_any_setting_it_boots_and_the_console_is_a_root_shell(image: GuestImage) -> None:
    async with booted(image, *Q35, links=None) as guest:
        reader, writer = await asyncio.open_unix_connection(guest.console)
        await wait_for_line(guest.serial, "press Enter for a root shell")
        for _ in range(2):  # the second time after the shell has ended
            writer.write(b"\r")
            writer.write(b"echo $((6 * 7))$(id -un) on $(tty); exit\r")
            async with asyncio.timeout(20):
                await reader.readuntil(b"42root on /dev/ttyS0")
                await reader.readuntil(b"press Enter for a root shell")
        assert (await guest.beats())[-1].links == {}
        writer.close()


async def test_the_manifest_says_what_is_inside(image: GuestImage) -> None:
    manifest: Any = json.loads((image.directory / "manifest.json").read_text())
    assert manifest["key"] == image.key
    version = manifest["packages"]["linux-image-cloud-amd64"]
    assert manifest["kernel"].split(".")[:2] == version.split(".")[:2]
    assert set(manifest["sizes"]) == {"vmlinuz", "initrd.img", "root.squashfs", "vpctl-agent"}
    assert "agent/main.c" in manifest["inputs"]
    assert "://" not in json.dumps(manifest)
