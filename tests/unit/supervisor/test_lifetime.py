"""The beginning and the end of a topology, with the real broker and the real supervisor of one that has no VMs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from tests.fakes.broker import broker_process, made
from tests.made import made_run, made_topology
from vpctl.broker import client as broker_client
from vpctl.broker.protocol import SUPERVISOR, Child
from vpctl.errors import NotFoundError
from vpctl.process import ProcessId, identify
from vpctl.rundir import Directories, RunDir, host_boot_id, is_locked, write_json
from vpctl.supervisor import client, lifetime
from vpctl.wait import until


@contextmanager
def process(*arguments: str) -> Iterator[ProcessId]:
    """A process without children that keeps its arguments, until the end of the block at most."""
    argv = ["sh", "-c", "read line", "sh", *arguments]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as popen:
        found = identify(popen.pid)
        assert found is not None
        try:
            yield found
        finally:
            popen.kill()


def recorded(rundir: RunDir, *processes: ProcessId) -> None:
    children = [
        Child(name=f"vm/vm{number}", generation=1, process=process, directory="/x").as_json()
        for number, process in enumerate(processes)
    ]
    write_json(rundir.processes, {"boot_id": host_boot_id(), "processes": children})


async def test_stop_without_a_broker_ends_the_recorded_and_the_orphaned_and_nobody_else(
    directories: Directories,
) -> None:
    rundir, other = made(directories), made(directories, "pair-2")
    with (
        process() as known,
        process("-chardev", f"socket,id=qmp0,path={rundir.run}/vm2.qmp,server=on,wait=off") as orphan,
        process("-chardev", f"socket,id=qmp0,path={other.run}/vm2.qmp,server=on,wait=off") as neighbour,
        process() as reused,
    ):
        recorded(rundir, known, ProcessId(pid=reused.pid, start_time=reused.start_time - 1))
        assert lifetime.is_running(rundir)
        await lifetime.stop(rundir)
        assert [p.is_alive() for p in (known, orphan, neighbour, reused)] == [False, False, True, True]
    assert not rundir.run.exists()
    assert not rundir.processes.exists()
    assert not lifetime.is_running(rundir)
    await lifetime.stop(rundir)  # once more, on nothing


async def test_an_orphan_in_a_directory_with_a_comma_is_found(directories: Directories) -> None:
    run = directories.run.with_name("a,b")
    rundir = made(Directories(run=run, state=directories.state, cache=directories.cache))
    with process("-chardev", f"socket,path={run.parent}/a,,b/pair/vm1.qmp") as orphan:
        await lifetime.clean_up(rundir)
        assert not orphan.is_alive()


async def test_stop_by_the_broker_ends_everything(directories: Directories) -> None:
    rundir = made(directories)
    with broker_process(rundir) as broker:
        async with broker_client.connect(rundir) as connection:
            await connection.spawn(
                name="vm/vm1", generation=1, argv=["sleep", "1000"], directory=str(rundir.state), cwd="/"
            )
            children = await connection.list()
        assert lifetime.running_topologies(directories) == ["pair"]
        await lifetime.stop(rundir)
        broker.wait()
        assert broker.returncode == 0
    assert not any(child.process.is_alive() for child in children)
    assert not rundir.run.exists()


async def test_launching_leaves_no_lock_and_no_directory_where_nothing_was_started(directories: Directories) -> None:
    with lifetime.launching(directories, "pair") as rundir:
        assert is_locked(rundir.launch_lock)
    assert not directories.run.exists()
    with lifetime.launching(directories, "pair") as rundir:
        made(directories)
    assert rundir.run.exists()
    assert not is_locked(rundir.launch_lock)


def test_what_does_not_run_is_named_with_what_does(directories: Directories) -> None:
    made(directories, "left-over")
    assert lifetime.running_topologies(directories) == []
    with pytest.raises(NotFoundError, match="no topology named `pair` runs") as caught:
        lifetime.require_running(directories, "pair")
    assert caught.value.hint is not None
    assert "running: none" in caught.value.hint


@asynccontextmanager
async def empty_topology(directories: Directories) -> AsyncIterator[RunDir]:
    """Run a topology without VMs: the processes are the real ones, and nothing takes long."""
    with lifetime.launching(directories, "empty") as rundir:
        await lifetime.start(made_run(made_topology(name="empty")), rundir)
        try:
            yield rundir
        finally:
            await lifetime.stop(rundir)


async def supervisor_pid(rundir: RunDir, *, other_than: int = 0) -> int:
    async def answers() -> int | None:
        status = await client.try_status(rundir)
        pid: int = status["supervisor"]["pid"] if status is not None else other_than
        return pid if pid != other_than else None

    return await until(answers, timeout=20, what="a supervisor")


async def test_each_of_the_two_brings_the_other_back_and_stop_ends_both(directories: Directories) -> None:
    async with empty_topology(directories) as rundir:
        outcome = await client.job_through_restarts(rundir, "up")
        assert (outcome["state"], outcome["checks"]) == ("up", [])
        first = await supervisor_pid(rundir)
        os.kill(first, signal.SIGKILL)
        second = await supervisor_pid(rundir, other_than=first)

        broker = int(rundir.broker_pid.read_text())
        os.kill(broker, signal.SIGKILL)

        async def another() -> int | None:
            pid = int(rundir.broker_pid.read_text())
            return pid if pid != broker and is_locked(rundir.broker_lock) else None

        await until(another, timeout=20, what="another broker")
        assert await supervisor_pid(rundir) == second
        supervisor = identify(second)
        async with broker_client.connect(rundir) as connection:
            assert {child.name: child.process.pid for child in await connection.list()} == {SUPERVISOR: second}
    assert supervisor is not None
    assert not supervisor.is_alive()
    assert not rundir.run.exists()


async def test_a_broker_that_hangs_is_ended_by_force_and_all_it_kept(directories: Directories) -> None:
    async with empty_topology(directories) as rundir:
        supervisor = identify(await supervisor_pid(rundir))
        broker = identify(int(rundir.broker_pid.read_text()))
        assert supervisor is not None
        assert broker is not None
        broker.signal(signal.SIGSTOP)
        await lifetime.clean_up(rundir)
        assert not supervisor.is_alive()
        assert not broker.is_alive()
        assert not rundir.run.exists()


async def test_a_supervisor_ends_at_once_although_a_client_stays_connected(directories: Directories) -> None:
    async with empty_topology(directories) as rundir, client.connect(rundir) as connected:
        pid = (await connected.execute("query-status"))["supervisor"]["pid"]
        supervisor = identify(pid)
        assert supervisor is not None
        supervisor.signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            with pytest.raises(client.SupervisorLostError):
                while True:
                    await connected.execute("query-status")
        await supervisor_pid(rundir, other_than=pid)


def test_a_warm_supervisor_that_nobody_needs_ends_by_itself(directories: Directories) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vpctl.supervisor", "--warm"], stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert done.returncode == 0
    assert not directories.run.exists() or not any(directories.run.iterdir())
