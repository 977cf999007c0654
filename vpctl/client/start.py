"""The start of a topology: the right to start it, its directories, its broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from vpctl import wait
from vpctl.broker.client import start_broker
from vpctl.client.stop import clean_up
from vpctl.errors import UsageError
from vpctl.guest.keys import run_keys
from vpctl.plan.run import Run, run_to_json
from vpctl.process import Waiting
from vpctl.process_record import SUPERVISOR, Child, require_visible
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
