"""The command line of a VM: a pure function from what was decided to a list of strings.

Each `*_args` function returns one concern; `machine_argv` joins them. The result is what runs and what a user can
paste into a shell: no inherited descriptors, no temporary names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpctl.rundir import RunDir
from vpctl.topology.model import VmSpec

HEARTBEAT_PORT = "org.vpctl.heartbeat"
HEARTBEAT_CHARDEV = "heartbeat"
MANAGEMENT_NETDEV = "mgmt"
MANAGEMENT_MAC = "52:56:00:00:00:01"
"""The same in every guest: each management network is a user network of its own."""

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""All four denials; `probe` asks whether a QEMU takes them."""

TCG_CODE = 64 << 20
"""Bytes of translated code that QEMU keeps; a boot of the micro image makes 75 MiB, most of it to run once."""

HEARTBEAT_RING_BYTES = 4096
"""Some forty heartbeats: the guest never blocks on them, and the newest survive a supervisor that was away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """What a VM boots; `disk_overlay` throws away what the guest writes to a disk that is not read-only."""

    kernel: str
    initrd: str | None
    disk: str | None
    disk_format: str
    disk_overlay: bool
    kernel_args: str
    agent: str
    """The guest agent's binary on the host: copied into guests whose image lacks it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """Everything that was decided about a VM before it is started; stays the same over its generations."""

    vm: VmSpec
    qemu: tuple[str, ...]
    qemu_version: tuple[int, int, int]
    accelerator: str
    accelerator_reason: str
    cpu_model: str
    sandbox: bool
    boot: Boot
    link_args: tuple[str, ...]


def quote_option(value: str | Path) -> str:
    """Double the commas of a value inside a QEMU option (`key=value,…`)."""
    return str(value).replace(",", ",,")


def name_args(topology: str, vm: VmSpec) -> list[str]:
    """`-name` comes first, so that `ps` is readable."""
    return ["-name", f"guest={vm.name},process=vpctl-{topology}-{vm.name},debug-threads=on"]


def accel_option(accelerator: str) -> str:
    """Return what `-accel` is given.

    TCG: QEMU keeps up to 1 GiB of translated code, beside what `memory` reckons with. QEMU 7.2 translates a program
    anew for each process, since its addresses are others. All that stays until its page is written to, as a
    reboot does, and each write goes through all that was translated of the page: after 300 processes a reset took
    227 s instead of the 3 to 6 of a boot (7.2.22; 4 on 11.1.3, which translates without addresses). With less room
    everything is thrown away at once before it is much, and boots and processes take no longer.
    """
    return f"tcg,thread=multi,tb-size={TCG_CODE >> 20}" if accelerator == "tcg" else accelerator


def machine_args(spec: MachineSpec, *, ram: str | None = None) -> list[str]:
    """Machine, accelerator, CPUs and memory; `ram` is the path of a memory that others may map."""
    vm = spec.vm
    return [
        *("-machine", vm.machine if ram is None else f"{vm.machine},memory-backend=ram"),
        *("-accel", accel_option(spec.accelerator)),
        *("-cpu", spec.cpu_model),
        # maxcpus >= 2 even for one CPU: with a single one QEMU 7.2's TCG drops memory barriers, which another
        # process that shares the memory would notice (rule 10).
        *("-smp", f"cpus={vm.cpus},maxcpus={max(2, vm.cpus)}"),
        *("-m", f"{vm.memory >> 20}M"),
        *([] if ram is None else _ram_args(vm, ram)),
        "-nodefaults",
        "-no-user-config",
        *("-display", "none"),
    ]


def _ram_args(vm: VmSpec, path: str) -> list[str]:
    # One file for all of it, and shared: whoever maps the file sees what the guest writes.
    return ["-object", f"memory-backend-file,id=ram,mem-path={path},size={vm.memory >> 20}M,share=on"]


def boot_args(spec: MachineSpec) -> list[str]:
    """Kernel, initramfs, command line and root disk."""
    boot = spec.boot
    # panic=-1 turns a panic that pvpanic does not see into a reboot at once, and -action makes that an exit.
    ours = dict.fromkeys(f"console=ttyS0 panic=-1 {boot.kernel_args}".split())  # each word once
    append = " ".join([*ours, *([spec.vm.kernel_args] if spec.vm.kernel_args else [])])
    args = ["-kernel", boot.kernel]
    if boot.initrd is not None:
        args += ["-initrd", boot.initrd]
    args += ["-append", append]
    if boot.disk is not None:
        access = "snapshot=on" if boot.disk_overlay else "readonly=on"
        drive = f"if=none,id=root,file={quote_option(boot.disk)},format={boot.disk_format},{access}"
        args += ["-drive", drive, "-device", "virtio-blk-pci,drive=root,serial=vpctl-root"]
    return args


def management_args() -> list[str]:
    """The NIC that ssh comes in by; the forward is added over QMP, where QEMU picks the port.

    restrict=on: without it a guest reaches the host's loopback services through 10.0.2.2.
    """
    return [
        *("-netdev", f"user,id={MANAGEMENT_NETDEV},restrict=on"),
        *("-device", f"virtio-net-pci,netdev={MANAGEMENT_NETDEV},mac={MANAGEMENT_MAC},romfile="),
    ]


def console_args(rundir: RunDir, vm: str, logs: Path) -> list[str]:
    """The serial console: logged to a file always, readable on a socket; nobody has to drain it."""
    socket, log = quote_option(rundir.console_socket(vm)), quote_option(logs / "serial.log")
    return [
        *("-chardev", f"socket,id=serial0,path={socket},server=on,wait=off,logfile={log},logappend=on"),
        *("-serial", "chardev:serial0"),
    ]


def qmp_args(rundir: RunDir, vm: str) -> list[str]:
    """Two QMP sockets, since one serves one client at a time: the supervisor's and people's."""
    args: list[str] = []
    for number, path in enumerate((rundir.qmp_socket(vm), rundir.people_qmp_socket(vm))):
        args += ["-chardev", f"socket,id=qmp{number},path={quote_option(path)},server=on,wait=off"]
        args += ["-mon", f"chardev=qmp{number},mode=control"]
    return args


def health_args() -> list[str]:
    """A heartbeat that blocks nobody and outlives any listener, and a word when the guest's kernel panics."""
    return [
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"ringbuf,id={HEARTBEAT_CHARDEV},size={HEARTBEAT_RING_BYTES}"),
        *("-device", f"virtserialport,chardev={HEARTBEAT_CHARDEV},name={HEARTBEAT_PORT},id={HEARTBEAT_CHARDEV}"),
        *("-device", "pvpanic"),
        # A panic before pvpanic's driver is loaded looks like a reboot: until the guest is ready a reboot is an
        # exit; afterwards `set-action` makes it a reboot again.
        *("-action", "reboot=shutdown,shutdown=poweroff,panic=pause"),
    ]


def config_args(items: Mapping[str, Path]) -> list[str]:
    """Per-VM settings by fw_cfg; files, since argv is readable by every user of the host."""
    args: list[str] = []
    for item, path in items.items():
        args += ["-fw_cfg", f"name={item},file={quote_option(path)}"]
    return args


def sandbox_args(enabled: bool) -> list[str]:
    """All four denials, where this QEMU was built with seccomp."""
    if not enabled:
        return []
    return ["-sandbox", SANDBOX]


def machine_argv(
    spec: MachineSpec,
    *,
    topology: str,
    rundir: RunDir,
    generation: int,
    config: Mapping[str, Path],
    ram: str | None = None,
) -> list[str]:
    """Return the whole command line of one generation of a VM; `ram`: see `machine_args`."""
    vm = spec.vm.name
    return [
        *spec.qemu,
        *name_args(topology, spec.vm),
        *machine_args(spec, ram=ram),
        *sandbox_args(spec.sandbox),
        *boot_args(spec),
        *qmp_args(rundir, vm),
        *console_args(rundir, vm, rundir.generation(vm, generation)),
        *health_args(),
        *management_args(),
        *config_args(config),
        *spec.link_args,
        *spec.vm.qemu_args,
    ]


def machine_to_json(spec: MachineSpec) -> dict[str, Any]:
    """Return plain JSON data of what was decided; the VM itself is in the topology's."""
    boot = {name: getattr(spec.boot, name) for name in Boot.__slots__}
    return {
        "qemu": list(spec.qemu),
        "qemu_version": list(spec.qemu_version),
        "accelerator": spec.accelerator,
        "accelerator_reason": spec.accelerator_reason,
        "cpu_model": spec.cpu_model,
        "sandbox": spec.sandbox,
        "boot": boot,
        "link_args": list(spec.link_args),
    }


def machine_from_json(vm: VmSpec, data: Mapping[str, Any]) -> MachineSpec:
    """Read what `machine_to_json` wrote."""
    version: Sequence[int] = data["qemu_version"]
    return MachineSpec(
        vm=vm,
        qemu=tuple(data["qemu"]),
        qemu_version=(version[0], version[1], version[2]),
        accelerator=data["accelerator"],
        accelerator_reason=data["accelerator_reason"],
        cpu_model=data["cpu_model"],
        sandbox=data["sandbox"],
        boot=Boot(**data["boot"]),
        link_args=tuple(data["link_args"]),
    )
