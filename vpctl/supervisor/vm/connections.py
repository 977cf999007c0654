"""The ways into one life of a VM: its QMP session, the forwarded port, the ssh connection and the agent behind it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vpctl import wait
from vpctl.errors import HostError, QmpError, ReadyTimeoutError
from vpctl.guest import agent as guest_agent
from vpctl.guest import ssh as guest_ssh
from vpctl.guest.config import links_table
from vpctl.guest.keys import run_keys
from vpctl.journal import Journal
from vpctl.plan.run import Run
from vpctl.qemu.argv import MANAGEMENT_NETDEV, MachineSpec
from vpctl.qmp.session import Session, open_session
from vpctl.rundir import RunDir, write_atomic

if TYPE_CHECKING:
    import asyncssh


SILENT = (
    "its kernel is told `console=ttyS0`, for which it needs CONFIG_SERIAL_8250_CONSOLE, and for ssh a driver of "
    "virtio-net; `kernel_args: earlyprintk=ttyS0` shows where it stops"
)
"""What to do about an own image of which nothing is heard."""

UNREACHED = (
    "an own image needs a driver of virtio-net, DHCP on that interface (52:56:00:00:00:01) and an ssh server; "
    "see its console: vpctl logs VM"
)
"""What to do about an own image that boots and whose ssh does not answer."""


class Connections:
    """Opened when they are needed, and again when they broke."""

    def __init__(self, spec: MachineSpec, run: Run, rundir: RunDir, journal: Journal) -> None:
        self.name = spec.vm.name
        self.ssh_port = 0
        self.agent = guest_agent.BUILT_IN
        """The agent's path in the guest."""
        self.host_key: str | None = None
        """Of an own image: the host key that this life of it, or its boot, has shown at the first login."""
        self._spec = spec
        self._run = run
        self._rundir = rundir
        self._journal = journal
        self._session: Session | None = None
        self._ssh: asyncssh.SSHClientConnection | None = None
        self._opening = asyncio.Lock()  # QEMU serves one client on its socket

    @property
    def ssh_address(self) -> guest_ssh.Address:
        """How to log in."""
        image = self._spec.vm.image
        built = image.name is not None
        return guest_ssh.Address(
            vm=self.name,
            port=self.ssh_port,
            user=image.ssh_user,
            identity=Path(image.ssh_key) if image.ssh_key else self._rundir.identity,
            host_key=run_keys(self._rundir).host_public if built else self.host_key,
        )

    # Section: QMP

    async def open_session(self, limit: float) -> Session:
        """Connect to QEMU."""
        self._session = await open_session(
            self._rundir.qmp_socket(self.name),
            vm=self.name,
            timeout=limit,
            default_timeout=self._spec.vm.health.qmp_timeout,
            journal=self._journal,
            of_qemu=True,
        )
        return self._session

    async def qmp(self) -> Session:
        """Return the session, connecting again if it was lost."""
        async with self._opening:
            if self._session is None or self._session.lost is not None:
                await self.open_session(self._spec.vm.health.qmp_timeout)
            assert self._session is not None
            return self._session

    async def forward_ssh(self, session: Session) -> None:
        """Forward a port of 127.0.0.1 to the guest's ssh: the one that an earlier generation had, if it is free."""
        if (port := await self._forwarded_port(session)) is None:
            for wanted in dict.fromkeys((self.ssh_port, 0)):
                rule = f"tcp:127.0.0.1:{wanted}-:22"
                command = f"hostfwd_add {MANAGEMENT_NETDEV} {rule}"
                await session.execute("human-monitor-command", {"command-line": command})
                if (port := await self._forwarded_port(session)) is not None:
                    break
            else:
                raise QmpError(f"{self.name}: QEMU forwards no port to the guest's ssh", hint="vpctl doctor")
        self.ssh_port = port

    async def _forwarded_port(self, session: Session) -> int | None:
        # Only HMP tells the port that QEMU picked.
        table = await session.execute("human-monitor-command", {"command-line": "info usernet"})
        found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b", table)
        return int(found[1]) if found is not None else None

    # Section: ssh

    async def wait_for_ssh(self, limit: float, *, listens: Callable[[], bool]) -> None:
        """Wait until the guest lets us in; `listens` tells whether a built image has said that it would."""
        told = listens if self._spec.vm.image.name is not None else None
        self.forget_host_key()
        try:
            self._ssh = await guest_ssh.wait_for_ssh(self.ssh_address, timeout=limit, listens=told)
        except ReadyTimeoutError as error:
            if told is not None or error.hint is not None:
                raise
            raise ReadyTimeoutError(error.message, hint=UNREACHED) from error
        self._pin_host_key(self._ssh)
        await self._provide_agent(self._ssh)

    async def ssh(self) -> asyncssh.SSHClientConnection:
        """Return the connection, logging in again if it broke."""
        if self._ssh is None or self._ssh.is_closed():
            self._ssh = await guest_ssh.open_connection(self.ssh_address, rests=True)
            await self._provide_agent(self._ssh)
        return self._ssh

    def _pin_host_key(self, ssh: asyncssh.SSHClientConnection) -> None:
        """Remember whom one has logged in to: once a QEMU is dead, any user of the host may bind its port."""
        if self._spec.vm.image.name is None and (key := guest_ssh.shown_host_key(ssh)) is not None:
            self.host_key = key
            write_atomic(self._rundir.known_hosts_of(self.name), f"* {key}\n")

    def forget_host_key(self) -> None:
        """Take no key for an own image's: it boots, and may make itself a new one."""
        self.host_key = None
        self._rundir.known_hosts_of(self.name).unlink(missing_ok=True)

    async def guest_speaks(self, limit: float, *, serial: Callable[[], Awaitable[bool | None]]) -> None:
        """Wait for the guest's first word: on its serial console or, of an own image that is silent there, by ssh."""
        listening = asyncio.create_task(self._first_banner(), name=f"banner-{self.name}")

        async def either() -> bool | None:
            return await serial() or (listening.done() and listening.exception() is None) or None

        try:
            await wait.until(either, timeout=limit, what="the guest's first serial output", every=0.02)
        except ReadyTimeoutError as error:
            if self._spec.vm.image.name is not None:
                raise
            message = f"{error.message}, and no answer by ssh either"
            raise ReadyTimeoutError(message, hint=SILENT) from error
        finally:
            listening.cancel()
            await asyncio.wait({listening})

    async def _first_banner(self) -> None:
        """Return when an own image's ssh server answers; a built one always speaks before that."""
        if self._spec.vm.image.name is not None:
            await asyncio.get_running_loop().create_future()
        await guest_ssh.wait_for_banner(self.ssh_port)

    async def _provide_agent(self, ssh: asyncssh.SSHClientConnection) -> None:
        """Copy the agent into a guest whose image is the user's own; a built one has it."""
        if self._spec.vm.image.name is None:
            links = links_table(self._run.topology, self.name)
            binary = self._agent_binary()
            self.agent = await guest_agent.install(ssh, binary, links, vm=self.name)

    def _agent_binary(self) -> bytes:
        try:
            return Path(self._spec.boot.agent).read_bytes()
        except OSError as error:
            message = f"cannot read the guest agent {self._spec.boot.agent}: {error.strerror}"
            raise HostError(message, hint="vpctl image build") from error

    # Section: their end

    def drop_ssh(self) -> None:
        """Let go of a connection that is stale."""
        if self._ssh is not None:
            self._ssh.abort()
            self._ssh = None

    async def close(self) -> None:
        """Close all that leads into a life that is over, or is left to others."""
        self.drop_ssh()
        if self._session is not None:
            await self._session.close()
            self._session = None
