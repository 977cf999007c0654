"""ssh into a guest, by asyncssh, with the run's key and the guests' pinned host key and nothing of the user's own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpctl import wait
from vpctl.errors import ReadyTimeoutError, VpctlError
from vpctl.wait import until

if TYPE_CHECKING:
    import asyncssh

BANNER_PAUSE = 0.25
"""Between two looks whether a server listens of which nothing else is heard."""

LOGIN_SECONDS = 30.0
"""Key exchange and login under TCG take a quarter of a second; a starved host takes longer."""

ATTEMPT_SECONDS = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
"""How long each attempt at the banner may take, the last again and again."""

CLOSE_SECONDS = 2.0

END_SECONDS = 1.0
"""For a command that is given up on to end; its guest may be gone, or hang."""

REFUSED_PAUSES = (0.05, 0.2, 0.5)
"""Before a command that a server has refused is asked for again."""

MOST_STDOUT = 8 << 20
"""Characters of one command's output: iperf3's report is the longest that is asked for, some 300 KiB a minute."""

MOST_STDERR = 1 << 16
READ_SIZE = 1 << 16

DROPPED_PAUSES = (0.05, 0.4)
"""Seconds, at least and at most, before a login is tried again that the server has dropped; see `connection`."""

COMMAND_MARK = "vpctl-command-"
BEGIN = f"echo {COMMAND_MARK}$$ >&2; read -r _ || exit 1\n"
"""Before a line for the guest's shell: it tells its process, and waits for a word; see `command`."""

END_COMMAND_SECONDS = 5.0
"""For `END_COMMAND`, which takes two at most in a guest that is well."""

END_COMMAND = """
read -r line <"/proc/$1/stat" || exit 0
set -- ${line##*) }
session=$4 signal=TERM round=0
while [ $round -lt 20 ]; do
    left=
    for directory in /proc/[0-9]*; do
        pid=${directory#/proc/}
        if [ $pid = $$ ] || [ $pid = $PPID ]; then continue; fi
        { read -r line <"$directory/stat"; } 2>/dev/null || continue
        set -- ${line##*) }
        if [ "$4" = "$session" ] && [ "$1" != Z ]; then left="$left $pid"; fi
    done
    [ -n "$left" ] || exit 0
    case $round in
    0) kill -TERM $left ;;
    1?) kill -KILL $left ;;
    esac 2>/dev/null
    round=$((round + 1))
    sleep 0.1
done
"""
"""Ends every process of the session of process $1, by SIGTERM and a second later by SIGKILL.

A session, since a process group is left by whatever makes one of its own, as `timeout` does; what has made a session
of its own has meant to stay. OpenSSH gives each command a session; dropbear has one for all of a connection, in which
this script and dropbear's process, its parent, are spared.
"""

GO = "read -r _ && exec "
"""What a command waits with until its session is known to live; see `start`."""

HOST_KEY_ALGORITHMS = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]

LISTENING_SECONDS = 10.0
"""The same, once the server is known to listen."""

KEEPALIVE = (5.0, 3)
"""Seconds between keep-alives, and how many may go unanswered; asyncssh sends none by default."""

ATTENTION = "vpctl_attention"
"""The name by which a connection that rests between commands carries its `Attention`."""


class GuestSshError(VpctlError):
    """The guest could not be reached by ssh, or broke the connection off; nothing is known of the command."""

    code = "timeout"
    exit_code = 255  # as ssh itself has it


class GuestSshDroppedError(GuestSshError):
    """The guest's server dropped the connection before the login: it has too many that are not logged in yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """How to reach one guest. `host_key` (type and base64) None: an own image, whose key the first login tells."""

    vm: str
    port: int
    user: str
    identity: Path
    host_key: str | None

    @classmethod
    def from_status(cls, entry: Mapping[str, Any]) -> Address:
        """Return it from a VM's entry in `status`."""
        ssh = entry["ssh"]
        return cls(
            vm=entry["name"],
            port=ssh["port"],
            user=ssh["user"],
            identity=Path(ssh["identity"]),
            host_key=ssh["host_key"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """A finished command in a guest. `status` is its exit code, 128 + signal if it was killed."""

    status: int
    stdout: str
    stderr: str


@dataclass(slots=True)
class Attention:
    """Of a connection that rests between commands: how many are under way, and whether keep-alives are sent."""

    commands: int = 0
    kept_alive: bool = False


def load() -> None:
    """Import asyncssh, which takes a fifth of a second: at a moment when there is nothing better to do."""
    import asyncssh  # noqa: F401


async def banner(port: int) -> str | None:
    """Return the guest's ssh banner, or None if nothing answers yet.

    QEMU's user network takes the connection before the guest does, so only bytes from the guest prove anything.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        line = await reader.readline()
    except (OSError, ValueError):  # ValueError: no end of line in 64 KiB
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return line.decode(errors="replace").strip() or None


async def open_connection(
    address: Address, *, timeout: float = LOGIN_SECONDS, rests: bool = False
) -> asyncssh.SSHClientConnection:
    """Log in; GuestSshError says why not.

    One that `rests` sends keep-alives only while `run` waits for a command: for a connection that is kept for long
    and seldom used, and whose guest is watched by other means.
    """
    import asyncssh

    interval, count = KEEPALIVE
    known: tuple[list[asyncssh.SSHKey], list[str], list[str]] | None = None
    if address.host_key is not None:
        known = ([asyncssh.import_public_key(address.host_key)], [], [])
    try:
        opened = await asyncssh.connect(
            "127.0.0.1",
            address.port,
            username=address.user,
            client_keys=[str(address.identity)],
            known_hosts=known,
            # ed25519 first: a dropbear that has no other key asserts when RSA is negotiated.
            server_host_key_algs=host_key_algorithms(address.host_key),
            # The first that both sides have is used: this one costs a guest under TCG the least.
            kex_algs=["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256"],
            compression_algs=None,
            agent_path=None,
            config=None,
            preferred_auth=["publickey"],
            login_timeout=timeout,
            connect_timeout=timeout,
            keepalive_interval=0 if rests else interval,
            keepalive_count_max=count,
            tcp_keepalive=False,
            family=socket.AF_INET,
        )
    except (OSError, asyncssh.Error, ValueError) as error:  # ValueError: a key file that holds no key
        dropped = isinstance(error, asyncssh.ConnectionLost | ConnectionResetError | BrokenPipeError)
        kind = GuestSshDroppedError if dropped else GuestSshError
        raise kind(
            f"no ssh into {address.vm} (127.0.0.1:{address.port}): {error}", hint=f"vpctl logs {address.vm}"
        ) from error
    if rests:
        opened.set_extra_info(**{ATTENTION: Attention()})
    return opened


async def _logged_in(address: Address) -> asyncssh.SSHClientConnection:
    loop = asyncio.get_running_loop()
    end = loop.time() + LOGIN_SECONDS
    while True:
        try:
            return await open_connection(address, timeout=max(1.0, end - loop.time()))
        except GuestSshDroppedError:
            if loop.time() >= end:
                raise
        await wait.pause(random.uniform(*DROPPED_PAUSES))


def host_key_algorithms(host_key: str | None) -> list[str]:
    """Return the signatures to ask a server for: those of the key that it is known to have, or all."""
    if host_key is None:
        return HOST_KEY_ALGORITHMS
    kind = host_key.split()[0]
    return [name for name in HOST_KEY_ALGORITHMS if name.startswith("rsa-")] if kind == "ssh-rsa" else [kind]


def shown_host_key(ssh: asyncssh.SSHClientConnection) -> str | None:
    """Return the host key of a connection, as `Address` has it; None where the server has shown a certificate."""
    key = ssh.get_server_host_key()
    return " ".join(key.export_public_key().decode().split()[:2]) if key is not None else None


@asynccontextmanager
async def connection(address: Address) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Be logged in for as long as the block lasts.

    dropbear 2022.83 drops the connections of an address that has five which are not logged in yet, and all of ours
    come from the gateway of QEMU's user network: a login that was dropped is tried again.
    """
    opened = await _logged_in(address)
    try:
        yield opened
    finally:
        opened.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await opened.wait_closed()
        except TimeoutError:  # a guest that hangs does not answer a close either
            opened.abort()


async def wait_for_banner(port: int) -> str:
    """Return a guest's ssh banner once it says one, however long that takes; see `wait_for_ssh` on the attempts."""
    patience = iter(ATTEMPT_SECONDS)
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(next(patience, ATTEMPT_SECONDS[-1])):
                if (said := await banner(port)) is not None:
                    return said
        await wait.pause(BANNER_PAUSE)


async def wait_for_ssh(
    address: Address, *, timeout: float, listens: Callable[[], bool] | None = None
) -> asyncssh.SSHClientConnection:
    """Wait for the guest's ssh server and log in to rest there; ReadyTimeoutError tells how far it got.

    `listens` tells whether the guest has said by other ways that its server listens. QEMU's user network takes a
    connection before the guest does and may then hold it for seconds, so each attempt is cut short, the first ones
    very short, and one that began before the server listened is begun again.
    """
    patience = iter(ATTEMPT_SECONDS)
    heard = False

    async def attempt() -> str | None:
        nonlocal heard
        if listens is not None and not heard:
            heard = listens()
            if not heard and next(skips):
                return None
        limit = LISTENING_SECONDS if heard else next(patience, ATTEMPT_SECONDS[-1])
        try:
            async with asyncio.timeout(limit):
                return await banner(address.port)
        except TimeoutError:
            return None

    skips = _mostly()
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    seen = await until(
        attempt,
        timeout=timeout,
        what=f"ssh of {address.vm}",
        every=0.02,
        last_seen=lambda: "its server listens but does not answer" if heard else "no answer from the guest",
    )
    try:
        return await open_connection(address, timeout=max(1.0, end - loop.time()), rests=True)
    except GuestSshError as error:
        raise ReadyTimeoutError(f"{error.message} (it said {seen!r})", hint=error.hint) from error


def _mostly() -> Iterator[bool]:
    """Yield True but for every fiftieth time: a guest that cannot say that it listens is tried now and then."""
    while True:
        yield from (True for _ in range(49))
        yield False


async def run(
    ssh: asyncssh.SSHClientConnection,
    argv: Sequence[str],
    *,
    vm: str,
    timeout: float,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a command in a guest and return what it said.

    Raises GuestSshError if the connection breaks, `timeout` seconds pass, or it says more than `MOST_STDOUT`; of its
    stderr the first `MOST_STDERR` characters are kept. `on_line` sees each line of stdout.
    """
    import asyncssh

    command = " ".join(quote(word) for word in argv)
    try:
        async with asyncio.timeout(timeout), _attended(ssh), _process(ssh, command) as proc:
            parts, size, rest = [], 0, ""
            while text := await proc.stdout.read(READ_SIZE):
                parts.append(text)
                size += len(text)
                if size > MOST_STDOUT:
                    raise GuestSshError(f"`{argv[0]}` in {vm} says more than {MOST_STDOUT >> 20} MiB")
                if on_line is not None:
                    *lines, rest = (rest + text).split("\n")
                    for line in lines:
                        on_line(line)
            if on_line is not None and rest:
                on_line(rest)
            stdout, stderr = "".join(parts), ""
            while text := await proc.stderr.read(READ_SIZE):
                stderr += text[: MOST_STDERR - len(stderr)]
            await proc.wait_closed()
            status = proc.exit_status if proc.exit_status is not None and proc.exit_status >= 0 else None
    except TimeoutError as error:
        raise GuestSshError(f"`{argv[0]}` in {vm}: not done within {timeout:g} s", hint=f"vpctl logs {vm}") from error
    except (OSError, asyncssh.Error) as error:
        raise GuestSshError(f"`{argv[0]}` in {vm}: the connection broke: {error}") from error
    if status is None:
        if proc.exit_signal is None:
            raise GuestSshError(f"`{argv[0]}` in {vm}: the connection broke")
        status = 128 + getattr(signal, f"SIG{proc.exit_signal[0]}", 0)
    return Completed(status=status, stdout=stdout, stderr=stderr)


@asynccontextmanager
async def _attended(ssh: asyncssh.SSHClientConnection) -> AsyncIterator[None]:
    """Keep a connection that rests alive as long as a command is under way.

    After one that came to no end it goes on until another one does, so that a connection that is dead is found dead.
    """
    attention: Attention | None = ssh.get_extra_info(ATTENTION)
    if attention is None:
        yield
        return
    if not attention.kept_alive and not ssh.is_closed():
        ssh.set_keepalive(*KEEPALIVE)
        attention.kept_alive = True
    attention.commands += 1
    ended = False
    try:
        yield
        ended = True
    finally:
        attention.commands -= 1
        if ended and attention.commands == 0:
            ssh.set_keepalive(0)
            attention.kept_alive = False


@asynccontextmanager
async def _process(ssh: asyncssh.SSHClientConnection, command: str) -> AsyncIterator[asyncssh.SSHClientProcess[str]]:
    """Run a command for as long as the block lasts; one that has not ended by then gets SIGTERM and a moment to end.

    asyncssh's own context manager waits for the guest's word that it has ended, which one that hangs never says.
    """
    import asyncssh

    process = await start(ssh, command)
    try:
        yield process
    finally:
        with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
            if process.exit_status is None and process.exit_signal is None:
                process.terminate()
                async with asyncio.timeout(END_SECONDS):
                    await process.wait_closed()


async def start(ssh: asyncssh.SSHClientConnection, command: str) -> asyncssh.SSHClientProcess[str]:
    """Start a program with its arguments in a guest: once, though the server may have to be asked again.

    dropbear 2022.83 looks at all sessions of a connection when one's process ends, and closes those that are open but
    have not been told their command yet. It carries the command out all the same when that comes, its output going
    nowhere. So the command waits for a word that is only sent into a session that lives.
    """
    import asyncssh

    for pause in (*REFUSED_PAUSES, None):
        try:
            process = await ssh.create_process(GO + command, encoding="utf-8", errors="replace")
        except asyncssh.ChannelOpenError as error:
            if pause is None or error.code != asyncssh.OPEN_REQUEST_SESSION_FAILED:
                raise
            await wait.pause(pause)
        else:
            process.stdin.write("\n")
            return process
    raise AssertionError("unreachable: the last attempt returns or raises")


@asynccontextmanager
async def command(
    ssh: asyncssh.SSHClientConnection, line: str, *, vm: str
) -> AsyncIterator[tuple[asyncssh.SSHClientProcess[bytes], bytes]]:
    """Run a line in the guest's shell for as long as the block lasts; yields it, and what came on stderr before it.

    Whatever of it runs when the block ends is ended, with all of its session: what it has begun and what has not made
    a session of its own. An interrupt at any moment leaves nothing: it begins when its process is known, not before.
    """
    process: asyncssh.SSHClientProcess[bytes] = await ssh.create_process(BEGIN + line, encoding=None)
    pid: int | None = None
    try:
        early, pid = await _announced(process)
        process.stdin.write(b"\n")
        yield process, early
    finally:
        if process.exit_status is None and process.exit_signal is None:
            if pid is not None:
                await _end_command(ssh, pid, vm=vm)
            ssh.abort()  # a polite close waits for the guest's command, which may hang


async def _announced(process: asyncssh.SSHClientProcess[bytes]) -> tuple[bytes, int | None]:
    """Return what a command's shell said before it told its process, and that; None if it ended without a word."""
    early = b""
    while said := await process.stderr.readline():
        head, mark, pid = said.partition(COMMAND_MARK.encode())
        if mark and pid.strip().isdigit():
            return early + head, int(pid)
        early += said
    return early, None


async def _end_command(ssh: asyncssh.SSHClientConnection, pid: int, *, vm: str) -> None:
    import asyncssh

    with contextlib.suppress(VpctlError, OSError, asyncssh.Error):
        await run(ssh, ["sh", "-c", END_COMMAND, "sh", str(pid)], vm=vm, timeout=END_COMMAND_SECONDS)


def quote(word: str) -> str:
    """Quote a word for the guest's shell."""
    import shlex

    return shlex.quote(word)
