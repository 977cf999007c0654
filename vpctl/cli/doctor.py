"""`vpctl doctor`: what this host lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result


async def doctor(
    context: Context,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Topologies that are to run together.")
    ] = None,
) -> Result:
    """Look at everything that `up` depends on: QEMU, accelerator, memory, tools, limits; 3 if something lacks."""
    from vpctl.cli.view.render import table
    from vpctl.client.prepare import built_kernel, examine_boot_files, open_files, qemu_needs
    from vpctl.client.topology_file import load_file
    from vpctl.host.doctor import Needs, examine
    from vpctl.host.firewall import examine as examine_networks
    from vpctl.plan.link import host_networks, shared_memory

    topologies = [load_file(file, context.environ) for file in files or ()]
    needs_of = [qemu_needs(topology) for topology in topologies]
    needs = Needs(
        topologies=topologies,
        devices=[device for devices, _, _ in needs_of for device in devices],
        netdevs=[netdev for _, netdevs, _ in needs_of for netdev in netdevs],
        kernel=built_kernel(context.directories),
        shared_memory=sum(shared_memory(topology) for topology in topologies),
        # Each topology has its own broker and QEMUs, which inherit the same limit.
        files=max(map(open_files, topologies), key=lambda files: max(files.values()), default={}),
    )
    findings = await examine(context.directories, needs, log=context.log, environ=context.environ)
    findings += await examine_networks(
        [host_networks(topology, context.directories.topology(topology.name)) for topology in topologies]
    )
    findings += examine_boot_files(topologies)
    rows = [(finding.name, finding.ok, finding.message, finding.remedy or "") for finding in findings]
    data = {
        "schema_version": 1,
        "ok": all(finding.ok != "failed" for finding in findings),
        "findings": [{"name": f.name, "ok": f.ok, "message": f.message, "remedy": f.remedy} for f in findings],
    }
    return Result(
        data=data, table=table(("what", "result", "found", "remedy"), rows), exit_code=0 if data["ok"] else 3
    )
