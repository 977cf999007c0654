"""The commands of the control socket."""

from __future__ import annotations

import asyncio
import inspect
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vpctl.errors import NotFoundError, QmpTimeoutError, UsageError
from vpctl.recovery.state import VmState
from vpctl.supervisor.bring_up import BringUp
from vpctl.supervisor.control import Jobs
from vpctl.supervisor.recoveries import Recoveries
from vpctl.supervisor.world import World

CRASH_SEEN_SECONDS = 10.0
"""For an injected fault to be detected, before `crash` returns."""

Command = Callable[..., Awaitable[Mapping[str, Any]]]


class Commands:
    """Each public method but `execute` is a command, by its name with dashes."""

    def __init__(self, world: World, jobs: Jobs, recoveries: Recoveries, bring_up: BringUp) -> None:
        self._world = world
        self._jobs = jobs
        self._recoveries = recoveries
        self._bring_up = bring_up
        self._commands: dict[str, Command] = {
            "query-status": self.query_status,
            "query-recovery-plan": self.query_recovery_plan,
            "up": self.up,
            "check": self.check,
            "crash": self.crash,
            "recover": self.recover,
        }

    async def execute(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Execute a command; UsageError for an unknown one, or for arguments that it does not take."""
        command = self._commands.get(name)
        if command is None:
            raise UsageError(f"unknown command `{name}`", hint=f"commands are {', '.join(sorted(self._commands))}")
        try:
            inspect.signature(command).bind(**arguments)
        except TypeError as error:
            raise UsageError(f"`{name}`: {error}") from error
        return await command(**arguments)

    async def query_status(self) -> Mapping[str, Any]:
        """Return the status of the contract."""
        return self._world.status()

    async def query_recovery_plan(self, vm: str, policy: str | None = None, force: bool = False) -> Mapping[str, Any]:
        """Return the steps that a recovery would take now."""
        self._world.require_vm(vm)
        self._recoveries.check_policy(vm, policy)
        lines = self._recoveries.plan(vm, policy=policy, force=force).lines()
        return {"vm": vm, "steps": [{"name": name, "target": target} for name, target in lines]}

    async def up(self) -> Mapping[str, Any]:
        """Start the job that brings up whatever is not, or join it."""
        return self._jobs.start("up", lambda: self._bring_up.run(explicit=True))

    async def check(self, links: list[str] | None = None) -> Mapping[str, Any]:
        """Start the job of the full check on some links, or on all."""
        names = links or list(self._world.links)
        for name in names:
            self._world.require_link(name)
        return self._jobs.start("check/" + ",".join(names), lambda: self._world.check(names))

    async def recover(self, vm: str, policy: str | None = None, force: bool = False) -> Mapping[str, Any]:
        """Start the job that recovers a VM, or join it."""
        self._world.require_vm(vm)
        self._recoveries.check_policy(vm, policy)
        return self._recoveries.start(vm, policy=policy, force=force)

    async def crash(self, vm: str, how: str) -> Mapping[str, Any]:
        """Inject a fault and return when it was detected."""
        self._world.require_vm(vm)
        machine = self._world.machines[vm]
        if machine.process is None or machine.state is not VmState.READY:
            raise NotFoundError(f"VM `{vm}` is {machine.state}, not ready", hint="vpctl status")
        if how != "kill":
            raise UsageError(f"no way to crash a VM by `{how}`", hint="`--how kill`")
        pid = machine.process.pid
        self._world.journal.write("command", vm=vm, attributes={"command": "crash", "how": how, "pid": pid})
        self._recoveries.injected[vm] = time.monotonic()
        machine.process.signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(CRASH_SEEN_SECONDS):
                while machine.state is VmState.READY:
                    await machine.changed.wait()
        except TimeoutError as error:
            raise QmpTimeoutError(f"the end of `{vm}` was not seen within {CRASH_SEEN_SECONDS:g} s") from error
        return {"schema_version": 1, "vm": vm, "how": how, "pid": pid}
