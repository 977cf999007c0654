"""Bringing a topology to where its file says it should be: `up`, and what a successor finds unfinished."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from vpctl import wait
from vpctl.broker.client import BrokerClient
from vpctl.errors import VerificationError, VpctlError
from vpctl.recovery import execute
from vpctl.recovery.faults import Fault
from vpctl.recovery.report import Recorder
from vpctl.recovery.state import LinkState, VmState
from vpctl.supervisor.fault_response import FaultResponse
from vpctl.supervisor.recover import Recoveries
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.machine import END_SECONDS, Machine

PROBES = 3
"""Echo requests per direction after the first that came back, when `up` verifies a link."""

PROBE_SECONDS = 5.0
"""For the first of them: the link has carried packets before, or had its time to."""


class Deaths:
    """The first error of a VM in an `up` that is all or nothing: a boot that failed, or an end after it."""

    def __init__(self) -> None:
        self._first: asyncio.Future[VpctlError] = asyncio.get_running_loop().create_future()
        self._watches: set[asyncio.Task[None]] = set()

    def add(self, error: VpctlError) -> None:
        """Take in an error; only the first one counts."""
        if not self._first.done():
            self._first.set_result(error)

    def watch(self, machine: Machine) -> None:
        """Wait for the end of a VM that is ready, until `close`."""

        async def end() -> None:
            self.add(await machine.end_after_boot())

        self._watches.add(asyncio.create_task(end(), name=f"end-{machine.name}"))

    async def first(self) -> VpctlError:
        """Wait for the first error and return it."""
        return await asyncio.shield(self._first)

    async def close(self) -> None:
        """Wait for no further ends."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)


def _raise_first(errors: list[VpctlError]) -> None:
    """Raise the first error, unless there is none but that a link carries no packets."""
    for error in errors:
        if not isinstance(error, VerificationError):
            raise error


class BringUp:
    """Boots, plugs and verifies; idempotent."""

    def __init__(
        self,
        state: TopologyState,
        broker: Callable[[], BrokerClient],
        recoveries: Recoveries,
        fault_response: FaultResponse,
        group: asyncio.TaskGroup,
    ) -> None:
        self._state = state
        self._broker = broker
        self._recoveries = recoveries
        self._fault_response = fault_response
        self._group = group

    async def run(self, *, explicit: bool) -> dict[str, Any]:
        """Bring everything up that is not; returns `up` of the contract.

        `explicit`: a user asked for it, so what was stopped, has failed or is to be repaired by hand only is seen
        to as well. Raises the first error, and ends everything (unless the run says `keep`), at once; a link that
        carries no packets is no error but an entry of `checks` that is not `ok`.
        """
        began = time.monotonic()
        recorder = Recorder(
            vm="",
            fault=Fault.QEMU_EXIT,
            policy="up",
            fault_at=began,
            detected_at=began,
            on_step=self._recoveries.progress,
        )
        try:
            if explicit and self._state.up is None and not self._state.run.keep:
                await self._all_or_nothing(recorder)
            else:
                _raise_first(await self._everything(recorder, explicit=explicit))
        except VpctlError as error:
            raise self._failed(error, explicit=explicit) from error
        return await self._verified(recorder)

    async def _everything(
        self, recorder: Recorder, *, explicit: bool, deaths: Deaths | None = None
    ) -> list[VpctlError]:
        """Boot and connect all that is to be; return the errors: one VM's is no reason to stop the others."""
        async with asyncio.TaskGroup() as group:
            boots = [
                group.create_task(self._vm(machine, explicit=explicit, deaths=deaths), name=f"up-{name}")
                for name, machine in self._state.machines.items()
            ]
            connecting = group.create_task(
                execute.connect_links(self._links(explicit=explicit), self._recoveries.hands, recorder),
                name="connect-links",
            )
        return [error for boot in boots if (error := boot.result()) is not None] + connecting.result()

    async def _all_or_nothing(self, recorder: Recorder) -> None:
        """Do everything, or raise the first error of a VM as soon as there is one: all that runs is ended anyway."""
        deaths = Deaths()
        try:
            errors = await wait.first(self._everything(recorder, explicit=True, deaths=deaths), unless=deaths.first())
            if any(not isinstance(error, VerificationError) for error in errors):
                # A link may fail because its VM has just ended: that is the cause, and told a moment later.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_SECONDS):
                        raise await deaths.first()
            _raise_first(errors)
        finally:
            await deaths.close()

    async def _verified(self, recorder: Recorder) -> dict[str, Any]:
        lives = {name: machine.generation for name, machine in self._state.machines.items()}
        checks = await self._state.probe_all(count=PROBES, seconds=PROBE_SECONDS)
        for check in checks:
            if not check["ok"] and (why := self._why_gone(check["link"], lives)) is not None:
                check["reason"] = why
        for name, link in self._state.links.items():  # whatever was believed of it
            of_link = [check for check in checks if check["link"] == name]
            if any("not_provable" in check for check in of_link):
                continue  # it is in its user's hands
            if not all(check["ok"] for check in of_link):
                in_recovery = self._why_gone(name, lives) is not None
                if not link.rests and not in_recovery and not self._state.paused(name):
                    link.set_state(LinkState.FAILED)
            elif link.state is LinkState.FAILED:  # its first packets were lost, these were not
                link.set_state(LinkState.UP)
        self._state.up = {
            "timings": [entry for machine in self._state.machines.values() for entry in machine.timings],
            "steps": recorder.steps,
            "checks": checks,
        }
        self._state.save()
        return {**self._state.status(), **self._state.up}

    def _why_gone(self, link: str, lives: Mapping[str, int]) -> str | None:
        """Return which VM of a link has ended since it had these generations, None if none has."""
        for end in self._state.topology.link(link).endpoints:
            machine = self._state.machines[end.vm]
            if not self._state.is_alive(machine.name):
                return f"`{machine.name}` is {machine.state}: {machine.reason or 'it has ended meanwhile'}"
            if machine.generation != lives[machine.name]:
                return f"`{machine.name}` has ended meanwhile, and was recovered"
        return None

    def _links(self, *, explicit: bool) -> list[str]:
        """Return the links to see to: after a takeover none that is repaired by hand only, or rests."""
        every = explicit or self._state.up is None
        return [
            link.name
            for link in self._state.topology.links
            if every or (link.recovery.mode == "auto" and not self._state.links[link.name].rests)
        ]

    async def _vm(self, machine: Machine, *, explicit: bool, deaths: Deaths | None = None) -> VpctlError | None:
        """Bring one VM to ready; returns its error, so that the others go on to their own end."""
        try:
            await self._to_ready(machine, explicit=explicit)
        except Exception as raised:  # whatever it is, it is this VM's
            error = self._state.foreseen(raised, name="up", vm=machine.name)
            machine.set_state(VmState.FAILED, reason=error.message)
            if deaths is not None:
                deaths.add(error)
            return error
        if deaths is not None:
            deaths.watch(machine)
        return None

    async def _to_ready(self, machine: Machine, *, explicit: bool) -> None:
        if machine.incident is not None and (explicit or self._recoveries.is_automatic(machine.name)):
            # What a supervisor before this one has begun is finished as what it was: a recovery.
            self._recoveries.start(machine.name, automatic=not explicit)
            await self._recoveries.hands.until_ready(machine.name)
            return
        if machine.needs_resume:
            await machine.resume(self._broker())
        elif machine.state is VmState.STARTING:
            await machine.boot(self._broker())
        elif machine.state is VmState.RECOVERING:
            await self._recoveries.hands.until_ready(machine.name)
            return
        elif self._wants_recovery(machine, explicit=explicit):
            self._recoveries.start(machine.name)
            await self._recoveries.hands.until_ready(machine.name)
            return
        else:
            return
        self._fault_response.watch(machine)

    def _wants_recovery(self, machine: Machine, *, explicit: bool) -> bool:
        if machine.state is VmState.CRASHED:
            return explicit or self._recoveries.is_automatic(machine.name)
        return explicit and machine.state in (VmState.STOPPED, VmState.FAILED)

    def _failed(self, error: VpctlError, *, explicit: bool) -> VpctlError:
        """End everything but the logs, unless the user wants to look at it; returns the error, to be raised."""
        self._state.journal.write("command", attributes={"command": "up", "error": error.message})
        first = self._state.up is None
        if explicit and first and not self._state.run.keep:
            self._group.create_task(self._state.contained(self._stop_soon, name="stop"), name="stop")
        return error

    async def _stop_soon(self) -> None:
        await wait.pause(0.2)  # the clients are told first
        with contextlib.suppress(VpctlError):
            await self._broker().stop()
