"""Every path that vpctl uses, and who may touch it: locks, liveness, permissions; and its interfaces' names.

    run    sockets, keys, locks    $VPCTL_RUN_DIR    or  /tmp/vpctl-$UID/          + <topology>/
    state  journal, logs, status   $VPCTL_STATE_DIR  or  $XDG_STATE_HOME/vpctl/    + <topology>/
    cache  guest images            $VPCTL_CACHE_DIR  or  $XDG_CACHE_HOME/vpctl/    + images/

The run directory is not under XDG_RUNTIME_DIR, because that vanishes at logout and the guests live on, and not under
TMPDIR, which differs from shell to shell. It holds secrets (the run's ssh keys), so it is 0700 and its owner is
checked before anything is written into it. Each of a topology's two directories records where the other one is.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpctl.errors import HostError, UsageError
from vpctl.host_identity import Host, this_host
from vpctl.process import command_line
from vpctl.wait import pause

NAME = "[a-z][a-z0-9-]{0,30}"
"""How a topology's or a VM's name is spelled: such a name is also safe as the name of a file."""

OWNER = "owner.json"
"""In each directory that vpctl makes for a topology: whose it is. What has no such record is not removed."""

LOCK_PAUSE = 0.05
"""Seconds between two attempts at a lock that another process holds."""

ROOT_MARK = ".vpctl"
"""In a root that vpctl has made: it is removed when nothing else is left in it."""

SOCKET_PATH_MAX = 107
"""Bytes in a unix socket's path (sun_path less its final NUL): unix(7)."""

INTERFACE_PREFIX = "vp"
"""What all of vpctl's interfaces on the host begin with: a firewall's rule can name them as `vp+` or `vp*`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Directories:
    """The three roots; constructed once from the environment and passed on."""

    run: Path
    state: Path
    cache: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Directories:
        """Resolve the roots; the `VPCTL_*_DIR` variables win, relative to the working directory. Creates nothing.

        A home counts if it is the user's own and can be written to; without one, state and cache are beside the run
        directory. Raises UsageError if a path cannot be handed on to QEMU, which takes UTF-8 only.
        """
        own = f"/tmp/vpctl-{os.getuid()}"
        run = Path(environ.get("VPCTL_RUN_DIR") or own)
        state, cache = (
            Path(given) if (given := environ.get(variable)) else _below_home(environ, xdg, below) or Path(other)
            for variable, xdg, below, other in (
                ("VPCTL_STATE_DIR", "XDG_STATE_HOME", ".local/state", f"{own}-state"),
                ("VPCTL_CACHE_DIR", "XDG_CACHE_HOME", ".cache", f"{own}-cache"),
            )
        )
        for variable, path in (("VPCTL_RUN_DIR", run), ("VPCTL_STATE_DIR", state), ("VPCTL_CACHE_DIR", cache)):
            _check_characters(path.absolute(), variable)
        return cls(run=run.absolute(), state=state.absolute(), cache=cache.absolute())

    @property
    def images(self) -> Path:
        """Where built guest images live."""
        return self.cache / "images"

    def topology(self, name: str) -> RunDir:
        """Return the paths of one topology; the only place where a name becomes a path.

        A topology that runs knows where: what its state directory has recorded counts, not what the environment of
        this command says, and the other way round. Raises UsageError if `name` cannot be a topology's.
        """
        check_name(name, "topology")
        run, state = self.run / name, self.state / name
        by_state, by_run = read_owner(state), read_owner(run)
        if by_state is not None and by_state.is_at(by_state.run):
            run = by_state.run
        elif by_state is None and by_run is not None and by_run.is_at(by_run.state):
            state = by_run.state
        return RunDir(name=name, run=run, state=state)

    def topologies(self) -> list[str]:
        """Return the names that have a directory of this host's, of a run or of its logs, sorted."""
        names = set()
        for root in (self.run, self.state):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for entry in root.iterdir():
                    owner = read_owner(entry)
                    if owner is not None and owner.host.is_same(this_host()):
                        names.add(entry.name)
        return sorted(names)

    def elsewhere(self) -> dict[str, Owner]:
        """Return the topologies whose state another host, or another container, has written here, by their names."""
        if not self.state.is_dir():
            return {}
        owners = {entry.name: read_owner(entry) for entry in sorted(self.state.iterdir())}
        return {name: o for name, o in owners.items() if o is not None and not o.host.is_same(this_host())}


def _below_home(environ: Mapping[str, str], xdg: str, below: str) -> Path | None:
    """Return the directory that an XDG variable names, or its default; None if the user has no home.

    A relative value is to be ignored (XDG Base Directory Specification 0.8).
    """
    given = Path(environ.get(xdg) or "")
    if given.is_absolute():
        return given / "vpctl"
    home = _home(environ)
    return home / below / "vpctl" if home is not None else None


def _home(environ: Mapping[str, str]) -> Path | None:
    """Return the user's home: HOME's, or else the user database's, if it is his and he may write there.

    Under `sudo` or in a container HOME may be another user's; a uid without an entry has no home at all.
    """
    candidates = [environ.get("HOME", "")]
    with contextlib.suppress(KeyError):
        candidates.append(pwd.getpwuid(os.getuid()).pw_dir)
    for home in map(Path, candidates):
        with contextlib.suppress(OSError):
            if home.is_absolute() and home.stat().st_uid == os.getuid() and os.access(home, os.W_OK | os.X_OK):
                return home
    return None


def _check_characters(path: Path, variable: str) -> None:
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        wrong = "is no UTF-8, which QEMU needs"
    else:
        if not any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            return
        wrong = "has control characters"
    raise UsageError(f"the path {os.fsencode(path)!r} {wrong}", hint=f"set {variable} to another directory")


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Whose a directory is: the topology's, the host's that has made it, and where both its directories are."""

    topology: str
    run: Path
    state: Path
    host: Host

    def is_at(self, path: Path) -> bool:
        """Whether a directory is of the same topology and made by this host."""
        other = read_owner(path)
        return other is not None and other.topology == self.topology and other.host.is_same(this_host())

    def as_json(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "topology": self.topology,
            "run": str(self.run),
            "state": str(self.state),
            "host": self.host.as_json(),
        }


def read_owner(directory: Path) -> Owner | None:
    """Return whose a directory is; None unless vpctl made it, as this user, for a topology of that name."""
    try:
        info = directory.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        return None
    data: Any = read_json(directory / OWNER)
    try:
        run, state = Path(data["run"]), Path(data["state"])
        owner = Owner(topology=data["topology"], run=run, state=state, host=Host.from_json(data["host"]))
    except (TypeError, ValueError, LookupError):
        return None
    absolute = run.is_absolute() and state.is_absolute()
    return owner if absolute and is_name(owner.topology) and owner.topology == directory.name else None


def is_name(text: object) -> bool:
    """Whether a text can be the name of a topology or a VM."""
    return isinstance(text, str) and re.fullmatch(NAME, text) is not None


def check_name(text: str, what: str) -> None:
    """Raise UsageError if a text cannot be a name; `what` says of what."""
    if not is_name(text):
        raise UsageError(
            f"{text!r} cannot be the name of a {what}",
            hint="a name is a lower-case letter and up to 30 more letters, digits and hyphens; see `vpctl list`",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDir:
    """The paths of one topology; a method or property for each file, so that no name is spelled twice."""

    name: str
    run: Path
    state: Path

    def as_words(self) -> list[str]:
        """Return what a child gets of it in its arguments; `from_words` reads it."""
        return [self.name, str(self.run), str(self.state)]

    @classmethod
    def from_words(cls, words: Sequence[str]) -> RunDir:
        """Read what `as_words` returned."""
        name, run, state = words
        return cls(name=name, run=Path(run), state=Path(state))

    def claim(self) -> None:
        """Make both directories, and write into each whose it is. HostError if one is there that is not ours."""
        self.check_own()
        owner = Owner(topology=self.name, run=self.run, state=self.state, host=this_host())
        for directory in (self.state, self.run):
            private_directory(directory)
            write_json(directory / OWNER, owner.as_json())

    def check_own(self) -> None:
        """Raise HostError if what lies in place of one of the directories is not this topology's on this host.

        An empty directory of this user is as good as none: a crash may have left it so.
        """
        self.check_host()
        for directory in (self.state, self.run):
            if os.path.lexists(directory) and read_owner(directory) is None and not _is_empty(directory):
                raise HostError(
                    f"{directory} is there, and vpctl has not made it",
                    hint="move it away, give the topology another name, or set VPCTL_STATE_DIR and VPCTL_RUN_DIR",
                )

    def check_host(self) -> None:
        """Raise HostError if another host, or another container, has written one of the directories."""
        for directory in (self.state, self.run):
            owner = read_owner(directory)
            if owner is not None and not owner.host.is_same(this_host()):
                raise _of_another_host(owner, directory)

    def check_nowhere_else(self) -> None:
        """Raise UsageError if the state is by now that of a run in another run directory."""
        owner = read_owner(self.state)
        if owner is not None and owner.run != self.run and owner.is_at(owner.run):
            raise UsageError(
                f"`{self.name}` was started at the same moment, with its run directory at {owner.run}",
                hint="run it again: it then means that one",
            )

    def remove_run(self) -> None:
        """Remove the run directory; OSError if that fails. One that vpctl has not made stays."""
        _remove_owned(self.run)

    def remove_state(self) -> None:
        """Remove journal, logs and status; OSError if that fails. A directory that vpctl has not made stays."""
        _remove_owned(self.state)

    @property
    def launch_lock(self) -> Path:
        """Held by whoever starts or stops the topology; beside the run directory, which `down` removes."""
        return self.run.with_name(f".{self.name}.lock")

    @property
    def claim_lock(self) -> Path:
        """Held while the two directories are taken into use: other run directories may share the one of the state."""
        return self.state.with_name(f".{self.name}.claim")

    @property
    def broker_pid(self) -> Path:
        """The broker's pid; worth something only while `broker_lock` is held."""
        return self.run / "broker.pid"

    @property
    def broker_socket(self) -> Path:
        """The broker's own socket: spawn, signal, list, stop."""
        return self.run / "broker.sock"

    @property
    def broker_lock(self) -> Path:
        """Locked by the broker for as long as it lives."""
        return self.run / "broker.lock"

    @property
    def stopping(self) -> Path:
        """Exists while the topology is being stopped: nothing may be started under it any more."""
        return self.run / "stopping"

    @property
    def control_socket(self) -> Path:
        """The supervisor's control socket (QMP wire format)."""
        return self.run / "control.sock"

    @property
    def identity(self) -> Path:
        """The run's private ssh key; `identity.pub` lies beside it."""
        return self.run / "identity"

    @property
    def known_hosts(self) -> Path:
        """The guests' host keys, for people's own ssh."""
        return self.run / "known_hosts"

    def qmp_socket(self, vm: str) -> Path:
        """The QMP socket that the supervisor uses."""
        return self.run / f"{vm}.qmp"

    def people_qmp_socket(self, vm: str) -> Path:
        """The second QMP socket: for `vpctl qmp` and other tools."""
        return self.run / f"{vm}.qmp2"

    def console_socket(self, vm: str) -> Path:
        """The serial console."""
        return self.run / f"{vm}.con"

    def link_socket(self, link: str, generation: int, *, end: int | None = None) -> Path:
        """The socket of one generation of a link; `end`: 0 or 1, where each endpoint has one of its own."""
        return self.run / (f"{link}.{generation}" if end is None else f"{link}.{generation}.{end}")

    def watch_socket(self, link: str) -> Path:
        """The socket where ivshmem clients that are no QEMU may look at a link's memory."""
        return self.run / f"{link}.watch"

    @property
    def interface_prefix(self) -> str:
        """What the name of each of this topology's interfaces on the host begins with, and no other's does.

        A hash of the run directory: that belongs to one topology of one user.
        """
        return INTERFACE_PREFIX + _six_letters(os.fsencode(self.run))

    def interface(self, link: str, *, end: int | None = None) -> str:
        """An interface on the host, of 15 bytes: a link's bridge, or the tap of its endpoint 0 or 1."""
        return f"{self.interface_prefix}{_six_letters(link.encode())}{'b' if end is None else end}"

    def interface_commands(self, link: str) -> Path:
        """The commands that make a link's interfaces on the host, for `ip -batch`."""
        return self.run / f"{link}.ip"

    def known_hosts_of(self, vm: str) -> Path:
        """The host key that a guest of an image of one's own has shown at its first login, in known_hosts form."""
        return self.run / f"{vm}.hosts"

    def guest_config(self, vm: str) -> Path:
        """The directory of what goes into a guest by fw_cfg."""
        return self.run / f"{vm}.cfg"

    @property
    def spec(self) -> Path:
        """The resolved topology, as JSON; what the supervisor works from."""
        return self.state / "topology.json"

    @property
    def status(self) -> Path:
        """What the supervisor knows, rewritten at every change: its successor starts from it."""
        return self.state / "status.json"

    @property
    def processes(self) -> Path:
        """The broker's list of processes, rewritten at every change: `down` works from it alone."""
        return self.state / "processes.json"

    def all_processes(self) -> list[Path]:
        """The lists of processes of all topologies whose logs lie beside this one's."""
        return sorted(self.state.parent.glob(f"*/{self.processes.name}"))

    @property
    def journal(self) -> Path:
        """The journal: one JSON object per line."""
        return self.state / "journal.jsonl"

    def service_log(self, service: str) -> Path:
        """The stderr of `broker` or `supervisor`."""
        return self.state / f"{service}.log"

    def generation(self, vm: str, generation: int) -> Path:
        """The logs of one life of a VM: argv, qemu.log, serial.log, exit.json."""
        return self.state / "vms" / vm / str(generation)

    def generations(self, vm: str) -> dict[int, Path]:
        """Return the log directory of each life of a VM that there is; UsageError if it cannot be a VM's name."""
        check_name(vm, "VM")
        try:
            lives = list((self.state / "vms" / vm).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {int(life.name): life for life in lives if life.name.isdecimal()}

    def sockets(self, vms: list[str], links: list[str]) -> list[Path]:
        """Every socket path that the topology will need (links: of generation 9999), for the length check."""
        paths = [self.broker_socket, self.control_socket]
        for vm in vms:
            paths += [self.qmp_socket(vm), self.people_qmp_socket(vm), self.console_socket(vm)]
        return paths + [self.link_socket(link, 9999, end=1) for link in links]

    def check_socket_paths(self, vms: list[str], links: list[str]) -> None:
        """Raise HostError if a socket's path would not fit into a `sockaddr_un`."""
        longest = max(self.sockets(vms, links), key=lambda path: len(os.fsencode(path)))
        length = len(os.fsencode(longest))
        if length > SOCKET_PATH_MAX:
            raise HostError(
                f"socket path of {length} bytes is longer than {SOCKET_PATH_MAX}: {longest}",
                hint="set VPCTL_RUN_DIR to a shorter directory, for instance VPCTL_RUN_DIR=/tmp/v",
            )


def _six_letters(name: bytes) -> str:
    """Return 30 bits of a hash: Linux allows 15 bytes for the name of an interface."""
    return base64.b32encode(hashlib.sha256(name).digest()).decode()[:6].lower()


def _of_another_host(owner: Owner, directory: Path) -> HostError:
    host = owner.host
    where = f"host `{host.name}`"
    if host.boot_id == this_host().boot_id:
        where = f"another container of this host (named `{host.name}`)"
    return HostError(
        f"topology `{owner.topology}` belongs to {where}: so it is written in {directory}",
        hint=f"run vpctl there, or set VPCTL_STATE_DIR; if that is gone for good, remove {directory}",
    )


def _is_empty(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid() and not path.is_symlink() and next(path.iterdir(), None) is None
    except OSError:
        return False


def _remove_owned(directory: Path) -> None:
    """Remove a directory that has our record, which goes last: a removal that is cut short can be done again."""
    owner = read_owner(directory)
    if owner is None or not owner.host.is_same(this_host()):
        return
    for entry in directory.iterdir():
        if entry.name == OWNER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    (directory / OWNER).unlink(missing_ok=True)
    directory.rmdir()


def make_root(path: Path, *, private: bool = True) -> None:
    """Make a root that only we can enter, and remember that it was us.

    One that is there is checked if it has to be `private`: sockets and keys lie in it.
    """
    new = not os.path.lexists(path)
    if new or private:
        private_directory(path)
    if new:
        with contextlib.suppress(FileNotFoundError):  # another vpctl, which made nothing, has removed it already
            (path / ROOT_MARK).touch(mode=0o600)


def remove_empty_root(path: Path) -> None:
    """Remove a root that vpctl has made, if nothing else is in it; one of the user's own stays, empty or not."""
    mark = path / ROOT_MARK
    with contextlib.suppress(OSError):
        if [entry.name for entry in path.iterdir()] != [ROOT_MARK]:
            return
        mark.unlink()
        try:
            path.rmdir()
        except OSError:  # another vpctl begins to use it
            mark.touch(mode=0o600)


def private_directory(path: Path) -> None:
    """Create a directory that only we can enter, or check that an existing one is such; parents as they are.

    Raises HostError if it belongs to another user, is a symbolic link, or is open to others.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        hint = "set VPCTL_RUN_DIR, VPCTL_STATE_DIR or VPCTL_CACHE_DIR to a place that can be written"
        raise HostError(f"cannot create {path}: {error.strerror}", hint=hint) from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise HostError(f"{path} is not a directory of this user", hint="remove it, or set VPCTL_RUN_DIR")
    if info.st_mode & 0o077:
        raise HostError(f"{path} is open to other users", hint=f"chmod 700 {path}")


def cache_directory(path: Path) -> None:
    """Create a directory of the cache, and what is missing above it; others may read, whatever the umask allows.

    Raises OSError if that cannot be.
    """
    for missing in reversed([place for place in (path, *path.parents) if not place.exists()]):
        missing.mkdir(mode=0o755, exist_ok=True)


def check_cache(*places: Path) -> None:
    """Raise HostError if another user may change a directory or file of the cache; those that are missing pass.

    What lies there decides what runs: kernels, the agent, what a QEMU is said to be able to do. root's is trusted, as
    its programs are, so that an administrator can provide images for all.
    """
    for place in places:
        try:
            info = place.stat()
        except OSError:  # what cannot be looked at is not read either
            continue
        if info.st_uid not in (0, os.geteuid()):
            raise HostError(f"{place} belongs to another user, who could change what runs", hint=_ANOTHER_CACHE)
        if info.st_mode & 0o022:
            hint = f"if you trust what is in it: chmod go-w {place}; else {_ANOTHER_CACHE}"
            raise HostError(f"{place} can be changed by other users, and decides what runs", hint=hint)


_ANOTHER_CACHE = "set VPCTL_CACHE_DIR to a directory of your own"


def write_atomic(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Replace a file as a whole: readers see the old or the new content, never a part.

    Raises HostError when the disk is full or the directory cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(fd, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise HostError(f"cannot write {path}: {error.strerror}", hint="see `df` for the disk's space") from error


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> object | None:
    """Read a JSON file; None if it is missing or damaged (a host that crashed may leave that)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive flock on a file (created if need be); UsageError if it is taken, see `turn` for a wait.

    The holder of the lock may remove the file: the next one begins again on the new one.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same_file(fd, path):
                continue
            yield
        except BlockingIOError as error:
            raise UsageError(f"another vpctl holds {path}") from error
        finally:
            os.close(fd)
        return


@asynccontextmanager
async def turn(path: Path, *, waiting: Callable[[str], None] | None = None) -> AsyncIterator[None]:
    """Hold an exclusive flock on a file, as `locked` does; wait for it without holding up the loop.

    What ends the waiting task, Ctrl-C for instance, ends the wait. `waiting` is told once who holds the lock.
    """
    told = False
    while True:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(path))
            except UsageError:
                if waiting is not None and not told:
                    waiting(lock_holder(path))
                    told = True
                await pause(LOCK_PAUSE)
                continue
            yield
            return


def lock_holder(path: Path) -> str:
    """Name the process that holds the lock on a file, as far as it can be told."""
    try:
        info = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return "another process"
    device = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    for words in map(str.split, lines):
        if len(words) > 5 and words[1] == "FLOCK" and words[3] == "WRITE" and words[5] == device:
            return f"process {words[4]} ({command_line(int(words[4]))})"
    return "another process"


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock on a file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def host_boot_id() -> str:
    """Return the host kernel's boot id: what was recorded under another one is stale."""
    return this_host().boot_id
