"""Host processes, with real ones: identity, signals that hit nobody else, groups that are gone, words for an end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpctl.errors import HostError
from vpctl.process import (
    ProcessId,
    ToolError,
    Waiting,
    describe_status,
    end,
    file_limit,
    files_left,
    find_tool,
    identify,
    listens_at,
    read_stat,
    read_threads,
    run,
    running,
    stop_blocking,
    thread_names,
    wait_gone,
)
from vpctl.wait import until

NO_PID = 2**22 + 1
"""Above the kernel's largest pid_max."""

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 1000; done"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def identity(process: subprocess.Popen[bytes]) -> ProcessId:
    found = identify(process.pid)
    assert found is not None
    return found


def test_knows_itself_and_nobody_else() -> None:
    own = identify(os.getpid())
    assert own is not None
    assert own.is_alive()
    assert identify(NO_PID) is None


@pytest.mark.parametrize("comm", [b"a) Z 1 (", b"\xff\xfe"])
def test_reads_the_state_of_a_process_with_a_hostile_name(tmp_path: Path, comm: bytes) -> None:
    name = tmp_path / os.fsdecode(comm)
    name.symlink_to("/bin/sleep")
    with subprocess.Popen([name, "1000"]) as process:
        stat = read_stat(process.pid)
        process.kill()
    assert stat is not None
    assert stat.state in "RSD"
    assert stat.start_time > 0


def test_looks_at_the_threads_that_are_asked_for() -> None:
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait, daemon=True)
    thread.start()
    try:
        assert {os.getpid(), thread.native_id} <= thread_names(os.getpid()).keys()
        assert thread.native_id is not None
        seen = read_threads(os.getpid(), [thread.native_id, NO_PID])
    finally:
        ends.set()
        thread.join()
    kept = Path("/proc/self/schedstat").exists()  # not every kernel keeps these times
    assert list(seen) == ([thread.native_id] if kept else [])
    assert all(times.state in "RSD" and times.ran >= 0 <= times.waited for times in seen.values())
    assert read_threads(NO_PID, [NO_PID]) == {}
    assert thread_names(NO_PID) == {}


def test_a_reused_pid_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    stale = ProcessId(pid=sleeper.pid, start_time=identity(sleeper).start_time - 1)
    assert not stale.is_alive()
    assert stale.open_pidfd() is None
    assert not stale.signal(signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    own = identity(sleeper)
    assert own.signal(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not own.is_alive()


def test_leaks_no_descriptor(sleeper: subprocess.Popen[bytes]) -> None:
    own = identity(sleeper)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        own.signal(signal.SIGCONT)
        ProcessId(pid=sleeper.pid, start_time=0).signal(signal.SIGCONT)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_waits_for_the_end_of_a_process_that_is_not_a_child() -> None:
    async with running(["sh", "-c", "sleep 1000 & echo $!; wait"]) as shell:
        assert shell.stdout is not None
        grandchild = identify(int(await shell.stdout.readline()))
        assert grandchild is not None
        waiting = asyncio.create_task(wait_gone(grandchild))
        await asyncio.sleep(0)
        assert not waiting.done()
        grandchild.signal(signal.SIGKILL)
        await asyncio.wait_for(waiting, 30)
        await shell.stdout.read()


async def test_ends_politely_if_it_can_and_hard_if_it_must() -> None:
    async with running(["sleep", "1000"]) as polite, running(["sh", "-c", STUBBORN]) as stubborn:
        assert stubborn.stdout is not None
        await stubborn.stdout.readline()
        for process, killed in ((polite, False), (stubborn, True)):
            own = identify(process.pid)
            assert own is not None
            assert await end(own, grace=0.2) is killed
            assert not own.is_alive()
    for process in (polite, stubborn):
        assert process.stdout is not None
        await process.stdout.read()


async def test_ending_what_is_gone_is_no_error() -> None:
    assert not await end(ProcessId(pid=NO_PID, start_time=1), grace=1)
    await wait_gone(ProcessId(pid=NO_PID, start_time=1))


async def test_run_returns_status_and_all_output() -> None:
    seen: list[str] = []
    status, output = await run(["sh", "-c", "echo out; echo err >&2"], on_line=seen.append)
    assert (status, output, seen) == (0, "out\nerr", ["out", "err"])


async def test_run_reads_no_input() -> None:
    assert await run(["cat"], timeout=30) == (0, "")


async def test_run_survives_output_that_is_no_text() -> None:
    _, output = await run([sys.executable, "-c", r"import os; os.write(1, b'\xff\xfe\n')"])
    assert output == "��"


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        ("echo no such luck; exit 3", 3, "`sh` ended with exit code 3: no such luck"),
        ("kill -SEGV $$", -11, "`sh` was killed by SIGSEGV: no output"),
    ],
)
async def test_run_tells_how_a_tool_failed(script: str, status: int, message: str) -> None:
    with pytest.raises(ToolError) as caught:
        await run(["sh", "-c", script])
    assert (caught.value.status, caught.value.message) == (status, message)
    assert "run it by hand: sh -c" in (caught.value.hint or "")
    assert (await run(["sh", "-c", script], check=False))[0] == status


async def test_run_gives_up_and_leaves_nothing_of_the_group() -> None:
    pids: list[str] = []
    with pytest.raises(TimeoutError):
        await run(["sh", "-c", "sleep 1000 & echo $!; wait"], timeout=0.5, on_line=pids.append)
    await assert_gone(int(pids[0]))


async def test_cancelled_run_leaves_nothing_of_the_group() -> None:
    pids: list[str] = []
    task = asyncio.create_task(run(["sh", "-c", "sleep 1000 & echo $!; wait"], on_line=pids.append))

    async def announced() -> bool | None:
        return True if pids else None

    await until(announced, timeout=30, what="the shell's word")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_gone(int(pids[0]))


async def test_running_kills_a_grandchild_that_outlives_its_parent() -> None:
    async with running(["sh", "-c", "sleep 1000 & echo $!"]) as process:
        assert process.stdout is not None
        pid = int(await process.stdout.readline())

        # Not process.wait(): asyncio's waits for the end of the pipes too, and the grandchild holds one.
        async def exit_status() -> int | None:
            return process.returncode

        assert await until(exit_status, timeout=30, what="the parent's end") == 0
    await process.stdout.read()  # ends only when nobody holds the pipe any more
    await assert_gone(pid)


async def test_running_kills_what_ignores_sigterm() -> None:
    async with running(["sh", "-c", STUBBORN], grace=0.2) as process:
        assert process.stdout is not None
        await process.stdout.readline()
    assert process.returncode == -signal.SIGKILL


async def test_running_passes_only_the_descriptors_it_is_told() -> None:
    kept, closed = os.pipe()
    try:
        async with running(["sh", "-c", "ls /proc/$$/fd; wait"], pass_fds=[kept]) as process:
            assert process.stdout is not None
            fds = {int(word) for word in (await process.stdout.read()).split()}
    finally:
        os.close(kept)
        os.close(closed)
    assert kept in fds
    assert closed not in fds


async def assert_gone(pid: int) -> None:
    """The kill is sent before the block ends; init reaps a moment later."""

    async def gone() -> bool | None:
        stat = read_stat(pid)
        return True if stat is None or stat.state in "ZX" else None

    with contextlib.suppress(ProcessLookupError):
        await until(gone, timeout=10, what=f"the end of {pid}")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was killed by SIGKILL"),
        (-31, "was killed by SIGSYS"),
        (-63, "was killed by signal 63"),
    ],
)
def test_says_a_status_in_words(status: int, words: str) -> None:
    assert describe_status(status) == words


def test_finds_tools_of_the_administrator_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    assert Path(find_tool("sh")).name == "sh"
    assert "sbin" in find_tool("ldconfig")


def test_a_missing_tool_is_named_with_its_package() -> None:
    with pytest.raises(HostError) as caught:
        find_tool("no-such-tool", package="some-package")
    assert (caught.value.message, caught.value.hint) == (
        "`no-such-tool` is not installed",
        "apt install some-package",
    )


async def test_a_process_that_waits_is_told_what_it_is_for_and_goes_on_when_it_is_dismissed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    waiting = Waiting(["sh", "-c", f'read -r line && echo "$line" >{told} && exec sleep 60'])
    identity = waiting.identity
    assert identity is not None
    try:
        waiting.tell("pair")
        waiting.dismiss()

        async def heard() -> bool | None:
            return (told.exists() and told.read_text() == "pair\n") or None

        await until(heard, timeout=10, what="the name")
        assert identity.is_alive()
    finally:
        await end(identity, grace=1)


async def test_a_process_that_waits_ends_when_it_is_dismissed_untold() -> None:
    waiting = Waiting(["sleep", "60"])  # which does not even look at its stdin
    identity = waiting.identity
    assert identity is not None
    waiting.dismiss()
    assert not identity.is_alive()


def test_a_socket_that_is_bound_does_not_listen_yet(tmp_path: Path) -> None:
    path = str(tmp_path / "one")
    assert not listens_at(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert not listens_at(path)
        listener.listen()
        assert listens_at(path)
        assert not listens_at(str(tmp_path / "on"))
    assert not listens_at(path)


@pytest.mark.parametrize("blocking", [True, False])
def test_what_a_process_has_accepted_stops_blocking_and_nothing_else(tmp_path: Path, blocking: bool) -> None:
    path, other = tmp_path / "one", tmp_path / "other"
    program = (
        "import socket, sys\n"
        "kept = []\n"
        "for path in sys.argv[1:]:\n"
        "    listener = socket.socket(socket.AF_UNIX); listener.bind(path); listener.listen()\n"
        "    print(flush=True); kept += [listener, listener.accept()[0]]\n"
        f"kept[1].setblocking({blocking})\n"
        "print(flush=True)\n"
        "for line in sys.stdin: print(*[int(end.getblocking_now()) for end in kept], flush=True)\n"
    ).replace("end.getblocking_now()", "__import__('os').get_blocking(end.fileno())")
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(other)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child, socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        assert child.stdin is not None
        assert child.stdout is not None
        process = identify(child.pid)
        assert process is not None
        for connection, where in ((one, path), (two, other)):
            child.stdout.readline()
            assert stop_blocking(process, str(where)) == 0
            connection.connect(str(where))
        child.stdout.readline()
        assert stop_blocking(process, str(path)) == 1
        print(file=child.stdin, flush=True)
        assert child.stdout.readline().split() == ["1", "0", "1", "1"]
        child.stdin.close()
    assert stop_blocking(process, str(path)) == 0


def test_what_is_left_is_the_limit_less_what_is_open_and_unknown_of_a_process_that_is_gone() -> None:
    limit, left = file_limit(os.getpid()), files_left(os.getpid())
    assert limit is not None
    assert left is not None
    assert 0 < left < limit
    assert files_left(1 << 30) is None
