"""`vpctl down`: stop everything and leave nothing behind."""

from __future__ import annotations

from typing import Annotated

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import UsageError


async def down(
    context: Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The topology, or the file it is from; not needed if one runs."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Stop every topology.")] = False,
    keep_logs: Annotated[bool, typer.Option("--keep-logs", help="Keep journal and logs.")] = False,
) -> Result:
    """Stop a topology: guests, links, supervisor; removes its sockets, keys, journal and logs. Idempotent."""
    from vpctl.client.running import is_running, launching
    from vpctl.client.stop import stop

    stopped = []
    asked = names(context, name, every=every)
    for chosen in asked:
        async with launching(context.directories, chosen, waiting=context.waiting(chosen)) as rundir:
            rundir.check_host()
            ran = is_running(rundir)
            await stop(rundir)
            if not keep_logs:
                rundir.remove_state()
        if ran:
            stopped.append(chosen)
            context.log.info(f"{chosen}: stopped")
    if not stopped:
        context.log.info("nothing runs" if len(asked) != 1 else f"{asked[0]}: nothing runs")
    if every:
        for other, owner in context.directories.elsewhere().items():
            context.log.info(f"{other}: belongs to host `{owner.host.name}`, left alone")
    return Result(data={"schema_version": 1, "stopped": stopped})


def names(context: Context, name: str | None, *, every: bool) -> list[str]:
    """Return the topologies to stop: what runs, and what a crash of the host or of vpctl left over."""
    given = name if name is not None else context.common.topology
    if given is not None:
        if every:
            raise UsageError("a name and `--all` exclude each other")
        from vpctl.cli import choose

        return [choose.named(context, given)]
    known = context.directories.topologies()
    if every or len(known) <= 1:
        return known
    from vpctl.client.running import running_topologies

    running = running_topologies(context.directories)
    if len(running) <= 1:
        return running
    listed = ", ".join(f"`{other}`" for other in running)
    raise UsageError(f"{len(running)} topologies run", hint=f"vpctl down NAME, or --all; running are {listed}")
