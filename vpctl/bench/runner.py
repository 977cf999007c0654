"""Rounds: every task over every link, A B C A B C, a warm-up that counts for nothing first, then all the repeats.

What one link loses, the others keep: a guest that dies breaks its links and no other, a measurement that fails is
written down and tried again in the next round, and no more once it has failed twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vpctl import wait
from vpctl.bench.guest import GuestLostError, Raw
from vpctl.bench.workload import Figure, Pair, Plan, Row, Task, Workload, WorkloadError
from vpctl.errors import VpctlError
from vpctl.guest.ssh import GuestSshError

FAILURES_PER_TASK = 2

PATIENCE = 10.0
"""How many times its own estimate a measurement may take, and `PATIENCE_SECONDS` more, before it counts as hung."""
PATIENCE_SECONDS = 60.0

LAST_BREATH_SECONDS = 1.0
"""For a QEMU's process to end, once ssh into it broke."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedMeasurement:
    """A measurement that gave no figure. `round_` 0 is the warm-up."""

    link: str
    row: Row
    round_: int
    error: VpctlError


@dataclass(slots=True)
class Outcome:
    """Everything that came of a run."""

    figures: dict[str, list[Figure]] = field(default_factory=dict)
    """Link → figures in the order of their measurement, those of the warm-up left out."""
    failures: list[FailedMeasurement] = field(default_factory=list)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)
    """(link, workload) → why it was not run, or not to its end."""
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    """(link, workload) → how long it took, all repeats together."""


class Observer(Protocol):
    """Who is told how far a run is."""

    def began(self, link: str, row: Row, round_: int) -> None:
        """A measurement begins; round 0 is the warm-up."""

    def measured(self, link: str, figures: Sequence[Figure], round_: int, left: float) -> None:
        """One is done; `left` seconds or so to go."""

    def failed(self, failure: FailedMeasurement) -> None:
        """One gave no figure."""

    def broken(self, link: str, reason: str) -> None:
        """A link is not measured any more."""


@dataclass(slots=True)
class _Subject:
    """A link under test, with its tasks and what befell them."""

    pair: Pair
    tasks: list[Task]
    failures: dict[int, int] = field(default_factory=dict)
    """Index of a task → how often it failed."""
    broken: str | None = None

    @property
    def name(self) -> str:
        return self.pair.link.name


class Runner:
    """Measures links; `run` once."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        workloads: Mapping[str, Workload],
        plan: Plan,
        *,
        repeats: int,
        raw: Raw,
        observer: Callable[[Runner], Observer],
        probe: Callable[[Pair], Awaitable[str | None]],
    ) -> None:
        self._plan = plan
        self._repeats = repeats
        self._raw = raw
        self._probe = probe
        """Returns why a link carries no packets, or None if it does."""
        self.outcome = Outcome(figures={pair.link.name: [] for pair in pairs})
        self._subjects = [self._subject(pair, workloads) for pair in pairs]
        self._left = (repeats + 1) * sum(task.seconds for subject in self._subjects for task in subject.tasks)
        self._observer = observer(self)

    @property
    def estimate(self) -> float:
        """How many seconds are left, roughly."""
        return self._left

    async def run(self) -> Outcome:
        """Measure everything; errors of links and guests end up in the outcome."""
        for round_ in range(self._repeats + 1):
            for index, subject in self._order(round_):
                await self._measure(subject, index, round_)
        return self.outcome

    def _subject(self, pair: Pair, workloads: Mapping[str, Workload]) -> _Subject:
        tasks: list[Task] = []
        for name in self._plan.workloads:
            workload = workloads[name]
            missing = [
                f"`{end.vm}` has no `{need}`"
                for end in (pair.first, pair.second)
                for need in workload.needs
                if need in end.guest.facts.missing
            ]
            if missing:
                self.outcome.skipped[pair.link.name, name] = "; ".join(missing)
            else:
                tasks += workload.tasks(pair.link, self._plan)
        return _Subject(pair=pair, tasks=tasks)

    def _order(self, round_: int) -> Iterator[tuple[int, _Subject]]:
        """Yield each task over all links before the next; every round begins with another link."""
        most = max((len(subject.tasks) for subject in self._subjects), default=0)
        first = round_ % len(self._subjects) if self._subjects else 0
        turned = self._subjects[first:] + self._subjects[:first]
        return ((index, s) for index, s in itertools.product(range(most), turned) if index < len(s.tasks))

    async def _measure(self, subject: _Subject, index: int, round_: int) -> None:
        task = subject.tasks[index]
        self._left -= task.seconds
        if subject.broken is not None:
            self._skip(subject, (task.row.workload, *task.row.also), f"the link broke: {subject.broken}")
            return
        if subject.failures.get(index, 0) >= FAILURES_PER_TASK:
            self._skip(subject, (task.row.workload,), f"{task.row} failed {FAILURES_PER_TASK} times")
            return
        self._raw.about(link=subject.name, workload=task.row.workload, round_=round_)
        self._observer.began(subject.name, task.row, round_)
        began = time.monotonic()
        try:
            figures = await self._one(subject.pair, task)
        except VpctlError as error:
            await self._failed(subject, index, round_, error)
        else:
            if round_ > 0:
                self.outcome.figures[subject.name] += figures
            self._observer.measured(subject.name, figures, round_, self._left)
        finally:
            key = subject.name, task.row.workload
            self.outcome.seconds[key] = self.outcome.seconds.get(key, 0.0) + time.monotonic() - began

    def _skip(self, subject: _Subject, workloads: Sequence[str], reason: str) -> None:
        """Note why workloads are not run to their end; the first reason stands."""
        for workload in workloads:
            self.outcome.skipped.setdefault((subject.name, workload), reason)

    async def _one(self, pair: Pair, task: Task) -> list[Figure]:
        limit = PATIENCE * task.seconds + PATIENCE_SECONDS
        work = task.measure(pair)
        if self._plan.crash is None:
            # A dead QEMU has to fail now, not when the last of several time-outs is over.
            work = wait.first(work, unless=lost(pair))
        try:
            async with asyncio.timeout(limit):
                return await work
        except TimeoutError as error:
            raise WorkloadError(f"not done within {limit:.0f} s") from error
        except GuestSshError as error:
            # The connection of a QEMU that was killed breaks a moment before its process has gone.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_BREATH_SECONDS):
                    raise await lost(pair) from error
            raise
        except VpctlError:
            raise
        except Exception as error:
            # A bug of ours at one measurement must not cost the figures of all the others.
            message = f"unexpected {type(error).__name__}: {error}"
            raise WorkloadError(message, hint="a bug of vpctl: the raw outputs say more") from error

    async def _failed(self, subject: _Subject, index: int, round_: int, error: VpctlError) -> None:
        row = subject.tasks[index].row
        failure = FailedMeasurement(link=subject.name, row=row, round_=round_, error=error)
        self.outcome.failures.append(failure)
        self._observer.failed(failure)
        self._skip(subject, row.also, f"{row} failed: {error.message}")
        subject.failures[index] = subject.failures.get(index, 0) + 1
        reason = error.message if isinstance(error, GuestLostError) else await self._probe(subject.pair)
        if reason is not None:
            subject.broken = reason
            self._observer.broken(subject.name, reason)


async def lost(pair: Pair) -> VpctlError:
    """Wait until one of the two guests has ended; return the error that this is."""
    ends = [asyncio.ensure_future(end.guest.lost()) for end in (pair.first, pair.second)]
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for end in ends:
            end.cancel()
        await asyncio.wait(ends)
