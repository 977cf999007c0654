"""The guest's driver for vhost-pci links, in two real guests, with a host played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.ivshmem_host import ControlPage, control_pages
from tests.fakes.vhost_host import Host
from tests.support import until
from tests.vm.booting import IMAGES, QEMU, Guest, booted, built
from tests.vm.test_driver import BAD_WORDS
from vpctl.broker.control_page import AnswerState
from vpctl.broker.vhost_user.message import Feature
from vpctl.errors import VpctlError
from vpctl.image import GuestImage
from vpctl.process import eventfd_id
from vpctl.supervisor.hotplug import fd_parking

pytestmark = [
    pytest.mark.vm,
    pytest.mark.kvm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"`{QEMU}` is not installed"),
]

MTU = 9000
VM1 = ["-M", "q35", "-device", "pcie-root-port,id=rp1,chassis=1,slot=1,pref64-reserve=1G"]
VM2 = ["-M", "q35,memory-backend=ram"]
MACS = (b"\x52\x56\x77\0\0\1", b"\x52\x56\x77\0\0\2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """vm1, which has the driver, and vm2, an ordinary guest with virtio-net; the link is plugged in vm1."""

    guests: tuple[Guest, Guest]
    page: ControlPage
    host: Host

    @property
    def vm1(self) -> Guest:
        """The back-end's guest."""
        return self.guests[0]

    @property
    def vm2(self) -> Guest:
        """The front-end's guest."""
        return self.guests[1]

    async def plug(self) -> None:
        """Plug the device into vm1, for the rings as they are now."""
        host = self.host
        await self.vm2.session.execute("set_link", {"name": "nic0", "up": True})
        device = host.begin(await host.wait_ready())
        name = f"link{host.generation}"
        address = {"type": "unix", "data": {"path": str(device.path)}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        await self.vm1.session.execute("chardev-add", {"id": f"c-{name}", "backend": backend})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(host.serve())
            options = {"driver": "ivshmem-doorbell", "id": name, "chardev": f"c-{name}", "bus": "rp1"}
            await self.vm1.session.execute("device_add", {**options, "vectors": device.vectors})
        served = {"ends": [{"eventfds": [eventfd_id(os.getpid(), fd) for fd in device.interrupts]}]}
        device.handlers = await fd_parking.find_interrupts(self.vm1.process.pid, served, 0)

    async def unplug(self) -> None:
        """Stop vm2's rings, which would ring a device that is gone (11.1 dies of that), and unplug it; park (TCG)."""
        device, name = self.host.device, f"link{self.host.generation}"
        if device is None:
            return
        await self.host.off()
        await self.vm2.session.execute("set_link", {"name": "nic0", "up": False})
        session = self.vm1.session
        with session.expect("DEVICE_DELETED", match=lambda event: event["data"].get("device") == name) as gone:
            await session.execute("device_del", {"id": name})
            await gone.wait(20)
        await session.execute("chardev-remove", {"id": f"c-{name}"})
        await fd_parking.park(session, self.vm1.process.pid, device.handlers, name=name)
        self.host.drop_device()

    async def replug(self) -> None:
        """Begin a generation."""
        await self.unplug()
        await self.plug()

    async def ping(self, count: int = 3, size: int = 56, seconds: float = 15, role: int = 0, to: str = "") -> None:
        """Ping the other guest until so many answers in a row have come."""

        async def answered() -> bool | None:
            target = to or f"10.77.0.{2 - role}"
            out = await self.guests[role].run(f"ping -c {count} -i 0.1 -W 1 -s {size} {target} || true")
            return True if f" {count} received" in out else None

        await until(answered, timeout=seconds, what="answers to ping", every=0.1)

    async def counters(self) -> dict[str, int]:
        """Return what the driver counts."""
        lines = (await self.vm1.run("ethtool -S shm0")).splitlines()[1:]
        return {name.strip(): int(value) for name, _, value in (line.rpartition(":") for line in lines)}

    async def flood(self, seconds: int = 2) -> None:
        """Begin traffic in both directions, and leave it running."""
        for role, guest in enumerate(self.guests):
            await guest.run(f"(timeout {seconds} ping -f -s 8000 10.77.0.{2 - role} >/dev/null 2>&1 &)")

    async def wait_for_carrier(self, value: str) -> None:
        """Wait until vm1's interface has it, or has not."""

        async def look() -> bool | None:
            return True if (await self.vm1.run("cat /sys/class/net/shm0/carrier")).strip() == value else None

        await until(look, timeout=5, what=f"carrier {value}", every=0.05)


@asynccontextmanager
async def linked_pair(
    image: GuestImage, *, queue_pairs: int = 1, mtu: int = MTU, more: tuple[list[str], list[str]] = ([], [])
) -> AsyncIterator[Pair]:
    """Boot two guests, plug the link, and wait until it carries packets. vm1's kernel must not complain."""
    directory = Path(tempfile.mkdtemp(prefix="vp", dir="/tmp"))
    links = [f"{mac.hex(':')} shm0 10.77.0.{role + 1}/24 {mtu}\n" for role, mac in enumerate(MACS)]
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        [page] = stack.enter_context(control_pages(1))
        host = Host(directory=directory, page=page, mac=MACS[0], front_mac=MACS[1], queue_pairs=queue_pairs, mtu=mtu)
        await stack.enter_async_context(host.running())
        vm2 = await stack.enter_async_context(
            booted(image, *VM2, *host.front_options, *more[1], name="vm2", links=links[1])
        )
        vm1 = await stack.enter_async_context(
            booted(image, *VM1, *page.options, *more[0], name="vm1", links=links[0])
        )
        pair = Pair(guests=(vm1, vm2), page=page, host=host)
        await pair.plug()
        await pair.ping()
        yield pair
        await no_complaints(vm1)


async def no_complaints(guest: Guest) -> None:
    lines = (await guest.run("dmesg")).splitlines()
    assert [line for line in lines if any(word in line for word in BAD_WORDS)] == []


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=IMAGES)
async def image(request: pytest.FixtureRequest) -> GuestImage:
    return await built(*request.param)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(image: GuestImage) -> AsyncIterator[Pair]:
    """One pair for all tests that leave it as it was."""
    async with linked_pair(image) as linked:
        yield linked


async def test_the_interface_is_what_the_slot_says(pair: Pair) -> None:
    [shm0] = json.loads(await pair.vm1.run("ip -j -d link show shm0"))
    assert (shm0["address"], shm0["mtu"], shm0["max_mtu"]) == (MACS[0].hex(":"), MTU, 65521)
    information = await pair.vm1.run("ethtool -i shm0; ethtool shm0; ethtool -l shm0; ethtool -k shm0")
    for line in ("driver: vpctl_ivshmem", "Link detected: yes", "tcp-segmentation-offload: on"):
        assert line in information
    assert pair.host.answer.state == AnswerState.ON
    assert pair.host.device is not None
    assert pair.host.answer.features == pair.host.device.vrings.features


async def test_packets_of_all_sizes_cross_both_ways(pair: Pair) -> None:
    sizes = "for size in {}; do ping -c 2 -i 0.05 -W 5 -s $size {}; done"
    for role, guest in enumerate(pair.guests):
        await guest.run(sizes.format("0 1 56 1472 8972 30000 65507", f"10.77.0.{2 - role}"))
    for guest in pair.guests:
        await guest.run("ip link set shm0 mtu 65521")
    for role, guest in enumerate(pair.guests):
        await guest.run(sizes.format("8973 65400", f"10.77.0.{2 - role}"))
    for guest in pair.guests:
        await guest.run(f"ip link set shm0 mtu {MTU}")


async def iperf(pair: Pair, *options: str, length: str = "-t 2") -> float:
    """Run iperf3 between the guests; Mbit/s."""
    await pair.vm2.run("iperf3 -s -D -1; sleep 0.2")
    command = " ".join(["iperf3", "-c", "10.77.0.2", "-J", length, *options])
    report = json.loads(await pair.vm1.run(command, timeout=40))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


SHORT = "-n 4M"


async def test_tcp_goes_both_ways_in_large_segments_and_few_doorbells(pair: Pair) -> None:
    before = await pair.counters()
    forward, backward = await iperf(pair), await iperf(pair, "-R")
    after = await pair.counters()
    moved = {name: after[name] - before[name] for name in after}
    assert min(forward, backward) > 20
    for way in ("tx", "rx"):
        # Of each direction's packets, half at most are the other's acknowledgements.
        assert moved[f"queue_0_{way}_bytes"] / moved[f"queue_0_{way}_packets"] > 5000
        assert moved[f"queue_0_{way}_doorbells"] < moved[f"queue_0_{way}_packets"]
    assert after["queue_0_rx_bad"] == after["queue_0_rx_dropped"] == after["queue_0_tx_dropped"] == 0


async def test_bulk_data_arrives_as_it_was_sent(pair: Pair) -> None:
    for role, sender in enumerate(pair.guests):
        receiver = pair.guests[1 - role]
        waiting = asyncio.create_task(receiver.run("nc -l -p 7777 | sha256sum", timeout=60))
        await asyncio.sleep(0.5)
        await sender.run("seq 1 99999999 | head -c 32M >/tmp/bulk")
        await sender.run(f"nc -N 10.77.0.{2 - role} 7777 </tmp/bulk", timeout=60)
        assert await waiting == await sender.run("sha256sum - </tmp/bulk; rm /tmp/bulk")


OFFLOADS = ("tso off", "gso off", "tx off", "sg off", "gro off", "rx off")


@pytest.mark.parametrize("role", [0, 1])
async def test_each_offload_may_be_off(pair: Pair, role: int) -> None:
    guest = pair.guests[role]
    for turned in OFFLOADS:
        # Not every driver has every switch: what cannot be turned off is none.
        await guest.run(f"ethtool -K shm0 {turned} || true")
        assert await iperf(pair, length=SHORT) > 5
        assert await iperf(pair, "-R", length=SHORT) > 5
    await guest.run("; ".join(f"ethtool -K shm0 {turned.split()[0]} on || true" for turned in OFFLOADS))
    assert (await pair.counters())["queue_0_rx_bad"] == 0


async def test_vlan_ipv6_and_multicast_cross(pair: Pair) -> None:
    for role, guest in enumerate(pair.guests):
        await guest.run(
            "ip link add link shm0 name shm0.7 type vlan id 7; ip link set shm0.7 up;"
            f"ip address add 10.78.0.{role + 1}/24 dev shm0.7;"
            f"ip address add fd77::{role + 1}/64 dev shm0 nodad;"
            "echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts"
        )
    for role in (0, 1):
        await pair.ping(2, 8000, role=role, to=f"10.78.0.{2 - role}")
        await pair.ping(2, 60000, role=role, to=f"fd77::{2 - role}")
        await pair.ping(2, role=role, to="-I shm0 224.0.0.1")
        await pair.ping(2, role=role, to="-6 -I shm0 ff02::1")
    await pair.vm2.run("iperf3 -s -D -1; sleep 0.2")
    await pair.vm1.run("iperf3 -c fd77::2 -t 1; ip link del shm0.7", timeout=30)
    await pair.vm2.run("ip link del shm0.7")


# Section: comings and goings


RESTARTS = {
    "the device": "d=$(basename $(readlink /sys/class/net/shm0/device)); cd /sys/bus/pci/drivers/vpctl_ivshmem;"
    "echo $d >unbind; echo $d >bind",
    "the control page": "cd /sys/bus/pci/drivers/vpctl_ivshmem;"
    "for d in 0000:*; do [ -e $d/net ] || break; done; echo $d >unbind; [ ! -e /sys/class/net/shm0 ]; echo $d >bind",
    "the module": "rmmod vpctl_ivshmem; modprobe vpctl_ivshmem",
    "the interface": "for i in 1 2 3 4 5 6 7 8; do ip link set shm0 down; ip link set shm0 up; done",
}


@pytest.mark.parametrize("what", list(RESTARTS))
async def test_vm1_starts_again_under_traffic_and_resumes(pair: Pair, what: str) -> None:
    await pair.flood()
    generation, said = pair.host.generation, len(pair.host.answers)
    await pair.vm1.run(RESTARTS[what])
    await pair.ping()
    assert pair.host.generation == generation
    states = [answer.state for answer in pair.host.answers[said:]]
    # The driver waits until an OFF was heard. What it says next may take the place of an ON: it waits for none.
    assert (states[0], states[-1]) == (AnswerState.OFF, AnswerState.ON)
    assert what == "the interface" or len(states) == 2
    requests = [answer.request for answer in pair.host.answers]
    assert requests == sorted(set(requests))
    assert faults(await pair.counters()) == 0


def faults(counters: dict[str, int]) -> int:
    """Return how much garbage was found."""
    return sum(count for name, count in counters.items() if name.startswith(("bad_", "foreign_")))


async def test_going_off_waits_for_the_host_but_not_for_ever(pair: Pair) -> None:
    clock = "read -r {} rest </proc/uptime; "
    took = clock.format("a") + "ip link set shm0 down; " + clock.format("b") + "echo $a $b; ip link set shm0 up"
    began, ended = map(float, (await pair.vm1.run(took)).split())
    assert ended - began < 0.5
    pair.host.confirms = False
    began, ended = map(float, (await pair.vm1.run(took)).split())
    pair.host.confirms = True
    assert 0.9 < ended - began < 2.5
    await pair.ping()


async def test_off_is_acknowledged_and_the_next_generation_works(pair: Pair) -> None:
    for _ in range(3):
        await pair.flood()
        assert await pair.host.off() < 1
        assert pair.host.answer.state == AnswerState.OFF
        await pair.wait_for_carrier("0")
        await pair.replug()
        await pair.ping()


VM2_RESTARTS = {
    "the driver": "d=$(basename $(readlink /sys/class/net/shm0/device)); cd /sys/bus/virtio/drivers/virtio_net;"
    "echo $d >unbind; echo $d >bind",
    "the interface": "for i in 1 2 3 4; do ip link set shm0 down; ip link set shm0 up; done",
}


async def test_vm2s_driver_starts_again_under_traffic(pair: Pair) -> None:
    await pair.flood()
    await pair.vm2.run(VM2_RESTARTS["the driver"])
    assert pair.host.answer.state == AnswerState.OFF
    await pair.replug()
    await pair.ping()


async def test_vm2s_interface_goes_down_and_up_under_traffic(pair: Pair) -> None:
    await pair.flood()
    await pair.vm2.run(VM2_RESTARTS["the interface"])
    await pair.ping()
    assert faults(await pair.counters()) == 0


async def rebooted(guest: Guest) -> None:
    """Reset a guest, one that has panicked too, and wait until it is up again."""

    def said() -> str:
        return guest.serial.read_text(errors="replace")

    boots = said().count("vpctl: ssh\n")
    await guest.session.execute("system_reset")
    if not (await guest.session.execute("query-status"))["running"]:
        await guest.session.execute("cont")

    async def up_again() -> bool | None:
        return True if said().count("vpctl: ssh\n") > boots else None

    await until(up_again, timeout=60, what="the guest's next boot", last_seen=lambda: said()[-800:])


async def test_vm1_reboots_and_resumes(pair: Pair) -> None:
    await pair.flood()
    generation = pair.host.generation
    await rebooted(pair.vm1)
    await pair.ping()
    assert pair.host.generation == generation


async def test_vm2_reboots(pair: Pair) -> None:
    await pair.flood()
    await rebooted(pair.vm2)
    await pair.replug()
    await pair.ping()


async def test_new_doorbells_are_taken_up_under_way(pair: Pair) -> None:
    device = pair.host.device
    assert device is not None
    for ring in (0, 1):
        pair.host.change_doorbell(ring, os.dup(device.vrings.rings[ring].call.fd))

    async def look() -> bool | None:
        return True if pair.host.answer.sequence == 2 else None

    await until(look, timeout=3, what="the driver's word on the doorbells", every=0.01)
    await pair.ping()
    assert await iperf(pair, length=SHORT) > 5


async def test_an_interrupt_that_gets_lost_on_its_way_to_the_peer_is_repeated(pair: Pair) -> None:
    """Its wish is fulfilled once: nothing but the driver's look at it once a second would ever wake vm2 again."""
    device, loop = pair.host.device, asyncio.get_running_loop()
    assert device is not None
    losing, lost = False, 0

    def relay(ring: int, rung: int, call: int) -> None:
        nonlocal lost
        os.eventfd_read(rung)
        # Not the other ring's: completions of what vm2 has sent are seen without an interrupt, too.
        if losing and ring == 0:
            lost += 1
        else:
            os.eventfd_write(call, 1)

    async def unanswered() -> bool | None:
        # vm2 may be polling just then, and need no interrupt to see a packet.
        return True if " 0 received" in await pair.vm1.run("ping -c 1 -W 1 10.77.0.2 || true") else None

    relays = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in device.vrings.rings]
    try:
        for ring, rung in enumerate(relays):
            loop.add_reader(rung, relay, ring, rung, device.vrings.rings[ring].call.fd)
            pair.host.change_doorbell(ring, os.dup(rung))
        await pair.ping()
        losing = True
        await until(unanswered, timeout=15, what="a packet that vm2 was not interrupted for", every=0.1)
        assert lost > 0
        losing = False
        await pair.ping()
        counters = await pair.counters()
        assert counters["queue_0_tx_doorbells_repeated"] + counters["queue_0_rx_doorbells_repeated"] > 0
    finally:
        for rung in relays:
            loop.remove_reader(rung)
            os.close(rung)
    await pair.replug()
    await pair.ping()


async def test_a_peer_that_posts_no_buffers_stops_the_queue_and_nothing_else(pair: Pair) -> None:
    # vm2 stands still, without a word as QMP's `stop` would have it: its ring fills up, and vm1 goes on.
    before = await pair.counters()
    os.kill(pair.vm2.process.pid, signal.SIGSTOP)
    try:
        await pair.vm1.run("timeout 8 sh -c 'cat /dev/zero | nc -u 10.77.0.2 9' || true", timeout=30)
        after = await pair.counters()
    finally:
        os.kill(pair.vm2.process.pid, signal.SIGCONT)
    assert after["queue_0_tx_ring_full"] > before["queue_0_tx_ring_full"]
    assert after["queue_0_tx_dropped"] > before["queue_0_tx_dropped"]
    await pair.ping()
    # When it posts buffers again the queue is stopped early enough again: no packet has to be taken back.
    requeues = "tc -s qdisc show dev shm0 | awk '/requeues/ {print $NF}' | tr -d ')' | head -n 1"
    taken_back = int(await pair.vm1.run(requeues))
    assert await iperf(pair, length=SHORT) > 5
    assert int(await pair.vm1.run(requeues)) == taken_back


# Section: other features


async def test_a_driver_that_accepts_less_says_so_and_works(pair: Pair) -> None:
    mask = ~(Feature.GUEST_TSO4 | Feature.GUEST_TSO6 | Feature.GUEST_ECN) & ((1 << 64) - 1)
    await pair.vm1.run(f"rmmod vpctl_ivshmem; modprobe vpctl_ivshmem features={mask:#x}")
    await pair.ping()
    assert pair.host.device is not None
    assert pair.host.answer.features == pair.host.device.vrings.features & mask
    assert "tcp-segmentation-offload: off" in await pair.vm1.run("ethtool -k shm0")
    assert await iperf(pair, length=SHORT) > 5
    await pair.vm1.run("rmmod vpctl_ivshmem; modprobe vpctl_ivshmem")
    await pair.ping()


async def test_packets_are_no_larger_than_the_buffers_of_a_peer_that_has_but_small_ones(pair: Pair) -> None:
    driver = "d=$(basename $(readlink /sys/class/net/shm0/device)); cd /sys/bus/pci/drivers/vpctl_ivshmem;"
    device = (await pair.vm1.run(f"{driver} echo $d >unbind; echo $d")).strip()
    assert pair.host.device is not None
    large = Feature.MRG_RXBUF | Feature.GUEST_TSO4 | Feature.GUEST_TSO6 | Feature.GUEST_ECN
    answer = pair.page.memory[2048 + 1984 : 2048 + 2048]
    pair.host.write_slot(features=pair.host.device.vrings.features & ~large, answer=answer)
    bind = f"echo {device} >/sys/bus/pci/drivers/vpctl_ivshmem/bind; cd /sys/bus/pci/devices/{device}/net;"
    said = await pair.vm1.run(f"{bind} ip -j -d link show dev $(ls)")
    [interface] = json.loads(said)
    assert (interface["mtu"], interface["max_mtu"]) == (1500, 1500)
    await pair.vm1.run(f"echo {device} >/sys/bus/pci/drivers/vpctl_ivshmem/unbind")
    pair.host.turn_on()
    await pair.vm1.run(bind)
    await pair.ping()


async def test_a_machine_that_sleeps_goes_off_before_and_resumes(pair: Pair) -> None:
    await pair.flood()
    said, session = len(pair.host.answers), pair.vm1.session
    with session.expect("SUSPEND") as asleep:
        await pair.vm1.run("grep -q mem /sys/power/state; (sleep 0.2; echo mem >/sys/power/state) >/dev/null 2>&1 &")
        await asleep.wait(20)
    assert pair.host.answer.state == AnswerState.OFF
    await session.execute("system_wakeup")
    await pair.ping(seconds=30)
    assert [answer.state for answer in pair.host.answers[said:]] == [AnswerState.OFF, AnswerState.ON]
    assert faults(await pair.counters()) == 0
    # Devices that others unplug are not let go any more by a guest that has slept (QEMU 7.2, q35).
    await rebooted(pair.vm1)
    await pair.ping()


BAD_SLOTS: dict[str, dict[str, int | bytes]] = {
    "no regions": {"region_count": 0},
    "too many regions": {"region_count": 17},
    "a region beyond the BAR": {"regions": struct.pack("<QQQ", 0, 1 << 30, 0)},
    "a region that wraps": {"regions": struct.pack("<QQQ", (1 << 64) - 4096, 8192, 0)},
    "a ring beyond the BAR": {"rings": struct.pack("<QQQIHH", 1 << 30, 0, 0, 0, 256, 1)},
    "a ring of odd size": {"rings": struct.pack("<QQQIHH", 0, 0, 0, 0, 255, 1)},
    "a ring of another vector": {"rings": struct.pack("<QQQIHH", 0, 0, 0, 0, 256, 9)},
}


async def test_a_slot_that_cannot_be_is_not_connected(pair: Pair) -> None:
    for changes in BAD_SLOTS.values():
        await pair.vm1.run("ip link set shm0 down")
        before = await pair.counters()
        pair.host.write_slot(**changes, answer=pair.page.memory[2048 + 1984 : 2048 + 2048])
        await pair.vm1.run("ip link set shm0 up; sleep 0.1; [ $(cat /sys/class/net/shm0/carrier) = 0 ]")
        assert (await pair.counters())["bad_slots"] > before["bad_slots"]
    pair.host.write_slot()
    await pair.ping()


# Section: a hostile vm2


CALM = 150
"""After so many mutations vm2, which they hurt as well, gets a new start."""

OTHER_MACS = ("52:56:77:00:00:21", "52:56:77:00:00:22")
OTHER_LINK = [
    argument
    for number, mac in enumerate(OTHER_MACS)
    for argument in (
        *("-netdev", f"hubport,hubid=1,id=other{number}"),
        *("-device", f"virtio-net-pci,netdev=other{number},mac={mac},romfile="),
    )
]
"""A link that has nothing to do with vm2: both of its ends are vm1's, one of them in a namespace of its own."""

OTHER_TRAFFIC = f"""
named() {{ grep -l $1 /sys/class/net/*/address | cut -d/ -f5; }}
near=$(named {OTHER_MACS[0]}); far=$(named {OTHER_MACS[1]})
ip netns add far; ip link set $far netns far
ip -n far address add 10.79.0.2/24 dev $far; ip -n far link set $far up
ip address add 10.79.0.1/24 dev $near; ip link set $near up
ping -c 1 -w 10 10.79.0.2
ip netns exec far iperf3 -s -D -1; sleep 0.2
iperf3 -c 10.79.0.2 -u -b 10K -l 100 -t 10000 >/dev/null 2>&1 &
echo $! >/tmp/other.pid
"""
"""No echoes: a kernel has but one socket for its answers to all of them, and those to vm2 may have filled it."""


@pytest.mark.parametrize("mutations", [300, pytest.param(10_000, marks=pytest.mark.long)])
async def test_a_hostile_vm2_hurts_nobody_and_the_link_comes_back(image: GuestImage, mutations: int) -> None:
    async with linked_pair(image, more=(OTHER_LINK, [])) as pair:
        await pair.vm1.run(OTHER_TRAFFIC)
        await attack(pair, mutations, seed=mutations)
        sent, arrived = await other_traffic(pair.vm1)
        assert 100 < sent == arrived
        assert pair.vm1.process.returncode is None


async def other_traffic(guest: Guest) -> tuple[int, int]:
    """End it; return how many packets were sent and how many arrived."""
    await guest.run("kill $(cat /tmp/other.pid); sleep 0.5")
    said = await guest.run("nstat -asz UdpOutDatagrams; ip netns exec far nstat -asz UdpInDatagrams")
    sent, arrived = (int(line.split()[1]) for line in said.splitlines() if line.startswith("Udp"))
    return sent, arrived


async def attack(pair: Pair, count: int, *, seed: int) -> None:
    """Write garbage into vm2's live rings from outside while packets flow."""
    dice = random.Random(seed)
    boot = await pair.vm1.run("cat /proc/sys/kernel/random/boot_id")
    found = 0
    free = await available(pair.vm1)
    for number in range(count):
        if number % CALM == 0:
            if number:
                found += faults(await pair.counters())
                await renew(pair)
            await pair.flood(60)
        if number % 50 == 0:
            size = dice.choice((60, 1400, 8000))
            await pair.vm1.run(f"(timeout 4 ping -f -s {size} 10.77.0.2 >/dev/null 2>&1 &)")
        at, before = mutate(pair.host, dice)
        garbage = pair.host.memory[at : at + len(before)]
        await asyncio.sleep(dice.choice((0.0, 0.001, 0.01, 0.05)))
        # Most garbage ends again: the link has to come back by itself.
        if dice.random() < 0.95 and pair.host.memory[at : at + len(before)] == garbage:
            pair.host.memory[at : at + len(before)] = before
    found += faults(await pair.counters())
    await renew(pair)
    assert await pair.vm1.run("cat /proc/sys/kernel/random/boot_id") == boot
    await no_complaints(pair.vm1)
    assert found > 0
    assert await available(pair.vm1) > free - 16384


ICMP = bytes.fromhex("45000021000000004001") + bytes(2) + bytes([10, 77, 0, 2, 10, 77, 0, 1])
"""The header of an IPv4 packet with an echo request of 13 bytes, its checksum left out."""


def summed(header: bytes) -> bytes:
    """Fill in an IPv4 header's checksum."""
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack(">H", ~total & 0xFFFF) + header[12:]


BEYOND_USE = 0x30000
"""Memory of vm2 that its kernel does not use."""


async def transmit(
    host: Host, packet: bytes, *, lie: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
) -> None:
    """Have vm2, which is stopped, transmit a packet; `lie` is its virtio header, from flags to csum_offset."""
    assert host.device is not None
    ring = host.device.vrings.rings[1]
    data = struct.pack("<BBHHHHH", *lie, 0) + packet
    host.memory[BEYOND_USE : BEYOND_USE + len(data)] = data
    struct.pack_into("<QIHH", host.memory, ring.desc, BEYOND_USE, len(data), 0, 0)
    (posted,) = struct.unpack_from("<H", host.memory, ring.avail + 2)
    struct.pack_into("<H", host.memory, ring.avail + 4 + 2 * (posted % ring.size), 0)
    struct.pack_into("<H", host.memory, ring.avail + 2, (posted + 1) % 65536)
    os.eventfd_write(ring.kick.fd, 1)

    async def taken() -> bool | None:
        return True if host.used_index(1) == (posted + 1) % 65536 else None

    await until(taken, timeout=10, what="the driver to take the packet", every=0.005)


async def test_what_is_said_of_a_packet_is_refused_and_counted_where_it_cannot_be_or_costs_too_much(
    pair: Pair,
) -> None:
    ethernet = MACS[0] + MACS[1] + b"\x08\x00"
    large = ethernet + bytes(1400)
    lies = {
        "short": (b"\0" * 5, (0, 0, 0, 0, 0, 0)),
        "an unknown kind of segments": (large, (1, 3, 54, 1000, 34, 16)),
        "segments without a checksum": (large, (0, 1, 54, 1000, 0, 0)),
        "segments of a byte": (large, (1, 1, 54, 1, 34, 16)),
        "a checksum far inside": (large, (1, 0, 0, 0, 600, 16)),
    }
    await pair.vm1.run("nstat -n")
    os.kill(pair.vm2.process.pid, signal.SIGSTOP)
    try:
        before = await pair.counters()
        for packet, lie in lies.values():
            await transmit(pair.host, packet, lie=lie)
        # That its wrong checksum is right is not for the peer to say.
        wrong = ethernet + summed(ICMP) + b"\x08\0\x12\x34" + bytes(9)
        await transmit(pair.host, wrong, lie=(2, 0, 0, 0, 0, 0))
        after = await pair.counters()
    finally:
        os.kill(pair.vm2.process.pid, signal.SIGCONT)
    assert after["queue_0_rx_bad"] - before["queue_0_rx_bad"] == len(lies)
    assert after["queue_0_rx_dropped"] == before["queue_0_rx_dropped"]
    assert "IcmpInCsumErrors                1 " in await pair.vm1.run("nstat -z IcmpInCsumErrors")
    await renew(pair)


async def available(guest: Guest) -> int:
    """Return the guest's free memory, KiB."""
    memory = await guest.run("echo 3 >/proc/sys/vm/drop_caches; grep MemAvailable: /proc/meminfo")
    return int(memory.split()[1])


def mutate(host: Host, dice: random.Random) -> tuple[int, bytes]:
    """Change one thing in a ring of vm2, as its guest could; where that was, and what was there."""
    assert host.device is not None
    ring = dice.choice(host.device.vrings.rings)
    entry = ring.desc + 16 * dice.randrange(ring.size)
    begin, length, flags, _ = struct.unpack_from("<QIHH", host.memory, entry)
    table = next(
        (
            region.offset + begin - region.address
            for region in host.device.vrings.regions
            if flags & 4 and region.address <= begin and begin + length <= region.address + region.size
        ),
        None,
    )
    if table is not None and dice.random() < 0.5:
        entry = table + 16 * dice.randrange(max(1, length // 16))
    # What the driver looks at next, as vm2's driver has made it available.
    (used,) = struct.unpack_from("<H", host.memory, ring.used + 2)
    (head,) = struct.unpack_from("<H", host.memory, ring.avail + 4 + 2 * (used % ring.size))
    waiting = ring.desc + 16 * (head % ring.size)
    at, form = dice.choice(
        (
            (entry, "<Q"),
            (entry + 8, "<I"),
            (entry + 12, "<H"),
            (entry + 14, "<H"),
            (waiting + 0, "<Q"),
            (waiting + 8, "<I"),
            (waiting + 12, "<H"),
            (ring.avail, "<H"),
            (ring.avail + 2, "<H"),
            (ring.avail + 4 + 2 * dice.randrange(ring.size), "<H"),
            (ring.avail + 4 + 2 * ring.size, "<H"),
            (ring.used + 2, "<H"),
            (ring.used + 4 + 8 * dice.randrange(ring.size), "<I"),
            (ring.used + 4 + 8 * ring.size, "<H"),
        )
    )
    bits = 8 * struct.calcsize(form)
    # An address that is good, but not vm2's to give, would only hurt vm2: its kernel is not what is tried here.
    values = [(1 << bits) - 1, dice.getrandbits(bits) | 1 << (bits - 1), 1 << (bits - 1)]
    if form != "<Q":
        values += [0, dice.getrandbits(3), dice.getrandbits(bits)]
    before = host.memory[at : at + bits // 8]
    struct.pack_into(form, host.memory, at, dice.choice(values))
    return at, before


async def renew(pair: Pair) -> None:
    """Give vm2's driver a new start, or all of vm2 if that is not enough, and the link a new generation."""
    end_floods = "pkill -x ping || true"  # their answers would fill the sockets that others wait for answers at
    await pair.vm1.run(end_floods)
    try:
        async with asyncio.timeout(8):
            await pair.vm2.run(end_floods)
            await pair.vm2.run(VM2_RESTARTS["the driver"])
            await pair.replug()
            await pair.ping()
    except (VpctlError, AssertionError, TimeoutError):  # its kernel was hurt, which is nobody's concern here
        await rebooted(pair.vm2)
        await pair.replug()
        await pair.ping(seconds=30)


async def test_a_peer_without_mergeable_buffers_indirect_tables_and_event_indices(
    image: GuestImage,
) -> None:
    bare = ["-global", "virtio-net-pci.mrg_rxbuf=off"]
    bare += ["-global", "virtio-net-pci.event_idx=off", "-global", "virtio-net-pci.indirect_desc=off"]
    async with linked_pair(image, mtu=1500, more=([], bare)) as pair:
        lacking = Feature.MRG_RXBUF | Feature.EVENT_IDX | Feature.INDIRECT_DESC
        assert not pair.host.answer.features & lacking
        for size in (0, 1472, 30000, 65507):
            await pair.ping(2, size)
            await pair.ping(2, size, role=1)
        assert await iperf(pair) > 20
        assert await iperf(pair, "-R") > 20
        counters = await pair.counters()
        assert faults(counters) == counters["queue_0_tx_dropped"] == 0
        assert counters["queue_0_rx_doorbells_suppressed"] > 0
