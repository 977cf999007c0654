"""A benchmark as a command runs it: of the topology that runs, of a file's, or of a pair with a link of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from vpctl import wait
from vpctl.bench.guest import Guest, Raw
from vpctl.bench.host import Load, load_average
from vpctl.bench.kind_topology import comparison, parse_kinds
from vpctl.bench.results.compare import Thresholds, rows_of_kinds
from vpctl.bench.results.result import BenchResult
from vpctl.bench.runner import Observer, Runner
from vpctl.bench.session import Request, guests, open_guest
from vpctl.bench.session import measure as measure_links
from vpctl.bench.workload import Crash, Plan
from vpctl.client.connection import connect
from vpctl.client.context import ClientContext
from vpctl.client.start import begin, require_proved, undo, wait_for_up
from vpctl.client.topology_file import kind_rules, load_file
from vpctl.errors import NotFoundError, UsageError, VerificationError
from vpctl.plan.run import run_from_json
from vpctl.rundir import RunDir, read_json
from vpctl.topology.model import LinkSpec, Topology

POLL_SECONDS = 0.05
REBIRTH_SECONDS = 300.0
"""For the next generation of a VM that was killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """What the command line asked for, defaults filled in."""

    links: Sequence[str]
    workloads: Sequence[str]
    quick: bool
    repeats: int
    duration: int
    crash: str | None


class _Observing(Protocol):
    """Makes what shows a benchmark's progress for as long as a block lasts."""

    def __call__(self, *, repeats: int) -> AbstractContextManager[Callable[[Runner], Observer]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """How a command shows what happens: a boot's journal entries, and the figures so far."""

    boot: Callable[[], Callable[[Mapping[str, Any]], None]]
    bench: _Observing


async def measured(rundir: RunDir, options: BenchOptions, views: Views) -> BenchResult:
    """Measure a topology that runs."""
    return await measure(rundir, options, views, before=load_average())


async def measured_file(context: ClientContext, file: Path, options: BenchOptions, views: Views) -> BenchResult:
    """Measure a file's topology, which is booted for it unless it runs."""
    before = load_average()
    topology = load_file(file, context.environ)
    chosen_links(topology, options.links)
    async with booted(context, topology, views, source=source_of(file)) as run:
        return await run.keeping(measure(run.rundir, options, views, before=before))


async def measured_kinds(
    context: ClientContext, file: Path, kinds: str, options: BenchOptions, views: Views, *, apart: bool
) -> BenchResult:
    """Measure a pair of a file with a link of each kind."""
    before = load_average()
    topology = load_file(file, context.environ)
    rules = kind_rules()
    names = parse_kinds(kinds, rules)
    links = chosen_links(topology, options.links)
    if len(options.links) > 1:
        raise UsageError("`--compare-kinds` takes the pair of one link", hint="give `--link` once")
    derived = comparison(topology, links[0], names, rules, apart=apart)
    async with booted(context, derived, views, source=source_of(file)) as run:
        return await run.keeping(measure(run.rundir, replace(options, links=[]), views, before=before))


def source_of(file: Path) -> str:
    """Return where a topology file lies, as the run keeps it."""
    return str(file.absolute())


@dataclass(slots=True)
class BootedTopology:
    """A topology that runs to be measured."""

    rundir: RunDir
    keep_logs: bool = True
    """Whether its logs are of use once it is stopped: unless everything went well."""

    async def keeping(self, measuring: Awaitable[BenchResult]) -> BenchResult:
        """Await a result; the logs stay if something in it failed."""
        result = await measuring
        self.keep_logs = bool(result.failures)
        return result


@asynccontextmanager
async def booted(
    context: ClientContext, topology: Topology, views: Views, *, source: str
) -> AsyncIterator[BootedTopology]:
    """Have a topology running for as long as the block lasts; one that ran before is left running.

    What was booted for it is stopped afterwards; its logs stay unless all went well.
    """
    rundir, ours = await begin(context, topology, source=source)
    outcome = await wait_for_up(context, rundir, ours=ours, keep=False, on_event=views.boot())
    run = BootedTopology(rundir=rundir)
    try:
        require_proved(outcome)
        yield run
    except BaseException:
        if ours is not None:
            await undo(context, rundir.name, ours)
        raise
    if ours is not None:
        with context.log.step(f"stopping `{rundir.name}`"):
            await undo(context, rundir.name, ours, keep_logs=run.keep_logs)


async def measure(rundir: RunDir, options: BenchOptions, views: Views, *, before: Load) -> BenchResult:
    """Measure a topology that runs; `before` is the host's load before anything was booted for it."""
    spec: Any = read_json(rundir.spec)
    run = run_from_json(spec)
    links = chosen_links(run.topology, options.links)
    async with connect(rundir) as supervisor:
        status = await supervisor.execute("query-status")
    require_up(status, links)
    raw = Raw()
    vms = list(dict.fromkeys(end.vm for one in links for end in one.endpoints))
    async with guests(status, vms, raw) as opened:
        plan = Plan(
            workloads=options.workloads,
            duration=options.duration,
            quick=options.quick,
            crash=crash_of(rundir, options.crash, links, opened),
        )
        request = Request(run=run, links=links, plan=plan, repeats=options.repeats, load_before=before)
        with views.bench(repeats=options.repeats) as observer:
            return await measure_links(request, opened, raw=raw, observer=observer)


def chosen_links(topology: Topology, names: Sequence[str]) -> list[LinkSpec]:
    """Return the links that are asked for, or all; NotFoundError for a name that no link has."""
    known = {link.name: link for link in topology.links}
    for name in names:
        if name not in known:
            listed = ", ".join(f"`{other}`" for other in known) or "none"
            raise NotFoundError(f"no link named `{name}` in `{topology.name}`", hint=f"links are {listed}")
    if not known:
        raise NotFoundError(f"`{topology.name}` has no links to be measured")
    return [known[name] for name in dict.fromkeys(names)] or list(topology.links)


def require_up(status: Mapping[str, Any], links: Sequence[LinkSpec]) -> None:
    """Raise VerificationError unless the links are up: a figure of a broken one would be of nothing."""
    states = {entry["name"]: entry["state"] for entry in status["links"]}
    for link in links:
        if states[link.name] != "up":
            raise VerificationError(f"link `{link.name}` is {states[link.name]}", hint="vpctl status")


def crash_of(rundir: RunDir, vm: str | None, links: Sequence[LinkSpec], opened: Mapping[str, Guest]) -> Crash | None:
    """Return how `outage` kills a VM and gets it back, by the supervisor."""
    if vm is None:
        return None
    if vm not in opened:
        known = ", ".join(f"`{name}`" for name in opened)
        raise NotFoundError(f"no VM named `{vm}` at a link that is measured", hint=f"VMs are {known}")

    async def kill() -> None:
        async with connect(rundir) as supervisor:
            await supervisor.execute("crash", vm=vm, how="kill")

    async def recover() -> None:
        async with connect(rundir) as supervisor:
            await supervisor.job("recover", vm=vm)

    async def ready() -> None:
        await reopened(rundir, opened[vm])

    return Crash(vm=vm, kill=kill, recover=recover, ready=ready)


async def reopened(rundir: RunDir, guest: Guest) -> None:
    """Wait for the next generation of a VM, and log in to it."""
    async with connect(rundir) as supervisor:

        async def reborn() -> Any:
            status = await supervisor.execute("query-status")
            (entry,) = (entry for entry in status["vms"] if entry["name"] == guest.vm)
            if entry["state"] in ("failed", "stopped"):
                raise VerificationError(f"`{guest.vm}` is {entry['state']}", hint=f"vpctl recover {guest.vm}")
            # Without a process it has ended a moment ago, and is about to be called so.
            is_another = entry["pid"] not in (None, guest.process.pid)
            return entry if entry["state"] == "ready" and is_another else None

        entry = await wait.until(reborn, timeout=REBIRTH_SECONDS, what=f"`{guest.vm}` to be back", every=POLL_SECONDS)
    await guest.replaced_by(open_guest(entry, guest.raw))


def compared(result: BenchResult, thresholds: Thresholds) -> BenchResult:
    """Add what the kinds' rows come to, each against the first kind's."""
    rows = rows_of_kinds(result, thresholds)
    return result.model_copy(update={"comparisons": rows})
