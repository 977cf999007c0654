"""What one QEMU needs to begin: its files, what it inherits, its command line; then the broker starts it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from vpctl.broker.client import BrokerClient
from vpctl.broker.memfd import placeholder
from vpctl.guest.config import write_config
from vpctl.guest.keys import run_keys
from vpctl.links.kind import Memory
from vpctl.plan.link import control_page, ram
from vpctl.plan.run import Run
from vpctl.process_record import Child, process_name
from vpctl.qemu.argv import MachineSpec, machine_argv
from vpctl.rundir import RunDir, private_directory, write_atomic
from vpctl.supervisor.hotplug.slots import fill


def prepare(spec: MachineSpec, run: Run, rundir: RunDir, generation: int) -> list[str]:
    """Write what a generation of a VM is configured by; return its QEMU's command line."""
    name, topology = spec.vm.name, run.topology
    config = write_config(rundir, topology, name, run_keys(rundir))
    private_directory(rundir.state / "vms")
    mapped = ram(topology, spec.vm, generation)
    argv = machine_argv(
        spec,
        topology=topology.name,
        rundir=rundir,
        generation=generation,
        config=config,
        ram=placeholder(mapped.name) if mapped is not None else None,
    )
    logs = rundir.generation(name, generation)
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(logs / "argv", shlex.join(argv) + "\n")
    return argv


async def spawn(
    broker: BrokerClient, spec: MachineSpec, run: Run, rundir: RunDir, *, generation: int, argv: Sequence[str]
) -> Child:
    """Have the broker start a generation of a VM, with the memories that it inherits."""
    name = spec.vm.name
    for stale in (rundir.qmp_socket(name), rundir.people_qmp_socket(name)):
        stale.unlink(missing_ok=True)  # QEMU would replace it, but until then a connect would find the old one
    source = Path(run.source).parent
    memories = inherited(spec, run, generation)
    for memory in memories:
        await fill(broker, memory)  # of no other QEMU any more: the last one was fenced
    return await broker.spawn(
        name=process_name(name),
        generation=generation,
        argv=list(argv),
        directory=str(rundir.generation(name, generation)),
        cwd=str(source if source.is_dir() else "/"),
        memories=[memory.name for memory in memories],
    )


def inherited(spec: MachineSpec, run: Run, generation: int) -> list[Memory]:
    """Return what a VM's QEMU inherits from the broker."""
    memories = (control_page(run.topology, spec.vm), ram(run.topology, spec.vm, generation))
    return [memory for memory in memories if memory]


async def free_ram(broker: BrokerClient, spec: MachineSpec, run: Run, generation: int) -> None:
    """Give the memory of a life that is over back, once whoever else maps it lets go."""
    if (mapped := ram(run.topology, spec.vm, generation)) is not None:
        await broker.drop(mapped.name)
