"""What takes a vhost-pci link long: much data, much memory, interrupts that wander."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.commandline import Vpctl, user
from tests.vm.traffic import links, other_end, vms

pytestmark = [pytest.mark.vm, pytest.mark.long]

LINK = "{lan0: {kind: vhost-pci, endpoints: [vm1, vm2]}}"
CHUNKS = 256
DATA = f"i=0; while [ $i -lt {CHUNKS} ]; do echo $i; cat /tmp/chunk; i=$((i+1)); done"
VIRTIO_IRQS = "awk -F: '/virtio/ {print $1+0}' /proc/interrupts"


@pytest.fixture(scope="module")
def pair() -> Iterator[Vpctl]:
    with user() as vpctl:
        vpctl.run("up", str(vpctl.spare_file("pair", "{vm1: {}, vm2: {cpus: 2}}", LINK)))
        yield vpctl


def peer_address(vpctl: Vpctl, vm: str) -> str:
    """Return where a VM finds the other one."""
    found: str = other_end(vpctl.json("status"), "lan0", vm)["address"]
    return found.partition("/")[0]


@pytest.mark.parametrize(("source", "target"), [("vm1", "vm2"), ("vm2", "vm1")])
def test_256_mib_arrive_as_they_were_sent(pair: Vpctl, source: str, target: str) -> None:
    pair.guest(source, "head -c 1048576 /dev/urandom >/tmp/chunk")
    receiving = pair.start("exec", target, "--", "nc -l 7777 | sha256sum")
    pair.guest(target, "while ! grep -q ':1E61 ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done")
    pair.guest(source, f"({DATA}) | nc -N {peer_address(pair, source)} 7777")
    sent = pair.guest(source, f"({DATA}) | sha256sum")
    assert receiving.wait().stdout == sent
    assert int(pair.guest(target, "cat /sys/class/net/lan0/statistics/rx_bytes")) > CHUNKS << 20


def test_interrupts_that_are_moved_from_cpu_to_cpu_under_traffic_cost_nothing(pair: Vpctl) -> None:
    """Masked for it, a queue may get another eventfd: the vhost-pci end's device rings that one from then on."""
    before = pair.json("status")
    pair.guest("vm2", "iperf3 --server --daemon --one-off")
    iperf = f"iperf3 -c {peer_address(pair, 'vm1')} --bidir --time 20 --interval 0.5 --json"
    running = pair.start("exec", "vm1", "--", iperf)
    moves = "for cpu in 1 2; do for irq in $irqs; do echo $cpu >/proc/irq/$irq/smp_affinity; done; sleep 0.1; done"
    irqs = pair.guest("vm2", VIRTIO_IRQS).split()
    assert irqs
    pair.guest("vm2", f"irqs='{' '.join(irqs)}'; n=0; while [ $n -lt 60 ]; do {moves}; n=$((n+1)); done")
    result: dict[str, Any] = json.loads(running.wait().stdout)
    assert "error" not in result
    assert min(part["sum"]["bytes"] for part in result["intervals"]) > 0, "no half second without packets"
    after = pair.json("status")
    assert links(after)["lan0"]["generation"] == links(before)["lan0"]["generation"]
    assert {n: vm["pid"] for n, vm in vms(after).items()} == {n: vm["pid"] for n, vm in vms(before).items()}
    assert pair.json("check")["ok"]


@pytest.mark.parametrize("memory", ["1536M", "4G"])
def test_a_front_end_has_more_memory_than_fits_below_its_gap(vpctl: Vpctl, memory: str) -> None:
    vpctl.run("up", str(vpctl.spare_file("pair", f"{{vm1: {{}}, vm2: {{memory: {memory}}}}}", LINK)))
    assert vpctl.json("check")["ok"]
    # Fills most of it, so that packets lie elsewhere than at first.
    total = int(vpctl.guest("vm2", "awk '/MemFree/ {print $2}' /proc/meminfo")) >> 10
    vpctl.guest(
        "vm2", f"mkdir /fill; mount -t tmpfs -o size=100% t /fill; head -c {total * 3 // 4}M /dev/zero >/fill/x"
    )
    assert vpctl.json("check")["ok"]
    vpctl.guest("vm2", "rm /fill/x")
    vpctl.run("crash", "vm1", "--how", "kill")
    assert vpctl.json("recover", "vm1")["ok"]
    assert vpctl.json("check")["ok"]
