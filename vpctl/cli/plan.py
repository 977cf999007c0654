"""`vpctl plan`: what `up` would run."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result


async def plan(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The topology file.")],
    no_probe: Annotated[
        bool, typer.Option("--no-probe", help="Run no QEMU to ask what it can do: for files that are not trusted.")
    ] = False,
) -> Result:
    """Show the command lines and hotplug steps that `up` would run; starts nothing.

    It asks the QEMU that the file names what it can do, unless `--no-probe` says not to.
    """
    from vpctl.client.prepare import plan as decide
    from vpctl.client.topology_file import load_file

    topology = load_file(file, context.environ)
    rundir = context.directories.topology(topology.name)
    rundir.check_socket_paths([vm.name for vm in topology.vms], [link.name for link in topology.links])
    run = await decide(
        topology,
        source=str(file.absolute()),
        directories=context.directories,
        environ=context.environ,
        probing=not no_probe,
    )
    data = plan_data(run, rundir)
    return Result(data=data, text=plan_text(data))


def plan_data(run: Any, rundir: Any) -> dict[str, Any]:
    """Return the plan as JSON data."""
    from vpctl.broker.memfd import placeholder
    from vpctl.guest.config import config_paths
    from vpctl.host.bridge import creation
    from vpctl.plan.link import host_network, plug_steps, ram, shared_region, virtio_net_end
    from vpctl.qemu.argv import machine_argv

    topology = run.topology
    vms = []
    for vm in topology.vms:
        spec = run.machine(vm.name)
        mapped = ram(topology, vm, 1)
        argv = machine_argv(
            spec,
            topology=topology.name,
            rundir=rundir,
            generation=1,
            config=config_paths(rundir, vm.name),
            ram=placeholder(mapped.name) if mapped is not None else None,
        )
        entry = {"name": vm.name, "accelerator": spec.accelerator, "accelerator_reason": spec.accelerator_reason}
        vms.append({**entry, "argv": argv})
    links = []
    for link in topology.links:
        first = link.endpoints[0].vm
        steps = [
            {"vm": step.vm, "execute": command, "arguments": arguments}
            for step in plug_steps(run, link, 1, first=first, rundir=rundir)
            for command, arguments in step.device.commands()
        ]
        ends = [
            {"vm": end.vm, "interface": link.name, "address": str(end.address), "mac": end.mac}
            for end in link.endpoints
        ]
        recovery = {"mode": link.recovery.mode, "policy": link.recovery.policy, "on_stuck": link.recovery.on_stuck}
        entry = {"name": link.name, "kind": link.kind, "subnet": str(link.subnet), "mtu": link.mtu}
        host = host_network(link, rundir)
        commands = [f"ip {line}" for line in creation(host, present=(), uid=os.getuid())] if host is not None else []
        shared = shared_region(run, link, 1, rundir=rundir)
        memory = {"name": shared.memory.name, "size": shared.memory.size} if shared is not None else None
        entry |= {"recovery": recovery, "endpoints": ends, "host": commands, "memory": memory}
        entry |= {"front_end": virtio_net_end(link)}
        links.append({**entry, "steps": steps})
    return {"schema_version": 1, "name": topology.name, "vms": vms, "links": links}


def plan_text(data: dict[str, Any]) -> str:
    """Return the plan for people: commands that can be pasted, QMP as QMP."""
    lines = [f"# topology {data['name']}"]
    for vm in data["vms"]:
        lines += ["", f"# {vm['name']}: {vm['accelerator']} ({vm['accelerator_reason']})"]
        lines.append(shell_lines(vm["argv"]))
    for link in data["links"]:
        ends = " and ".join(f"{end['vm']} {end['address']} ({end['mac']})" for end in link["endpoints"])
        lines += ["", f"# link {link['name']}: {link['kind']}, {link['subnet']}, mtu {link['mtu']}: {ends}"]
        lines += link["host"]
        if (memory := link["memory"]) is not None:
            lines.append(f"# memory {memory['name']}, {memory['size'] >> 20} MiB, served to both by the broker")
        if (front := link["front_end"]) is not None:
            (back,) = (end["vm"] for end in link["endpoints"] if end["vm"] != front)
            lines.append(
                f"# the broker is the vhost-user back-end of {front}, and serves its memory and rings to {back}"
            )
        for step in link["steps"]:
            command = {"execute": step["execute"], "arguments": step["arguments"]}
            lines.append(f"{step['vm']}  {json.dumps(command)}")
    return "\n".join(lines)


def shell_lines(argv: list[str]) -> str:
    """Return a command line with each option on a line of its own."""
    lines: list[str] = []
    for word in argv:
        if word.startswith("-") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += " " + shlex.quote(word)
    return " \\\n  ".join(lines)
