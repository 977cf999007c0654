"""Starting and ending a topology as a whole: what `up` and `down` do beside talking to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpctl import wait
from vpctl.broker.client import connect, start_broker
from vpctl.broker.protocol import SUPERVISOR
from vpctl.broker.service import GRACE_SECONDS, known_children
from vpctl.errors import HostError, NotFoundError, VpctlError
from vpctl.plan.run import Run, run_to_json
from vpctl.process import end, identify
from vpctl.rundir import Directories, RunDir, is_locked, locked, private_directory, write_json

STOP_SECONDS = 30.0
"""For the broker to end everything, before it is done without it."""


def is_running(rundir: RunDir) -> bool:
    """Whether a topology has a living broker, or processes that a dead one left."""
    return is_locked(rundir.broker_lock) or any(True for _ in known_children(rundir))


@contextmanager
def launching(directories: Directories, name: str) -> Iterator[RunDir]:
    """Hold the right to start or clean up a topology; two `up` at the same moment come one after the other."""
    private_directory(directories.run)
    rundir = directories.topology(name)
    with locked(directories.run / f".{name}.lock"):
        yield rundir


async def start(run: Run, rundir: RunDir) -> None:
    """Start the broker, which starts the supervisor, which brings everything up. The caller holds `launching`."""
    await clean_up(rundir)
    if rundir.state.exists():
        shutil.rmtree(rundir.state)  # logs of a run that is over; `down` leaves none, a failed `up` does
    private_directory(rundir.state.parent)
    private_directory(rundir.state)
    private_directory(rundir.run)
    write_json(rundir.spec, run_to_json(run))
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
    """End what a dead or deaf broker left behind, the supervisor first, and remove the run directory."""
    if rundir.run.exists():
        with contextlib.suppress(OSError):
            rundir.stopping.touch(mode=0o600)  # a supervisor that lives would start a new broker
    left = list(known_children(rundir))
    for child in sorted(left, key=lambda child: child.name != SUPERVISOR):
        await end(child.process, grace=GRACE_SECONDS)
    if (broker := _broker_pid(rundir)) is not None and is_locked(rundir.broker_lock):
        process = identify(broker)
        if process is not None:
            await end(process, grace=GRACE_SECONDS)
    for child in known_children(rundir):  # what a broker that was deaf, not dead, spawned meanwhile
        await end(child.process, grace=GRACE_SECONDS)
    rundir.processes.unlink(missing_ok=True)
    try:
        shutil.rmtree(rundir.run)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"cannot remove {rundir.run}: {error.strerror}") from error


def _broker_pid(rundir: RunDir) -> int | None:
    try:
        pid = int((rundir.run / "broker.pid").read_text())
    except (OSError, ValueError):
        return None
    # The lock is the proof that it lives; the command line, that the pid is still the broker's.
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    return pid if b"vpctl.broker" in command and rundir.name.encode() in command else None


def remove_state(rundir: RunDir) -> None:
    """Remove a topology's logs and journal."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(rundir.state)


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
