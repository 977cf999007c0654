"""A benchmark of a topology that runs: log in to its guests, measure its links, put the result together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import vpctl
from vpctl.bench.counters import GuestEnd
from vpctl.bench.guest import Guest, Raw
from vpctl.bench.host import Load, host_record
from vpctl.bench.results import stats
from vpctl.bench.results.result import (
    BenchResult,
    Failure,
    HostRecord,
    LinkRecord,
    Sample,
    Settings,
    Skip,
    Timing,
)
from vpctl.bench.runner import FailedMeasurement, Observer, Outcome, Runner
from vpctl.bench.workload import Figure, Pair, Plan
from vpctl.bench.workloads import WORKLOADS
from vpctl.errors import NotFoundError, VpctlError, cause_of
from vpctl.guest import agent as guest_agent
from vpctl.guest import ssh as guest_ssh
from vpctl.guest import traffic
from vpctl.plan.run import Run
from vpctl.process import identify
from vpctl.topology.model import LinkSpec

PROGRAMS = ("iperf3", "ping")

PROBE_SECONDS = 5.0
"""For a link on which a measurement failed to show that it carries packets all the same."""

MANY_OBSERVATIONS = 10_000
"""Fewer say nothing about one in a thousand."""


def open_guest(entry: Mapping[str, Any], raw: Raw) -> Guest:
    """Return a guest from its entry in `status`; NotFoundError if it does not run."""
    vm = entry["name"]
    process = identify(entry["pid"]) if entry["pid"] else None
    if entry["state"] != "ready":
        raise NotFoundError(f"VM `{vm}` is {entry['state']}, not ready", hint=f"vpctl recover {vm}")
    if process is None:
        raise NotFoundError(f"the QEMU of VM `{vm}` has ended", hint=f"vpctl recover {vm}")
    address = guest_ssh.Address.from_status(entry)
    return Guest(vm, address=address, process=process, agent=entry.get("agent") or guest_agent.BUILT_IN, raw=raw)


@asynccontextmanager
async def guests(status: Mapping[str, Any], vms: Sequence[str], raw: Raw) -> AsyncIterator[dict[str, Guest]]:
    """Be logged in to some VMs for as long as the block lasts; they are as they were afterwards."""
    opened = {entry["name"]: open_guest(entry, raw) for entry in status["vms"] if entry["name"] in vms}
    try:
        try:
            async with asyncio.TaskGroup() as group:
                for guest in opened.values():
                    group.create_task(_enter(guest), name=f"enter-{guest.vm}")
        except ExceptionGroup as failed:
            raise cause_of(failed) from failed
        yield opened
    finally:
        for guest in opened.values():
            with contextlib.suppress(VpctlError):  # one that died has nothing to be put back
                await guest.restore()
            await guest.close()


async def _enter(guest: Guest) -> None:
    await guest.connect()
    await guest.prepare(list(PROGRAMS))


def pair_of(link: LinkSpec, opened: Mapping[str, Guest]) -> Pair:
    """Return a link under test."""
    first, second = (GuestEnd(guest=opened[end.vm], end=end, link=link.name) for end in link.endpoints)
    return Pair(link=link, first=first, second=second)


async def why_broken(pair: Pair) -> str | None:
    """Return why a link carries no packets, None if it does; logs in anew, as the connection may be what broke."""
    try:
        ends = []
        for end in (pair.first, pair.second):
            await end.guest.connect()
            ends.append(end.guest.at(end.end))
    except VpctlError as error:
        return error.message
    checks = await traffic.probe_both_ways(pair.link, ends[0], ends[1], count=1, seconds=PROBE_SECONDS)
    failed = [check for check in checks if not check["ok"]]
    return f"no packets from `{failed[0]['from']}` to `{failed[0]['to']}`: {failed[0]['reason']}" if failed else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be measured, and of what."""

    run: Run
    links: Sequence[LinkSpec]
    plan: Plan
    repeats: int
    load_before: Load


async def measure(
    request: Request,
    opened: Mapping[str, Guest],
    *,
    raw: Raw,
    observer: Callable[[Runner], Observer],
) -> BenchResult:
    """Measure links and return the result; what went wrong with them is in there."""
    began, started = time.monotonic(), datetime.now(UTC)
    pairs = [pair_of(link, opened) for link in request.links]
    runner = Runner(
        pairs, WORKLOADS, request.plan, repeats=request.repeats, raw=raw, observer=observer, probe=why_broken
    )
    outcome = await runner.run()
    machines = [machine for vm, machine in request.run.machines.items() if vm in opened]
    host = host_record(machines, {vm: guest.facts.kernel for vm, guest in opened.items()}, before=request.load_before)
    seconds = round(time.monotonic() - began, 1)
    return assemble(
        request, outcome, host=host, started=started.isoformat(timespec="seconds"), seconds=seconds, raw=raw
    )


def assemble(
    request: Request, outcome: Outcome, *, host: HostRecord, started: str, seconds: float, raw: Raw
) -> BenchResult:
    """Put a result together."""
    kinds = {link.name: link.kind for link in request.links}
    crash = request.plan.crash
    return BenchResult(
        vpctl_version=vpctl.__version__,
        started=started,
        seconds=seconds,
        host=host,
        topology=request.run.topology.name,
        links=[_link_record(link) for link in request.links],
        settings=Settings(
            workloads=list(request.plan.workloads),
            repeats=request.repeats,
            duration=request.plan.duration,
            quick=request.plan.quick,
            crash=crash.vm if crash is not None else None,
        ),
        samples=list(samples(outcome, kinds)),
        failures=[_failure(failed, kinds) for failed in outcome.failures],
        skipped=[
            Skip(link=link, kind=kinds[link], workload=workload, reason=reason)
            for (link, workload), reason in outcome.skipped.items()
        ],
        timings=[
            Timing(link=link, kind=kinds[link], workload=workload, seconds=round(spent, 3))
            for (link, workload), spent in outcome.seconds.items()
        ],
        raw=raw.records,
    )


def samples(outcome: Outcome, kinds: Mapping[str, str]) -> Iterator[Sample]:
    """Yield a row for each thing that was measured, workload by workload, its links one after the other."""
    rows: dict[tuple[str, ...], dict[str, list[Figure]]] = {}
    for link, figures in outcome.figures.items():
        for figure in figures:
            key = (figure.workload, figure.metric.name, figure.variant or "", figure.source, figure.target)
            rows.setdefault(key, {}).setdefault(link, []).append(figure)
    order = list(WORKLOADS)
    for _, links in sorted(rows.items(), key=lambda item: order.index(item[0][0])):
        for link, figures in links.items():
            yield _sample(link, kinds[link], figures)


def _sample(link: str, kind: str, figures: Sequence[Figure]) -> Sample:
    one = figures[0]
    values = [figure.value for figure in figures]
    observed = [value for figure in figures for value in figure.observations]
    percentiles: dict[str, Any] = {}
    if observed:
        percentiles = {f"p{percent}": round(stats.percentile(observed, percent), 3) for percent in (50, 90, 95, 99)}
        percentiles["observations"] = len(observed)
        if len(observed) >= MANY_OBSERVATIONS:
            percentiles["p999"] = round(stats.percentile(observed, 99.9), 3)
    return Sample(
        link=link,
        kind=kind,
        workload=one.workload,
        metric=one.metric.name,
        unit=one.metric.unit,
        better=one.metric.better,
        source=one.source,
        target=one.target,
        variant=one.variant,
        values=values,
        median=stats.median(values),
        interval=stats.median_interval(values),
        extra={name: [figure.extra[name] for figure in figures] for name in one.extra},
        **percentiles,
    )


def _link_record(link: LinkSpec) -> LinkRecord:
    first, second = (end.vm for end in link.endpoints)
    return LinkRecord(name=link.name, kind=link.kind, endpoints=(first, second), mtu=link.mtu, queues=link.queues)


def _failure(failed: FailedMeasurement, kinds: Mapping[str, str]) -> Failure:
    return Failure(
        link=failed.link,
        kind=kinds[failed.link],
        workload=failed.row.workload,
        source=failed.row.source,
        target=failed.row.target,
        variant=failed.row.variant,
        round=failed.round_,
        message=failed.error.message,
        hint=failed.error.hint,
    )
