"""`vpctl recover`: bring a VM and its links back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpctl.cli.verb import Context, Result

if TYPE_CHECKING:
    from rich.console import RenderableType


async def recover(
    context: Context,
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM to bring back.")],
    policy: Annotated[
        str | None, typer.Option("--policy", help="How its links are repaired, if not as in the file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Re-create the VM even if it is well.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the steps, do nothing.")] = False,
) -> Result:
    """Re-create a dead VM, repair its links at the survivors and verify them; joins a recovery that runs.

    One that was asked for otherwise, by another `--policy` or `--force`, is not joined: exit code 2.
    """
    import asyncio

    from vpctl.cli import choose
    from vpctl.cli.view import progress
    from vpctl.cli.view.render import table
    from vpctl.client.connection import connect, job_through_restarts

    rundir = choose.vm(context, vm)
    if dry_run:
        async with connect(rundir) as supervisor:
            data = await supervisor.execute("query-recovery-plan", vm=vm, policy=policy, force=force)
        rows = [(step["name"], step["target"]) for step in data["steps"]]
        nothing = f"{vm} is up, and so are its links: a recovery would examine it and change nothing more"
        shown = table(("step", "target"), rows) if rows else nothing
        return Result(data={"schema_version": 1, **data}, table=shown)
    view = progress.stages(context.log)
    try:
        data = await job_through_restarts(
            rundir, "recover", on_event=view.take, vm=vm, policy=policy, force=force or None
        )
    except asyncio.CancelledError:
        # A VM that is half recovered is useless.
        context.log.warning(f"the recovery of `{vm}` goes on, if it had begun", hint="vpctl events --follow")
        raise
    if data["joined"]:
        context.log.info(f"joined the recovery of {vm} that was under way")
    return Result(data=data, table=recovery_table(data))


def recovery_table(data: Mapping[str, Any]) -> RenderableType:
    """Return the steps with their times, the links with their outage, and the sums."""
    from rich.console import Group

    from vpctl.cli.view.render import table

    if data.get("healthy"):
        return Group(f"{data['vm']} is well: QMP, heartbeat and links answer; nothing was done")
    steps = [
        (f"{step['at_ms']:.0f}", f"{step['ms']:.0f}", step["name"], step["target"], "ok" if step["ok"] else "failed")
        for step in data["steps"]
    ]
    links = [
        (
            entry["link"],
            entry["policy"] or "-",
            "ok" if entry["ok"] else "failed",
            "-" if entry["outage_ms"] is None else f"{entry['outage_ms']:.0f}",
        )
        for entry in data["links"]
    ]
    sums = ", ".join(
        f"{label} {data[key]:.0f} ms"
        for label, key in (
            ("detected after", "detect_ms"),
            ("survivor repaired after", "survivor_ms"),
            ("boot", "boot_ms"),
            ("total", "total_ms"),
            ("overhead", "overhead_ms"),
        )
    )
    parts: list[RenderableType] = [
        f"{data['vm']}: {data['fault']}, recovered by {data['policy']}: {sums}",
        "",
        table(("at ms", "ms", "step", "target", "result"), steps),
    ]
    if links:
        parts += ["", table(("link", "policy", "result", "outage ms"), links)]
    return Group(*parts)
