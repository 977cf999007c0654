"""No process of the host wakes for a packet of a shared-memory link: doorbells are KVM's ioeventfds and irqfds.

Under TCG QEMU's main loop stands in for both. Under KVM a doorbell goes from one guest's exit to the other guest's
interrupt inside the kernel, and only the vCPU threads run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kvm.guests import kvm_pair
from tests.vm.commandline import Vpctl

pytestmark = pytest.mark.kvm

PINGS = 300
FRAMES = 2 * PINGS
"""Request and reply, each of which rings a doorbell: the pings come one by one, so both ends sleep in between."""


@pytest.fixture(scope="module", params=["vhost-pci", "ivshmem-doorbell", "stream"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, Vpctl]]:
    with kvm_pair(request.param) as vpctl:
        yield request.param, vpctl


def test_only_vcpus_run_for_a_packet_of_a_shared_memory_link(pair: tuple[str, Vpctl]) -> None:
    kind, vpctl = pair
    began = time.monotonic()
    busy = wakeups(vpctl, f"ping -q -c {PINGS} -i 0.02 vm2")
    took = time.monotonic() - began
    rest = wakeups(vpctl, f"sleep {took:.1f}")
    per_frame = {name: (busy[name] - rest[name]) / FRAMES for name in busy}
    print(f"{kind}: {busy} in {took:.1f} s of pings, {rest} at rest")
    if kind == "stream":
        # What it looks like where QEMU carries the packets: else the other figures would prove nothing.
        assert max(per_frame.values()) > 0.5, per_frame
    else:
        assert max(per_frame.values()) < 0.1, per_frame


def wakeups(vpctl: Vpctl, script: str) -> dict[str, int]:
    """Return how often each process that could carry packets slept and woke while a script ran in vm1.

    Of a QEMU its main loop counts (the thread with the process's own id), not the threads that are vCPUs.
    """
    watched = {
        "vm1": vpctl.qemu("smoke", "vm1"),
        "vm2": vpctl.qemu("smoke", "vm2"),
        "broker": vpctl.broker("smoke"),
        "supervisor": vpctl.supervisor("smoke"),
    }
    before = {name: _switches(process.pid) for name, process in watched.items() if process is not None}
    vpctl.guest("vm1", script)
    return {name: _switches(process.pid) - before[name] for name, process in watched.items() if process is not None}


def _switches(pid: int) -> int:
    """Return how often a process's first thread has gone to sleep by itself."""
    lines = Path(f"/proc/{pid}/task/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
