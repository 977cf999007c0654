"""`vpctl up`: image, boot, plug, address, verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import UsageError, VerificationError, VpctlError


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
    rundir, ours = await begin(
        context, topology, source=str(file.absolute()), keep=keep, boot_timeout=boot_timeout, warm=context.warm
    )
    return await wait_for_up(context, rundir, ours=ours, keep=keep)


async def begin(
    context: Context,
    topology: Any,
    *,
    source: str,
    keep: bool = False,
    boot_timeout: float | None = None,
    warm: Any = None,
) -> tuple[Any, str | None]:
    """Start a topology, unless it runs; return its paths, and the id of the run if this began it.

    Raises UsageError if one of the same name runs that says something else, HostError before anything is started.
    """
    import asyncio

    from vpctl.cli import choose
    from vpctl.client.prepare import prepare
    from vpctl.client.running import is_running
    from vpctl.client.start import claim, launching, revive, start
    from vpctl.client.stop import stop

    waiting = choose.waiting(context, topology.name)
    async with launching(context.directories, topology.name, waiting=waiting) as rundir:
        rundir.check_own()
        if is_running(rundir):
            require_same(rundir, topology)
            await revive(rundir)
            return rundir, None
        run = await prepare(
            topology,
            source=source,
            directories=context.directories,
            environ=context.environ,
            log=context.log,
            keep=keep,
            stage_seconds={"kernel": boot_timeout, "ssh": boot_timeout} if boot_timeout is not None else {},
        )
        await claim(rundir)  # outside of the `try`: what another `up` has taken meanwhile is not to be stopped
        try:
            await start(run, rundir, warm)
        except BaseException:
            await asyncio.shield(stop(rundir))
            raise
    return rundir, run.run_id


async def wait_for_up(context: Context, rundir: Any, *, ours: str | None, keep: bool) -> Result:
    """Wait for the supervisor to have everything up; a first `up` (of run `ours`) that fails is undone."""
    import asyncio

    from vpctl.cli.view import progress
    from vpctl.client.connection import job_through_restarts

    view = progress.stages(context.log)
    try:
        outcome = await job_through_restarts(rundir, "up", on_event=view.take)
    except asyncio.CancelledError:
        if ours is not None:
            await undo(context, rundir.name, ours)
        raise
    except VpctlError as error:
        # A link that fails its verification is left to be looked at; what somebody else has brought up is theirs.
        if ours is not None and not keep and not isinstance(error, VerificationError):
            await undo(context, rundir.name, ours)
        raise
    return up_result(outcome)


async def undo(context: Context, name: str, run_id: str, *, keep_logs: bool = True) -> None:
    """Stop what a command has started, unless another run has begun under this name; the logs may stay."""
    import asyncio

    # Shielded: an impatient second signal must not leave half of it running.
    await asyncio.shield(_stop_run(context, name, run_id, keep_logs=keep_logs))


async def _stop_run(context: Context, name: str, run_id: str, *, keep_logs: bool) -> None:
    from vpctl.client.start import launching
    from vpctl.client.stop import stop
    from vpctl.rundir import read_json

    async with launching(context.directories, name) as rundir:
        spec: Any = read_json(rundir.spec)
        if isinstance(spec, dict) and spec["run_id"] == run_id:
            await stop(rundir)
            if not keep_logs:
                rundir.remove_state()


def require_same(rundir: Any, topology: Any) -> None:
    """Raise UsageError if the topology that runs under this name says something else than the file."""
    from vpctl.client.topology_file import fingerprint
    from vpctl.plan.run import run_from_json
    from vpctl.rundir import read_json

    spec: Any = read_json(rundir.spec)
    if not isinstance(spec, dict) or fingerprint(run_from_json(spec).topology) != fingerprint(topology):
        raise UsageError(
            f"`{topology.name}` runs already, from a file that said something else",
            hint=f"vpctl down {topology.name}, then up again",
        )


def up_result(outcome: Mapping[str, Any]) -> Result:
    """Return the result: status, timings and checks; 1 if a link does not carry packets, which is left running."""
    from vpctl.cli.status import status_table

    errors = [
        VerificationError(
            f"link `{check['link']}`: no packets from `{check['from']}` to `{check['to']}`: {check['reason']}",
            hint=check.get("hint") or f"vpctl check --link {check['link']}",
        )
        for check in outcome["checks"]
        if not check["ok"]
    ]
    table = status_table(outcome, checks=outcome["checks"])
    return Result(data=outcome, table=table, errors=errors, exit_code=1 if errors else 0)
