"""A guest under test: commands in it, their raw output kept, and the end of its QEMU."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vpctl.bench.cpu import process_cpu_seconds, vhost_threads
from vpctl.bench.results.result import RawRecord
from vpctl.errors import VerificationError, VpctlError
from vpctl.guest import ssh as guest_ssh
from vpctl.guest import traffic
from vpctl.process import ProcessId, wait_gone
from vpctl.topology.model import Endpoint

if TYPE_CHECKING:
    import asyncssh

FIRST_PORT, PORTS = 5201, 500
"""Each server in a guest gets a port of its own: what an interrupted one has left listening is in nobody's way."""

SLACK_SECONDS = 20.0
"""What a command may take beyond its own duration: starved hosts start programs slowly."""

ASK_SECONDS = 15.0
ANSWERED = "vpctl: answered"

READY_SECONDS = 15.0
"""For a server in a guest to say that it listens."""

END_SECONDS = 5.0
"""For a server in a guest to end by itself, once its client has."""

BUFFER_BYTES = 8 << 20
"""Limit of socket buffers in a guest under test: with Linux's own 208 KiB a guest that pauses for a millisecond
loses datagrams in the socket, and the link is not what is measured."""

LIMITS = ("rmem_max", "wmem_max")

MOST_DIGITS = 18
"""Of a number that a guest says: int() raises ValueError above 4300."""

_PREPARE = """
uname -r
for name in {programs}; do command -v $name >/dev/null || echo missing $name; done
modprobe pktgen 2>/dev/null; [ -e /proc/net/pktgen/pgctrl ] || echo missing pktgen
for name in {limits}; do
  file=/proc/sys/net/core/$name; echo $name $(cat $file)
  [ $(cat $file) -ge {limit} ] || echo {limit} >$file 2>/dev/null
done
echo buffer $(cat /proc/sys/net/core/rmem_max /proc/sys/net/core/wmem_max | sort -n | head -n 1)
"""


class GuestLostError(VerificationError):
    """A guest's QEMU ended in the middle of a measurement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestFacts:
    """What a guest said of itself before the first measurement."""

    kernel: str
    missing: frozenset[str]
    """Programs that are not there."""
    buffer: int
    """The largest socket buffer that it allows; bytes."""
    limits: dict[str, int]
    """What its limits of socket buffers were before."""


@dataclass(slots=True)
class Raw:
    """Collects the raw output of every command, with what was being measured."""

    link: str = ""
    workload: str = ""
    round: int = 0
    records: list[RawRecord] = field(default_factory=list)

    def about(self, *, link: str, workload: str, round_: int) -> None:
        """Say what the next commands are for."""
        self.link, self.workload, self.round = link, workload, round_

    def add(self, vm: str, command: str, done: guest_ssh.Completed | None) -> None:
        """Keep a command and what it said; None: nobody knows how it ended."""
        self.records.append(
            RawRecord(
                link=self.link,
                workload=self.workload,
                vm=vm,
                round=self.round,
                command=command,
                status=done.status if done is not None else None,
                stdout=done.stdout if done is not None else "",
                stderr=done.stderr if done is not None else "",
            )
        )


class Guest:
    """One VM under test: its ssh connection and its QEMU, both of which a crash replaces."""

    def __init__(self, vm: str, *, address: guest_ssh.Address, process: ProcessId, agent: str, raw: Raw) -> None:
        self.vm = vm
        self.address = address
        self.process = process
        self.agent = agent
        """The agent's path in the guest."""
        self.facts = GuestFacts(kernel="", missing=frozenset(), buffer=0, limits={})
        self.raw = raw
        self._ports = itertools.cycle(range(FIRST_PORT, FIRST_PORT + PORTS))
        self._programs: list[str] = []
        self._ssh: asyncssh.SSHClientConnection | None = None
        self._shell: asyncssh.SSHClientProcess[str] | None = None
        self._asking = asyncio.Lock()

    async def connect(self) -> None:
        """Log in, anew if need be; GuestSshError."""
        await self.close()
        self._ssh = await guest_ssh.open_connection(self.address)

    async def replaced_by(self, other: Guest) -> None:
        """Become the next generation of the same VM, and log in to it."""
        self.address, self.process, self.agent = other.address, other.process, other.agent
        await self.connect()

    def at(self, end: Endpoint) -> traffic.Guest:
        """Return it as what probes a link; it has to be logged in."""
        assert self._ssh is not None
        return traffic.Guest(end=end, ssh=self._ssh, agent=self.agent)

    def port(self) -> int:
        """Return a port for a server; the same again only after all the others."""
        return next(self._ports)

    async def close(self) -> None:
        """End the connection. Idempotent."""
        if self._ssh is not None:
            self._ssh.abort()
            self._ssh = self._shell = None

    async def run(
        self, script: str, *, seconds: float, on_line: Callable[[str], None] | None = None
    ) -> guest_ssh.Completed:
        """Run a shell script that takes some seconds; its output is kept. GuestSshError if the connection breaks."""
        if self._ssh is None:
            raise guest_ssh.GuestSshError(f"{self.vm}: not logged in")
        done: guest_ssh.Completed | None = None
        try:
            done = await guest_ssh.run(
                self._ssh, ["sh", "-c", script], vm=self.vm, timeout=seconds + SLACK_SECONDS, on_line=on_line
            )
        finally:
            self.raw.add(self.vm, script, done)
        return done

    async def ask(self, script: str, *, seconds: float = 0.0, keep: bool = False) -> str:
        """Return what a shell that is kept open says to a script; for questions, which must not cost anything.

        A program started over ssh takes a tenth of a second of an emulated guest's time, and more than a whole one
        while packets keep it busy; a builtin of a running shell some milliseconds. `keep`: as raw output.
        GuestSshError if the connection breaks, or there is no answer `ASK_SECONDS` after `seconds`.
        """
        import asyncssh

        limit, done = ASK_SECONDS + seconds, None
        try:
            async with asyncio.timeout(limit), self._asking:
                said = await self._asked(script)
            done = guest_ssh.Completed(status=0, stdout=said, stderr="")
        except TimeoutError as error:
            raise guest_ssh.GuestSshError(f"{self.vm}: no answer within {limit:g} s") from error
        except (OSError, asyncssh.Error) as error:
            raise guest_ssh.GuestSshError(f"{self.vm}: the connection broke: {error}") from error
        finally:
            if keep:
                self.raw.add(self.vm, script, done)
        return said

    async def _asked(self, script: str) -> str:
        if self._ssh is None:
            raise guest_ssh.GuestSshError(f"{self.vm}: not logged in")
        # Whoever does not wait for the end of an answer leaves it to the next question, which must not get it.
        shell, self._shell = self._shell, None
        if shell is None:
            shell = await guest_ssh.start(self._ssh, "sh")
        answered = False
        try:
            shell.stdin.write(f"{script}\necho {ANSWERED}\n")
            lines: list[str] = []
            async for line in shell.stdout:
                said, end, _ = line.partition(ANSWERED)  # what was said last need not have been a whole line
                lines.append(said)
                if end:
                    answered = True
                    self._shell = shell
                    return "".join(lines)
        finally:
            if not answered:
                shell.close()
        raise guest_ssh.GuestSshError(f"{self.vm}: the connection broke")

    @asynccontextmanager
    async def serving(
        self, script: str, *, what: str, ready: str, seconds: float, on_line: Callable[[str], None] | None = None
    ) -> AsyncIterator[asyncio.Task[guest_ssh.Completed]]:
        """Run a script that serves for as long as the block lasts; entered once it has said a line with `ready`.

        Yields what can be awaited for its end and output. Raises VerificationError, with `what` it is, if it never
        got ready.
        """
        said = asyncio.Event()

        def heard(line: str) -> None:
            if on_line is not None:
                on_line(line)
            if ready in line:
                said.set()

        task = asyncio.create_task(self.run(script, seconds=seconds, on_line=heard), name=f"serve-{self.vm}")
        task.add_done_callback(lambda _: said.set())
        try:
            await self._until_ready(task, said, what, ready)
            yield task
            await asyncio.wait([task], timeout=END_SECONDS)
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # whoever needs its outcome has awaited it inside the block

    async def _until_ready(
        self, task: asyncio.Task[guest_ssh.Completed], said: asyncio.Event, what: str, ready: str
    ) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await said.wait()
        except TimeoutError as error:
            message = f"{self.vm}: {what} does not say {ready!r} within {READY_SECONDS:g} s"
            raise VerificationError(message) from error
        if task.done() and ready not in (done := task.result()).stdout:
            raise VerificationError(f"{self.vm}: {what} failed with exit code {done.status}: {last_line(done)}")

    async def prepare(self, programs: list[str]) -> GuestFacts:
        """Look what there is, and widen the limits of socket buffers; `restore` takes that back."""
        self._programs = programs
        script = _PREPARE.format(programs=" ".join(programs), limits=" ".join(LIMITS), limit=BUFFER_BYTES)
        done = await self.run(script, seconds=5)
        self.facts = parse_facts(done.stdout)
        return self.facts

    async def prepare_again(self) -> None:
        """Prepare the next generation of the guest, which knows nothing of what was done to the last one."""
        await self.prepare(self._programs)

    async def restore(self) -> None:
        """Put the limits of socket buffers back to what they were."""
        script = "; ".join(f"echo {value} >/proc/sys/net/core/{name}" for name, value in self.facts.limits.items())
        if script:
            await self.run(script, seconds=2)

    async def lost(self) -> VpctlError:
        """Wait for the end of its QEMU; return the error that this is."""
        await wait_gone(self.process)
        return GuestLostError(f"`{self.vm}` ended in the middle of it", hint=f"vpctl logs {self.vm}")

    def cpu_seconds(self) -> float:
        """Return the CPU time of its QEMU so far, all threads, with those of vhost-net in the host's kernel."""
        return sum(process_cpu_seconds(pid) for pid in [self.process.pid, *vhost_threads(self.process.pid)])


def parse_facts(text: str) -> GuestFacts:
    """Read what `Guest.prepare` asked."""
    kernel, *lines = text.splitlines() or [""]
    words = [line.split() for line in lines if len(line.split()) == 2]
    numbers = {name: int(value) for name, value in words if value.isdecimal() and len(value) <= MOST_DIGITS}
    return GuestFacts(
        kernel=kernel.strip(),
        missing=frozenset(value for name, value in words if name == "missing"),
        buffer=numbers.get("buffer", 0),
        limits={name: numbers[name] for name in LIMITS if name in numbers},
    )


def last_line(done: guest_ssh.Completed) -> str:
    """Return the last thing that a command said, its errors first."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit code {done.status}"
