"""The start of a topology: decided, started and waited for; undone if it fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from vpctl import wait
from vpctl.broker.client import start_broker
from vpctl.client.connection import job_through_restarts
from vpctl.client.context import ClientContext
from vpctl.client.prepare import prepare
from vpctl.client.running import is_running, launching
from vpctl.client.stop import clean_up, stop
from vpctl.client.topology_file import fingerprint
from vpctl.errors import UsageError, VerificationError, VpctlError
from vpctl.guest.keys import run_keys
from vpctl.plan.run import Run, run_from_json, run_to_json
from vpctl.process import Waiting
from vpctl.process_record import SUPERVISOR, Child, require_visible
from vpctl.rundir import RunDir, host_boot_id, is_locked, make_root, read_json, turn, write_json
from vpctl.topology.model import Topology


async def begin(
    context: ClientContext,
    topology: Topology,
    *,
    source: str,
    keep: bool = False,
    boot_timeout: float | None = None,
    warm: Waiting | None = None,
) -> tuple[RunDir, str | None]:
    """Start a topology, unless it runs; return its paths, and the id of the run if this began it.

    Raises UsageError if one of the same name runs that says something else, HostError before anything is started.
    """
    waiting = context.waiting(topology.name)
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


async def wait_for_up(
    context: ClientContext,
    rundir: RunDir,
    *,
    ours: str | None,
    keep: bool,
    on_event: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Wait for the supervisor to have everything up and return status, timings and checks.

    A first `up` (of run `ours`) that fails is undone.
    """
    try:
        return await job_through_restarts(rundir, "up", on_event=on_event)
    except asyncio.CancelledError:
        if ours is not None:
            await undo(context, rundir.name, ours)
        raise
    except VpctlError as error:
        # A link that fails its verification is left to be looked at; what somebody else has brought up is theirs.
        if ours is not None and not keep and not isinstance(error, VerificationError):
            await undo(context, rundir.name, ours)
        raise


def unproved(outcome: Mapping[str, Any]) -> list[VerificationError]:
    """Return an error for each direction of a link in which `up` saw no packets."""
    return [
        VerificationError(
            f"link `{check['link']}`: no packets from `{check['from']}` to `{check['to']}`: {check['reason']}",
            hint=check.get("hint") or f"vpctl check --link {check['link']}",
        )
        for check in outcome["checks"]
        if not check["ok"]
    ]


def require_proved(outcome: Mapping[str, Any]) -> None:
    """Raise the first error of `unproved`, if there is one."""
    for error in unproved(outcome):
        raise error


async def undo(context: ClientContext, name: str, run_id: str, *, keep_logs: bool = True) -> None:
    """Stop what a command has started, unless another run has begun under this name; the logs may stay."""
    # Shielded: an impatient second signal must not leave half of it running.
    await asyncio.shield(_stop_run(context, name, run_id, keep_logs=keep_logs))


async def _stop_run(context: ClientContext, name: str, run_id: str, *, keep_logs: bool) -> None:
    async with launching(context.directories, name) as rundir:
        spec: Any = read_json(rundir.spec)
        if isinstance(spec, dict) and spec["run_id"] == run_id:
            await stop(rundir)
            if not keep_logs:
                rundir.remove_state()


def require_same(rundir: RunDir, topology: Topology) -> None:
    """Raise UsageError if the topology that runs under this name says something else than the file."""
    spec: Any = read_json(rundir.spec)
    if not isinstance(spec, dict) or fingerprint(run_from_json(spec).topology) != fingerprint(topology):
        raise UsageError(
            f"`{topology.name}` runs already, from a file that said something else",
            hint=f"vpctl down {topology.name}, then up again",
        )


async def claim(rundir: RunDir) -> None:
    """Take a topology's directories into use for a new run. The caller holds `launching`.

    That is a lock of the run directory's; UsageError if an `up` with another one was quicker to take the state's.
    """
    rundir.check_own()
    make_root(rundir.run.parent)
    make_root(rundir.state.parent, private=False)
    async with turn(rundir.claim_lock):
        try:
            rundir.check_nowhere_else()
            await clean_up(rundir)
            rundir.remove_state()  # logs of a run that is over; `down` leaves none, a failed `up` does
            try:
                rundir.claim()
            except BaseException:
                rundir.remove_run()
                rundir.remove_state()
                raise
        finally:
            rundir.claim_lock.unlink(missing_ok=True)


async def start(run: Run, rundir: RunDir, warm: Waiting | None = None) -> None:
    """Start the broker, which starts the supervisor, which brings everything up. The caller has called `claim`.

    `warm` is a supervisor that waits to be told what it is for: the broker adopts it instead of starting one.
    """
    write_json(rundir.spec, run_to_json(run))
    if warm is not None and (process := warm.identity) is not None:
        child = Child(name=SUPERVISOR, generation=1, process=process, directory=str(rundir.state))
        write_json(rundir.processes, {"boot_id": host_boot_id(), "processes": [child.as_json()]})
    broker = asyncio.create_task(start_broker(rundir), name="start-broker")
    await wait.pause(0)  # the broker's process is on its way: the keys are made meanwhile, on another CPU
    try:
        run_keys(rundir)
    finally:
        await broker
    if warm is not None:
        warm.tell(json.dumps(rundir.as_words()))


async def revive(rundir: RunDir) -> None:
    """Start a broker for guests that run without one, if so; it adopts them. The caller holds `launching`."""
    require_visible(rundir)
    if not is_locked(rundir.broker_lock):
        with contextlib.suppress(UsageError):  # a supervisor that lives was quicker
            await start_broker(rundir)
