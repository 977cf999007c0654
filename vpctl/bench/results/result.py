"""A benchmark's result as it is written to a file: `bench` of the contract, and its JSON Schema.

A *row* is what stays the same from one repeat to the next: link, workload, metric, direction and variant. Only rows
are compared, and only with their like.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vpctl.errors import HostError, UsageError
from vpctl.rundir import write_atomic

Better = Literal["higher", "lower"]

LARGEST_FILE = 256 << 20
"""Bytes of a result file that are read."""


class Shape(BaseModel):
    """A mapping of a result file; keys of a later vpctl are passed over, as the contract allows them."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore")


class GuestRecord(Shape):
    """One VM, as far as it matters for speed."""

    name: str
    qemu_version: str
    accelerator: str
    cpu_model: str
    machine: str
    cpus: int
    memory: int = Field(description="bytes")
    kernel: str = Field(description="the guest's kernel release")


class HostRecord(Shape):
    """Where the figures come from: without the same host, two results say little about each other."""

    cpu: str
    cores: int
    memory: int = Field(description="bytes")
    kernel: str
    governor: str | None = Field(default=None, description="frequency governor of CPU 0")
    datagram_queue: int | None = Field(
        default=None, description="net.unix.max_dgram_qlen, which bounds the kind `dgram`: 10 or 512"
    )
    vms: list[GuestRecord]
    load_before: tuple[float, float, float] = Field(description="1, 5 and 15 minutes, before anything was booted")
    load_after: tuple[float, float, float]


class Settings(Shape):
    """What was asked for."""

    workloads: list[str]
    repeats: int
    duration: int = Field(description="seconds of one throughput measurement")
    quick: bool = False
    crash: str | None = Field(default=None, description="the VM that `outage` killed")


class LinkRecord(Shape):
    """A link that was measured."""

    name: str
    kind: str
    endpoints: tuple[str, str]
    mtu: int
    queues: int


class RowKey(NamedTuple):
    """What makes two samples of different results the same row."""

    link: str
    kind: str
    workload: str
    metric: str
    source: str
    target: str
    variant: str | None


class Sample(Shape):
    """One row: a value per repeat, and what they come to."""

    link: str
    kind: str
    workload: str
    metric: str
    unit: str
    better: Better
    source: Annotated[str, Field(alias="from")]
    target: Annotated[str, Field(alias="to")]
    variant: str | None = Field(default=None, description="what distinguishes rows of one workload: `64 B`")
    values: list[float] = Field(description="one per repeat, in their order, warm-up left out")
    median: float
    interval: tuple[float, float] | None = Field(
        default=None, description="95 % bootstrap interval of the median; from three values on"
    )
    p50: float | None = Field(
        default=None, description="of every single observation of all repeats, as are p90 to p99.9"
    )
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = Field(default=None, alias="p99.9", description="from 10,000 observations on")
    observations: int | None = Field(default=None, description="how many these percentiles are of")
    extra: dict[str, list[float]] = Field(
        default_factory=dict, description="what else was seen, one per repeat: `loss_percent`, `sent_rate`"
    )

    @property
    def key(self) -> RowKey:
        """Return what this row is compared by."""
        return RowKey(self.link, self.kind, self.workload, self.metric, self.source, self.target, self.variant)


class Failure(Shape):
    """A measurement that gave no figure."""

    link: str
    kind: str
    workload: str
    source: Annotated[str | None, Field(alias="from")] = None
    target: Annotated[str | None, Field(alias="to")] = None
    variant: str | None = None
    round: int = Field(description="0: the warm-up")
    message: str
    hint: str | None = None


class Skip(Shape):
    """A workload that was not run, or not to its end, on a link, and why."""

    link: str
    kind: str
    workload: str
    reason: str


class Timing(Shape):
    """How long a workload took on a link, all repeats together."""

    link: str
    kind: str
    workload: str
    seconds: float


class Comparison(Shape):
    """One row of one side against the same row of another."""

    workload: str
    metric: str
    unit: str
    better: Better
    variant: str | None = None
    source: Annotated[str, Field(alias="from")]
    target: Annotated[str, Field(alias="to")]
    old_link: str
    old_kind: str
    new_link: str
    new_kind: str
    old_median: float
    new_median: float | None = Field(default=None, description="null: there is no figure, see `verdict`")
    ratio: float | None = Field(default=None, description="new median / old median")
    ratio_interval: tuple[float, float] | None = Field(default=None, description="95 % bootstrap interval of it")
    p: float | None = Field(default=None, description="permutation test, two-sided")
    p_adjusted: float | None = Field(default=None, description="the same after Holm's correction over all rows")
    threshold_percent: float = Field(description="the least change that counts")
    verdict: Literal["better", "worse", "same", "unclear", "missing"]
    reason: str | None = Field(default=None, description="why it is unclear or missing")


class RawRecord(Shape):
    """One command as it ran in a guest."""

    link: str
    workload: str
    vm: str
    round: int
    command: str
    status: int | None
    stdout: str
    stderr: str


class RawFile(Shape):
    """Where the raw outputs are: a gzip of JSON lines, each a RawRecord, in the result's own directory."""

    file: str
    records: int


class BenchResult(Shape):
    """A whole result file."""

    schema_version: Literal[1] = 1
    vpctl_version: str
    started: str = Field(description="ISO 8601, UTC")
    seconds: float
    host: HostRecord
    topology: str
    links: list[LinkRecord]
    settings: Settings
    samples: list[Sample]
    comparisons: list[Comparison] = Field(
        default_factory=list, description="of `--compare-kinds`: each kind against the first"
    )
    failures: list[Failure] = Field(default_factory=list)
    skipped: list[Skip] = Field(default_factory=list)
    timings: list[Timing] = Field(default_factory=list)
    raw: RawFile | list[RawRecord] = Field(description="in a file beside this one, or in here")

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON data, with the names that the contract has; keys that say nothing are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def result_schema() -> dict[str, Any]:
    """Return the JSON Schema of a result file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **BenchResult.model_json_schema(by_alias=True),
    }


def raw_path(path: Path) -> Path:
    """Return where the raw outputs of a result file are kept."""
    return path.with_name(f"{path.name.removesuffix('.json')}.raw.jsonl.gz")


def write_result(path: Path, result: BenchResult) -> BenchResult:
    """Write a result, its raw outputs compressed beside it; returns it as written. Raises HostError."""
    if isinstance(result.raw, list):
        lines = "".join(json.dumps(record.model_dump(mode="json")) + "\n" for record in result.raw)
        write_atomic(raw_path(path), gzip.compress(lines.encode(), mtime=0), mode=0o644)
        result = result.model_copy(update={"raw": RawFile(file=raw_path(path).name, records=len(result.raw))})
    write_atomic(path, json.dumps(result.as_json(), indent=1) + "\n", mode=0o644)
    return result


def read_result(path: Path) -> BenchResult:
    """Read a result file; UsageError if it cannot be read or is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="vpctl bench -o FILE writes one") from error
    if len(content) > LARGEST_FILE:
        raise UsageError(f"{path} is too large to be a result", hint="vpctl bench -o FILE writes one")
    try:
        return BenchResult.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise UsageError(
            f"{path} is no result of `vpctl bench`: {what}",
            hint="vpctl bench -o FILE writes one",
        ) from error


def require_writable(path: Path) -> None:
    """Raise HostError if a result could not be written: better now than after an hour."""
    probe = path.with_name(f".{path.name}.try")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}", hint="choose another file with `-o`") from error
