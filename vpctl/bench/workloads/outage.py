"""Workload `outage`: the longest gap that a numbered stream of 1,000 datagrams per second sees.

Without a fault it tells how long a link, or the guests at it, may stall. With one (`--crash VM`) it tells how long
the link is gone: the stream from the VM that is killed goes on from the new guest, and the survivor's receiver, which
sees it all, measures from the last datagram of the old guest to the first of the new one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from vpctl import wait
from vpctl.bench.counters import GuestEnd, confirm, counted
from vpctl.bench.guest import last_line
from vpctl.bench.workload import Crash, Figure, Metric, Pair, Plan, Row, Task, WorkloadError
from vpctl.errors import cause_of
from vpctl.guest.ssh import Completed
from vpctl.topology.model import LinkSpec

GAP = Metric(name="gap", unit="ms", better="lower")

RATE = 1000
"""Datagrams per second: the resolution is a millisecond."""

BEFORE_SECONDS, AFTER_SECONDS = 1.0, 0.5
"""How long the stream runs before the fault, and after the link has been verified again and the stream goes on."""

LONGEST_SECONDS = 300
"""No stream around a crash, and no recovery, lasts longer."""

GUARD_SECONDS = 10
"""A receiver ends by itself so long after its stream should have: nobody may be left to end it."""

STARTED = "started"

LARGEST = (1 << 63) - 1
"""Of any number in a report."""

MOST_SHOWN = 200
"""Characters of what is no report."""

SENDER = ("sent", "last_seq")
RECEIVER = ("received", "lost", "corrupt", "last_seq", "longest_gap_ms", "gap_lost")
"""What is used of their reports."""


def send_command(end: GuestEnd, *, target: str, seconds: float, first: int = 0) -> str:
    """Return the stream's sender, by the guest's agent; numbers begin with `first`."""
    command = f"{end.guest.agent} stream-send {end.link} {target} --rate {RATE} --first {first}"
    return f"echo {STARTED}; exec {command} --duration-ms {seconds * 1000:.0f}"


def receive_command(end: GuestEnd, *, seconds: float) -> str:
    """Return the stream's receiver; it begins with a line that has its process's pid in the guest."""
    command = f"{end.guest.agent} stream-recv {end.link} --duration-ms {seconds * 1000:.0f}"
    return f"echo {STARTED} $$; exec {command}"


def parse(text: str, keys: Sequence[str]) -> Mapping[str, float]:
    """Return what a sender or receiver reported, below the line that it began with.

    WorkloadError if that is nothing, or lacks one of the keys.
    """
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        report = json.loads(lines[-1])
        return {key: _number(report[key]) for key in keys}
    except IndexError as error:
        raise WorkloadError(f"the agent reported nothing: {text.strip()[-MOST_SHOWN:]!r}") from error
    except (KeyError, ValueError, RecursionError) as error:
        raise WorkloadError(f"the agent reported {lines[-1][-MOST_SHOWN:]!r}: {error}") from error


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{value!r:.40} is no number")
    return value


def gap_ms(received: Mapping[str, float], *, last: float | None = None) -> float:
    """Return the longest gap; WorkloadError if there was no stream, or it came damaged.

    `last` is the number of the last datagram that was sent: if it did not arrive, there was a gap until the end,
    which no receiver sees.
    """
    if received["corrupt"]:
        raise WorkloadError(f"{received['corrupt']:g} datagrams of the stream came damaged")
    if received["received"] < 2:
        raise WorkloadError("nothing arrived of the stream")
    missing = last - received["last_seq"] if last is not None else 0
    return max(received["longest_gap_ms"], missing * 1000 / RATE)


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
        limit = self._duration + GUARD_SECONDS
        async with counted(source, target) as traffic, _receiver(target, seconds=limit) as (receiving, pid):
            sending = send_command(source, target=target.address, seconds=self._duration)
            sent = _succeeded(source, await source.guest.run(sending, seconds=self._duration), SENDER)
            # Not by a time of its own: the sender may have begun late.
            await target.guest.ask(f"kill -TERM {pid}")
            received = _succeeded(target, await receiving, RECEIVER)
        gap = gap_ms(received, last=sent["last_seq"])
        confirm(traffic, source=source, target=target, packets=int(received["received"]))
        return [_figure(self.row, gap, {"lost": received["lost"], "sent": sent["sent"]})]


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
        async with _receiver(target, seconds=LONGEST_SECONDS) as (receiving, pid):
            began = time.monotonic()
            sending = send_command(source, target=target.address, seconds=LONGEST_SECONDS)
            async with source.guest.serving(sending, what="the stream", ready=STARTED, seconds=LONGEST_SECONDS):
                await wait.pause(BEFORE_SECONDS)  # a stream that runs is what the fault has to hit
                await self._crash.kill()
            try:
                async with asyncio.TaskGroup() as group:
                    recovering = group.create_task(self._recovered(), name="recover")
                    group.create_task(self._resume(source, target.address, began, recovering), name="resume")
            except ExceptionGroup as failed:
                raise cause_of(failed) from failed
            await source.guest.prepare_again()
            await target.guest.ask(f"kill -TERM {pid}")
            received = _succeeded(target, await receiving, RECEIVER)
        if received["gap_lost"] < 1:
            raise WorkloadError(f"the stream saw nothing of the crash of `{self._crash.vm}`")
        return [_figure(self.row, gap_ms(received), {"lost": received["gap_lost"]})]

    async def _recovered(self) -> None:
        await self._crash.recover()

    async def _resume(self, source: GuestEnd, target: str, began: float, recovering: asyncio.Task[None]) -> None:
        """Go on with the stream from the new guest, from the number that it would have come to, for long enough."""
        await self._crash.ready()
        first = int((time.monotonic() - began) * RATE)
        command = send_command(source, target=target, seconds=LONGEST_SECONDS, first=first)
        started = asyncio.Event()

        def heard(line: str) -> None:
            if line.startswith(STARTED):
                started.set()

        async def enough() -> None:
            await asyncio.wait([recovering])
            await started.wait()  # which a busy guest may take longer for than the rest of the recovery took
            await wait.pause(AFTER_SECONDS)

        run = source.guest.run(command, seconds=LONGEST_SECONDS, on_line=heard)
        sending, done = asyncio.create_task(run, name="stream"), asyncio.create_task(enough(), name="enough")
        try:
            await asyncio.wait([sending, done], return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise WorkloadError(f"{source.vm}: the stream ended: {last_line(sending.result())}")
        finally:
            for task in (sending, done):
                task.cancel()
            await asyncio.wait([sending, done])


@asynccontextmanager
async def _receiver(end: GuestEnd, *, seconds: float) -> AsyncIterator[tuple[asyncio.Task[Completed], int]]:
    """Receive for as long as the block lasts; yields its task, and its pid in the guest."""
    pids: list[int] = []

    def heard(line: str) -> None:
        if line.startswith(STARTED):
            pids.append(int(line.split()[1]))

    command = receive_command(end, seconds=seconds)
    async with end.guest.serving(command, what="the stream", ready=STARTED, seconds=seconds, on_line=heard) as task:
        yield task, pids[0]


def _succeeded(end: GuestEnd, done: Completed, keys: Sequence[str]) -> Mapping[str, float]:
    if done.status != 0:
        raise WorkloadError(f"{end.vm}: the agent failed with exit code {done.status}: {last_line(done)}")
    return parse(done.stdout, keys)


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
