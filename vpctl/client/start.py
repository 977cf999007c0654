"""Starting and ending a topology as a whole: what `up` and `down` do beside talking to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from vpctl import wait
from vpctl.broker.client import connect, start_broker
from vpctl.broker.protocol import SUPERVISOR, Child
from vpctl.broker.remains import known_broker, orphans, require_visible
from vpctl.broker.service import GRACE_SECONDS, known_children
from vpctl.errors import HostError, NotFoundError, UsageError, VpctlError
from vpctl.guest.keys import run_keys
from vpctl.host import bridge
from vpctl.plan.run import Run, run_to_json
from vpctl.process import ProcessId, Waiting, end
from vpctl.rundir import (
    Directories,
    RunDir,
    host_boot_id,
    is_locked,
    make_root,
    read_owner,
    remove_empty_root,
    turn,
    write_json,
)

STOP_SECONDS = 30.0
"""For the broker to end everything, before it is done without it."""


def is_running(rundir: RunDir) -> bool:
    """Whether a topology has a living broker, or processes that a dead one left."""
    return (
        is_locked(rundir.broker_lock)
        or known_broker(rundir) is not None
        or next(known_children(rundir), None) is not None
    )


@asynccontextmanager
async def launching(
    directories: Directories, name: str, *, waiting: Callable[[str], None] | None = None
) -> AsyncIterator[RunDir]:
    """Hold the right to start or stop a topology; two `up` at the same moment come one after the other.

    `waiting` is told who holds it, if this has to wait. What is empty at the end is removed: the lock, if nothing
    runs, and the directory of all topologies.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(_remove_empty, directories.run, directories.state)
        rundir = await _enter_lock(stack, directories, name, waiting)
        try:
            yield rundir
        finally:
            if read_owner(rundir.run) is None:
                rundir.launch_lock.unlink(missing_ok=True)
                _remove_empty(rundir.run.parent, rundir.state.parent)


async def _enter_lock(
    stack: contextlib.AsyncExitStack, directories: Directories, name: str, waiting: Callable[[str], None] | None
) -> RunDir:
    while True:
        rundir = directories.topology(name)
        make_root(rundir.launch_lock.parent)
        try:
            async with contextlib.AsyncExitStack() as attempt:
                await attempt.enter_async_context(turn(rundir.launch_lock, waiting=waiting))
                if directories.topology(name) == rundir:  # it was not started in another place meanwhile
                    stack.push_async_exit(attempt.pop_all())
                    return rundir
        except FileNotFoundError:
            continue  # another vpctl has removed the directory, which was empty, in between


def _remove_empty(*roots: Path) -> None:
    for root in roots:
        remove_empty_root(root)


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


async def stop(rundir: RunDir) -> None:
    """End every process of a topology, by the broker or without it, and remove its run directory. Idempotent."""
    if is_locked(rundir.broker_lock):
        with contextlib.suppress(VpctlError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await _stop_by_broker(rundir)
    elif (broker := known_broker(rundir)) is not None:
        # Its socket is not to be seen from here, as with a /tmp of its own: asked by SIGTERM it does the same.
        await end(broker, grace=STOP_SECONDS)
    await clean_up(rundir)


async def _stop_by_broker(rundir: RunDir) -> None:
    async with connect(rundir) as broker:
        await broker.stop()
        await broker.lost.wait()

    async def unlocked() -> bool | None:
        return None if is_locked(rundir.broker_lock) else True

    await wait.until(unlocked, timeout=STOP_SECONDS, what="the broker's end", every=0.01)


async def clean_up(rundir: RunDir) -> None:
    """End what a dead or deaf broker left behind, the supervisor first; remove interfaces and the run directory.

    Raises HostError if something cannot be removed; the run directory then stays, so that `down` is still asked.
    """
    if read_owner(rundir.run) is not None:
        with contextlib.suppress(OSError):
            rundir.stopping.touch(mode=0o600)  # a supervisor that lives would start a new broker
    left = list(known_children(rundir))
    await _end_all(child.process for child in left if child.name == SUPERVISOR)
    await _end_all(child.process for child in left if child.name != SUPERVISOR)
    if (broker := known_broker(rundir)) is not None:
        await end(broker, grace=GRACE_SECONDS)
    await _end_all(orphans(rundir))
    await bridge.remove(rundir)
    if read_owner(rundir.state) is not None:
        rundir.processes.unlink(missing_ok=True)
    try:
        rundir.remove_run()
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"cannot remove {rundir.run}: {error.strerror}") from error


async def _end_all(processes: Iterable[ProcessId]) -> None:
    """End processes at the same time, so that their times of grace are one; HostError if one cannot be ended."""
    async with asyncio.TaskGroup() as group:
        for process in processes:
            group.create_task(end(process, grace=GRACE_SECONDS), name=f"end-{process.pid}")


def running_topologies(directories: Directories) -> list[str]:
    """Return the names of the topologies that run, sorted."""
    return [name for name in directories.topologies() if is_running(directories.topology(name))]


def require_running(directories: Directories, name: str) -> RunDir:
    """Return a topology's paths; NotFoundError if it does not run."""
    rundir = directories.topology(name)
    rundir.check_host()
    if not is_running(rundir):
        known = ", ".join(f"`{n}`" for n in running_topologies(directories)) or "none"
        raise NotFoundError(f"no topology named `{name}` runs", hint=f"running: {known}; vpctl up FILE starts one")
    return rundir
