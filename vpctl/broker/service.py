"""The broker's event loop: spawn, reap, restart the supervisor, stop everything; what QEMUs share is in `shared`.

It is the parent of the QEMUs so that the death of the supervisor is no event for any link, and it does nothing
that takes time. After its own death a new broker adopts the processes that still run, by pidfd; their exit status
is then unknown, since only a parent is told. Memory is found again in the QEMUs that have it; eventfds and
connections are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vpctl.broker import requests
from vpctl.broker.clients import Clients
from vpctl.broker.memfd import inherited_path, placeholder
from vpctl.broker.protocol import EXIT_NO_TOPOLOGY, GRACE_SECONDS, LINE_LIMIT, Exit
from vpctl.broker.resources import SharedResources
from vpctl.credentials import belongs_to, may_ask, peer_pid
from vpctl.errors import HostError, UsageError
from vpctl.process import end, identify, stop_blocking, wait_gone
from vpctl.process_record import SUPERVISOR, Child, known_children, orphans
from vpctl.rundir import RunDir, host_boot_id, read_json, write_json
from vpctl.tasks import ONCE, Again, Failure, contained, guarded
from vpctl.wait import pause

RESTART_SECONDS = (0.05, 5.0)
"""First and longest pause before a supervisor that died is started again."""

NO_TOPOLOGY_SECONDS = 60.0
"""Before a supervisor is started again that did not find what to supervise: the guests run on meanwhile."""

HOLD_SECONDS = 1.0
"""For the broker's lock to be free, while others only ask whether it is."""

OPEN_FILES = 65536
"""Descriptors that a QEMU may have, where the host allows it: unplugged devices may leave some behind."""

STABLE_SECONDS = 10.0
"""A supervisor that lived this long is started again without a long pause."""


HANGS_SECONDS = 0.5
"""After the SIGKILL of a process has been waited for, until the broker ends without it."""

REAP_AGAIN = Again(first=0.05, longest=2.0)
"""For what may fail for want of memory or descriptors, and has to be done all the same."""


class Broker:
    """One topology's broker; `run` lasts until everything is stopped."""

    def __init__(
        self, rundir: RunDir, listener: socket.socket, *, supervisor_argv: Sequence[str] | None = None
    ) -> None:
        self._rundir = rundir
        self._listener = listener
        self._supervisor_argv = list(
            supervisor_argv or (sys.executable, "-m", "vpctl.supervisor", *rundir.as_words())
        )
        self._children: dict[str, Child] = {}
        self._parents_of: dict[str, subprocess.Popen[bytes]] = {}
        self._watchers: asyncio.TaskGroup | None = None
        self._reapers: dict[str, asyncio.Task[None]] = {}
        self._clients = Clients(self._do, self._report)
        self._resources = SharedResources(self._tell_link, self._may_ask)
        self._handlers: Mapping[type, requests.Handler] = {}
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Adopt what runs, serve, and at the end leave no process and no run directory.

        A fault of the broker's own ends it as SIGKILL would: guests, supervisor and run directory stay for the next.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        raise_file_limit()
        # Before anybody can ask for others in their place.
        await contained(self._end_orphans, self._report, name="end-orphans", again=ONCE)
        server = await asyncio.start_unix_server(self._serve, sock=self._listener, limit=LINE_LIMIT)
        over = False
        try:
            async with asyncio.TaskGroup() as group:
                self._watchers = group
                self._handlers = {**self._own_handlers(), **self._resources.handlers(group)}
                for child in known_children(self._rundir):
                    self._watch(child)
                    guarded(partial(self._resources.memories.adopt, child.process.pid), self._report, name="adopt")
                keep = contained(self._keep_supervisor, self._report, name="keep-supervisor", again=REAP_AGAIN)
                keeper = group.create_task(keep, name="keep-supervisor")
                await self._stop.wait()
                keeper.cancel()
                over = await self._end_everything()
                self._resources.close()
        finally:
            server.close()
            self._clients.close()
            self._resources.close()
            if over:
                self._record(over=True)
                shutil.rmtree(self._rundir.run, ignore_errors=True)

    def _report(self, failure: Failure) -> None:
        """Say what was not foreseen, in the log and to the clients."""
        print(f"error: {failure.work}: {failure.traceback}", file=sys.stderr, flush=True)
        self._tell({"event": "failure", "work": failure.work, "message": failure.message})

    # Section: processes

    def spawn(
        self,
        *,
        name: str,
        generation: int,
        argv: list[str],
        directory: str,
        cwd: str,
        log: str = "qemu.log",
        memories: Sequence[str] = (),
    ) -> Child:
        """Start a process in a session of its own, its output in `directory`/`log`; HostError if that fails.

        It inherits these memories; in `argv` each one's `placeholder` stands for the path to it.
        """
        if self._stop.is_set() or self._rundir.stopping.exists():
            raise UsageError(f"`{self._rundir.name}` is being stopped")
        if not argv:
            raise UsageError(f"{name} has no command line")
        if name in self._children:
            raise UsageError(f"{name} runs already, pid {self._children[name].process.pid}")
        place = Path(directory)
        inherited = {memory: self._resources.memories.fd(memory) for memory in memories}
        for memory, fd in inherited.items():
            argv = [word.replace(placeholder(memory), inherited_path(fd)) for word in argv]
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (place / log).open("ab") as output:
                popen = subprocess.Popen(
                    argv,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=tuple(inherited.values()),
                )
        except OSError as error:
            raise HostError(f"cannot start `{argv[0]}`: {error.strerror}", hint="see `vpctl doctor`") from error
        try:
            process = identify(popen.pid)
        except OSError as error:  # no descriptor is left: what could not be watched does not run
            popen.kill()
            popen.wait()
            raise HostError(f"cannot start `{argv[0]}`: {error.strerror}") from error
        assert process is not None  # a child that was not yet waited for is at least a zombie
        child = Child(name=name, generation=generation, process=process, directory=directory)
        self._parents_of[name] = popen
        self._watch(child)
        return child

    def _watch(self, child: Child) -> None:
        assert self._watchers is not None
        self._children[child.name] = child
        self._record()
        self._reapers[child.name] = self._watchers.create_task(self._reap(child), name=f"reap-{child.name}")

    async def _reap(self, child: Child) -> None:
        """Wait for one process, kill what it leaves in its group, record its exit, tell every client."""
        await contained(
            lambda: wait_gone(child.process), self._report, name=f"wait for {child.name}", again=REAP_AGAIN
        )
        guarded(partial(self._bury, child, time.monotonic()), self._report, name=f"exit of {child.name}")

    def _bury(self, child: Child, ended: float) -> None:
        popen = self._parents_of.pop(child.name, None)
        if popen is not None:
            # A wrapper around QEMU may die before it does. Until `wait` the zombie keeps the group's number ours.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
        status = popen.wait() if popen is not None else None
        exit_ = Exit(
            name=child.name, generation=child.generation, pid=child.process.pid, status=status, monotonic=ended
        )
        del self._children[child.name], self._reapers[child.name]
        with contextlib.suppress(HostError):  # a full disk must not cost the event
            write_json(Path(child.directory) / "exit.json", exit_.as_json())
        self._record()
        self._tell({"event": "exit", **exit_.as_json()})

    def _record(self, *, over: bool = False) -> None:
        """Write down what runs: `down`, and a broker after this one, work from it. `over`: this one ends."""
        processes = [child.as_json() for child in self._children.values()]
        own = None if over else identify(os.getpid())
        broker = {"pid": own.pid, "start_time": own.start_time} if own is not None else None
        with contextlib.suppress(HostError):
            record = {"boot_id": host_boot_id(), "broker": broker, "processes": processes}
            write_json(self._rundir.processes, record)

    async def _end_orphans(self) -> None:
        """Kill QEMUs that the broker before this one had started and not yet written down; they are of no use.

        Their devices would be missing to their successors: a tap belongs to one QEMU at a time.
        """
        if not self._rundir.processes.exists():
            return
        known = [child.process for child in known_children(self._rundir)]
        for orphan in orphans(self._rundir, known):
            with contextlib.suppress(HostError):  # it hangs in the kernel: nothing more can be done
                await end(orphan, grace=0)

    async def _keep_supervisor(self) -> None:
        """Start the supervisor, and again whenever it dies; one that ends by itself (0) ends the topology."""
        shortest, longest = RESTART_SECONDS
        delay = shortest
        while True:
            started = time.monotonic()
            try:
                child = self._children.get(SUPERVISOR) or self._spawn_supervisor()
            except UsageError:  # everything is being stopped, by somebody who could not reach this broker
                self._stop.set()
                return
            except HostError as error:  # no memory, no processes left: the guests run on, it is tried again
                print(f"error: {error.message}", file=sys.stderr, flush=True)
                await pause(longest)
                continue
            while SUPERVISOR in self._children:
                await self._exit_of(child)
            record = read_json(self._rundir.state / "exit.json")
            ours = isinstance(record, dict) and record.get("pid") == child.process.pid
            status = record.get("status") if isinstance(record, dict) and ours else None
            if status == 0 or (status == EXIT_NO_TOPOLOGY and not self._children):
                self._stop.set()
                return
            delay = shortest if time.monotonic() - started > STABLE_SECONDS else min(delay * 2, longest)
            await pause(NO_TOPOLOGY_SECONDS if status == EXIT_NO_TOPOLOGY else delay)

    def _spawn_supervisor(self) -> Child:
        with contextlib.suppress(HostError):
            self._rundir.claim()  # a user may have removed the state directory: `down` removes what has our record
        return self.spawn(
            name=SUPERVISOR,
            generation=1,
            argv=self._supervisor_argv,
            directory=str(self._rundir.state),
            cwd="/",
            log=self._rundir.service_log(SUPERVISOR).name,
        )

    async def _exit_of(self, child: Child) -> None:
        """Wait until a process has ended and was reaped."""
        await wait_gone(child.process)
        await pause(0)  # the reaper, woken by the same pidfd, comes first or at the next turn

    async def _end_everything(self) -> bool:
        """End the supervisor first, so that it takes no stopped QEMU for a crash, then all QEMUs at once.

        False if one does not end: it hangs in the kernel.
        """
        with contextlib.suppress(OSError):
            self._rundir.stopping.touch(mode=0o600)
        for names in ([SUPERVISOR], [name for name in self._children if name != SUPERVISOR]):
            async with asyncio.TaskGroup() as group:
                for name in names:
                    if name in self._children:
                        ending = partial(end, self._children[name].process, grace=GRACE_SECONDS)
                        group.create_task(contained(ending, self._report, name=f"end {name}"), name=f"end-{name}")
        if self._reapers:
            await asyncio.wait(self._reapers.values(), timeout=HANGS_SECONDS)
        left = [child.process for child in self._children.values() if child.process.is_alive()]
        while self._children and not left:
            await pause(0.002)
        for reaper in self._reapers.values():
            reaper.cancel()
        return not left

    # Section: clients

    def _tell_link(self, change: Mapping[str, Any]) -> None:
        self._tell({"event": "link", **change})

    def _tell(self, message: Mapping[str, Any]) -> None:
        self._clients.tell(message)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client, unless a guest's QEMU is what asks."""
        if self._may_ask(writer.get_extra_info("socket")):
            await self._clients.serve(reader, writer)
        else:
            print("error: a guest's QEMU has connected to the broker: refused", file=sys.stderr, flush=True)
            writer.close()

    def _may_ask(self, connection: socket.socket) -> bool:
        own = {child.process.pid for child in self._children.values() if child.name != SUPERVISOR}
        return not belongs_to(peer_pid(connection), own) and may_ask(connection, self._rundir)

    async def _do(self, request: Any) -> Mapping[str, Any]:
        outcome = self._handlers[type(request)](request)
        if inspect.isawaitable(outcome):
            outcome = await outcome
        return outcome or {}

    def _own_handlers(self) -> Mapping[type, requests.Handler]:
        """Return what carries out each request that is about processes."""
        return {
            requests.Spawn: self._spawn,
            requests.ListProcesses: lambda _: {"processes": [child.as_json() for child in self._children.values()]},
            requests.End: self._end,
            requests.StopBlocking: self._stop_blocking,
            requests.Stop: lambda _: self._stop.set(),
        }

    def _spawn(self, wanted: requests.Spawn) -> Mapping[str, Any]:
        return self.spawn(
            name=wanted.name,
            generation=wanted.generation,
            argv=list(wanted.argv),
            directory=wanted.directory,
            cwd=wanted.cwd,
            memories=wanted.memories,
        ).as_json()

    async def _end(self, wanted: requests.End) -> Mapping[str, Any]:
        child = self._children.get(wanted.name)
        if child is None or child.generation != wanted.generation:
            return {"killed": False}
        reaper = self._reapers[wanted.name]
        killed = await end(child.process, grace=wanted.grace)
        await asyncio.wait([reaper])  # the next request about it finds it gone
        return {"killed": killed}

    def _stop_blocking(self, wanted: requests.StopBlocking) -> Mapping[str, Any]:
        child = self._children.get(wanted.name)
        return {"connections": stop_blocking(child.process, wanted.path) if child is not None else 0}


def raise_file_limit() -> None:
    """Let the QEMUs, which inherit it, open as many files as they may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(rundir: RunDir) -> socket.socket:
    """Bind the broker's socket in place of a stale one; the caller holds the lock."""
    rundir.broker_socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(rundir.broker_socket))
    listener.listen(64)
    return listener


def _try_lock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def hold(rundir: RunDir) -> int:
    """Take the broker's lock for the life of this process, and mark the run directory as in use.

    The lock on the directory itself keeps systemd-tmpfiles from cleaning it (tmpfiles.d(5)). Raises UsageError
    if another broker runs.
    """
    lock = os.open(rundir.broker_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + HOLD_SECONDS
    while not _try_lock(lock, fcntl.LOCK_EX):
        # Those who ask whether it is held, `is_locked`, share it for microseconds; a broker does not share it.
        if not _try_lock(lock, fcntl.LOCK_SH) or time.monotonic() > deadline:
            os.close(lock)
            raise UsageError(f"`{rundir.name}` has a broker already")
    directory = os.open(rundir.run, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return lock
