"""Which topologies run, and the right to start or stop one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from vpctl.errors import NotFoundError
from vpctl.process_record import known_broker, known_children
from vpctl.rundir import (
    Directories,
    RunDir,
    is_locked,
    make_root,
    read_owner,
    remove_empty_root,
    turn,
)


def is_running(rundir: RunDir) -> bool:
    """Whether a topology has a living broker, or processes that a dead one left."""
    return (
        is_locked(rundir.broker_lock)
        or known_broker(rundir) is not None
        or next(known_children(rundir), None) is not None
    )


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
