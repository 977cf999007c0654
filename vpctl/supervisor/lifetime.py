"""Starting and ending a topology as a whole: what `up` and `down` do beside talking to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpctl import wait
from vpctl.broker.client import connect, start_broker
from vpctl.broker.protocol import SUPERVISOR, Child
from vpctl.broker.service import GRACE_SECONDS, known_children
from vpctl.errors import HostError, NotFoundError, UsageError, VpctlError
from vpctl.guest.keys import run_keys
from vpctl.plan.run import Run, run_to_json
from vpctl.process import ProcessId, Waiting, end, find_by_argument, identify
from vpctl.qemu.argv import quote_option
from vpctl.rundir import (
    Directories,
    RunDir,
    host_boot_id,
    is_locked,
    locked,
    make_root,
    read_owner,
    remove_empty_root,
    write_json,
)
from vpctl.supervisor import host_network

STOP_SECONDS = 30.0
"""For the broker to end everything, before it is done without it."""


def is_running(rundir: RunDir) -> bool:
    """Whether a topology has a living broker, or processes that a dead one left."""
    return is_locked(rundir.broker_lock) or next(known_children(rundir), None) is not None


@contextmanager
def launching(directories: Directories, name: str) -> Iterator[RunDir]:
    """Hold the right to start or stop a topology; two `up` at the same moment come one after the other.

    What is empty at the end is removed: the lock, if nothing runs, and the directory of all topologies.
    """
    rundir = directories.topology(name)
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, directories)
        _enter_lock(stack, directories, rundir)
        try:
            yield rundir
        finally:
            if read_owner(rundir.run) is None:
                rundir.launch_lock.unlink(missing_ok=True)


def _enter_lock(stack: contextlib.ExitStack, directories: Directories, rundir: RunDir) -> None:
    while True:
        make_root(directories.run)
        try:
            stack.enter_context(locked(rundir.launch_lock))
        except FileNotFoundError:
            continue  # another vpctl has removed the directory, which was empty, in between
        return


def _remove_empty(directories: Directories) -> None:
    for root in (directories.run, directories.state):
        remove_empty_root(root)


async def start(run: Run, rundir: RunDir, warm: Waiting | None = None) -> None:
    """Start the broker, which starts the supervisor, which brings everything up. The caller holds `launching`.

    `warm` is a supervisor that waits to be told what it is for: the broker adopts it instead of starting one.
    """
    rundir.check_own()
    await clean_up(rundir)
    rundir.remove_state()  # logs of a run that is over; `down` leaves none, a failed `up` does
    make_root(rundir.run.parent)
    make_root(rundir.state.parent, private=False)
    rundir.claim()
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
        warm.tell(rundir.name)


async def revive(rundir: RunDir) -> None:
    """Start a broker for guests that run without one, if so; it adopts them. The caller holds `launching`."""
    if not is_locked(rundir.broker_lock):
        with contextlib.suppress(UsageError):  # a supervisor that lives was quicker
            await start_broker(rundir)


async def stop(rundir: RunDir) -> None:
    """End every process of a topology, by the broker or without it, and remove its run directory. Idempotent."""
    if is_locked(rundir.broker_lock):
        with contextlib.suppress(VpctlError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await _stop_by_broker(rundir)
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
    for child in sorted(left, key=lambda child: child.name != SUPERVISOR):
        await end(child.process, grace=GRACE_SECONDS)
    if is_locked(rundir.broker_lock) and (broker := _broker(rundir)) is not None:
        await end(broker, grace=GRACE_SECONDS)
    # A broker that was killed between spawning a QEMU and writing that down has left it to nobody. Its command
    # line names a socket in our run directory: no process of anyone else's does.
    for orphan in find_by_argument(f"path={quote_option(rundir.run)}/"):
        await end(orphan, grace=GRACE_SECONDS)
    await host_network.remove(rundir)
    if read_owner(rundir.state) is not None:
        rundir.processes.unlink(missing_ok=True)
    try:
        rundir.remove_run()
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"cannot remove {rundir.run}: {error.strerror}") from error


def _broker(rundir: RunDir) -> ProcessId | None:
    """Return the broker that holds the lock: the process of the pid file, if its command line says the same."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(rundir.broker_pid.read_text())
        process = identify(pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"vpctl.broker" in words and rundir.name.encode() in words:
            return process
    return None


def running_topologies(directories: Directories) -> list[str]:
    """Return the names of the topologies that run, sorted."""
    return [name for name in directories.topologies() if is_running(directories.topology(name))]


def require_running(directories: Directories, name: str) -> RunDir:
    """Return a topology's paths; NotFoundError if it does not run."""
    rundir = directories.topology(name)
    if not is_running(rundir):
        known = ", ".join(f"`{n}`" for n in running_topologies(directories)) or "none"
        raise NotFoundError(f"no topology named `{name}` runs", hint=f"running: {known}; vpctl up FILE starts one")
    return rundir
