"""The end of a topology: by its broker, or without it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from vpctl import wait
from vpctl.broker.client import connect
from vpctl.broker.protocol import GRACE_SECONDS
from vpctl.errors import HostError, VpctlError
from vpctl.host import bridge
from vpctl.process import ProcessId, end
from vpctl.process_record import SUPERVISOR, known_broker, known_children, orphans
from vpctl.rundir import (
    RunDir,
    is_locked,
    read_owner,
)

STOP_SECONDS = 30.0
"""For the broker to end everything, before it is done without it."""


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
    process = known_broker(rundir)
    async with connect(rundir) as broker:
        await broker.stop()
        await broker.lost.wait()

    async def ended() -> bool | None:
        # Its lock is free a moment before its process has ended, and a caller may look for processes next.
        lives = is_locked(rundir.broker_lock) or (process is not None and process.is_alive())
        return None if lives else True

    await wait.until(ended, timeout=STOP_SECONDS, what="the broker's end", every=0.01)


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
