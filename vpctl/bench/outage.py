"""Workload `outage`: the longest gap that a numbered stream of 1,000 datagrams per second sees.

Without a fault it tells how long a link, or the guests at it, may stall. With one (`--crash VM`) it tells how long
the link is gone: the stream from the VM that is killed goes on from the new guest, and the survivor's receiver, which
sees it all, measures from the last datagram of the old guest to the first of the new one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from vpctl import wait
from vpctl.bench.base import Crash, Figure, Metric, Pair, Plan, Row, Task, WorkloadError
from vpctl.bench.guest import GuestEnd, confirm, counted, last_line
from vpctl.errors import cause_of
from vpctl.guest.ssh import Completed
from vpctl.topology.model import LinkSpec

GAP = Metric(name="gap", unit="ms", better="lower")

RATE = 1000
"""Datagrams per second: the resolution is a millisecond."""

BEFORE_SECONDS, AFTER_SECONDS = 1.0, 0.5
"""How long the stream runs before the fault, and after the link has been verified again."""

LONGEST_SECONDS = 300
"""No stream, and no recovery, lasts longer."""

STARTED = "started"


def send_command(end: GuestEnd, *, target: str, seconds: float, first: int = 0) -> str:
    """Return the stream's sender, by the guest's agent; numbers begin with `first`."""
    command = f"{end.guest.agent} stream-send {end.link} {target} --rate {RATE} --first {first}"
    return f"echo {STARTED}; exec {command} --duration-ms {seconds * 1000:.0f}"


def receive_command(end: GuestEnd, *, seconds: float) -> str:
    """Return the stream's receiver; it begins with a line that has its process's pid in the guest."""
    command = f"{end.guest.agent} stream-recv {end.link} --duration-ms {seconds * 1000:.0f}"
    return f"echo {STARTED} $$; exec {command}"


def parse(text: str) -> Mapping[str, Any]:
    """Return what a sender or receiver reported, below the line that it began with. WorkloadError if nothing."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        report = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise WorkloadError(f"the agent reported nothing: {text.strip()!r}") from error
    if not isinstance(report, dict):
        raise WorkloadError(f"the agent reported {report!r}")
    return report


def gap_ms(received: Mapping[str, Any]) -> float:
    """Return the longest gap; WorkloadError if there was no stream, or it came damaged."""
    if received["corrupt"]:
        raise WorkloadError(f"{received['corrupt']} datagrams of the stream came damaged")
    if received["received"] < 2:
        raise WorkloadError("nothing arrived of the stream")
    return float(received["longest_gap_ms"])


class OutageWorkload:
    """Each direction; with a crash, from the VM that is killed, on its links only."""

    needs = ()

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        first, second = (end.vm for end in link.endpoints)
        if plan.crash is None:
            return [StallTask(source, target, plan) for source, target in ((first, second), (second, first))]
        if plan.crash.vm not in (first, second):
            return []
        survivor = second if plan.crash.vm == first else first
        return [CrashTask(plan.crash, survivor)]


class StallTask:
    """One direction, with no fault."""

    def __init__(self, source: str, target: str, plan: Plan) -> None:
        self.row = Row(workload="outage", source=source, target=target)
        self._duration = plan.duration

    @property
    def seconds(self) -> float:
        return self._duration + 0.8

    async def measure(self, pair: Pair) -> list[Figure]:
        source, target = pair.directed(self.row.source)
        async with counted(source, target) as traffic:
            listening = receive_command(target, seconds=self._duration + 0.5)
            async with target.guest.serving(listening, ready=STARTED, seconds=self._duration) as receiving:
                sending = send_command(source, target=target.address, seconds=self._duration)
                sent = _succeeded(source, await source.guest.run(sending, seconds=self._duration))
                received = _succeeded(target, await receiving)
        confirm(traffic, source=source, target=target, packets=received["received"])
        extra = {"lost": float(received["lost"]), "sent": float(sent["sent"])}
        return [_figure(self.row, gap_ms(received), extra)]


class CrashTask:
    """The VM is killed in the middle, and its stream goes on once it is back."""

    def __init__(self, crash: Crash, survivor: str) -> None:
        self.row = Row(workload="outage", source=crash.vm, target=survivor, variant="crash")
        self._crash = crash

    @property
    def seconds(self) -> float:
        return 8.0

    async def measure(self, pair: Pair) -> list[Figure]:
        source, target = pair.directed(self._crash.vm)
        async with _receiver(target) as (receiving, pid):
            began = time.monotonic()
            sending = send_command(source, target=target.address, seconds=LONGEST_SECONDS)
            async with source.guest.serving(sending, ready=STARTED, seconds=LONGEST_SECONDS):
                await wait.pause(BEFORE_SECONDS)  # a stream that runs is what the fault has to hit
                await self._crash.kill()
            try:
                async with asyncio.TaskGroup() as group:
                    recovering = group.create_task(self._recovered(), name="recover")
                    group.create_task(self._resume(source, target.address, began, recovering), name="resume")
            except ExceptionGroup as failed:
                raise cause_of(failed) from failed
            await target.guest.run(f"kill -TERM {pid}", seconds=2)
            received = _succeeded(target, await receiving)
        if received["gap_lost"] < 1:
            raise WorkloadError(f"the stream saw nothing of the crash of `{self._crash.vm}`")
        return [_figure(self.row, gap_ms(received), {"lost": float(received["gap_lost"])})]

    async def _recovered(self) -> None:
        await self._crash.recover()
        await wait.pause(AFTER_SECONDS)

    async def _resume(self, source: GuestEnd, target: str, began: float, until: asyncio.Task[None]) -> None:
        """Go on with the stream from the new guest, from the number that it would have come to, for long enough."""
        await self._crash.ready()
        first = int((time.monotonic() - began) * RATE)
        command = send_command(source, target=target, seconds=LONGEST_SECONDS, first=first)
        sending = asyncio.ensure_future(source.guest.run(command, seconds=LONGEST_SECONDS))
        await asyncio.wait([sending, until], return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            raise WorkloadError(f"{source.vm}: the stream ended: {last_line(sending.result())}")
        sending.cancel()
        await asyncio.wait([sending])


@asynccontextmanager
async def _receiver(end: GuestEnd) -> AsyncIterator[tuple[asyncio.Task[Completed], int]]:
    """Receive for as long as the block lasts; yields its task, and its pid in the guest."""
    pids: list[int] = []

    def heard(line: str) -> None:
        if line.startswith(STARTED):
            pids.append(int(line.split()[1]))

    command = receive_command(end, seconds=LONGEST_SECONDS)
    async with end.guest.serving(command, ready=STARTED, seconds=LONGEST_SECONDS, on_line=heard) as task:
        yield task, pids[0]


def _succeeded(end: GuestEnd, done: Completed) -> Mapping[str, Any]:
    if done.status != 0:
        raise WorkloadError(f"{end.vm}: the agent failed with exit code {done.status}: {last_line(done)}")
    return parse(done.stdout)


def _figure(row: Row, value: float, extra: Mapping[str, float]) -> Figure:
    return Figure(
        workload="outage",
        metric=GAP,
        source=row.source,
        target=row.target,
        variant=row.variant,
        value=value,
        extra=extra,
    )
