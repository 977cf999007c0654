"""From a topology to a run: everything that is decided before anything is started.

The host is checked first, so that what cannot work fails with a remedy and nothing has to be taken back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from vpctl import image as guest_images
from vpctl.errors import HostError, UsageError
from vpctl.guest.keys import new_run_id
from vpctl.host.bridge import require
from vpctl.image import GuestImage
from vpctl.image.files import disk_format
from vpctl.image.store import image_directory, load_image
from vpctl.links import LINK_KINDS
from vpctl.log import Log
from vpctl.plan.link import host_networks, link_args, shared_memory
from vpctl.plan.run import Run
from vpctl.qemu import accelerator
from vpctl.qemu.argv import Boot, MachineSpec
from vpctl.qemu.host import Finding, require_host
from vpctl.qemu.memory import check_memory
from vpctl.qemu.probe import QemuInfo, find_qemu, probe_for, remembered, supposed
from vpctl.qmp.session import MOST_FDS
from vpctl.rundir import Directories
from vpctl.topology.model import ImageSpec, Topology, VmSpec

AGENT_IMAGE = "micro"
"""Where the agent comes from for VMs that boot an image of the user's own."""


def qemu_needs(topology: Topology, vm: VmSpec | None = None) -> tuple[list[str], list[str], tuple[int, int]]:
    """Return the devices, network back-ends and version that the links of a VM (None: of all) need."""
    links = topology.links if vm is None else topology.links_of(vm.name)
    kinds = [LINK_KINDS[name].requirements for name in {link.kind for link in links}]
    devices = [device for kind in kinds for device in kind.devices]
    netdevs = [netdev for kind in kinds for netdev in kind.netdevs]
    return devices, netdevs, max((kind.qemu for kind in kinds), default=(0, 0))


QEMU_FILES, QEMU_FILES_PER_CPU = 42 + MOST_FDS, 1
"""Open files of a QEMU without links; a vCPU of KVM is one. Some numbers are left free while a device is plugged, see
`fd_parking`, and it is the highest number that is limited."""

BROKER_FILES, BROKER_FILES_PER_VM = 16, 4
"""Open files of the broker without links."""


def open_files(topology: Topology) -> dict[str, int]:
    """Return how many files each process of a topology has open once everything is up."""
    broker = BROKER_FILES + BROKER_FILES_PER_VM * len(topology.vms)
    qemus = {vm.name: QEMU_FILES + QEMU_FILES_PER_CPU * vm.cpus for vm in topology.vms}
    for link in topology.links:
        files, more = LINK_KINDS[link.kind].requirements.files, link.queues - 1
        broker += files.broker + more * files.broker_per_queue
        for end in link.endpoints:
            qemus[end.vm] += files.qemu + more * files.qemu_per_queue
    return {"the broker": broker, **{f"the QEMU of `{vm}`": count for vm, count in qemus.items()}}


async def prepare(
    topology: Topology,
    *,
    source: str,
    directories: Directories,
    environ: Mapping[str, str],
    log: Log,
    keep: bool = False,
    stage_seconds: Mapping[str, float] | None = None,
) -> Run:
    """Check the host, build what is missing of the images, decide on accelerators; starts nothing.

    Raises HostError, with a remedy, for whatever this host cannot do.
    """
    rundir = directories.topology(topology.name)
    rundir.check_socket_paths([vm.name for vm in topology.vms], [link.name for link in topology.links])
    own = {vm.name: _own_image(vm.image) for vm in topology.vms if vm.image.name is None}
    for warning in require_host(open_files(topology)):
        log.warning(warning, hint="vpctl doctor")
    check_memory(topology, shared=shared_memory(topology))
    require(host_networks(topology, rundir))
    qemus = {vm.name: await probe_qemu(topology, vm, directories, environ) for vm in topology.vms}
    images = {
        vm.name: own[vm.name]
        if vm.image.name is None
        else await _built_image(vm.image.name, directories, environ, log)
        for vm in topology.vms
    }
    # An own image gets the agent over ssh; whichever built image is at hand has it.
    agents = {vm.name: images[vm.name].agent for vm in topology.vms if vm.image.name is not None}
    for vm in topology.vms:
        if vm.name not in agents:
            agents[vm.name] = (await _built_image(AGENT_IMAGE, directories, environ, log)).agent
    machines: dict[str, MachineSpec] = {}
    warnings: dict[str, None] = {}
    for vm in topology.vms:
        verdict = await accelerator.decide(
            vm.accelerator,
            qemu=qemus[vm.name],
            kernel=images[vm.name].kernel,
            cache=directories.cache,
            log=log,
            environ=environ,
        )
        if verdict.warning is not None:
            warnings[verdict.warning] = None
        machines[vm.name] = _machine(topology, vm, qemus[vm.name], images[vm.name], agents[vm.name], verdict)
    for warning in warnings:
        log.warning(warning, hint="`vpctl doctor` tries again; VPCTL_ACCELERATOR=tcg asks for TCG")
    return Run(
        topology=topology,
        machines=machines,
        run_id=new_run_id(),
        source=source,
        keep=keep,
        stage_seconds=dict(stage_seconds or {}),
    )


async def plan(
    topology: Topology, *, source: str, directories: Directories, environ: Mapping[str, str], probing: bool = True
) -> Run:
    """Decide what can be decided without starting, building or trying anything; the rest is said in words.

    An image that is not built yet stands with the path that it will have, `auto` with the verdict that is
    remembered, else as `tcg`. Without `probing` not even a QEMU is asked what it can do, which the file names, as any
    command that its author likes: what it answered before counts, else what it would have to answer.
    """
    own = {vm.name: _own_image(vm.image) for vm in topology.vms if vm.image.name is None}
    require(host_networks(topology, directories.topology(topology.name)))
    machines = {}
    for vm in topology.vms:
        qemu, unknown = (
            (await probe_qemu(topology, vm, directories, environ), "")
            if probing
            else _unasked_qemu(vm, directories, environ)
        )
        image = own[vm.name] if vm.image.name is None else _planned_image(vm.image.name, directories)
        verdict = accelerator.remembered(
            vm.accelerator, qemu=qemu, kernel=image.kernel, cache=directories.cache, environ=environ
        ) or accelerator.Verdict(
            accelerator="tcg",
            cpu_model=accelerator.cpu_model("tcg", qemu.version),
            reason="`up` tries KVM first",
        )
        verdict = replace(verdict, reason=verdict.reason + unknown)
        machines[vm.name] = _machine(topology, vm, qemu, image, image.agent, verdict)
    return Run(topology=topology, machines=machines, run_id="plan", source=source)


def _unasked_qemu(vm: VmSpec, directories: Directories, environ: Mapping[str, str]) -> tuple[QemuInfo, str]:
    """Return what a VM's QEMU answered before, or would have to answer and a word on that; it is not run."""
    argv = find_qemu(vm.qemu, environ)
    if (known := remembered(argv, cache=directories.cache)) is not None:
        return known, ""
    taken = supposed(argv)
    return taken, f"; this QEMU was not asked, and is taken for {taken.version_text}"


async def probe_qemu(
    topology: Topology, vm: VmSpec, directories: Directories, environ: Mapping[str, str]
) -> QemuInfo:
    """Find a VM's QEMU and see that it has what the VM and its links need."""
    devices, netdevs, version = qemu_needs(topology, vm)
    return await probe_for(
        find_qemu(vm.qemu, environ), cache=directories.cache, devices=devices, netdevs=netdevs, version=version
    )


async def _built_image(name: str, directories: Directories, environ: Mapping[str, str], log: Log) -> GuestImage:
    mirror = environ.get("VPCTL_DEBIAN_MIRROR") or None
    return await guest_images.ensure(name, cache=directories.images, mirror=mirror, log=log)


def _planned_image(name: str, directories: Directories) -> GuestImage:
    directory = image_directory(directories.images, name, guest_images.image_key(name))
    return load_image(directory) or GuestImage(
        name=name,
        key=directory.name,
        directory=directory,
        kernel=directory / "vmlinuz",
        initrd=directory / "initrd.img",
        disk=directory / "root.squashfs",
        kernel_args="",
        agent=directory / "vpctl-agent",
        manifest={},
    )


def _own_image(spec: ImageSpec) -> GuestImage:
    def path(value: str | None) -> Path | None:
        return None if value is None else Path(value)

    return guest_images.own(Path(spec.kernel or ""), path(spec.initrd), path(spec.disk))


def examine_boot_files(topologies: Iterable[Topology]) -> list[Finding]:
    """Look at the boot files of the user's own, for the doctor; those that are well need no word."""
    found = []
    for image in dict.fromkeys(vm.image for topology in topologies for vm in topology.vms if vm.image.name is None):
        try:
            _own_image(image)
        except UsageError as error:
            found.append(Finding(name="boot files", ok="failed", message=error.message, remedy=error.hint))
    return found


def _machine(
    topology: Topology, vm: VmSpec, qemu: QemuInfo, image: GuestImage, agent: Path, verdict: accelerator.Verdict
) -> MachineSpec:
    own = vm.image.name is None
    boot = Boot(
        kernel=str(image.kernel),
        initrd=None if image.initrd is None else str(image.initrd),
        disk=None if image.disk is None else str(image.disk),
        # The disk of a built image is a squashfs, and `plan` names it before it is there.
        disk_format=disk_format(image.disk) if own and image.disk is not None else "raw",
        disk_overlay=own,
        kernel_args=image.kernel_args,
        agent=str(agent),
    )
    return MachineSpec(
        vm=vm,
        qemu=qemu.argv,
        qemu_version=qemu.version,
        accelerator=verdict.accelerator,
        accelerator_reason=verdict.reason,
        cpu_model=verdict.cpu_model,
        sandbox=qemu.sandbox,
        boot=boot,
        link_args=link_args(topology, vm),
    )


def built_kernel(directories: Directories, names: Iterable[str] = ("micro",)) -> Path | None:
    """Return the kernel of a built image, for a try of KVM; None as long as there is none."""
    for name in names:
        with contextlib.suppress(HostError):
            image = load_image(image_directory(directories.images, name, guest_images.image_key(name)))
            if image is not None:
                return image.kernel
    return None
