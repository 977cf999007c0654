"""What a workload is: tasks, each of which measures one thing over one link once and returns figures.

The commands that a task runs and what it reads from their output are pure functions of the workload's own file;
`measure` puts them together. Rounds, order, failures and what becomes of the figures are the runner's affair.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from vpctl.bench.counters import GuestEnd
from vpctl.errors import VerificationError
from vpctl.topology.model import LinkSpec

Better = Literal["higher", "lower"]


class WorkloadError(VerificationError):
    """A measurement gave no figure that can be trusted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a workload tells: its unit, and which way is better."""

    name: str
    unit: str
    better: Better


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One value of one row."""

    workload: str
    metric: Metric
    source: str
    target: str
    value: float
    variant: str | None = None
    observations: tuple[float, ...] = ()
    """Every single observation behind the value, where there are any: the rtt of each ping."""
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Crash:
    """How `outage` kills a VM in the middle of its stream, and has it brought back."""

    vm: str
    kill: Callable[[], Awaitable[None]]
    recover: Callable[[], Awaitable[None]]
    """Returns once every link of the VM is verified again."""
    ready: Callable[[], Awaitable[None]]
    """Returns once the new guest has been logged in to: its `GuestEnd` is of use again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is asked of every workload."""

    workloads: Sequence[str]
    duration: int
    """Seconds of one throughput measurement."""
    quick: bool = False
    crash: Crash | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A link under test, with its two ends."""

    link: LinkSpec
    first: GuestEnd
    second: GuestEnd

    def directed(self, source: str) -> tuple[GuestEnd, GuestEnd]:
        """Return (source, target), the source being the end at this VM."""
        return (self.first, self.second) if self.first.vm == source else (self.second, self.first)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What a task measures, for progress and for what is said of its failure."""

    workload: str
    source: str
    target: str
    variant: str | None = None
    also: tuple[str, ...] = ()
    """Workloads whose figures come of the same measurement."""

    def __str__(self) -> str:
        variant = f" {self.variant}" if self.variant is not None else ""
        return f"{self.workload}{variant} {self.source} to {self.target}"


class Task(Protocol):
    """Something that is measured over one link, again and again; it may learn from one time to the next."""

    @property
    def row(self) -> Row:
        """What it measures."""

    @property
    def seconds(self) -> float:
        """How long one measurement takes, roughly."""

    async def measure(self, pair: Pair) -> list[Figure]:
        """Measure once. Raises WorkloadError, or GuestSshError if the guest cannot be reached."""


class Workload(Protocol):
    """A workload: which tasks it comes to on a link."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Programs (and `pktgen`, the module) that a guest must have."""

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        """Return its tasks on a link; fresh ones, as they have a memory."""
