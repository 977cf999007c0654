"""The beginning and the end of a topology, with the real broker and the real supervisor of one that has no VMs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.client.processes import empty_topology, supervisor_pid
from vpctl.broker import client as broker_client
from vpctl.broker.protocol import EXIT_NO_TOPOLOGY
from vpctl.client import connection, running, start, stop
from vpctl.errors import UsageError
from vpctl.process import identify
from vpctl.process_record import SUPERVISOR
from vpctl.rundir import Directories, is_locked, read_json
from vpctl.wait import until


async def test_each_of_the_two_brings_the_other_back_and_stop_ends_both(directories: Directories) -> None:
    async with empty_topology(directories) as rundir:
        outcome = await connection.job_through_restarts(rundir, "up")
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
        async with broker_client.connect(rundir) as connected:
            assert {child.name: child.process.pid for child in await connected.list()} == {SUPERVISOR: second}
    assert supervisor is not None
    assert not supervisor.is_alive()
    assert not rundir.run.exists()


async def test_of_two_first_starts_in_other_run_directories_one_takes_the_state(
    directories: Directories, tmp_path: Path
) -> None:
    other = replace(directories, run=tmp_path / "other")
    async with running.launching(directories, "empty") as mine, running.launching(other, "empty") as theirs:
        await start.claim(mine)
        with pytest.raises(UsageError, match=f"with its run directory at {mine.run}"):
            await start.claim(theirs)
        assert not theirs.run.exists()
        assert other.topology("empty") == mine
        assert not mine.claim_lock.exists()
        await stop.stop(mine)
        mine.remove_state()
        await start.claim(theirs)
        await stop.stop(theirs)
        theirs.remove_state()


async def test_a_supervisor_ends_at_once_although_a_client_stays_connected(directories: Directories) -> None:
    async with empty_topology(directories) as rundir, connection.connect(rundir) as connected:
        pid = (await connected.execute("query-status"))["supervisor"]["pid"]
        supervisor = identify(pid)
        assert supervisor is not None
        supervisor.signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            with pytest.raises(connection.SupervisorLostError):
                while True:
                    await connected.execute("query-status")
        await supervisor_pid(rundir, other_than=pid)


def test_a_warm_supervisor_that_nobody_needs_ends_by_itself(directories: Directories) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vpctl.supervisor", "--warm"], stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert done.returncode == 0
    assert not directories.run.exists() or not any(directories.run.iterdir())


# Section: what belongs to others, and what is out of sight


async def test_a_supervisor_without_its_topology_ends_with_an_error_and_the_guests_are_kept(
    directories: Directories,
) -> None:
    async with empty_topology(directories) as rundir:
        first = await supervisor_pid(rundir)
        async with broker_client.connect(rundir) as connected:
            guest = await connected.spawn(
                name="vm/vm1", generation=1, argv=["sleep", "1000"], directory=str(rundir.state / "vm1"), cwd="/"
            )
            shutil.rmtree(rundir.state)
            os.kill(first, signal.SIGKILL)

            async def said() -> str | None:
                record = read_json(rundir.state / "exit.json")
                if not isinstance(record, dict) or record.get("status") != EXIT_NO_TOPOLOGY:
                    return None
                return rundir.service_log(SUPERVISOR).read_text()

            text = await until(said, timeout=60, what="a supervisor's end")
            assert f"{rundir.spec} is missing or damaged: the guests of `empty` run on" in text
            assert guest.process.is_alive()
            assert [child.name for child in await connected.list()] == ["vm/vm1"]  # no other one at once
        assert directories.topologies() == ["empty"]
        await stop.stop(rundir)
        rundir.remove_state()
        assert not guest.process.is_alive()
    assert not rundir.state.exists()


async def test_what_stays_behind_does_not_keep_the_commands_secrets(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_JOB_TOKEN", "secret")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/secret")
    monkeypatch.setenv("VPCTL_DEBIAN_MIRROR", "https://user:secret@mirror")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    async with empty_topology(directories) as rundir:
        supervisor = await supervisor_pid(rundir)
        async with broker_client.connect(rundir) as connected:
            guest = await connected.spawn(
                name="vm/vm1", generation=1, argv=["sleep", "1000"], directory=str(rundir.state / "vm1"), cwd="/"
            )
        for pid in (int(rundir.broker_pid.read_text()), supervisor, guest.process.pid):
            environ = await environment(pid)
            assert not any(b"secret" in entry for entry in environ)
            assert {b"LC_ALL=C.UTF-8", b"PATH=" + os.environb[b"PATH"]} <= environ


async def environment(pid: int) -> set[bytes]:
    """Return a process's environment; it is empty until execve(2), which has closed files by then, is through."""

    async def there() -> set[bytes] | None:
        return variables(pid) or None

    return await until(there, timeout=30, what="an environment", every=0.01)


def variables(pid: int) -> set[bytes]:
    return {*Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")} - {b""}
