"""What an unplug under traffic leaves in QEMU and KVM: no interrupt route, no eventfd."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kvm.guests import kvm_pair
from tests.vm.commandline import Vpctl
from tests.vm.traffic import Stream, other_end

pytestmark = pytest.mark.kvm

KINDS = ("vhost-pci", "ivshmem-doorbell")
SURVIVOR, VICTIM = "vm1", "vm2"
"""vm1 has the device with doorbells and interrupts of its own: the vhost-pci end, or either end of ivshmem."""

TRACE = ", qemu_args: [-trace, kvm_irqchip_add_msi_route, -trace, kvm_irqchip_release_virq]"


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[Vpctl]:
    with kvm_pair(request.param, more=TRACE, link=", recovery: {policy: replug}") as vpctl:
        yield vpctl


def test_replugging_under_traffic_leaves_no_route_and_no_eventfd(pair: Vpctl) -> None:
    status = pair.json("status")
    stream = Stream(pair, SURVIVOR, "lan0", other_end(status, "lan0", SURVIVOR)["address"])
    stream.flows(VICTIM, more_than=0)
    before = routes(pair), eventfds(pair)
    assert before[0], "QEMU traces the routes that it makes"
    for _ in range(2):
        pair.run("crash", VICTIM, "--how", "kill")
        assert pair.json("recover", VICTIM)["ok"]
    assert stream.flows(VICTIM, more_than=0)["corrupt"] == 0
    assert (routes(pair), eventfds(pair)) == before
    stream.stop()


def routes(vpctl: Vpctl) -> dict[str, int]:
    """Return how many interrupt routes each device of the survivor has in KVM, from QEMU's own trace."""
    # The newest generation is the only one: the survivor is never booted again.
    log = vpctl.directories.state / "smoke/vms" / SURVIVOR / "1/qemu.log"
    owner: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        if added := re.search(r"kvm_irqchip_add_msi_route dev (\S+) vector \d+ virq (\d+)", line):
            owner[added[2]] = added[1]
        elif released := re.search(r"kvm_irqchip_release_virq virq (\d+)", line):
            owner.pop(released[1], None)
    return {device: list(owner.values()).count(device) for device in sorted(set(owner.values()))}


def eventfds(vpctl: Vpctl) -> int:
    """Return how many eventfds the survivor's QEMU holds."""
    process = vpctl.qemu("smoke", SURVIVOR)
    assert process is not None
    held = 0
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            held += "eventfd" in os.readlink(entry)  # noqa: PTH115 - what it points to is no path
        except OSError:
            continue
    return held
