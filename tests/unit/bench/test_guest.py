"""Guests under test: what they are told and say, what their interfaces count, what their QEMUs take."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.bench import Inside, logged_in, made_guest, says, serves
from tests.fakes.guest import Process
from vpctl import wait
from vpctl.bench import guest as guest_module
from vpctl.bench.cpu import process_cpu_seconds, vhost_threads
from vpctl.bench.guest import BUFFER_BYTES, PORTS, GuestLostError, Raw, last_line, parse_facts
from vpctl.guest.ssh import Completed, GuestSshError
from vpctl.process import ProcessId, identify
from vpctl.rundir import RunDir

FACTS = """6.1.0-37-amd64
rmem_max 212992
wmem_max 180224
buffer 8388608
"""

# Section: commands


async def test_a_command_is_run_by_a_shell_and_its_output_is_kept_with_what_it_was_for(rundir: RunDir) -> None:
    raw, lines = Raw(), list[str]()
    inside = Inside("vm2", programs={"echo": says("one\ntwo\n", status=3, stderr="three\n")})
    async with logged_in(rundir, inside, raw=raw) as guest:
        raw.about(link="lan0", workload="ping", round_=4)
        done = await guest.run("echo $HOME; it's 'quoted'", seconds=1, on_line=lines.append)
    assert done == Completed(status=3, stdout="one\ntwo\n", stderr="three\n")
    assert lines == ["one", "two"]
    assert inside.scripts == ["echo $HOME; it's 'quoted'"]
    (record,) = raw.records
    assert (record.link, record.workload, record.round, record.vm) == ("lan0", "ping", 4, "vm2")
    assert (record.command, record.status) == ("echo $HOME; it's 'quoted'", 3)
    assert (record.stdout, record.stderr) == ("one\ntwo\n", "three\n")


async def test_of_a_command_whose_connection_broke_it_is_kept_that_nobody_knows(rundir: RunDir) -> None:
    async def breaks(script: str, process: Process) -> int:
        process.channel.get_connection().abort()
        return 0

    async with logged_in(rundir, Inside("vm1", programs={"iperf3": breaks})) as guest:
        with pytest.raises(GuestSshError, match="the connection broke"):
            await guest.run("iperf3 -s", seconds=1)
    assert [(record.command, record.status) for record in guest.raw.records] == [("iperf3 -s", None)]


async def test_a_guest_nobody_is_logged_in_to_is_told_as_that() -> None:
    guest = made_guest("vm1", ProcessId(pid=1, start_time=1))
    for talk in (guest.run("true", seconds=1), guest.ask("true")):
        with pytest.raises(GuestSshError, match="vm1: not logged in"):
            await talk


async def test_another_generation_is_logged_in_to_in_its_place(rundir: RunDir) -> None:
    old, new = (Inside("vm1", programs={"which": says(name)}) for name in ("old", "new"))
    async with logged_in(rundir, old) as guest, logged_in(rundir, new) as other:
        other.agent, other.process = "/b", ProcessId(pid=7, start_time=7)
        assert (await guest.run("which", seconds=1)).stdout == "old"
        assert await guest.ask("which") == "old"
        await guest.replaced_by(other)
        assert (await guest.run("which", seconds=1)).stdout == "new"
        assert await guest.ask("which") == "new"
    assert (guest.agent, guest.process) == ("/b", other.process)


# Section: questions


async def test_questions_are_answered_one_after_the_other_by_one_shell(rundir: RunDir) -> None:
    shells = set()

    async def answer(script: str, process: Process) -> int:
        shells.add(process)
        process.stdout.write(f"to {script}")
        return 0

    raw = Raw()
    async with logged_in(rundir, Inside("vm1", programs={"question": answer}), raw=raw) as guest:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(guest.ask(f"question {number}")) for number in range(3)]
        assert [task.result() for task in asked] == [f"to question {number}\n" for number in range(3)]
        assert raw.records == []
        await guest.ask("question 4", keep=True)
    assert len(shells) == 1
    assert [(record.command, record.stdout) for record in raw.records] == [("question 4", "to question 4\n")]


async def test_an_answer_that_nobody_waits_for_any_more_is_not_the_next_ones(rundir: RunDir) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(script: str, process: Process) -> int:
        process.stdout.write("stale\n")
        begun.set()
        await go_on.wait()
        return 0

    async with logged_in(rundir, Inside("vm1", programs={"slow": slow, "quick": says("fresh\n")})) as guest:
        assert await guest.ask("quick") == "fresh\n"  # so there is a shell already
        asking = asyncio.create_task(guest.ask("slow"))
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        go_on.set()
        assert await guest.ask("quick") == "fresh\n"


async def test_a_question_without_an_answer_is_an_error_and_the_next_one_is_answered(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_module, "ASK_SECONDS", 0.3)
    inside = Inside("vm1", programs={"mute": serves("so far"), "quick": says("fresh\n")})
    async with logged_in(rundir, inside) as guest:
        with pytest.raises(GuestSshError, match=r"vm1: no answer within 0\.3 s"):
            await guest.ask("mute", keep=True)
        monkeypatch.undo()
        assert await guest.ask("quick") == "fresh\n"
    assert [(record.command, record.status) for record in guest.raw.records] == [("mute", None)]


async def test_a_shell_that_ends_is_an_error_and_another_one_is_begun(rundir: RunDir) -> None:
    async def end(script: str, process: Process) -> int:
        process.exit(1)
        return 1

    inside = Inside("vm1", programs={"end": end, "quick": says("fresh\n")})
    async with logged_in(rundir, inside) as guest:
        with pytest.raises(GuestSshError, match="vm1: the connection broke"):
            await guest.ask("end")
        assert await guest.ask("quick") == "fresh\n"


# Section: servers


async def test_a_server_is_there_for_the_block_and_its_output_after_it_has_ended(rundir: RunDir) -> None:
    over, lines = asyncio.Event(), list[str]()
    inside = Inside("vm1", programs={"serve": serves("begin\nlistening on 1\n", over, after="report\n")})
    async with logged_in(rundir, inside) as guest:
        async with guest.serving("serve", what="it", ready="listening", seconds=5, on_line=lines.append) as task:
            assert lines == ["begin", "listening on 1"]
            assert not task.done()
            over.set()
            done = await task
        assert done.stdout == "begin\nlistening on 1\nreport\n"


async def test_a_server_that_does_not_end_with_its_block_is_ended(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_module, "END_SECONDS", 0.1)
    async with logged_in(rundir, Inside("vm1", programs={"serve": serves("listening\n")})) as guest:
        async with guest.serving("serve", what="it", ready="listening", seconds=5) as task:
            pass
        assert task.cancelled()


async def test_a_block_that_fails_ends_its_server_at_once(rundir: RunDir) -> None:
    async with logged_in(rundir, Inside("vm1", programs={"serve": serves("listening\n")})) as guest:
        with pytest.raises(ZeroDivisionError):
            async with guest.serving("serve", what="it", ready="listening", seconds=5) as task:
                raise ZeroDivisionError
        assert task.cancelled()


async def test_a_server_whose_connection_breaks_before_it_is_ready_is_that_error(rundir: RunDir) -> None:
    async def breaks(script: str, process: Process) -> int:
        process.channel.get_connection().abort()
        return 0

    async with logged_in(rundir, Inside("vm1", programs={"serve": breaks})) as guest:
        with pytest.raises(GuestSshError, match="the connection broke"):
            async with guest.serving("serve", what="it", ready="listening", seconds=5):
                pytest.fail("it was entered")


async def test_a_server_that_was_ready_and_has_ended_already_is_entered(rundir: RunDir) -> None:
    async with (
        logged_in(rundir, Inside("vm1", programs={"serve": says("listening\nreport\n")})) as guest,
        guest.serving("serve", what="it", ready="listening", seconds=5) as task,
    ):
        assert (await task).stdout == "listening\nreport\n"


async def test_ports_come_again_only_after_all_the_others() -> None:
    guest = made_guest("vm1", ProcessId(pid=1, start_time=1))
    ports = [guest.port() for _ in range(PORTS)]
    assert len(set(ports)) == PORTS
    assert guest.port() == ports[0]


# Section: facts


def test_what_a_guest_says_of_itself_is_read() -> None:
    facts = parse_facts(FACTS + "missing iperf3\nmissing pktgen\n")
    assert facts.kernel == "6.1.0-37-amd64"
    assert facts.missing == {"iperf3", "pktgen"}
    assert facts.buffer == 8388608
    assert facts.limits == {"rmem_max": 212992, "wmem_max": 180224}


@pytest.mark.parametrize(
    "text", ["", "\n", "6.1\nrmem_max ²\nmissing 123\nbuffer\nhello 5\n", "6.1\nbuffer " + "9" * 5000]
)
def test_what_is_not_said_is_not_known(text: str) -> None:
    facts = parse_facts(text)
    assert (facts.buffer, facts.limits) == (0, {})


@given(st.text())
def test_whatever_a_guest_says_only_its_own_limits_are_ever_put_back(text: str) -> None:
    assert set(parse_facts(text).limits) <= {"rmem_max", "wmem_max"}


async def test_what_was_widened_is_put_back_as_it_was(rundir: RunDir) -> None:
    inside = Inside("vm1", programs={"uname -r": says(FACTS), "echo 212992": says("")})
    async with logged_in(rundir, inside) as guest:
        facts = await guest.prepare(["iperf3", "ping"])
        await guest.restore()
    assert facts == guest.facts == parse_facts(FACTS)
    prepare, restore = inside.scripts
    assert "for name in iperf3 ping; do" in prepare
    assert str(BUFFER_BYTES) in prepare
    assert restore == "echo 212992 >/proc/sys/net/core/rmem_max; echo 180224 >/proc/sys/net/core/wmem_max"
    shell = await asyncio.create_subprocess_exec("sh", "-n", "-c", prepare)  # which reads it, and runs nothing
    assert await shell.wait() == 0


async def test_of_a_guest_of_which_nothing_is_known_nothing_is_put_back(rundir: RunDir) -> None:
    inside = Inside("vm1")
    async with logged_in(rundir, inside) as guest:
        await guest.restore()
    assert inside.scripts == []


async def test_the_next_generation_is_asked_for_the_same(rundir: RunDir) -> None:
    inside = Inside("vm1", programs={"uname -r": says(FACTS)})
    async with logged_in(rundir, inside) as guest:
        await guest.prepare(["iperf3"])
        inside.programs["uname -r"] = says("6.2\nmissing iperf3\n")
        await guest.prepare_again()
    assert (guest.facts.kernel, *guest.facts.missing) == ("6.2", "iperf3")
    assert inside.scripts[0] == inside.scripts[1]


@pytest.mark.parametrize(
    ("done", "line"),
    [
        (Completed(status=1, stdout="a\nb\n", stderr="c\nd\n\n"), "d"),
        (Completed(status=1, stdout="a\nb\n", stderr=" \n"), "b"),
        (Completed(status=5, stdout="", stderr=""), "exit code 5"),
    ],
)
def test_the_last_word_of_a_command_is_its_errors_or_its_outputs(done: Completed, line: str) -> None:
    assert last_line(done) == line


# Section: processes


@contextmanager
def child(script: str) -> Iterator[ProcessId]:
    """Run Python code as a child that says a line once it has begun; it is gone afterwards."""
    argv = [sys.executable, "-c", f"import time\n{script}\ntime.sleep(1000)"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        identity = identify(process.pid)
        assert identity is not None
        try:
            yield identity
        finally:
            process.kill()


def named(name: bytes) -> str:
    """Return Python code by which a process calls itself something, and takes some time."""
    spin = "while sum(__import__('os').times()[:2]) < 0.05: pass"
    return f"open('/proc/self/comm', 'wb').write({name!r})\n{spin}\nprint('begun', flush=True)"


async def test_cpu_time_is_that_of_every_thread_of_a_busy_process() -> None:
    spin = "import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()"
    with child(f"{spin}\nprint('begun', flush=True)") as busy, child("print('begun', flush=True)") as idle:
        at_first, at_rest = process_cpu_seconds(busy.pid), process_cpu_seconds(idle.pid)

        async def later() -> float | None:
            seconds = process_cpu_seconds(busy.pid)
            return seconds if seconds > at_first + 0.1 else None

        seconds = await wait.until(later, timeout=20, what="CPU time")
        assert process_cpu_seconds(idle.pid) - at_rest < seconds - at_first
    assert process_cpu_seconds(busy.pid) == 0.0  # it is gone


@pytest.mark.parametrize("name", [b"a b) R 1", b"\xff\xfe", b")("])
def test_the_name_of_a_process_is_no_matter(name: bytes) -> None:
    with child(named(name)) as process:
        assert 0 < process_cpu_seconds(process.pid) < 10
        assert vhost_threads(process.pid) == []


def test_vhost_threads_are_found_by_the_name_that_the_kernel_gives_them() -> None:
    with child(named(b"vhost-4194303")) as thread, child(named(b"vhost-419430")) as other:
        assert vhost_threads(4194303) == [thread.pid]
        assert vhost_threads(419430) == [other.pid]
        assert vhost_threads(41943) == []


def test_the_time_of_vhost_threads_counts_as_their_qemus() -> None:
    with child("print('begun', flush=True)") as qemu, child(named(b"vhost-%d" % qemu.pid)) as thread:
        guest = made_guest("vm1", qemu)
        assert guest.cpu_seconds() == process_cpu_seconds(qemu.pid) + process_cpu_seconds(thread.pid)


async def test_the_end_of_a_qemu_is_an_error_that_names_its_vm() -> None:
    with child("print('begun', flush=True)") as qemu:
        losing = asyncio.create_task(made_guest("vm1", qemu).lost())
        await asyncio.wait([losing], timeout=0.05)
        assert not losing.done()
    async with asyncio.timeout(5):
        error = await losing
    assert isinstance(error, GuestLostError)
    assert (error.message, error.hint) == ("`vm1` ended in the middle of it", "vpctl logs vm1")


async def test_a_process_of_the_same_number_is_another_qemu() -> None:
    own = identify(os.getpid())
    assert own is not None
    guest = made_guest("vm1", replace(own, start_time=own.start_time + 1))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            assert isinstance(await guest.lost(), GuestLostError)
            return
    pytest.fail("it waits for a process that is not the QEMU")
