"""What a broker that died has left: QEMUs that it had not yet written down."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.broker import broker_running, made
from vpctl.process import ProcessId, identify
from vpctl.process_record import Child
from vpctl.rundir import Directories, RunDir, host_boot_id, write_json


def qemu(stack: ExitStack, rundir: RunDir, *, wrapped: bool = False) -> tuple[ProcessId, ProcessId]:
    """Start what looks like a QEMU of the topology: itself and what the broker would have recorded for it."""
    option = f"socket,id=qmp0,path={rundir.run}/vm1.qmp,server=on,wait=off"
    log = rundir.generation("vm1", 1) / "qemu.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # Two shells: the outer one stands for a wrapper around QEMU, as the record of a broker would name it.
    inner = f"sh -c 'echo $$ >&3; read line' sh {option}"
    script = f"{inner} & wait" if wrapped else f"exec {inner}"
    with log.open("ab") as output:
        popen = subprocess.Popen(
            ["sh", "-c", f"exec 3>&1 >>{log} 2>&1 4<&0; {script.replace('read line', 'read line <&4')}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    stack.enter_context(popen)
    stack.callback(popen.kill)
    assert popen.stdout is not None
    own, recorded = identify(int(popen.stdout.readline())), identify(popen.pid)
    assert own is not None
    assert recorded is not None
    stack.callback(own.signal, signal.SIGKILL)
    return own, recorded


async def test_the_next_broker_ends_what_is_in_no_record_and_keeps_what_a_wrapper_runs(
    directories: Directories,
) -> None:
    rundir = made(directories)
    with ExitStack() as stack:
        orphan, _ = qemu(stack, rundir)
        wrapped, wrapper = qemu(stack, rundir, wrapped=True)
        assert wrapped != wrapper
        child = Child(name="vm/vm2", generation=1, process=wrapper, directory=str(rundir.state / "vm2"))
        write_json(rundir.processes, {"boot_id": host_boot_id(), "processes": [child.as_json()]})
        async with broker_running(rundir) as client:
            assert "vm/vm2" in [child.name for child in await client.list()]
            assert not orphan.is_alive()
            assert wrapped.is_alive()


async def test_a_first_broker_looks_for_nothing(directories: Directories) -> None:
    rundir = made(directories)
    with ExitStack() as stack:
        other, _ = qemu(stack, rundir)
        async with broker_running(rundir) as client:
            await client.list()
            assert other.is_alive()


@given(st.text(), st.integers(), st.integers(), st.integers(), st.text())
def test_a_child_comes_back_as_it_was(name: str, generation: int, pid: int, start: int, directory: str) -> None:
    process = ProcessId(pid=pid, start_time=start)
    child = Child(name=name, generation=generation, process=process, directory=directory)
    assert Child.from_json(json.loads(json.dumps(child.as_json()))) == child
