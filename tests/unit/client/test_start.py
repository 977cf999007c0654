"""The beginning and the end of a topology, with the real broker and the real supervisor of one that has no VMs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.broker import broker_process, made
from tests.made import made_run, made_topology
from vpctl.broker import client as broker_client
from vpctl.broker.protocol import EXIT_NO_TOPOLOGY, SUPERVISOR, Child
from vpctl.broker.remains import known_broker
from vpctl.broker.service import known_children
from vpctl.client import connection, start
from vpctl.errors import HostError, NotFoundError, UsageError
from vpctl.process import ProcessId, identify, run
from vpctl.process import end as process_end
from vpctl.rundir import Directories, RunDir, host_boot_id, is_locked, read_json, write_json
from vpctl.wait import until


@contextmanager
def process(*arguments: str, log: Path | None = None) -> Iterator[ProcessId]:
    """A process without children that keeps its arguments, until the end of the block at most; it writes to `log`."""
    argv = ["sh", "-c", "read line", "sh", *arguments]
    with contextlib.ExitStack() as stack:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        output = stack.enter_context(log.open("ab")) if log is not None else None
        popen = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, stderr=output))
        while not Path(f"/proc/{popen.pid}/cmdline").read_bytes():
            time.sleep(0.001)  # execve(2) has closed files, which Popen waits for, before the arguments can be seen
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
        process("-chardev", qmp(rundir.run), log=qemu_log(rundir)) as orphan,
        process("-chardev", qmp(other.run), log=qemu_log(other)) as neighbour,
        process() as reused,
    ):
        recorded(rundir, known, ProcessId(pid=reused.pid, start_time=reused.start_time - 1))
        assert start.is_running(rundir)
        await start.stop(rundir)
        assert [p.is_alive() for p in (known, orphan, neighbour, reused)] == [False, False, True, True]
    assert not rundir.run.exists()
    assert not rundir.processes.exists()
    assert not start.is_running(rundir)
    await start.stop(rundir)  # once more, on nothing


def qmp(run: Path | str) -> str:
    return f"socket,id=qmp0,path={run}/vm2.qmp,server=on,wait=off"


def qemu_log(rundir: RunDir) -> Path:
    return rundir.generation("vm2", 1) / "qemu.log"


async def test_an_orphan_in_a_directory_with_a_comma_is_found(directories: Directories) -> None:
    run = directories.run.with_name("a,b")
    rundir = made(Directories(run=run, state=directories.state, cache=directories.cache))
    with process("-chardev", qmp(f"{run.parent}/a,,b/pair"), log=qemu_log(rundir)) as orphan:
        await start.clean_up(rundir)
        assert not orphan.is_alive()


async def test_stop_by_the_broker_ends_everything(directories: Directories) -> None:
    rundir = made(directories)
    with broker_process(rundir) as broker:
        async with broker_client.connect(rundir) as connected:
            await connected.spawn(
                name="vm/vm1", generation=1, argv=["sleep", "1000"], directory=str(rundir.state), cwd="/"
            )
            children = await connected.list()
        assert start.running_topologies(directories) == ["pair"]
        await start.stop(rundir)
        broker.wait()
        assert broker.returncode == 0
    assert not any(child.process.is_alive() for child in children)
    assert not rundir.run.exists()


async def test_launching_leaves_no_lock_and_no_directory_where_nothing_was_started(directories: Directories) -> None:
    async with start.launching(directories, "pair") as rundir:
        assert is_locked(rundir.launch_lock)
    assert not directories.run.exists()
    async with start.launching(directories, "pair") as rundir:
        made(directories)
    assert rundir.run.exists()
    assert not is_locked(rundir.launch_lock)


def test_what_does_not_run_is_named_with_what_does(directories: Directories) -> None:
    made(directories, "left-over")
    assert start.running_topologies(directories) == []
    with pytest.raises(NotFoundError, match="no topology named `pair` runs") as caught:
        start.require_running(directories, "pair")
    assert caught.value.hint is not None
    assert "running: none" in caught.value.hint


@asynccontextmanager
async def empty_topology(directories: Directories) -> AsyncIterator[RunDir]:
    """Run a topology without VMs: the processes are the real ones, and nothing takes long."""
    async with start.launching(directories, "empty") as rundir:
        await start.claim(rundir)
        await start.start(made_run(made_topology(name="empty")), rundir)
        try:
            yield rundir
        finally:
            await start.stop(rundir)


async def supervisor_pid(rundir: RunDir, *, other_than: int = 0) -> int:
    async def answers() -> int | None:
        status = await connection.try_status(rundir)
        pid: int = status["supervisor"]["pid"] if status is not None else other_than
        return pid if pid != other_than else None

    return await until(answers, timeout=20, what="a supervisor")


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
    async with start.launching(directories, "empty") as mine, start.launching(other, "empty") as theirs:
        await start.claim(mine)
        with pytest.raises(UsageError, match=f"with its run directory at {mine.run}"):
            await start.claim(theirs)
        assert not theirs.run.exists()
        assert other.topology("empty") == mine
        assert not mine.claim_lock.exists()
        await start.stop(mine)
        mine.remove_state()
        await start.claim(theirs)
        await start.stop(theirs)
        theirs.remove_state()


async def test_a_broker_that_hangs_is_ended_by_force_and_all_it_kept(directories: Directories) -> None:
    async with empty_topology(directories) as rundir:
        supervisor = identify(await supervisor_pid(rundir))
        broker = identify(int(rundir.broker_pid.read_text()))
        assert supervisor is not None
        assert broker is not None
        broker.signal(signal.SIGSTOP)
        await start.clean_up(rundir)
        assert not supervisor.is_alive()
        assert not broker.is_alive()
        assert not rundir.run.exists()


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


async def test_bystanders_and_the_qemus_of_other_containers_are_left_alone(
    directories: Directories, tmp_path: Path
) -> None:
    rundir = made(directories)
    unshare = shutil.which("unshare")
    with contextlib.ExitStack() as stack:
        bystanders = [
            stack.enter_context(process(f"path={rundir.run}/notes")),
            stack.enter_context(process("-chardev", qmp(rundir.run), log=tmp_path / "qemu.log")),
            stack.enter_context(process("-batch", f"{rundir.run}/lan0.ip")),
        ]
        listener = [sys.executable, "-c", LISTENS, f"{rundir.run}/vm1.qmp", f"path={rundir.run}/vm1.qmp"]
        if unshare is not None and os.getuid() == 0:
            bystanders.append(started(stack, [unshare, "--mount", *listener]))
        orphan = started(stack, [*listener[:-2], f"{rundir.run}/vm2.qmp", listener[-1]])
        await start.clean_up(rundir)
        assert not orphan.is_alive()
        assert [bystander.is_alive() for bystander in bystanders[:2] + bystanders[3:]] == [True] * (
            len(bystanders) - 1
        )


LISTENS = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
sys.stdin.read()
"""


def started(stack: contextlib.ExitStack, argv: Sequence[str]) -> ProcessId:
    """Start a process that says `listens` when it does; it ends with the stack at the latest."""
    popen = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    stack.callback(popen.kill)
    assert popen.stdout is not None
    assert popen.stdout.readline() == b"listens\n"
    found = identify(popen.pid)
    assert found is not None
    return found


async def test_leftovers_share_one_time_of_grace(directories: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "GRACE_SECONDS", 1.0)
    rundir = made(directories)
    stubborn = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('listens', flush=True)\n"
    with contextlib.ExitStack() as stack:
        argv = [sys.executable, "-c", stubborn + "sys.stdin.read()"]
        recorded(rundir, *(started(stack, argv) for _ in range(8)))
        signals: list[float] = []

        async def noted(process: ProcessId, *, grace: float) -> bool:
            signals.append(time.monotonic())
            return await process_end(process, grace=grace)

        monkeypatch.setattr(start, "end", noted)
        await start.clean_up(rundir)
    assert len(signals) == 8
    assert max(signals) - min(signals) < 1.0  # none waited for the grace of another


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
        await start.stop(rundir)
        rundir.remove_state()
        assert not guest.process.is_alive()
    assert not rundir.state.exists()


@pytest.mark.mandatory
async def test_a_topology_with_a_tmp_of_its_own_is_found_and_stopped_from_outside(directories: Directories) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.getuid() != 0:
        pytest.skip("a mount namespace of one's own needs unshare, and root")
    directories.run.mkdir(mode=0o700)
    source = f"""
import asyncio, sys
from pathlib import Path
from tests.made import made_run, made_topology
from vpctl.rundir import Directories
from vpctl.client import start
async def main():
    roots = Directories(run=Path({str(directories.run)!r}), state=Path({str(directories.state)!r}), cache=Path("/x"))
    async with start.launching(roots, "empty") as rundir:
        await start.claim(rundir)
        await start.start(made_run(made_topology(name="empty")), rundir)
asyncio.run(main())
"""
    script = f'mount -t tmpfs -o mode=700 none {directories.run} && exec "$0" -c "$1"'
    argv = [unshare, "--mount", "sh", "-c", script, sys.executable, source]
    await run(argv, cwd=Path(__file__).parents[3], timeout=120)
    rundir = directories.topology("empty")
    broker = known_broker(rundir)
    assert broker is not None
    assert not rundir.run.exists()
    assert start.running_topologies(directories) == ["empty"]
    with pytest.raises(HostError, match="cannot be seen from here"):
        await start.revive(rundir)
    with pytest.raises(HostError, match="cannot be seen from here"):
        async with connection.connect(rundir):
            pass
    await start.stop(rundir)
    assert not broker.is_alive()
    assert list(known_children(rundir)) == []
    assert start.running_topologies(directories) == []


async def test_another_tmpdir_and_relative_directories_change_nothing(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directories.run.parent)
    relative = Directories.from_environment({"VPCTL_RUN_DIR": "r", "VPCTL_STATE_DIR": "s", "VPCTL_CACHE_DIR": "c"})
    async with empty_topology(relative) as rundir:
        assert (await connection.job_through_restarts(rundir, "up"))["state"] == "up"
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        elsewhere = Directories(run=tmp_path / "run", state=relative.state, cache=relative.cache)
        assert start.running_topologies(elsewhere) == ["empty"]
        assert start.require_running(elsewhere, "empty") == rundir
        await start.stop(elsewhere.topology("empty"))
    assert not rundir.run.exists()


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
