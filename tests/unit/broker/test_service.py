"""The broker, with real processes: spawn and reap, the supervisor's restarts, adoption, the end of everything."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.broker import SLEEPS, broker_process, broker_running, made
from vpctl.broker.client import BrokerClient, BrokerEvent, BrokerGoneError, connect, start_broker
from vpctl.broker.memfd import placeholder
from vpctl.broker.protocol import Exit, IvshmemEvent
from vpctl.broker.service import RESTART_SECONDS, hold
from vpctl.errors import HostError, NotFoundError, UsageError
from vpctl.process import ProcessId, file_limit, identify, open_files, running, wait_gone
from vpctl.process_record import SUPERVISOR, Child, known_children
from vpctl.rundir import Directories, RunDir, host_boot_id, is_locked, read_json, write_json
from vpctl.wait import until

OBEYS = "trap 'date +%s%N >\"$0\"; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


async def spawn(client: BrokerClient, rundir: RunDir, *argv: str, name: str = "vm/vm1", generation: int = 1) -> Child:
    """Start a process as the supervisor starts a VM; its log directory is named after it."""
    directory = str(rundir.state / name / str(generation))
    return await client.spawn(name=name, generation=generation, argv=list(argv), directory=directory, cwd="/")


async def spoken(child: Child) -> None:
    """Wait until a process has said something, so that its traps are set."""

    async def speaks() -> bool | None:
        return (Path(child.directory) / "qemu.log").stat().st_size > 0 or None

    await until(speaks, timeout=10, what="a first word", every=0.01)


async def next_exit(client: BrokerClient) -> Exit:
    async with asyncio.timeout(10):
        while not isinstance(event := await client.events.get(), Exit):
            pass
        return event


async def supervisor_other_than(client: BrokerClient, process: ProcessId | None) -> ProcessId:
    """Wait for a supervisor to be listed that is not this one."""

    async def other() -> ProcessId | None:
        listed = {child.name: child.process for child in await client.list()}
        return listed.get(SUPERVISOR) if listed.get(SUPERVISOR) != process else None

    return await until(other, timeout=10, what="a supervisor", every=0.01)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -6 $$", -6)])
async def test_tells_how_a_process_ended_and_writes_it_down(rundir: RunDir, script: str, status: int) -> None:
    async with broker_running(rundir) as client:
        before = time.monotonic()
        child = await spawn(client, rundir, "sh", "-c", script, generation=7)
        end = await next_exit(client)
        assert end == Exit(name="vm/vm1", generation=7, pid=child.process.pid, status=status, monotonic=end.monotonic)
        assert before < end.monotonic < time.monotonic()
        assert read_json(Path(child.directory) / "exit.json") == end.as_json()
        assert {entry.name for entry in await client.list()} == {SUPERVISOR}


async def test_a_process_has_its_own_session_its_directory_its_log_and_no_input(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        child = await spawn(client, rundir, "sh", "-c", "pwd; read line || echo none; echo trouble >&2; sleep 1000")
        log = Path(child.directory) / "qemu.log"

        async def logged() -> list[str] | None:
            lines = log.read_text().splitlines()
            return lines if len(lines) == 3 else None

        assert await until(logged, timeout=10, what="three lines", every=0.01) == ["/", "none", "trouble"]
        assert os.getsid(child.process.pid) == child.process.pid
        assert log.stat().st_mode & 0o077 == 0 or log.parent.stat().st_mode & 0o077 == 0


async def test_lists_what_runs_and_records_the_same(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        started = [await spawn(client, rundir, *SLEEPS, name=f"vm/{name}", generation=2) for name in ("a", "b")]
        listed = await client.list()
        assert [child for child in listed if child.name != SUPERVISOR] == started
        assert list(known_children(rundir)) == listed


async def test_ends_a_process_that_obeys_without_the_kill(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        child = await spawn(client, rundir, *SLEEPS)
        assert await client.end(name=child.name, generation=1, grace=10) is False
        assert (await next_exit(client)).status == -signal.SIGTERM


async def test_kills_a_process_that_ignores_the_request_once_its_grace_is_over(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        child = await spawn(client, rundir, "sh", "-c", STUBBORN)
        await spoken(child)
        assert await client.end(name=child.name, generation=1, grace=0.1) is True
        assert (await next_exit(client)).status == -signal.SIGKILL


async def test_what_a_wrapper_leaves_behind_goes_with_it(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        child = await spawn(client, rundir, "sh", "-c", "sleep 1000 & echo $!; wait")
        await spoken(child)
        inner = identify(int((Path(child.directory) / "qemu.log").read_text()))
        assert inner is not None
        child.process.signal(signal.SIGKILL)
        async with asyncio.timeout(10):
            await wait_gone(inner)


async def test_the_end_of_another_generation_touches_nothing(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        child = await spawn(client, rundir, *SLEEPS, generation=2)
        assert await client.end(name=child.name, generation=1, grace=0) is False
        assert await client.end(name="vm/none", generation=1, grace=0) is False
        assert child in await client.list()


async def test_refuses_a_second_process_of_a_name_until_the_first_is_gone(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        child = await spawn(client, rundir, *SLEEPS)
        with pytest.raises(UsageError, match=f"vm/vm1 runs already, pid {child.process.pid}"):
            await spawn(client, rundir, *SLEEPS, generation=2)
        child.process.signal(signal.SIGKILL)
        await next_exit(client)
        assert (await spawn(client, rundir, *SLEEPS, generation=2)).generation == 2


async def test_a_program_that_is_missing_is_the_hosts_fault_and_nothing_is_listed(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        with pytest.raises(HostError, match="cannot start `/no/such/qemu`: No such file") as caught:
            await spawn(client, rundir, "/no/such/qemu")
        assert caught.value.hint == "see `vpctl doctor`"
        assert [child.name for child in await client.list()] == [SUPERVISOR]


async def test_an_exit_that_cannot_be_written_down_is_told_all_the_same(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        child = await spawn(client, rundir, *SLEEPS)
        shutil.rmtree(child.directory)
        child.process.signal(signal.SIGKILL)
        assert (await next_exit(client)).status == -signal.SIGKILL
        assert "vm/vm1" not in rundir.processes.read_text()


async def test_a_supervisor_that_was_killed_is_followed_by_another(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        first = await supervisor_other_than(client, None)
        vm = await spawn(client, rundir, *SLEEPS)
        first.signal(signal.SIGKILL)
        second = await supervisor_other_than(client, first)
        assert second.is_alive()
        assert vm in await client.list()


async def test_a_supervisor_that_dies_at_once_is_started_again_with_growing_pauses(rundir: RunDir) -> None:
    starts = rundir.state / "starts"
    async with broker_running(rundir, supervisor=["sh", "-c", f"date +%s%N >>{starts}; exit 1"]):

        async def three() -> list[int] | None:
            times = [int(line) for line in starts.read_text().split()] if starts.exists() else []
            return times if len(times) > 3 else None

        times = await until(three, timeout=10, what="four starts", every=0.01)
    pauses = [(after - before) / 1e9 for before, after in pairwise(times)]
    shortest, _ = RESTART_SECONDS
    assert pauses[0] >= shortest * 2
    assert pauses[1] >= shortest * 4
    assert pauses[2] >= shortest * 8


async def test_a_supervisor_that_ends_by_itself_ends_the_topology(rundir: RunDir) -> None:
    async with broker_running(rundir, supervisor=["sh", "-c", "sleep 0.2; exit 0"]) as client:
        vm = await spawn(client, rundir, *SLEEPS)
        async with asyncio.timeout(10):
            await client.lost.wait()
    assert not vm.process.is_alive()
    assert not rundir.run.exists()


async def test_stop_ends_the_supervisor_first_and_leaves_no_process_and_no_run_directory(rundir: RunDir) -> None:
    marks = {name: rundir.state / f"{name}-ended" for name in ("supervisor", "vm")}
    async with broker_running(rundir, supervisor=["sh", "-c", OBEYS, str(marks["supervisor"])]) as client:
        supervisor = await supervisor_other_than(client, None)
        vm = await spawn(client, rundir, "sh", "-c", OBEYS, str(marks["vm"]))
        await spoken(vm)
        await client.stop()
        async with asyncio.timeout(10):
            await client.lost.wait()
        with pytest.raises(BrokerGoneError):
            await client.list()
    assert not supervisor.is_alive()
    assert not vm.process.is_alive()
    assert not rundir.run.exists()
    assert int(marks["supervisor"].read_text()) < int(marks["vm"].read_text())


async def test_nothing_is_started_any_more_once_everything_is_being_stopped(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        supervisor = await supervisor_other_than(client, None)
        rundir.stopping.touch()  # as `down` does where the broker is deaf
        with pytest.raises(UsageError, match="`pair` is being stopped"):
            await spawn(client, rundir, *SLEEPS)
        supervisor.signal(signal.SIGKILL)
        async with asyncio.timeout(10):
            await client.lost.wait()  # no new supervisor either: the broker itself ends, in order
    assert not rundir.run.exists()


async def test_a_second_broker_adopts_what_a_killed_one_left_and_does_not_know_its_status(rundir: RunDir) -> None:
    with broker_process(rundir) as first:
        async with connect(rundir) as client:
            supervisor = await supervisor_other_than(client, None)
            vm = await spawn(client, rundir, *SLEEPS, generation=4)
            first.kill()
            async with asyncio.timeout(10):
                await client.lost.wait()
    assert vm.process.is_alive()
    async with broker_running(rundir) as client:
        assert {child.process for child in await client.list()} == {supervisor, vm.process}
        vm.process.signal(signal.SIGKILL)
        end = await next_exit(client)
        assert (end.name, end.generation, end.pid, end.status) == ("vm/vm1", 4, vm.process.pid, None)
    assert not supervisor.is_alive()


def test_a_record_of_another_boot_or_of_a_reused_pid_counts_for_nothing(rundir: RunDir) -> None:
    process = identify(os.getpid())
    assert process is not None
    entry = Child(name="vm/vm1", generation=1, process=process, directory="/x").as_json()
    write_json(rundir.processes, {"boot_id": host_boot_id(), "processes": [entry]})
    assert [child.process for child in known_children(rundir)] == [process]
    write_json(rundir.processes, {"boot_id": "another", "processes": [entry]})
    assert list(known_children(rundir)) == []
    older = {**entry, "start_time": process.start_time - 1}
    write_json(rundir.processes, {"boot_id": host_boot_id(), "processes": [older]})
    assert list(known_children(rundir)) == []


async def test_a_second_broker_of_a_topology_is_refused_with_exit_code_2(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        argv = [sys.executable, "-m", "vpctl.broker", *rundir.as_words()]
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
        _, stderr = await process.communicate()
        assert (process.returncode, stderr) == (2, b"error: `pair` has a broker already\n")
        with pytest.raises(UsageError, match="`pair` has a broker already"):
            await start_broker(rundir)
        assert await client.list()  # the first one's socket is where it was


async def test_a_broker_is_not_refused_because_somebody_asks_whether_one_runs(rundir: RunDir) -> None:
    rundir.broker_lock.touch()
    asks = (
        "import sys; from pathlib import Path; from vpctl.rundir import is_locked\n"
        "print('asks', flush=True)\nwhile True: is_locked(Path(sys.argv[1]))"
    )
    async with running([sys.executable, "-c", asks, str(rundir.broker_lock)], stdin=None) as asking:
        assert asking.stdout is not None
        assert await asking.stdout.readline() == b"asks\n"
        for _ in range(5000):
            os.close(hold(rundir))
        assert asking.returncode is None
    lock = hold(rundir)
    with pytest.raises(UsageError, match="`pair` has a broker already"):
        hold(rundir)
    os.close(lock)


async def test_a_broker_started_for_nothing_ends_by_itself(rundir: RunDir) -> None:
    await start_broker(rundir)  # the real one, whose supervisor finds no topology to supervise
    async with connect(rundir) as client:
        broker = identify(int(rundir.broker_pid.read_text()))
        assert is_locked(rundir.broker_lock)
        async with asyncio.timeout(20):
            await client.lost.wait()
            if broker is not None:
                await wait_gone(broker)
    assert not rundir.run.exists()
    assert "is missing or damaged" in rundir.service_log("supervisor").read_text()


# Section: memory that guests share

READS = ["sh", "-c", 'head -c 4 <"$0"; exec sleep 1000', placeholder("control/vm1")]
"""A QEMU that opens what it has inherited, and says what is in it."""

ENDS = [{"path": "lan0.1.0", "id": 2, "vectors": 3}, {"path": "lan0.1.1", "id": 3, "vectors": 3}]


def ends(rundir: RunDir, name: str = "lan0.g1") -> list[dict[str, Any]]:
    return [{**end, "name": name, "path": str(rundir.run / str(end["path"]))} for end in ENDS]


async def test_a_process_opens_the_memory_that_it_inherits_by_the_path_in_its_command_line(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        assert await client.create("control/vm1", 65536)
        await client.write("control/vm1", (0, b"abcd"))
        child = await client.spawn(
            name="vm/vm1",
            generation=1,
            argv=READS,
            directory=str(rundir.generation("vm1", 1)),
            cwd="/",
            memories=["control/vm1"],
        )
        await spoken(child)
        assert (Path(child.directory) / "qemu.log").read_text() == "abcd"
        other = await spawn(client, rundir, *SLEEPS, name="vm/vm2")
        assert names_of_memories(child.process.pid) == ["/memfd:vpctl:control/vm1 (deleted)"]
        assert names_of_memories(other.process.pid) == [], "nobody else has it"
        assert file_limit(child.process.pid) == file_limit(os.getpid()), "the broker's, which it has raised"


def names_of_memories(pid: int) -> list[str]:
    names = {str((Path(f"/proc/{pid}/fd") / str(number)).readlink()) for number in open_files(pid)}
    return sorted(name for name in names if name.startswith("/memfd:"))


async def test_a_process_that_asks_for_memory_that_is_not_there_is_not_started(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        with pytest.raises(UsageError, match="no memory named `control/vm1`"):
            await client.spawn(
                name="vm/vm1", generation=1, argv=READS, directory="/x", cwd="/", memories=["control/vm1"]
            )


async def test_a_memory_has_one_server_at_a_time_and_who_joins_and_leaves_is_told(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        await client.create("region/lan0", 1 << 20)
        first = await client.serve(name="lan0.g1", memory="region/lan0", ends=ends(rundir))
        assert first == await client.query_ivshmem("lan0.g1")
        with socket.socket(socket.AF_UNIX) as qemu:
            qemu.connect(str(rundir.run / "lan0.1.0"))
            assert await next_event(client) == IvshmemEvent(name="lan0.g1", end=0, what="join", id=2)
            again = await client.serve(name="lan0.g2", memory="region/lan0", ends=ends(rundir, "lan0.g2"))
            assert await next_event(client) == IvshmemEvent(name="lan0.g1", end=0, what="leave", id=2)
        assert await client.query_ivshmem("lan0.g1") is None
        assert not {*again["ends"][0]["eventfds"]} & {*again["ends"][1]["eventfds"]}
        with pytest.raises(NotFoundError, match=r"nothing is served as `lan0\.g1`"):
            await client.ring("lan0.g1", 0)
        await client.ring("lan0.g2", 0)
        await client.close("lan0.g2")
        await client.close("lan0.g2")
        assert not list(rundir.run.glob("lan0.*"))


async def next_event(client: BrokerClient) -> BrokerEvent:
    async with asyncio.timeout(5):
        return await client.events.get()


async def test_a_place_where_nothing_can_be_served_is_the_hosts_error(rundir: RunDir) -> None:
    async with broker_running(rundir) as client:
        await client.create("region/lan0", 1 << 20)
        with pytest.raises(HostError, match=r"cannot serve `lan0\.g1`"):
            await client.serve(
                name="lan0.g1",
                memory="region/lan0",
                ends=[{"name": "lan0.g1", "path": "/none/x", "id": 2, "vectors": 3}],
            )
        assert await client.query_ivshmem("lan0.g1") is None


async def test_memory_outlives_its_broker_in_the_processes_that_have_it_and_what_was_served_does_not(
    rundir: RunDir,
) -> None:
    with broker_process(rundir) as first:
        async with connect(rundir) as client:
            await supervisor_other_than(client, None)
            await client.create("control/vm1", 65536)
            await client.create("region/lan0", 1 << 20)
            await client.write("control/vm1", (0, b"abcd"))
            directory = str(rundir.generation("vm1", 1))
            await client.spawn(
                name="vm/vm1", generation=1, argv=READS, directory=directory, cwd="/", memories=["control/vm1"]
            )
            await client.serve(name="lan0.g1", memory="region/lan0", ends=ends(rundir))
            first.kill()
            async with asyncio.timeout(10):
                await client.lost.wait()
    async with broker_running(rundir) as client:
        assert not await client.create("control/vm1", 65536), "it is the same one"
        assert await client.contents("control/vm1", 0, 4) == b"abcd"
        assert await client.create("region/lan0", 1 << 20), "nobody had it"
        assert await client.query_ivshmem("lan0.g1") is None
        await client.serve(name="lan0.g1", memory="region/lan0", ends=ends(rundir))


async def test_is_gone_for_good_where_there_is_no_broker(rundir: RunDir) -> None:
    with pytest.raises(BrokerGoneError, match="`pair` has no broker"):
        async with connect(rundir):
            pass


async def test_a_broker_killed_in_the_middle_of_a_message_is_a_broker_that_is_gone(rundir: RunDir) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"id": 1, "ret')
        writer.close()

    server = await asyncio.start_unix_server(half, path=rundir.broker_socket)
    async with server, connect(rundir) as client:
        with pytest.raises(BrokerGoneError):
            await client.list()
        assert client.lost.is_set()
