"""Looking at a VM that is ready, now and then, for the faults that nobody tells of: what `recovery.detect` judges."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

from vpctl import wait
from vpctl.errors import VpctlError
from vpctl.guest import ssh as guest_ssh
from vpctl.guest.heartbeat import Heartbeat
from vpctl.process import ProcessId, keeps_thread_times, read_stat, read_threads, thread_names
from vpctl.qemu.host import thread_times
from vpctl.recovery.detect import Detector, Finding, Look, Thread
from vpctl.recovery.state import VmState
from vpctl.supervisor.vm.heartbeats import last_beat
from vpctl.supervisor.vm.machine import Machine

ANSWER_SECONDS = 0.2
"""How long a look waits for QEMU's answer, which takes a millisecond; a later one counts at the next look."""

ASK_EVERY = 2
"""A look that asks QEMU costs many times one that only reads the state of its process."""

VCPU = "CPU "
"""What the names of QEMU's vCPU threads begin with (`-name debug-threads=on`)."""


class Watch:
    """Of one generation of one VM; `run` ends with the first fault that it finds, or with the generation."""

    def __init__(self, machine: Machine, found: Callable[[Finding], None], heard: Callable[[], None]) -> None:
        self._machine = machine
        self._found = found
        self._heard = heard
        """Called when there may be a new heartbeat."""
        self._qmp = Question()
        self._ssh = Question()
        self._status: str | None = None
        self._ssh_answers = 0
        self._warned_after: list[Heartbeat | None] = []
        """The heartbeat, if there was any, that was the last before the newest warning that no more come."""
        self._looks = 0
        self._threads: list[int] = []
        """Those of QEMU's main loop and vCPUs."""

    async def run(self) -> None:
        """Look until something is found."""
        machine, health = self._machine, self._machine.spec.vm.health
        generation, process = machine.generation, machine.process
        by_clock = not keeps_thread_times()
        if by_clock:
            machine.warn({"warning": "thread-times", "hint": thread_times().message})
        detector = Detector(
            heartbeat=health.heartbeat, qmp_timeout=health.qmp_timeout, at=time.monotonic(), by_clock=by_clock
        )
        try:
            while process is not None:
                await wait.pause(detector.pause)
                if machine.generation != generation or machine.process != process:
                    return
                if machine.state is VmState.READY or machine.is_rebooting:
                    look = await self._look(process, detector)
                    if look.asked and look.answers and machine.state is VmState.READY:
                        self._heard()
                    if (finding := detector.take(look)) is not None:
                        self._found(finding)
                        return
        finally:
            await self._qmp.drop()
            await self._ssh.drop()

    async def _look(self, process: ProcessId, detector: Detector) -> Look:
        closely = detector.suspicious
        self._looks += 1
        asked = closely or self._looks % ASK_EVERY == 0
        answered = asked and await self._qmp.ask(lambda: self._ask_qemu(closely=closely))
        if detector.is_overdue:
            await self._ask_ssh()
        stat = read_stat(process.pid)
        return Look(
            at=time.monotonic(),
            state=stat.state if stat is not None and stat.start_time == process.start_time else None,
            beat=(self._machine.last_beat, self._ssh_answers),
            asked=asked,
            answers=answered,
            beats_expected=self._machine.state is VmState.READY,
            threads=self._look_at_threads(process.pid, closely=closely) if asked else {},
            status=self._status if closely and answered else None,
        )

    def _look_at_threads(self, pid: int, *, closely: bool) -> dict[int, Thread]:
        """Look at the main loop and the vCPUs; which threads these are is asked again only where it may matter."""
        found = read_threads(pid, self._threads)
        if closely or not found or len(found) < len(self._threads):
            names = thread_names(pid)
            self._threads = [number for number, name in names.items() if number == pid or name.startswith(VCPU)]
            found = read_threads(pid, self._threads)
        return {number: Thread(state=seen.state, ran=seen.ran, waited=seen.waited) for number, seen in found.items()}

    async def _ask_qemu(self, *, closely: bool) -> None:
        await last_beat(self._machine)
        if closely or self._machine.is_paused:
            self._status = (await (await self._machine.qmp()).execute("query-status"))["status"]
            self._machine.take_run_state(self._status)

    async def _ask_ssh(self) -> None:
        """Ask for another sign of life: a guest may have no agent, or one that was stopped, and be well."""
        if not await self._ssh.ask(self._log_in):
            return
        machine = self._machine
        if machine.spec.vm.image.name is not None and self._warned_after != [machine.last_beat]:
            self._warned_after = [machine.last_beat]
            machine.warn({"warning": "heartbeat", "hint": "its ssh answers, its agent does not: `pidof vpctl-agent`"})
        self._ssh_answers += 1

    async def _log_in(self) -> None:
        machine = self._machine
        limit = machine.spec.vm.health.heartbeat
        async with asyncio.timeout(limit):
            ssh = await machine.ssh()
            await guest_ssh.run(ssh, ["true"], vm=machine.name, timeout=limit)


class Question:
    """Asked one at a time, and waited for a moment only: one that gets no answer stays open until the next look."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Ask, unless an earlier question is open; return whether there is an answer now."""
        if self._task is None:
            self._task = asyncio.create_task(question(), name="question")
        await asyncio.wait({self._task}, timeout=ANSWER_SECONDS)
        if not self._task.done():
            return False
        task, self._task = self._task, None
        with contextlib.suppress(VpctlError, TimeoutError, OSError):
            task.result()
            return True
        return False

    async def drop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
