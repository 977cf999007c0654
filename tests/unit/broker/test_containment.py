"""One client, one process and one fault of the broker's own are not the others' affair: with the real broker."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.broker import SLEEPS, broker_running, made
from tests.unit.broker.test_service import spawn, spoken
from vpctl.broker.client import BrokerClient, connect
from vpctl.broker.protocol import BrokerFailure, Exit
from vpctl.broker.service import Broker, hold, listen
from vpctl.process import identify
from vpctl.process_record import SUPERVISOR
from vpctl.rundir import Directories, RunDir, host_boot_id, write_json
from vpctl.wait import until

# Section: requests beside each other


# Section: who may ask

ASKS = """
import json, os, socket, sys
if sys.argv[2] == "child" and os.fork():
    os.wait()
    sys.exit()
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
try:
    client.sendall(b'{"id":1,"do":"list"}\\n')
    said = client.recv(65536).decode()
except OSError:
    said = ""
print(json.dumps(said), flush=True)
"""


async def said_to(client: BrokerClient, rundir: RunDir, name: str, how: str) -> str:
    """Have a process of the broker's ask the broker; return what it is told."""
    argv = [sys.executable, "-c", ASKS, str(rundir.broker_socket), how]
    child = await spawn(client, rundir, *argv, name=name)
    log = Path(child.directory) / "qemu.log"

    async def done() -> str | None:
        text = log.read_text() if log.exists() else ""
        return text if text.endswith("\n") else None

    return str(json.loads(await until(done, timeout=30, what="an answer", every=0.02)))


@pytest.mark.parametrize("how", ["itself", "child"])
async def test_a_qemu_and_what_it_starts_may_ask_for_nothing(rundir: RunDir, how: str) -> None:
    async with broker_running(rundir) as client:
        assert await said_to(client, rundir, "vm/vm1", how) == ""
        assert await client.list()


async def test_a_qemu_of_another_topology_may_ask_for_nothing(directories: Directories, rundir: RunDir) -> None:
    other = made(directories, "other")
    async with broker_running(rundir) as client, broker_running(other) as others:
        argv = [sys.executable, "-c", ASKS, str(other.broker_socket), "itself"]
        child = await spawn(client, rundir, *argv)
        await spoken(child)
        assert (Path(child.directory) / "qemu.log").read_text() == '""\n'
        assert await others.list()


async def test_a_supervisor_may_ask(rundir: RunDir) -> None:
    argv = [sys.executable, "-c", ASKS + "os.read(os.pipe()[0], 1)", str(rundir.broker_socket), "itself"]
    async with broker_running(rundir, supervisor=argv):
        log = rundir.service_log(SUPERVISOR)

        async def told() -> bool | None:
            return ("return" in log.read_text() if log.exists() else False) or None

        await until(told, timeout=30, what="an answer", every=0.02)


async def test_a_qemu_that_another_broker_left_may_ask_for_nothing(rundir: RunDir) -> None:
    argv = [sys.executable, "-c", "input()\n" + ASKS, str(rundir.broker_socket), "itself"]
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    identity = identify(process.pid)
    assert identity is not None
    entry = {
        "name": "vm/vm1",
        "generation": 1,
        "pid": process.pid,
        "start_time": identity.start_time,
        "directory": str(rundir.state),
    }
    write_json(rundir.processes, {"boot_id": host_boot_id(), "processes": [7, {"name": 1}, entry]})
    async with broker_running(rundir) as client:
        assert "vm/vm1" in {child.name for child in await client.list()}
        said, _ = await process.communicate(b"\n")
        assert said == b'""\n'


# Section: faults of its own


async def test_a_want_of_memory_while_a_process_is_waited_for_costs_no_other_and_no_exit(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pidfd_open
    failed: list[int] = []

    def fails_twice(pid: int, flags: int = 0) -> int:
        if len(failed) < 2:
            failed.append(pid)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return real(pid, flags)

    async with broker_running(rundir) as client:
        other = await spawn(client, rundir, *SLEEPS, name="vm/vm2")
        monkeypatch.setattr(os, "pidfd_open", fails_twice)
        child = await spawn(client, rundir, "sh", "-c", "exit 3")
        events = [await client.events.get() for _ in range(3)]
        assert [type(each) for each in events] == [BrokerFailure, BrokerFailure, Exit]
        assert events[0] == BrokerFailure(
            work="wait for vm/vm1", message="OSError: [Errno 12] Cannot allocate memory"
        )
        assert isinstance(events[2], Exit)
        assert (events[2].name, events[2].status) == (child.name, 3)
        assert other in await client.list()


@asynccontextmanager
async def broken(rundir: RunDir) -> AsyncIterator[asyncio.Task[None]]:
    lock = hold(rundir)
    task = asyncio.create_task(Broker(rundir, listen(rundir), supervisor_argv=SLEEPS).run(), name="broker")
    try:
        yield task
    finally:
        await asyncio.wait([task])
        os.close(lock)


async def test_a_broker_that_breaks_leaves_guests_and_run_directory_to_the_next_one(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir.identity.write_text("the key")

    async def breaks(self: Broker) -> bool:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(Broker, "_end_everything", breaks)
        async with broken(rundir) as task, connect(rundir) as client:
            child = await spawn(client, rundir, *SLEEPS)
            await client.stop()
            await asyncio.wait([task])
            assert isinstance(task.exception(), ExceptionGroup)
    assert child.process.is_alive()
    assert rundir.identity.read_text() == "the key"
    async with broker_running(rundir) as client:
        assert child in await client.list()
    assert not child.process.is_alive()
    assert not rundir.run.exists()


async def test_a_request_that_breaks_is_answered_and_told_and_no_other_is_harmed(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker_running(rundir) as client:
        monkeypatch.setattr("vpctl.broker.service.stop_blocking", lambda process, path: 1 // 0)
        child = await spawn(client, rundir, *SLEEPS)
        with pytest.raises(Exception, match="the broker: ZeroDivisionError"):
            await client.stop_blocking(name=child.name, path="/x")
        assert await client.events.get() == BrokerFailure(
            work="answer", message="ZeroDivisionError: integer division or modulo by zero"
        )
        assert child in await client.list()
