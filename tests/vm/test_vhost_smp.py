"""The guest's driver for vhost-pci links where several CPUs run it: four in vm1, two in vm2, and two queue pairs.

vm2 poisons the memory that it frees, so that a packet or a completion that is written there later is seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import pytest_asyncio

from tests.support import until
from tests.vm.booting import IMAGES, QEMU, Guest, built
from tests.vm.test_driver import BAD_WORDS, SPREAD
from tests.vm.test_vhost_driver import VM2_RESTARTS, Pair, faults, iperf, linked_pair
from vpctl.broker.control_page import AnswerState
from vpctl.guest.ssh import connection, run
from vpctl.image import GuestImage

pytestmark = [
    pytest.mark.vm,
    pytest.mark.kvm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"`{QEMU}` is not installed"),
]

QUEUE_PAIRS = 2
POISON = "init_on_free=1 page_poison=1"
VM2_COMPLAINTS = (*BAD_WORDS, "pagealloc", "memory corruption", "is not a head", "unexpected buffer")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=IMAGES)
async def image(request: pytest.FixtureRequest) -> GuestImage:
    return await built(*request.param)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(image: GuestImage) -> AsyncIterator[Pair]:
    """One pair for all tests; vm2's kernel must not complain either."""
    vm1 = ["-smp", "4,maxcpus=4"]
    vm2 = ["-smp", "2,maxcpus=2", "-append", f"{image.kernel_args} {POISON}"]
    async with linked_pair(image, queue_pairs=QUEUE_PAIRS, mtu=1500, more=(vm1, vm2)) as linked:
        assert POISON in await linked.vm2.run("cat /proc/cmdline")
        yield linked
        lines = (await linked.vm2.run("dmesg")).splitlines()
        assert [line for line in lines if any(word in line for word in VM2_COMPLAINTS)] == []


async def test_several_queue_pairs_carry_packets(pair: Pair) -> None:
    assert "Combined:\t2" in (await pair.vm1.run("ethtool -l shm0")).replace(" ", "")
    assert await iperf(pair, "-P", "4") > 20
    assert await iperf(pair, "-R", "-P", "4") > 20
    counters = await pair.counters()
    assert all(counters[f"queue_{queue}_tx_packets"] for queue in range(QUEUE_PAIRS))


@pytest.mark.parametrize("seconds", [8, pytest.param(600, marks=pytest.mark.long)])
async def test_each_vector_has_a_cpu_of_its_own_and_no_wake_up_gets_lost(pair: Pair, seconds: int) -> None:
    """A wake-up that is lost costs the second until the driver's next look, and a ring that is corrupted all."""
    await pair.vm1.run(SPREAD)
    await pair.vm2.run("iperf3 -s -D -1 -p 5201; iperf3 -s -D -1 -p 5202; sleep 0.5")
    command = f"iperf3 -c 10.77.0.2 --bidir -J -t {seconds} -i 1 -p {{}}"
    both = await asyncio.gather(
        *(pair.vm1.run(command.format(port), timeout=seconds + 60) for port in (5201, 5202)),
    )
    for said in both:
        report = json.loads(said)
        assert "error" not in report
        assert min(part[way]["bytes"] for part in report["intervals"] for way in ("sum", "sum_bidir_reverse")) > 0
    counters = await pair.counters()
    assert faults(counters) == 0
    assert sum(counters[f"queue_{queue}_rx_bad"] for queue in range(QUEUE_PAIRS)) == 0


# Section: nothing is written after the acknowledgement of OFF

BLAST = """
while [ -e /tmp/blast ]; do nc -b -u 10.77.0.255 9 </dev/zero >/dev/null 2>&1 || sleep 0.02; done
"""
"""Broadcasts, one after the other: they need no neighbour, and nothing answers them."""


@asynccontextmanager
async def blasts(*guests: Guest) -> AsyncIterator[None]:
    """Have packets of these guests on the link, back to back, as long as the block lasts."""
    for guest in guests:
        await guest.run(f"touch /tmp/blast; for n in 1 2; do (sh -c '{BLAST.strip()}' >/dev/null 2>&1 &); done")
    yield
    for guest in guests:
        await guest.run("rm /tmp/blast; pkill -x nc || true")


async def moving(pair: Pair) -> None:
    """Wait until packets go both ways, in whichever queue."""
    before = [pair.host.used_index(ring) for ring in range(2 * QUEUE_PAIRS)]

    async def look() -> bool | None:
        moved = {ring % 2 for ring, index in enumerate(before) if pair.host.used_index(ring) != index}
        return True if len(moved) == 2 else None

    await until(look, timeout=30, what="packets both ways", every=0.005)


async def stays_as_it_is(pair: Pair) -> None:
    """See that nothing is written to vm2's rings for 50 ms."""
    written = pair.host.written()
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.05
    while loop.time() < end:
        assert pair.host.written() == written
        await asyncio.sleep(0.001)


@contextmanager
def kicks(pair: Pair) -> Iterator[None]:
    """Kick all of vm1's queues without an end, as a busy vm2 does: there is always a poll that is due."""
    assert pair.host.device is not None
    fds = [os.dup(ring.kick.fd) for ring in pair.host.device.vrings.rings]
    over = threading.Event()

    def kick() -> None:
        while not over.is_set():
            for fd in fds:
                os.eventfd_write(fd, 1)

    thread = threading.Thread(target=kick)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for fd in fds:
            os.close(fd)


REBIND = "d={}; cd /sys/bus/pci/drivers/vpctl_ivshmem; echo $d >unbind; echo $d >bind"


@pytest.mark.parametrize("times", [40, pytest.param(1000, marks=pytest.mark.long)])
async def test_nothing_is_written_to_a_peer_after_off_was_acknowledged(pair: Pair, times: int) -> None:
    device = (await pair.vm1.run("basename $(readlink /sys/class/net/shm0/device)")).strip()

    async def connected() -> bool | None:
        return True if pair.host.answer.state == AnswerState.ON else None

    async with blasts(*pair.guests), connection(pair.vm1.address) as ssh:
        for _ in range(times):
            await moving(pair)
            with kicks(pair):
                await pair.host.off()
            await stays_as_it_is(pair)
            pair.host.turn_on()
            done = await run(ssh, ["sh", "-ec", REBIND.format(device)], vm="vm1", timeout=30)
            assert done.status == 0, done
            await until(connected, timeout=30, what="the driver's next connection", every=0.005)
    await pair.ping()
    assert faults(await pair.counters()) == 0


@pytest.mark.parametrize("times", [3, pytest.param(200, marks=pytest.mark.long)])
async def test_a_front_end_that_goes_under_traffic_finds_its_freed_memory_untouched(pair: Pair, times: int) -> None:
    """vm2's kernel would say so at the latest when it gives that memory out again."""
    async with blasts(*pair.guests):
        for _ in range(times):
            await moving(pair)
            await pair.vm2.run(VM2_RESTARTS["the driver"])
            assert pair.host.answer.state == AnswerState.OFF
            await pair.replug()
    await pair.ping()
    await pair.vm2.run("head -c 120M /dev/zero | tail -c 1 >/dev/null")  # much of it is given out
