"""The commands of the control socket."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vpctl.errors import UsageError
from vpctl.recovery.faults import How
from vpctl.supervisor.bring_up import BringUp
from vpctl.supervisor.inject import FaultInjector
from vpctl.supervisor.jobs import Jobs
from vpctl.supervisor.recover import Recoveries
from vpctl.supervisor.state import TopologyState

Command = Callable[..., Awaitable[Mapping[str, Any]]]


class Commands:
    """Each public method but `execute` is a command, by its name with dashes."""

    def __init__(
        self,
        state: TopologyState,
        jobs: Jobs,
        recoveries: Recoveries,
        bring_up: BringUp,
        fault_injector: FaultInjector,
    ) -> None:
        self._state = state
        self._jobs = jobs
        self._recoveries = recoveries
        self._bring_up = bring_up
        self._fault_injector = fault_injector
        self._commands: dict[str, Command] = {
            "query-status": self.query_status,
            "query-recovery-plan": self.query_recovery_plan,
            "up": self.up,
            "check": self.check,
            "crash": self.crash,
            "recover": self.recover,
            "leave-job": self.leave_job,
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
        return self._state.status()

    async def query_recovery_plan(self, vm: str, policy: str | None = None, force: bool = False) -> Mapping[str, Any]:
        """Return the steps that a recovery would take now."""
        self._state.require_vm(vm)
        self._recoveries.check_policy(vm, policy)
        lines = self._recoveries.plan(vm, policy=policy, force=force).lines()
        return {"vm": vm, "steps": [{"name": name, "target": target} for name, target in lines]}

    async def up(self) -> Mapping[str, Any]:
        """Start the job that brings up whatever is not, or join it."""
        return self._jobs.start("up", lambda: self._bring_up.run(explicit=True))

    async def check(self, links: list[str] | None = None) -> Mapping[str, Any]:
        """Start the job of the full check on some links, or on all."""
        names = links or list(self._state.links)
        for name in names:
            self._state.require_link(name)
        return self._jobs.start("check/" + ",".join(names), lambda: self._state.check(names), ends=True)

    async def recover(self, vm: str, policy: str | None = None, force: bool = False) -> Mapping[str, Any]:
        """Start the job that recovers a VM, or join it; UsageError if one runs that was asked for otherwise."""
        self._state.require_vm(vm)
        self._recoveries.check_policy(vm, policy)
        return self._recoveries.start(vm, policy=policy, force=force)

    async def crash(self, vm: str, how: str) -> Mapping[str, Any]:
        """Start the job that injects a fault, or join one that injects the same; it ends when that was detected."""
        self._state.require_vm(vm)
        if how not in tuple(How):
            raise UsageError(f"no way to crash a VM by `{how}`", hint=f"ways are {', '.join(How)}")
        return self._jobs.start(
            f"crash/{vm}", lambda: self._fault_injector.crash(vm, How(how)), wishes=how, ends=True
        )

    async def leave_job(self, job: str) -> Mapping[str, Any]:
        """Wait for a job no more; a check or crash without waiters ends, a recovery or `up` goes on."""
        return self._jobs.leave(job)
