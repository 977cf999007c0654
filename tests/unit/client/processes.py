"""Processes of a topology: such as its broker would have recorded, and its real broker and supervisor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.made import made_run, made_topology
from vpctl.client import connection, running, start, stop
from vpctl.rundir import Directories, RunDir
from vpctl.wait import until


@asynccontextmanager
async def empty_topology(directories: Directories) -> AsyncIterator[RunDir]:
    """Run a topology without VMs: the processes are the real ones, and nothing takes long."""
    async with running.launching(directories, "empty") as rundir:
        await start.claim(rundir)
        await start.start(made_run(made_topology(name="empty")), rundir)
        try:
            yield rundir
        finally:
            await stop.stop(rundir)


async def supervisor_pid(rundir: RunDir, *, other_than: int = 0) -> int:
    async def answers() -> int | None:
        status = await connection.try_status(rundir)
        pid: int = status["supervisor"]["pid"] if status is not None else other_than
        return pid if pid != other_than else None

    return await until(answers, timeout=20, what="a supervisor")
