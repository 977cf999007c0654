"""The guest's driver for shared-memory links, in two real guests, with a host played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.ivshmem_host import ControlPage, End, Link, control_pages
from tests.support import until
from tests.vm.booting import IMAGES, QEMU, Guest, booted, built, wait_for_line
from vpctl.broker.control_page import HEADERS_SIZE, SlotState
from vpctl.image import GuestImage
from vpctl.process import open_files
from vpctl.supervisor.hotplug.fd_parking import park

pytestmark = [
    pytest.mark.vm,
    pytest.mark.kvm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"`{QEMU}` is not installed"),
]

MTU = 9000
Q35 = ["-M", "q35"]
for _number in (1, 2):
    Q35 += ["-device", f"pcie-root-port,id=rp{_number},chassis={_number},slot={_number},pref64-reserve=1G"]
BAD_WORDS = (
    "WARNING:",
    "BUG",
    "Oops",
    "Call Trace",
    "general protection",
    "soft lockup",
    "detected stall",
    "NETDEV WATCHDOG",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two guests with a control page each, and a link that is plugged in both."""

    guests: tuple[Guest, Guest]
    pages: list[ControlPage]
    link: Link
    directory: Path

    async def replug(self) -> None:
        """Begin a generation: unplug what is there, plug anew."""
        if self.link.generation:
            for role in (0, 1):
                await unplug(self.guests[role], self.link)
        self.link.begin()
        for role in (0, 1):
            await plug(self.guests[role], self.link, role)

    async def ping(self, count: int = 3, size: int = 56, seconds: float = 15) -> None:
        """Ping from the first guest to the second until so many answers in a row have come."""

        async def answered() -> bool | None:
            out = await self.guests[0].run(f"ping -c {count} -i 0.1 -W 1 -s {size} 10.77.0.2 || true")
            return True if f" {count} received" in out else None

        await until(answered, timeout=seconds, what="answers to ping", every=0.1)

    async def counters(self, role: int) -> dict[str, int]:
        """Return what the driver counts."""
        lines = (await self.guests[role].run("ethtool -S shm0")).splitlines()[1:]
        return {name.strip(): int(value) for name, _, value in (line.rpartition(":") for line in lines)}


async def plug(guest: Guest, link: Link, role: int) -> None:
    """Plug a link's device into a guest."""
    end, name = link.ends[role], f"link{link.slot}"
    address = {"type": "unix", "data": {"path": str(end.path)}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    await guest.session.execute("chardev-add", {"id": f"c-{name}", "backend": backend})
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(link.serve(role))
        device = {"driver": "ivshmem-doorbell", "id": name, "chardev": f"c-{name}", "bus": f"rp{link.slot + 1}"}
        await guest.session.execute("device_add", {**device, "vectors": len(end.vectors)})


async def unplug(guest: Guest, link: Link) -> None:
    """Remove a link's device from a guest; its freed descriptors are taken by idle ones (QEMU 7.2 under TCG)."""
    name = f"link{link.slot}"
    before = open_files(guest.process.pid)
    with guest.session.expect("DEVICE_DELETED", match=lambda event: event["data"].get("device") == name) as gone:
        await guest.session.execute("device_del", {"id": name})
        await gone.wait(20)
    await guest.session.execute("chardev-remove", {"id": f"c-{name}"})
    heard = before - open_files(guest.process.pid)
    await park(guest.session, guest.process.pid, heard, name=f"idle-{link.slot}-{link.generation}")


@asynccontextmanager
async def linked_pair(
    image: GuestImage, *, queue_pairs: int = 1, mtu: int = MTU, cpus: tuple[int, int] = (1, 1)
) -> AsyncIterator[Pair]:
    """Boot two guests, plug a link, and wait until it carries packets. Their kernels must not complain."""
    directory = Path(tempfile.mkdtemp(prefix="vd", dir="/tmp"))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        pages = stack.enter_context(control_pages(2))
        link = Link(directory=directory, pages=pages, queue_pairs=queue_pairs, mtu=mtu)
        stack.callback(link.close)
        links = [f"52:56:77:00:00:0{role + 1} shm0 10.77.0.{role + 1}/24 {mtu}\n" for role in (0, 1)]
        smp = [["-smp", f"{count},maxcpus={max(count, 2)}"] for count in cpus]
        options = [[*Q35, *pages[role].options, *smp[role]] for role in (0, 1)]
        first, second = [
            await stack.enter_async_context(booted(image, *options[role], name=f"vm{role + 1}", links=links[role]))
            for role in (0, 1)
        ]
        pair = Pair(guests=(first, second), pages=pages, link=link, directory=directory)
        await pair.replug()
        await pair.ping()
        yield pair
        for guest in (first, second):
            complaints = [
                line for line in (await guest.run("dmesg")).splitlines() if any(w in line for w in BAD_WORDS)
            ]
            assert complaints == []


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=IMAGES)
async def image(request: pytest.FixtureRequest) -> GuestImage:
    return await built(*request.param)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(image: GuestImage) -> AsyncIterator[Pair]:
    """One pair for all tests that leave it as it was."""
    async with linked_pair(image) as linked:
        yield linked


async def test_the_interface_is_what_the_slot_says(pair: Pair) -> None:
    [shm0] = json.loads(await pair.guests[0].run("ip -j -d link show shm0"))
    assert (shm0["address"], shm0["mtu"], shm0["max_mtu"]) == ("52:56:77:00:00:01", MTU, 65521)
    assert "linkinfo" not in shm0  # the agent would take it for one that sits on another
    information = await pair.guests[0].run("ethtool -i shm0; ethtool shm0; ethtool -l shm0; ethtool -k shm0")
    for line in ("driver: vpctl_ivshmem", "Link detected: yes", "tcp-segmentation-offload: on"):
        assert line in information


async def test_packets_of_all_sizes_cross_both_ways(pair: Pair) -> None:
    for size in (0, 1, 56, 1472, 8972, 30000, 65507):
        await pair.ping(2, size)
    await pair.guests[0].run("ip link set shm0 mtu 65521")
    await pair.guests[1].run("ip link set shm0 mtu 65521")
    await pair.ping(2, 65400)
    for guest in pair.guests:
        await guest.run(f"ip link set shm0 mtu {MTU}")


async def iperf(pair: Pair, *options: str, seconds: int = 3) -> float:
    """Run iperf3 between the guests; Mbit/s."""
    await pair.guests[1].run("iperf3 -s -D -1")
    command = " ".join(["iperf3", "-c", "10.77.0.2", "-J", "-t", str(seconds), *options])
    report = json.loads(await pair.guests[0].run(command, timeout=seconds + 30))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


async def test_tcp_goes_both_ways_in_large_segments_and_few_doorbells(pair: Pair) -> None:
    before = await pair.counters(0)
    forward, backward = await iperf(pair), await iperf(pair, "-R")
    after = await pair.counters(0)
    packets, sent = (after[f"queue_0_tx_{what}"] - before[f"queue_0_tx_{what}"] for what in ("packets", "bytes"))
    doorbells = after["queue_0_tx_doorbells"] - before["queue_0_tx_doorbells"]
    assert min(forward, backward) > 100
    assert sent / packets > 10000
    assert doorbells < packets / 2
    assert after["queue_0_rx_bad"] == after["queue_0_tx_dropped"] == 0


@pytest.mark.parametrize("role", [0, 1])
async def test_the_carrier_follows_the_peers_interface(pair: Pair, role: int) -> None:
    await pair.guests[role].run("ip link set shm0 down")
    await wait_for_carrier(pair.guests[1 - role], "0")
    await pair.guests[role].run("ip link set shm0 up")
    await wait_for_carrier(pair.guests[1 - role], "1")
    await pair.ping()


async def wait_for_carrier(guest: Guest, value: str) -> None:
    async def look() -> bool | None:
        return True if (await guest.run("cat /sys/class/net/shm0/carrier")).strip() == value else None

    await until(look, timeout=5, what=f"carrier {value}", every=0.05)


RESTARTS = {
    "the device": "d=$(basename $(readlink /sys/class/net/shm0/device)); cd /sys/bus/pci/drivers/vpctl_ivshmem;"
    "echo $d >unbind; echo $d >bind",
    "the control page": "cd /sys/bus/pci/drivers/vpctl_ivshmem;"
    "for d in 0000:*; do [ -e $d/net ] || break; done; echo $d >unbind; [ ! -e /sys/class/net/shm0 ]; echo $d >bind",
    "the module": "rmmod vpctl_ivshmem; modprobe vpctl_ivshmem",
    "the interface": "for i in 1 2 3 4 5 6 7 8; do ip link set shm0 down; ip link set shm0 up; done",
}


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("what", list(RESTARTS))
async def test_what_starts_again_under_traffic_is_taken_in(pair: Pair, what: str, role: int) -> None:
    await flood(pair)
    await pair.guests[role].run(RESTARTS[what])
    await pair.ping()
    counters = await pair.counters(1 - role)
    assert (counters["bad_heads"], counters["bad_tails"], counters["bad_records"]) == (0, 0, 0)


async def flood(pair: Pair, seconds: int = 2) -> None:
    """Begin traffic in both directions, and leave it running."""
    await pair.guests[1].run(f"(timeout {seconds} ping -f -s 8000 10.77.0.1 >/dev/null 2>&1 &)")
    await pair.guests[0].run(f"(timeout {seconds} ping -f -s 8000 10.77.0.2 >/dev/null 2>&1 &)")


async def test_off_is_acknowledged_and_the_next_generation_works(pair: Pair) -> None:
    for _ in range(3):
        await flood(pair)
        for end in pair.link.ends:
            end.turn_off()

            await wait_for_acknowledgement(end)
        await pair.replug()
        await pair.ping()


async def wait_for_acknowledgement(end: End) -> None:
    async def look() -> bool | None:
        return True if end.has_acknowledged() else None

    await until(look, timeout=3, what="the driver's acknowledgement", every=0.002)


async def test_a_guest_that_reboots_is_taken_in(pair: Pair) -> None:
    guest = pair.guests[1]
    boots = guest.serial.read_text(errors="replace").splitlines().count("vpctl: ssh")
    await flood(pair)
    await guest.session.execute("system_reset")
    await wait_for_line(guest.serial, "vpctl: ssh", times=boots + 1)
    await pair.ping()


MUTATIONS = 300


async def test_garbage_in_the_region_under_traffic_hurts_nobody_and_the_link_comes_back(pair: Pair) -> None:
    await mutate(pair, MUTATIONS, seed=1)


@pytest.mark.long
async def test_ten_thousand_mutations_hurt_nobody(pair: Pair) -> None:
    await mutate(pair, 10_000, seed=2)


async def mutate(pair: Pair, count: int, *, seed: int) -> None:
    """Write garbage into the live region from outside, in many places, while packets flow."""
    dice = random.Random(seed)
    boots = [await guest.run("cat /proc/sys/kernel/random/boot_id") for guest in pair.guests]
    for number in range(count):
        if number % 200 == 0:
            await flood(pair, 30)
        place = dice.choice((0, 4096, 8192, 4096 + 256, 8192 + 256, HEADERS_SIZE, HEADERS_SIZE + pair.link.ring_size))
        at = place + dice.choice((dice.randrange(0, 136, 4), dice.randrange(0, 4096), dice.randrange(0, 65536)))
        garbage = dice.choice(
            (dice.randbytes(4), bytes(4), b"\xff" * 4, b"\x10\0\0\0", dice.randbytes(64), b"\0\0\1\0")
        )
        pair.link.memory[at : at + len(garbage)] = garbage
        await asyncio.sleep(dice.choice((0.0, 0.001, 0.01, 0.05)))
    await pair.ping(seconds=30)
    assert [await guest.run("cat /proc/sys/kernel/random/boot_id") for guest in pair.guests] == boots


SPREAD = """
cpu=0
for irq in $(awk -F: '/-(data|room|[rt]x)-[0-9]/ {print $1 + 0}' /proc/interrupts); do
    echo $((cpu % $(nproc))) >/proc/irq/$irq/smp_affinity_list
    cpu=$((cpu + 1))
done
"""
"""Each of the driver's vectors gets another CPU, the two of a pair in particular."""


@pytest.mark.parametrize("seconds", [5, pytest.param(600, marks=pytest.mark.long)])
async def test_several_queue_pairs_and_cpus_carry_packets(image: GuestImage, seconds: int) -> None:
    async with linked_pair(image, queue_pairs=4, cpus=(4, 2)) as pair:
        for guest in pair.guests:
            await guest.run(SPREAD)
        assert await iperf(pair, "-P", "4") > 50
        await pair.guests[1].run("iperf3 -s -D -1")
        said = await pair.guests[0].run(
            f"iperf3 -c 10.77.0.2 --bidir -P 2 -J -t {seconds} -i 1", timeout=seconds + 60
        )
        report = json.loads(said)
        assert "error" not in report
        for interval in report["intervals"]:
            assert min(interval[way]["bytes"] for way in ("sum", "sum_bidir_reverse")) > 0
        for role in (0, 1):
            counters = await pair.counters(role)
            assert [name for name, count in counters.items() if name.startswith("bad_") and count] == []
        counters = await pair.counters(0)
        assert sum(counters[f"queue_{queue}_tx_packets"] > 0 for queue in range(4)) > 1


async def test_devices_that_no_control_page_knows_are_left_alone(image: GuestImage) -> None:
    foreign = []
    for name, size in (("same-size", "64K"), ("larger", "1M")):
        foreign += ["-object", f"memory-backend-memfd,id={name},size={size},share=on"]
        foreign += ["-device", f"ivshmem-plain,memdev={name}"]
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vd", dir="/tmp")))
        pages = stack.enter_context(control_pages(2))
        link = Link(directory=directory, pages=pages)
        stack.callback(link.close)
        async with booted(image, *Q35, *foreign, *pages[0].options) as guest:
            link.begin()
            pages[0].set_state(0, SlotState.FREE)
            await plug(guest, link, 0)
            await asyncio.sleep(1)  # what would be wrong is that something comes
            taken = await guest.run("ls -d /sys/bus/pci/drivers/vpctl_ivshmem/0000:*")
            assert len(taken.split()) == 1  # the control page
            assert "vpctl_ivshmem 0000:" not in await guest.run("dmesg")
            # Nor is the foreign one awaited where there is no control page at all: its probe has failed.
            page = Path(taken.strip()).name
            await guest.run(f"echo 1 >/sys/bus/pci/devices/{page}/remove")
            bind = "/bin/echo 0000:01:00.0 >/sys/bus/pci/drivers/vpctl_ivshmem/bind"
            assert "No such device" in await guest.run(f"({bind}) 2>&1 || true")
