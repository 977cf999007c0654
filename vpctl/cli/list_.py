"""`vpctl list`: all topologies that run."""

from __future__ import annotations

from typing import Any

from vpctl.cli.verb import Context, Result


async def list_(context: Context) -> Result:
    """List the topologies that run, with their VMs and links in short; exit code 8 if nothing runs."""
    from vpctl.cli.status import is_well
    from vpctl.cli.view.render import table
    from vpctl.client.connection import try_status
    from vpctl.client.running import running_topologies
    from vpctl.errors import NotFoundError

    entries: list[dict[str, Any]] = []
    well = True
    for name in running_topologies(context.directories):
        status = await try_status(context.directories.topology(name))
        if status is None:
            entries.append({"name": name, "state": "unknown", "vms": [], "links": [], "source": None})
            well = False
            continue
        well = well and is_well(status)
        short = {"name": name, "state": status["state"], "source": status["source"]}
        for key in ("vms", "links"):
            short[key] = [{"name": entry["name"], "state": entry["state"]} for entry in status[key]]
        entries.append(short)
    if not entries:
        raise NotFoundError("no topology runs", hint="vpctl up FILE")
    rows = [
        (
            entry["name"],
            entry["state"],
            ", ".join(f"{vm['name']} {vm['state']}" for vm in entry["vms"]),
            ", ".join(f"{link['name']} {link['state']}" for link in entry["links"]) or "-",
            entry["source"] or "-",
        )
        for entry in entries
    ]
    return Result(
        data={"schema_version": 1, "topologies": entries},
        table=table(("topology", "state", "vms", "links", "file"), rows),
        exit_code=0 if well else 1,
    )
