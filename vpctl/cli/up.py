"""`vpctl up`: image, boot, plug, address, verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result


async def up(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The topology file.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, start nothing; as `plan`.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running if a boot or plug fails.")] = False,
    boot_timeout: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Limit of each boot stage, kernel and ssh.")
    ] = None,
) -> Result:
    """Boot a topology, plug its links and prove that packets flow; returns with everything running.

    On a topology that runs already, brings back what is not well and verifies it again.
    """
    if dry_run:
        from vpctl.cli.plan import plan

        return await plan(context, file)
    from vpctl.client.topology_file import load_file

    topology = load_file(file, context.environ)
    from vpctl.cli.view import progress
    from vpctl.client.start import begin, wait_for_up

    rundir, ours = await begin(
        context, topology, source=str(file.absolute()), keep=keep, boot_timeout=boot_timeout, warm=context.warm
    )
    on_event = progress.stages(context.log).take
    return up_result(await wait_for_up(context, rundir, ours=ours, keep=keep, on_event=on_event))


def up_result(outcome: Mapping[str, Any]) -> Result:
    """Return the result: status, timings and checks; 1 if a link does not carry packets, which is left running."""
    from vpctl.cli.status import status_table
    from vpctl.client.start import unproved

    errors = unproved(outcome)
    table = status_table(outcome, checks=outcome["checks"])
    return Result(data=outcome, table=table, errors=errors, exit_code=1 if errors else 0)
