"""Faults on purpose: `vpctl crash`. Each is done when it was detected."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping
from typing import Any

from vpctl.errors import NotFoundError, ReadyTimeoutError, UsageError, VpctlError
from vpctl.guest import ssh as guest_ssh
from vpctl.recovery.faults import How, Incident
from vpctl.recovery.state import VmState
from vpctl.supervisor.fault_response import FaultResponse
from vpctl.supervisor.recover import Recoveries
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.machine import Machine

PANIC = "echo 1 >/proc/sys/kernel/sysrq && echo c >/proc/sysrq-trigger"

HANG = """
test "$(id -u)" = 0 || exit 1
PATH=$PATH:/usr/sbin:/sbin
modprobe -qn vpctl_fault || { command -v chrt && command -v taskset; } >/dev/null || exit 1
nohup sh -c '
    modprobe -q vpctl_fault how=hang
    echo -1 >/proc/sys/kernel/sched_rt_runtime_us
    chrt -f -p 50 $$
    for cpu in $(seq 0 $(($(nproc) - 1))); do
        taskset -c $cpu chrt -f 40 sh -c "while :; do :; done" &
    done' </dev/null >/dev/null 2>&1 &
"""
"""Stops all CPUs with their interrupts off, by the image's own module. In an image without it, real-time loops on
every CPU with nothing held back for others: no other thread of the guest, kernel's or user's, runs any more."""

SENT_SECONDS = 60.0
"""For a guest to take its own end in, however busy its host; one that dies of it says nothing, and is seen to."""

PATIENCE = 10.0
"""How much longer than its limits say a fault may take to be detected: a guest's own time is slow on a busy host."""


class FaultInjector:
    """Injects faults and waits until they are seen."""

    def __init__(self, state: TopologyState, fault_response: FaultResponse, recoveries: Recoveries) -> None:
        self._state = state
        self._fault_response = fault_response
        self._recoveries = recoveries

    async def crash(self, vm: str, how: How) -> dict[str, Any]:
        """Inject a fault into a VM that is ready; return when it was detected, with its name and how long that took.

        Raises ReadyTimeoutError if it was not, NotFoundError if the VM is not ready.
        """
        machine = self._state.machines[vm]
        # A kill is possible at any time: in the middle of a boot, too.
        if machine.process is None or (how is not How.KILL and machine.state is not VmState.READY):
            raise NotFoundError(f"VM `{vm}` is {machine.state}, not ready", hint="vpctl status")
        pid, life = machine.process.pid, (machine.process, machine.generation)
        attributes = {"command": "crash", "how": str(how), "pid": pid}
        self._state.journal.write("command", vm=vm, attributes=attributes)
        health = machine.spec.vm.health
        limit = 30.0 + PATIENCE * max(health.heartbeat, health.qmp_timeout)
        old = machine.incident

        async def seen_of_it() -> Incident | None:
            while (incident := machine.incident) is old and (machine.process, machine.generation) == life:
                await machine.changed.wait()
            return incident

        seeing = asyncio.create_task(seen_of_it(), name=f"see-{vm}")
        try:
            await self._inject_until(seeing, machine, how)
            async with asyncio.timeout(limit):
                incident = await seeing
        except TimeoutError as error:
            raise ReadyTimeoutError(f"`{how}` of `{vm}` was not detected within {limit:g} s") from error
        finally:
            seeing.cancel()
            self._fault_response.injected.pop(vm, None)
        seen: Mapping[str, Any] = {}
        if incident is not None:
            ms = round((incident.detected_at - incident.at) * 1000, 1)
            seen = {"fault": str(incident.fault), "detect_ms": ms}
        return {"schema_version": 1, "vm": vm, "how": str(how), "pid": pid, **seen}

    async def _inject_until(self, seen: asyncio.Task[Incident | None], machine: Machine, how: How) -> None:
        """Inject a fault; no longer than until it is seen, since a guest that it ends does not say that it has."""
        injecting = asyncio.create_task(self._inject(machine, how), name=f"inject-{machine.name}")
        try:
            await asyncio.wait({injecting, seen}, return_when=asyncio.FIRST_COMPLETED)
            if injecting.done():
                injecting.result()
        finally:
            injecting.cancel()
            await asyncio.wait({injecting})

    async def _inject(self, machine: Machine, how: How) -> None:
        if how in (How.PANIC, How.HANG):
            ssh = await machine.ssh()  # what may fail before there is a fault
        self._fault_response.injected[machine.name] = time.monotonic()
        self._recoveries.forgiven.add(machine.name)
        match how:
            case How.KILL | How.STOP:
                assert machine.process is not None
                machine.process.signal(signal.SIGKILL if how is How.KILL else signal.SIGSTOP)
            case How.PANIC | How.HANG:
                script = PANIC if how is How.PANIC else HANG
                done = None
                with contextlib.suppress(VpctlError):
                    done = await guest_ssh.run(ssh, ["sh", "-c", script], vm=machine.name, timeout=SENT_SECONDS)
                if done is not None and done.status != 0:
                    self._recoveries.forgiven.discard(machine.name)
                    reason = done.stderr.strip() or "no module vpctl_fault, no chrt and taskset"
                    message = f"`{machine.name}` cannot be made to {how}: {reason}"
                    raise UsageError(message, hint="its ssh user has to be root, with sysrq or util-linux there")
                if done is not None:  # only now is it about to happen: a guest may take its time to start a command
                    self._fault_response.injected[machine.name] = time.monotonic()
