"""Topologies, links and runs made in a line, for tests that are about something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from typing import Any

from vpctl.links import LINK_KINDS
from vpctl.plan.link import link_args
from vpctl.plan.run import Run
from vpctl.qemu.argv import Boot, MachineSpec
from vpctl.topology.model import Endpoint, LinkSpec, RecoverySpec, Topology, VmSpec, mac_address

BOOT = Boot(
    kernel="/i/vmlinuz",
    initrd="/i/initrd.img",
    disk="/i/root.squashfs",
    disk_format="raw",
    disk_overlay=False,
    kernel_args="root=/dev/vda quiet",
    agent="/i/vpctl-agent",
)


def made_link(name: str, first: str, second: str, *, number: int = 0, **more: Any) -> LinkSpec:
    """Return a stream link; `number` chooses its subnet."""
    subnet = IPv4Network(f"10.77.{number}.0/30")
    ends = [
        Endpoint(vm=vm, mac=mac_address("t", name, vm), address=IPv4Interface(f"{subnet[host]}/30"))
        for host, vm in ((1, first), (2, second))
    ]
    given = {"kind": "stream", "recovery": RecoverySpec(policy="replug"), **more}
    return LinkSpec(name=name, endpoints=(ends[0], ends[1]), subnet=subnet, **given)


def made_topology(
    *links: tuple[str, str, str], vms: Sequence[VmSpec | str] = (), name: str = "pair", kind: str = "stream"
) -> Topology:
    """Return a topology of links (name, first VM, second VM) of one kind; VMs that a link names need not be given."""
    specs = {vm.name: vm for vm in (VmSpec(name=v) if isinstance(v, str) else v for v in vms)}
    for _, *ends in links:
        for vm in ends:
            specs.setdefault(vm, VmSpec(name=vm))
    rules = LINK_KINDS[kind].rules
    given: dict[str, Any] = {
        "kind": kind,
        "recovery": RecoverySpec(policy=rules.policies[0]),
        "options": {name: key.default for name, key in rules.keys.items()},
    }
    made = [made_link(*link, number=number, **given) for number, link in enumerate(links)]
    return Topology(name=name, vms=tuple(specs.values()), links=tuple(made))


PAIR = made_topology(("lan0", "vm1", "vm2"))


def made_machine(topology: Topology, vm: VmSpec, **more: Any) -> MachineSpec:
    """Return what was decided for a VM of a topology."""
    given: dict[str, Any] = {
        "qemu": ("qemu-system-x86_64",),
        "qemu_version": (7, 2, 22),
        "accelerator": "tcg",
        "accelerator_reason": "asked for",
        "cpu_model": "max,-erms,-fsrm",
        "sandbox": True,
        "boot": BOOT,
        "link_args": link_args(topology, vm),
    }
    return MachineSpec(vm=vm, **{**given, **more})


def made_run(topology: Topology = PAIR, **more: Any) -> Run:
    """Return a run of a topology whose VMs boot nothing in particular."""
    machines = {vm.name: made_machine(topology, vm) for vm in topology.vms}
    return replace(Run(topology=topology, machines=machines, run_id="r1", source="/t/pair.yaml"), **more)
