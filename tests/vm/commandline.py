"""vpctl as a user has it: commands run as processes of their own, their output, and what lies behind a failure."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support import PATIENCE, isolated_directories, processes_mentioning
from tests.vm.forked import Forkserver, is_forked
from vpctl.journal import read
from vpctl.process import ProcessId, identify
from vpctl.rundir import Directories, RunDir, is_locked, read_json

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LIMIT = 120.0
"""Seconds for any command: none comes near it, so one that does hangs."""

BOOT_LIMIT = 60.0
"""Seconds of a boot stage, where limits are stretched; otherwise vpctl's own count."""

T = TypeVar("T")
Entry = dict[str, Any]


def as_begun(entries: Iterable[Entry]) -> list[Entry]:
    """Return journal entries in the order in which things began.

    A command is written when its reply has been handled; an event that it caused may have been written before.
    """
    return sorted(entries, key=lambda entry: entry["time"] - entry["attributes"].get("ms", 0.0) / 1000)


def until(probe: Callable[[], T | None], what: str, *, limit: float = 30.0) -> T:
    """Call `probe` until it returns something; fail with `what` when time is up."""
    deadline = time.monotonic() + limit * PATIENCE
    while (found := probe()) is None:
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
        time.sleep(0.02)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A command that has ended."""

    words: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        """What it wrote to stdout, as JSON."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"vpctl {' '.join(self.words)}: exit code {self.status}\n{self.stdout}\n{self.stderr}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command that runs."""

    words: tuple[str, ...]
    process: subprocess.Popen[str]

    def wait(self, status: int | None = 0, *, limit: float = LIMIT) -> Done:
        """Wait for its end, which has to be with this exit code (None: any)."""
        try:
            stdout, stderr = self.process.communicate(timeout=limit * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            stdout, stderr = self.process.communicate()
            raise AssertionError(f"vpctl {' '.join(self.words)} hangs\n{stdout}\n{stderr}") from None
        done = Done(words=self.words, status=self.process.returncode, stdout=stdout, stderr=stderr)
        assert status is None or done.status == status, done
        return done


@dataclass(frozen=True, kw_only=True)
class Vpctl:
    """The command line with directories of its own."""

    directories: Directories
    environ: Mapping[str, str]
    files: Path
    """Where topology files are written."""
    commands: list[Command] = field(default_factory=list)

    # Section: commands

    def start(self, *words: str, environ: Mapping[str, str] | None = None, stdin: int | None = None) -> Command:
        """Start a command; it is killed at the end of the test if the test has not waited for it."""
        if words[0] == "up" and PATIENCE > 1 and "--boot-timeout" not in words:
            words = (*words, "--boot-timeout", f"{BOOT_LIMIT * PATIENCE:g}")
        process = subprocess.Popen(
            [sys.executable, "-m", "vpctl", *words],
            env={**self.environ, **(environ or {})},
            cwd=self.files,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        command = Command(words=words, process=process)
        self.commands.append(command)
        return command

    def run(self, *words: str, status: int | None = 0, environ: Mapping[str, str] | None = None) -> Done:
        """Run a command to its end, which has to be with this exit code (None: any)."""
        if not is_forked(words):
            return self.start(*words, environ=environ).wait(status)
        environ = {**self.environ, **(environ or {})}
        try:
            ended = forkserver().run(words, env=environ, cwd=self.files, timeout=LIMIT * PATIENCE)
        except TimeoutError as error:
            raise AssertionError(f"vpctl {' '.join(words)} hangs\n{error}") from None
        done = Done(words=words, status=ended.returncode, stdout=ended.stdout, stderr=ended.stderr)
        assert status is None or done.status == status, done
        return done

    def json(self, *words: str, status: int | None = 0) -> Any:
        """Run a command with `-f json` in front of its arguments; return what it wrote."""
        verb, *rest = words
        data = self.run(verb, "-f", "json", *rest, status=status).data
        assert data["schema_version"] == 1
        return data

    def guest(self, vm: str, script: str, *, status: int = 0) -> str:
        """Run a shell script in a guest; return what it printed."""
        return self.run("exec", vm, "--", script, status=status).stdout

    def file(self, text: str, name: str = "topology.yaml") -> Path:
        """Write a topology file."""
        path = self.files / name
        path.write_text(text)
        return path

    def spare_file(self, name: str, vms: str = "{vm1: {}}", links: str = "{}") -> Path:
        """Write a topology file of few words."""
        return self.file(f"version: 1\nname: {name}\nvms: {vms}\nlinks: {links}\n", f"{name}.yaml")

    # Section: what is behind it

    def rundir(self, name: str) -> RunDir:
        return self.directories.topology(name)

    def journal(self, name: str) -> list[Entry]:
        """Return the journal of a topology so far."""
        return list(read(self.rundir(name).journal))

    def entry(self, name: str, type_: str, /, *, after: int = 0, limit: float = 30.0, **wanted: Any) -> Entry:
        """Wait for a journal entry with this type and these attributes (`vm`, `link`: of the entry itself)."""

        def look() -> Entry | None:
            for entry in self.journal(name):
                seen = {**entry["attributes"], **{k: entry[k] for k in ("vm", "link") if k in entry}}
                if entry["seq"] > after and entry["type"] == type_ and wanted.items() <= seen.items():
                    return entry
            return None

        return until(look, f"journal entry {type_} {wanted}", limit=limit)

    def last_seq(self, name: str) -> int:
        """Return the number of the newest journal entry."""
        return max((entry["seq"] for entry in self.journal(name)), default=0)

    def recorded(self, name: str) -> Any:
        """Return the status as the supervisor last wrote it down."""
        return read_json(self.rundir(name).status)

    def supervisor(self, name: str) -> ProcessId | None:
        """Return the supervisor, if it runs."""
        record: Any = read_json(self.rundir(name).processes)
        for entry in record["processes"] if record else ():
            process = ProcessId(pid=entry["pid"], start_time=entry["start_time"])
            if entry["name"] == "supervisor" and process.is_alive():
                return process
        return None

    def broker(self, name: str) -> ProcessId | None:
        """Return the broker, if it runs."""
        rundir = self.rundir(name)
        if not is_locked(rundir.broker_lock):
            return None
        with contextlib.suppress(OSError, ValueError):
            process = identify(int(rundir.broker_pid.read_text()))
            if process is not None and process.is_alive():
                return process
        return None

    def qemu(self, name: str, vm: str) -> ProcessId | None:
        """Return a VM's QEMU, if it runs."""
        record: Any = read_json(self.rundir(name).processes)
        for entry in record["processes"] if record else ():
            process = ProcessId(pid=entry["pid"], start_time=entry["start_time"])
            if entry["name"] == f"vm/{vm}" and process.is_alive():
                return process
        return None

    def processes(self) -> list[ProcessId]:
        """Return every process that knows the directories of this test, started commands apart."""
        own = {command.process.pid for command in self.commands}
        return [process for process in processes_mentioning(self.directories.run) if process.pid not in own]

    def qemus(self) -> list[ProcessId]:
        """Return the processes that are a guest's QEMU, recorded or not."""
        return [p for p in self.processes() if b"\0-name\0" in Path(f"/proc/{p.pid}/cmdline").read_bytes()]

    def assert_nothing_left(self, *, logs: bool = False) -> None:
        """No process, no socket, no directory; `logs`: those a failed `up` keeps may be there."""
        # A process that was reaped by init a moment ago may still be listed.
        until(lambda: True if not self.processes() else None, f"an end of {self.processes()}", limit=3)
        roots = [self.directories.run] if logs else [self.directories.run, self.directories.state]
        left = [str(path) for root in roots if root.exists() for path in root.rglob("*")]
        assert left == [], left

    def report(self) -> Iterator[tuple[str, str]]:
        """Yield what one wants to see of a failure: journals, logs, consoles and command lines, each with a title."""
        state = self.directories.state
        for path in sorted(state.rglob("*")) if state.exists() else ():
            if path.is_file() and path.name in KEPT:
                lines = path.read_text(errors="replace").splitlines()
                yield str(path.relative_to(state)), "\n".join(lines[-KEPT[path.name] :])


KEPT = {
    "journal.jsonl": 60,
    "supervisor.log": 40,
    "broker.log": 40,
    "argv": 1,
    "qemu.log": 20,
    "serial.log": 20,
    "exit.json": 10,
    "status.json": 80,
}
"""How many lines of each file a failure shows."""


@functools.cache
def forkserver() -> Forkserver:
    """Return the process that commands are forked from: one for all tests of this process."""
    return Forkserver()


def failure_report(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach to a failure's report what the topologies of its fixtures have left; for `pytest_runtest_makereport`."""
    report = yield
    if report.failed and call.when == "call":
        for argument in getattr(item, "funcargs", {}).values():
            if isinstance(argument, Vpctl):
                report.sections += argument.report()
    return report


@contextmanager
def user(directories: Directories | None = None) -> Iterator[Vpctl]:
    """Be a user for as long as the block lasts; afterwards everything is stopped, and really is.

    Without `directories` they are of this block's own, so that a topology can be shared by the tests of a module.
    """
    environ = dict(os.environ)
    # The verdict about KVM is another test's affair, and would cost each fresh cache a trial boot.
    environ.setdefault("VPCTL_ACCELERATOR", "tcg")
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
    environ["NO_COLOR"] = "1"
    with contextlib.ExitStack() as stack:
        if directories is None:
            directories = stack.enter_context(isolated_directories(environ))
        files = Path(tempfile.mkdtemp(prefix="vf", dir="/tmp"))
        stack.callback(shutil.rmtree, files, ignore_errors=True)
        vpctl = Vpctl(directories=directories, environ=environ, files=files)
        try:
            yield vpctl
        finally:
            for command in vpctl.commands:
                if command.process.poll() is None:
                    command.process.kill()
                    command.process.communicate()
            # Most tests of what is refused have started nothing: what is not there need not be stopped.
            if directories.run.exists() or directories.state.exists() or vpctl.processes():
                vpctl.run("down", "--all")
        vpctl.assert_nothing_left()


def kill(process: ProcessId | None) -> ProcessId:
    """SIGKILL a process that has to be there."""
    assert process is not None, "there is no process to kill"
    assert process.signal(signal.SIGKILL)
    return process
