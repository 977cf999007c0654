"""Bringing a topology to where its file says it should be: `up`, and what a successor finds unfinished."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from vpctl import wait
from vpctl.broker.client import BrokerClient
from vpctl.errors import VerificationError, VpctlError
from vpctl.recovery import act
from vpctl.recovery.faults import Fault
from vpctl.recovery.report import Recorder
from vpctl.recovery.state import LinkState, VmState
from vpctl.supervisor.alarms import Alarms
from vpctl.supervisor.machine import Machine
from vpctl.supervisor.recoveries import Recoveries
from vpctl.supervisor.world import World

PROBES = 3
"""Echo requests per direction after the first that came back, when `up` verifies a link."""

PROBE_SECONDS = 5.0
"""For the first of them: the link has carried packets before, or had its time to."""


class BringUp:
    """Boots, plugs and verifies; idempotent."""

    def __init__(
        self,
        world: World,
        broker: Callable[[], BrokerClient],
        recoveries: Recoveries,
        alarms: Alarms,
        group: asyncio.TaskGroup,
    ) -> None:
        self._world = world
        self._broker = broker
        self._recoveries = recoveries
        self._alarms = alarms
        self._group = group

    async def run(self, *, explicit: bool) -> dict[str, Any]:
        """Bring everything up that is not; returns `up` of the contract.

        `explicit`: a user asked for it, so what was stopped, has failed or is to be repaired by hand only is seen
        to as well. Raises the first error, and ends everything (unless the run says `keep`); a link that carries
        no packets is no error but an entry of `checks` that is not `ok`.
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
        async with asyncio.TaskGroup() as group:
            boots = [
                group.create_task(self._vm(machine, explicit=explicit), name=f"up-{name}")
                for name, machine in self._world.machines.items()
            ]
            connecting = group.create_task(
                act.connect_links(self._links(explicit=explicit), self._recoveries.hands, recorder),
                name="connect-links",
            )
        for error in [boot.result() for boot in boots] + connecting.result():
            if error is not None and not isinstance(error, VerificationError):
                raise self._failed(error, explicit=explicit)
        return await self._verified(recorder)

    async def _verified(self, recorder: Recorder) -> dict[str, Any]:
        checks = await self._world.probe_all(count=PROBES, seconds=PROBE_SECONDS)
        for name, link in self._world.links.items():  # whatever was believed of it
            if not all(check["ok"] for check in checks if check["link"] == name):
                if not link.rests:
                    link.set_state(LinkState.FAILED)
            elif link.state is LinkState.FAILED:  # its first packets were lost, these were not
                link.set_state(LinkState.UP)
        self._world.up = {
            "timings": [entry for machine in self._world.machines.values() for entry in machine.timings],
            "steps": recorder.steps,
            "checks": checks,
        }
        self._world.save()
        return {**self._world.status(), **self._world.up}

    def _links(self, *, explicit: bool) -> list[str]:
        """Return the links to see to: after a takeover none that is repaired by hand only, or rests."""
        every = explicit or self._world.up is None
        return [
            link.name
            for link in self._world.topology.links
            if every or (link.recovery.mode == "auto" and not self._world.links[link.name].rests)
        ]

    async def _vm(self, machine: Machine, *, explicit: bool) -> VpctlError | None:
        """Bring one VM to ready; returns its error, so that the others go on to their own end."""
        try:
            await self._to_ready(machine, explicit=explicit)
        except Exception as raised:  # whatever it is, it is this VM's
            error = self._world.foreseen(raised, name="up", vm=machine.name)
            machine.set_state(VmState.FAILED, reason=error.message)
            return error
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
        self._alarms.watch(machine)

    def _wants_recovery(self, machine: Machine, *, explicit: bool) -> bool:
        if machine.state is VmState.CRASHED:
            return explicit or self._recoveries.is_automatic(machine.name)
        return explicit and machine.state in (VmState.STOPPED, VmState.FAILED)

    def _failed(self, error: VpctlError, *, explicit: bool) -> VpctlError:
        """End everything but the logs, unless the user wants to look at it; returns the error, to be raised."""
        self._world.journal.write("command", attributes={"command": "up", "error": error.message})
        first = self._world.up is None
        if explicit and first and not self._world.run.keep:
            self._group.create_task(self._world.contained(self._stop_soon, name="stop"), name="stop")
        return error

    async def _stop_soon(self) -> None:
        await wait.pause(0.2)  # the clients are told first
        with contextlib.suppress(VpctlError):
            await self._broker().stop()
