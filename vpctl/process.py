"""The only door to host processes: run a tool to its end, identify a process, signal it, watch for its exit.

A pid alone proves nothing, since the kernel reuses it; `ProcessId` pairs it with the start time, and every signal
goes through a pidfd whose process was compared first, so nothing foreign is ever signalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from vpctl.errors import HostError, VpctlError

KEPT_VARIABLES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LOCPATH", "TZ", "TMPDIR", "VIRTUAL_ENV"}
)
"""Of a command's environment, what the processes that stay behind are given; see `KEPT_PREFIXES`."""

KEPT_PREFIXES = ("LC_", "LD_", "PYTHON", "PYDANTIC_", "QEMU_", "VPCTL_", "XDG_", "ASAN_", "LSAN_", "TSAN_", "UBSAN_")

DROPPED_VARIABLES = frozenset({"VPCTL_DEBIAN_MIRROR"})
"""It may hold a password, and only the build of an image needs it."""

PIDFD_GETFD = 438
"""The number of that system call, which Python has no name for; the same on every architecture."""

MFD_NOEXEC_SEAL = 0x8
"""A flag of memfd_create (Linux 6.3), which Python 3.11 has no name for."""

UNIX_CONNECTED = "03"
"""The state of a connected socket in /proc/net/unix."""

UNIX_LISTENS = 0x10000
"""The flag there of one that accepts connections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for another: pid and start time (clock ticks after boot)."""

    pid: int
    start_time: int

    def is_alive(self) -> bool:
        """Whether that very process still exists and is no zombie."""
        stat = read_stat(self.pid)
        return stat is not None and stat.start_time == self.start_time and stat.state not in "ZX"

    def open_pidfd(self) -> int | None:
        """Return a pidfd that is proven to belong to this process, or None if it is gone."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        stat = read_stat(self.pid)
        if stat is None or stat.start_time != self.start_time:
            os.close(fd)
            return None
        return fd

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process is gone."""
        fd = self.open_pidfd()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Stat:
    """What /proc/PID/stat tells: state letter (R S D T Z …) and start time in clock ticks after boot."""

    state: str
    start_time: int


def read_stat(pid: int) -> Stat | None:
    """Read /proc/PID/stat; None if there is no such process."""
    try:
        # The command name may contain spaces and parentheses, in any bytes: what counts begins after the last one.
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Stat(state=fields[0].decode(), start_time=int(fields[19]))


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadTimes:
    """A thread: its state's letter, the seconds it has run, and those it was ready to and had no CPU."""

    state: str
    ran: float
    waited: float


def thread_names(pid: int) -> dict[int, str]:
    """Return the names of the threads of a process by their ids; none if it is gone."""
    names = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread may end meanwhile
                names[int(task.name)] = (
                    (task / "comm").read_text(encoding="utf-8", errors="replace").removesuffix("\n")
                )
    return names


def read_threads(pid: int, numbers: Iterable[int]) -> dict[int, ThreadTimes]:
    """Return threads of a process by their ids, without those that are gone or of which the kernel keeps no times."""
    found = {}
    for number in numbers:
        with contextlib.suppress(OSError, ValueError, IndexError):
            ran, waited, _ = _read(f"/proc/{pid}/task/{number}/schedstat").split()
            state = _read(f"/proc/{pid}/task/{number}/stat").rpartition(b")")[2].split(None, 1)[0].decode()
            found[number] = ThreadTimes(state=state, ran=int(ran) / 1e9, waited=int(waited) / 1e9)
    return found


def keeps_thread_times(proc: Path = Path("/proc")) -> bool:
    """Whether the kernel tells how long a thread has run, as `read_threads` needs it (schedstat, CONFIG_SCHED_INFO).

    gVisor has no such file; a kernel that does not count writes zeros.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_read(f"{proc}/self/schedstat").split()[0]) > 0
    return False


def memory_mib(pid: int, what: str) -> float:
    """Return MiB of a process's memory, `Pss` or `Private_Dirty` for instance; OSError if it is gone or not ours."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {what} in smaps_rollup")


def _read(path: str) -> bytes:
    """Return what a short file of /proc says: at a fraction of what `Path.read_text` costs, for the health watch."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a running process, or None if there is none."""
    stat = read_stat(pid)
    return None if stat is None else ProcessId(pid=pid, start_time=stat.start_time)


def command_line(pid: int) -> str:
    """Return the command line of a process, readable; `?` if it is gone."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return " ".join(words).strip() or "?"
    return "?"


def find_by_argument(text: str) -> list[ProcessId]:
    """Return this user's processes with `text` in their arguments, each of which a NUL ends; our own is left out.

    Those in another mount namespace are left out too: a path in their arguments means another file.
    """
    return [process for process in _with_argument(text) if _shares_mounts(process.pid)]


def find_orphans(argument: str, *, logs: Path, sockets: Path) -> list[ProcessId]:
    """Return those of this user's processes that have `argument` in their arguments and prove to belong here.

    The proof is that their output goes to a file below `logs`, or that they have bound a unix socket below `sockets`.
    """
    return [
        process
        for process in _with_argument(argument)
        if _writes_below(process.pid, logs) or (_shares_mounts(process.pid) and _bound_below(process.pid, sockets))
    ]


def _with_argument(text: str) -> list[ProcessId]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        process = identify(int(entry.name))
        try:
            if entry.stat().st_uid != os.getuid() or os.fsencode(text) not in (entry / "cmdline").read_bytes():
                continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        if process is not None:
            found.append(process)
    return found


def _shares_mounts(pid: int) -> bool:
    """Whether a process sees the same files as we do; not if that cannot be told."""
    with contextlib.suppress(OSError):
        return os.path.samestat(Path(f"/proc/{pid}/ns/mnt").stat(), Path("/proc/self/ns/mnt").stat())
    return False


def _writes_below(pid: int, directory: Path) -> bool:
    """Whether stdout or stderr is a file below a directory: that very file, whatever name the process has for it."""
    real = Path(os.path.realpath(directory))
    for number in (1, 2):
        with contextlib.suppress(OSError):
            link = Path(f"/proc/{pid}/fd/{number}")
            path = link.readlink()
            if path.is_relative_to(real) and os.path.samestat(link.stat(), path.stat()):
                return True
    return False


def _bound_below(pid: int, directory: Path) -> bool:
    """Whether a process holds a unix socket whose name is below a directory."""
    named = {row[2] for row in _unix_sockets(f"{directory}/", pid=pid, below=True) or ()}
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()).removeprefix("socket:[").removesuffix("]") in named:
                    return True
    return False


def memory_file(name: str) -> int:
    """Return a descriptor of a new memory file that can be sealed and is never executed; OSError if there is none.

    Where vm.memfd_noexec is 2, Linux 6.3 to 6.5 refuse one that does not say so; before 6.3 it cannot be said.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def open_files(pid: int) -> frozenset[int]:
    """Return the numbers of a process's descriptors; empty if it is gone or not ours to look at."""
    try:
        return frozenset(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return frozenset()


def files_left(pid: int) -> int | None:
    """Return how many more descriptors a process may open; None if that cannot be told."""
    limit, used = file_limit(pid), open_files(pid)
    return limit - len(used) if limit is not None and used else None


def stop_blocking(process: ProcessId, path: str) -> int:
    """Make what a process has accepted at a unix socket non-blocking; return how many connections that are.

    O_NONBLOCK belongs to the open file, so that a duplicate's is the process's own (pidfd_getfd, Linux 5.6).
    HostError if the host forbids it: that takes what ptrace takes, which Yama allows to the parent.
    """
    accepted = {f"socket:[{inode}]" for inode in _connected_at(path)}
    count = 0
    pidfd = process.open_pidfd()
    if pidfd is None:
        return 0
    try:
        for number in open_files(process.pid):
            with contextlib.suppress(FileNotFoundError):
                if str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) not in accepted:
                    continue
                fd = _duplicate(pidfd, number)
                try:
                    os.set_blocking(fd, False)
                finally:
                    os.close(fd)
                count += 1
    except OSError as error:
        raise HostError(f"descriptors of process {process.pid}: {error.strerror}") from error
    finally:
        os.close(pidfd)
    return count


def listens_at(path: str) -> bool:
    """Whether anybody listens at a unix socket; one that is bound does not yet. True where no one can tell."""
    sockets = _unix_sockets(path)
    return sockets is None or any(int(flags, 16) & UNIX_LISTENS for flags, _, _ in sockets)


def _connected_at(path: str) -> list[str]:
    """Return the inodes of the connected sockets that bear the name of a listening one: those it has accepted."""
    return [inode for _, state, inode in _unix_sockets(path) or () if state == UNIX_CONNECTED]


def _unix_sockets(path: str, *, pid: int | str = "self", below: bool = False) -> list[tuple[str, str, str]] | None:
    """Return flags, state and inode of each unix socket of a name, or of one that begins with it.

    They are those of a process's network namespace. None where the kernel does not tell.
    """
    try:
        text = Path(f"/proc/{pid}/net/unix").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    rows = re.findall(r"^\S+: \S+ \S+ (\S+) \S+ (\S+) +(\d+) ([^\n]+)$", text, re.MULTILINE)
    return [row[:3] for row in rows if (row[3].startswith(path) if below else row[3] == path)]


def try_pidfds() -> bool:
    """Open a pidfd (Linux 5.3), or raise OSError; return whether one gives descriptors away (Linux 5.6)."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(_duplicate(pidfd, pidfd))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _duplicate(pidfd: int, number: int) -> int:
    import ctypes  # the broker's affair: no command should pay for the import

    fd: int = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def file_limit(pid: int) -> int | None:
    """Return how many descriptors a process may have; None if that cannot be told."""
    with contextlib.suppress(OSError):
        found = re.search(
            r"^Max open files\s+(\d+)", Path(f"/proc/{pid}/limits").read_text(encoding="utf-8"), re.MULTILINE
        )
        return int(found[1]) if found is not None else None
    return None


def eventfd_id(pid: int, fd: int) -> int | None:
    """Return the kernel's id of a process's eventfd: the same in each process that has it; None if it is none."""
    with contextlib.suppress(OSError):
        found = re.search(
            r"^eventfd-id:\s*(\d+)$", Path(f"/proc/{pid}/fdinfo/{fd}").read_text(encoding="utf-8"), re.MULTILINE
        )
        return int(found[1]) if found is not None else None
    return None


def child_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that stays behind: a broker, a supervisor, a QEMU.

    They live for weeks, and a guest that breaks out of its QEMU may read what is there: a command's tokens, keys and
    agents are none of their business.
    """
    return {
        name: value
        for name, value in environ.items()
        if (name in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES)) and name not in DROPPED_VARIABLES
    }


async def wait_readable(fd: int) -> None:
    """Wait until a descriptor (a pidfd: until the process has ended) is readable."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_reader(fd, readable)
    try:
        await done
    finally:
        loop.remove_reader(fd)


async def wait_gone(process: ProcessId) -> None:
    """Wait until a process has ended (not necessarily a child); returns at once if it is gone."""
    fd = process.open_pidfd()
    if fd is None:
        return
    try:
        await wait_readable(fd)
    finally:
        os.close(fd)


async def end(process: ProcessId, *, grace: float) -> bool:
    """SIGTERM, up to `grace` seconds, then SIGKILL; returns when it is gone, True if it needed the kill."""
    for number, limit in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        if not process.signal(number):
            return False
        try:
            async with asyncio.timeout(limit):
                await wait_gone(process)
                return number is signal.SIGKILL
        except TimeoutError:
            continue
    raise HostError(f"process {process.pid} does not end after SIGKILL", hint="it hangs in the kernel: see dmesg")


class ToolError(VpctlError):
    """A host tool ended with an error; carries what it was and what it said."""

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        tail = output.strip().splitlines()[-1:] or ["no output"]
        super().__init__(
            f"`{argv[0]}` {describe_status(status)}: {tail[0]}", hint=f"run it by hand: {shlex.join(argv)}"
        )
        self.argv = tuple(argv)
        self.status = status
        self.output = output


def describe_status(status: int) -> str:
    """Put an exit status in words: negative is a signal, as subprocess has it."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
        return f"was killed by signal {-status}"
    return f"ended with exit code {status}"


def find_tool(name: str, *, package: str | None = None) -> str:
    """Return the path of a host tool; HostError with the Debian package to install if it is missing."""
    # sbin holds ip, mkfs and the like, and is often not on an ordinary user's PATH.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        raise HostError(f"`{name}` is not installed", hint=f"apt install {package or name}")
    return found


class Waiting:
    """A process that was started early and waits on its stdin to be told what it is for; told nothing, it ends."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=child_environment(),
        )
        self._told = False

    @property
    def identity(self) -> ProcessId | None:
        """Who it is; None if it has ended."""
        return identify(self._popen.pid) if self._popen.poll() is None else None

    def tell(self, line: str) -> None:
        """Say what it is for; if it has gone, nobody hears it."""
        assert self._popen.stdin is not None
        self._told = True
        with contextlib.suppress(OSError):
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()

    def dismiss(self) -> None:
        """Let it go on without us, if it was told what it is for; else end it at once. Idempotent."""
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()
        if self._told:
            self._popen.returncode = 0  # not ours to wait for any more: whoever it works for watches it
        else:
            self._popen.kill()
            self._popen.wait()


@asynccontextmanager
async def running(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | None = asyncio.subprocess.DEVNULL,
    stdout: int | None = asyncio.subprocess.PIPE,
    stderr: int | None = asyncio.subprocess.STDOUT,
    pass_fds: Sequence[int] = (),
    grace: float = 2.0,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process for as long as the block lasts; its whole process group is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(env) if env is not None else None,
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        start_new_session=True,  # the terminal's Ctrl-C is ours to pass on, in our order
    )
    try:
        yield process
    finally:
        for number, limit in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            if process.returncode is not None and number is signal.SIGTERM:
                continue  # the leader is gone: what it left behind in its group gets the kill at once
            try:
                async with asyncio.timeout(limit):
                    await process.wait()
            except TimeoutError:
                continue
        # wait() may return before the pipes are closed, and does not return at all while a grandchild that left
        # the group holds one; the transport would then outlive the event loop (CPython 3.11 to 3.13).
        # Nothing public reaches the transport; without that attribute only this is missing.
        if (transport := getattr(process, "_transport", None)) is not None:
            transport.close()


async def run(
    argv: Sequence[str],
    *,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    check: bool = True,
) -> tuple[int, str]:
    """Run a tool to its end; return its exit status (negative: signal) and its output, stderr included.

    `on_line` sees each line as it comes. Raises ToolError on a status other than 0 (if `check`), TimeoutError
    when `timeout` seconds have passed; in both cases, and on cancellation, the process group is gone.
    """
    lines: list[str] = []
    async with asyncio.timeout(timeout), running(argv, env=env, cwd=cwd) as process:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            lines.append(line)
            if on_line is not None:
                on_line(line)
        status = await process.wait()
    output = "\n".join(lines)
    if check and status != 0:
        raise ToolError(argv, status, output)
    return status, output
