"""`vpctl status`: VMs and links of one topology."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpctl.cli.verb import Context, Result

if TYPE_CHECKING:
    from rich.console import RenderableType


async def status(
    context: Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The topology; not needed if one runs.")
    ] = None,
) -> Result:
    """Show the VMs and links of a running topology; exit code 1 if one is not well, 8 if nothing runs.

    Where vpctl's own processes are gone and guests still run it is what was last written down, and 1.
    """
    from vpctl.cli import choose
    from vpctl.client.connection import SupervisorLostError, connect
    from vpctl.rundir import read_json

    rundir = choose.topology(context, name)
    try:
        async with connect(rundir) as supervisor:
            data = await supervisor.execute("query-status")
    except SupervisorLostError as error:
        recorded: Any = read_json(rundir.status)
        if not isinstance(recorded, dict):
            raise
        data = {**recorded, "supervisor": {"pid": None}}
        shown = status_table(data, verbose=context.common.verbose > 0)
        return Result(data=data, table=shown, errors=[error], exit_code=1)
    shown = status_table(data, verbose=context.common.verbose > 0)
    return Result(data=data, table=shown, exit_code=0 if is_well(data) else 1)


def is_well(data: Mapping[str, Any]) -> bool:
    """Whether every VM is ready, and not paused, and every link up."""
    return all(_shown_state(vm) == "ready" for vm in data["vms"]) and all(
        link["state"] == "up" for link in data["links"]
    )


def status_table(
    data: Mapping[str, Any], *, checks: Sequence[Mapping[str, Any]] = (), verbose: bool = False
) -> RenderableType:
    """Return the tables of VMs and links, with what was verified if it was; `verbose` shows what few want to see."""
    from rich.console import Group

    from vpctl.cli.view.render import table

    vms = [
        (
            vm["name"],
            _shown_state(vm),
            str(vm["pid"] or "-"),
            vm["accelerator"],
            vm["qemu_version"],
            str(vm["generation"]),
            f"{vm['ssh']['host']}:{vm['ssh']['port']}" if vm["ssh"]["port"] else "-",
            *([str(vm["parked_fds"])] if verbose else []),
            *_reason(vm, data["vms"]),
        )
        for vm in data["vms"]
    ]
    columns = ["vm", "state", "pid", "accel", "qemu", "gen", "ssh"] + (["parked fds"] if verbose else [])
    columns += ["why"] if _has_reasons(data["vms"]) else []
    parts = [table(columns, vms)]
    if data["links"]:
        columns = ["link", "kind", "state", "gen", "from", "to"]
        columns += (["verified"] if checks else []) + (["devices"] if verbose else [])
        columns += ["why"] if _has_reasons(data["links"]) else []
        parts.append(table(columns, _link_rows(data, checks, verbose=verbose)))
    spaced: list[RenderableType] = []
    for part in parts:
        spaced += ["", part] if spaced else [part]
    return Group(*spaced)


def _shown_state(vm: Mapping[str, Any]) -> str:
    """Return a VM's state; one that is ready and whose vCPUs were stopped is paused."""
    return "paused" if vm.get("paused") else str(vm["state"])


def _link_rows(
    data: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], *, verbose: bool
) -> list[tuple[str, ...]]:
    rows = []
    for link in data["links"]:
        ends = [f"{end['vm']} {end['address']}" for end in link["endpoints"]]
        row = (link["name"], link["kind"], link["state"], str(link["generation"]), *ends)
        if checks:
            row += (_verified([check for check in checks if check["link"] == link["name"]]),)
        if verbose:
            row += (_devices(link),)
        rows.append((*row, *_reason(link, data["links"])))
    return rows


def _has_reasons(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any VM, or link, has more to tell of its state."""
    return any(_told(entry) for entry in entries)


def _reason(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the last cell of a row: why it is as it is; none where no row has one."""
    return [_told(entry)] if _has_reasons(entries) else []


def _told(entry: Mapping[str, Any]) -> str:
    """Return the reason of a VM's or link's state, and what users have made of a link's interfaces."""
    uses = [f"{end['vm']}: {end['use']}" for end in entry.get("endpoints", ()) if end.get("use")]
    return "; ".join(([entry["reason"]] if entry.get("reason") else []) + uses)


def _devices(link: Mapping[str, Any]) -> str:
    """Return of which generation the device in each VM is: a repair may keep that of one end."""
    found = [f"{vm} g{generation}" for vm, plugged in link["plugged"].items() for generation in plugged]
    return ", ".join(sorted(found)) or "-"


def _verified(checks: Sequence[Mapping[str, Any]]) -> str:
    if not all(check["ok"] for check in checks):
        return "no"
    if reasons := [check["not_provable"] for check in checks if "not_provable" in check]:
        return f"not provable: {reasons[0]}"
    rtt = max(check["rtt_ms"] for check in checks)
    return f"both ways, rtt {rtt:.2f} ms"
