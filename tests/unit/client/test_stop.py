"""The end of a topology: by its broker, without it, and by force."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.broker import broker_process, made
from tests.unit.client.processes import empty_topology, supervisor_pid
from vpctl.broker import client as broker_client
from vpctl.client import connection, running, start, stop
from vpctl.errors import HostError
from vpctl.process import ProcessId, identify, run
from vpctl.process import end as process_end
from vpctl.process_record import Child, known_broker, known_children
from vpctl.rundir import Directories, RunDir, host_boot_id, write_json


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
        assert running.is_running(rundir)
        await stop.stop(rundir)
        assert [p.is_alive() for p in (known, orphan, neighbour, reused)] == [False, False, True, True]
    assert not rundir.run.exists()
    assert not rundir.processes.exists()
    assert not running.is_running(rundir)
    await stop.stop(rundir)  # once more, on nothing


def qmp(run: Path | str) -> str:
    return f"socket,id=qmp0,path={run}/vm2.qmp,server=on,wait=off"


def qemu_log(rundir: RunDir) -> Path:
    return rundir.generation("vm2", 1) / "qemu.log"


async def test_an_orphan_in_a_directory_with_a_comma_is_found(directories: Directories) -> None:
    run = directories.run.with_name("a,b")
    rundir = made(Directories(run=run, state=directories.state, cache=directories.cache))
    with process("-chardev", qmp(f"{run.parent}/a,,b/pair"), log=qemu_log(rundir)) as orphan:
        await stop.clean_up(rundir)
        assert not orphan.is_alive()


async def test_stop_by_the_broker_ends_everything(directories: Directories) -> None:
    rundir = made(directories)
    with broker_process(rundir) as broker:
        async with broker_client.connect(rundir) as connected:
            await connected.spawn(
                name="vm/vm1", generation=1, argv=["sleep", "1000"], directory=str(rundir.state), cwd="/"
            )
            children = await connected.list()
        assert running.running_topologies(directories) == ["pair"]
        await stop.stop(rundir)
        broker.wait()
        assert broker.returncode == 0
    assert not any(child.process.is_alive() for child in children)
    assert not rundir.run.exists()


async def test_a_broker_that_hangs_is_ended_by_force_and_all_it_kept(directories: Directories) -> None:
    async with empty_topology(directories) as rundir:
        supervisor = identify(await supervisor_pid(rundir))
        broker = identify(int(rundir.broker_pid.read_text()))
        assert supervisor is not None
        assert broker is not None
        broker.signal(signal.SIGSTOP)
        await stop.clean_up(rundir)
        assert not supervisor.is_alive()
        assert not broker.is_alive()
        assert not rundir.run.exists()


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
        await stop.clean_up(rundir)
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
    monkeypatch.setattr(stop, "GRACE_SECONDS", 1.0)
    rundir = made(directories)
    stubborn = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('listens', flush=True)\n"
    with contextlib.ExitStack() as stack:
        argv = [sys.executable, "-c", stubborn + "sys.stdin.read()"]
        recorded(rundir, *(started(stack, argv) for _ in range(8)))
        signals: list[float] = []

        async def noted(process: ProcessId, *, grace: float) -> bool:
            signals.append(time.monotonic())
            return await process_end(process, grace=grace)

        monkeypatch.setattr(stop, "end", noted)
        await stop.clean_up(rundir)
    assert len(signals) == 8
    assert max(signals) - min(signals) < 1.0  # none waited for the grace of another


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
from vpctl.client import running, start
async def main():
    roots = Directories(run=Path({str(directories.run)!r}), state=Path({str(directories.state)!r}), cache=Path("/x"))
    async with running.launching(roots, "empty") as rundir:
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
    assert running.running_topologies(directories) == ["empty"]
    with pytest.raises(HostError, match="cannot be seen from here"):
        await start.revive(rundir)
    with pytest.raises(HostError, match="cannot be seen from here"):
        async with connection.connect(rundir):
            pass
    await stop.stop(rundir)
    assert not broker.is_alive()
    assert list(known_children(rundir)) == []
    assert running.running_topologies(directories) == []
