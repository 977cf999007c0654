"""`vpctl bench`: packets measured inside the guests, over ssh."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import NotFoundError, UsageError, VerificationError, VpctlError

if TYPE_CHECKING:
    from vpctl.bench.guest import Guest
    from vpctl.bench.results.result import BenchResult
    from vpctl.bench.workload import Crash
    from vpctl.rundir import RunDir
    from vpctl.topology.model import LinkSpec, Topology

REPEATS, QUICK_REPEATS = 7, 3
DURATION, QUICK_DURATION = 2, 1
POLL_SECONDS = 0.05
REBIRTH_SECONDS = 300.0


async def bench(
    context: Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A topology to boot for it; without: the one that runs.")
    ] = None,
    link: Annotated[
        list[str] | None, typer.Option("--link", metavar="LINK", help="Only this link; repeatable.")
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload", "-w", metavar="NAME,…", help="ping, tcp, cpu, tcp-bidir, udp, pktgen, outage; repeatable."
        ),
    ] = None,
    compare_kinds: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Boot FILE's pair with a link of each kind, and compare them with A."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Less of everything: {QUICK_REPEATS} repeats, one frame size.")
    ] = False,
    repeats: Annotated[
        int | None, typer.Option(min=1, max=1000, metavar="N", help=f"Figures per row; default {REPEATS}.")
    ] = None,
    duration: Annotated[
        int | None, typer.Option(min=1, max=600, metavar="SECONDS", help=f"Of one transfer; default {DURATION}.")
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option("--threshold", metavar="[NAME=]PERCENT", help="The least difference that counts; default 15."),
    ] = None,
    crash: Annotated[
        str | None, typer.Option(metavar="VM", help="Kill this VM in the middle of `outage`, once per repeat.")
    ] = None,
    separate_pairs: Annotated[
        bool, typer.Option("--separate-pairs", help="With --compare-kinds: a pair of VMs for each kind.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.json", help="Write the result there.")
    ] = None,
    junit_xml: Annotated[
        Path | None, typer.Option(metavar="FILE.xml", help="Write JUnit XML there: a case per link and workload.")
    ] = None,
) -> Result:
    """Measure links inside the guests, round after round; exit code 1 if one of them broke or gave no figure."""
    from vpctl.bench.results.compare import parse_thresholds
    from vpctl.bench.results.result import require_writable
    from vpctl.bench.workloads import METRICS, WORKLOADS, chosen

    asked = Asked(
        links=link or [],
        workloads=chosen(workload or [], crash=crash is not None),
        quick=quick,
        repeats=repeats or (QUICK_REPEATS if quick else REPEATS),
        duration=duration or (QUICK_DURATION if quick else DURATION),
        crash=crash,
    )
    thresholds = parse_thresholds(threshold or [], [*WORKLOADS, *METRICS])
    for path in (output, junit_xml):
        if path is not None:
            require_writable(path)
    if compare_kinds is not None:
        result = await measured_kinds(context, file, compare_kinds, asked, apart=separate_pairs)
        result = compared(result, thresholds)
    elif separate_pairs or threshold:
        raise UsageError("`--separate-pairs` and `--threshold` go with `--compare-kinds`")
    else:
        result = await measured(context, file, asked)
    return written(result, output=output, junit_xml=junit_xml)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the command line asked for, defaults filled in."""

    links: Sequence[str]
    workloads: Sequence[str]
    quick: bool
    repeats: int
    duration: int
    crash: str | None


async def measured(context: Context, file: Path | None, asked: Asked) -> BenchResult:
    """Measure the topology that runs, or a file's."""
    from vpctl.bench.host import load_average
    from vpctl.cli import choose

    before = load_average()
    if file is None:
        return await measure(context, choose.topology(context), asked, before)
    from vpctl.client.topology_file import load_file

    topology = load_file(file, context.environ)
    chosen_links(topology, asked.links)
    async with booted(context, topology, source=place(file)) as run:
        return await run.keeping(measure(context, run.rundir, asked, before))


async def measured_kinds(
    context: Context, file: Path | None, kinds: str, asked: Asked, *, apart: bool
) -> BenchResult:
    """Measure a pair of a file with a link of each kind."""
    from dataclasses import replace

    from vpctl.bench.host import load_average
    from vpctl.bench.kind_topology import comparison, parse_kinds
    from vpctl.client.topology_file import kind_rules, load_file

    before = load_average()
    if file is None:
        raise UsageError(
            "`--compare-kinds` needs a topology file: it boots a pair of its own", hint="vpctl bench --help"
        )
    topology = load_file(file, context.environ)
    rules = kind_rules()
    names = parse_kinds(kinds, rules)
    links = chosen_links(topology, asked.links)
    if len(asked.links) > 1:
        raise UsageError("`--compare-kinds` takes the pair of one link", hint="give `--link` once")
    derived = comparison(topology, links[0], names, rules, apart=apart)
    async with booted(context, derived, source=place(file)) as run:
        return await run.keeping(measure(context, run.rundir, replace(asked, links=[]), before))


@dataclass(slots=True)
class Booted:
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
async def booted(context: Context, topology: Topology, *, source: str) -> AsyncIterator[Booted]:
    """Have a topology running for as long as the block lasts; one that ran before is left running.

    What was booted for it is stopped afterwards; its logs stay unless all went well.
    """
    from vpctl.cli.up import begin, undo, wait_for_up

    rundir, ours = await begin(context, topology, source=source)
    up = await wait_for_up(context, rundir, ours=ours, keep=False)
    run = Booted(rundir=rundir)
    try:
        raise_first(up.errors)
        yield run
    except BaseException:
        if ours is not None:
            await undo(context, rundir.name, ours)
        raise
    if ours is not None:
        with context.log.step(f"stopping `{rundir.name}`"):
            await undo(context, rundir.name, ours, keep_logs=run.keep_logs)


def place(file: Path) -> str:
    """Return where a topology file lies, as the run keeps it."""
    return str(file.absolute())


def raise_first(errors: Sequence[VpctlError]) -> None:
    """Raise the first of some errors, if there is one."""
    for error in errors:
        raise error


async def measure(context: Context, rundir: RunDir, asked: Asked, before: Any) -> BenchResult:
    """Measure a topology that runs."""
    from vpctl.bench.guest import Raw
    from vpctl.bench.session import Request, guests
    from vpctl.bench.session import measure as measure_links
    from vpctl.bench.workload import Plan
    from vpctl.cli.view.bench_progress import view
    from vpctl.client.connection import connect
    from vpctl.plan.run import run_from_json
    from vpctl.rundir import read_json

    spec: Any = read_json(rundir.spec)
    run = run_from_json(spec)
    links = chosen_links(run.topology, asked.links)
    async with connect(rundir) as supervisor:
        status = await supervisor.execute("query-status")
    require_up(status, links)
    raw = Raw()
    vms = list(dict.fromkeys(end.vm for one in links for end in one.endpoints))
    async with guests(status, vms, raw) as opened:
        plan = Plan(
            workloads=asked.workloads,
            duration=asked.duration,
            quick=asked.quick,
            crash=crash_of(rundir, asked.crash, links, opened),
        )
        request = Request(run=run, links=links, plan=plan, repeats=asked.repeats, load_before=before)
        with view(context.log, repeats=asked.repeats) as observer:
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


def require_up(status: Any, links: Sequence[LinkSpec]) -> None:
    """Raise VerificationError unless the links are up: a figure of a broken one would be of nothing."""
    states = {entry["name"]: entry["state"] for entry in status["links"]}
    for link in links:
        if states[link.name] != "up":
            raise VerificationError(f"link `{link.name}` is {states[link.name]}", hint="vpctl status")


def crash_of(rundir: RunDir, vm: str | None, links: Sequence[LinkSpec], opened: dict[str, Guest]) -> Crash | None:
    """Return how `outage` kills a VM and gets it back, by the supervisor."""
    from vpctl.bench.workload import Crash
    from vpctl.client.connection import connect

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
    from vpctl import wait
    from vpctl.bench.session import open_guest
    from vpctl.client.connection import connect

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


def compared(result: BenchResult, thresholds: Any) -> BenchResult:
    """Add what the kinds' rows come to, each against the first kind's."""
    from vpctl.bench.results.compare import rows_of_kinds

    rows = rows_of_kinds(result, thresholds)
    return result.model_copy(update={"comparisons": rows})


def written(result: BenchResult, *, output: Path | None, junit_xml: Path | None) -> Result:
    """Write the files, and return what is shown."""
    from vpctl.bench.results.junit import junit_xml as as_junit
    from vpctl.bench.results.result import write_result
    from vpctl.cli.view import render
    from vpctl.cli.view.bench_table import bench_table
    from vpctl.cli.view.figures import ASCII, marks_for
    from vpctl.rundir import write_atomic

    if output is not None:
        result = write_result(output, result)
    if junit_xml is not None:
        write_atomic(junit_xml, as_junit(result), mode=0o644)
    errors = failures(result)
    if not result.samples and not errors:
        reasons = "; ".join(dict.fromkeys(skip.reason for skip in result.skipped))
        errors = [VerificationError(f"nothing could be measured: {reasons}", hint="vpctl bench --help")]
    width = render.console(sys.stdout).width
    table = bench_table(result, width=width, ascii=marks_for(sys.stdout) is ASCII)
    return Result(data=result.as_json(), table=table, errors=errors, exit_code=1 if errors else 0)


def failures(result: BenchResult) -> list[VpctlError]:
    """Return what gave no figures, one error for each row that has failed."""
    found: dict[tuple[Any, ...], VpctlError] = {}
    for failure in result.failures:
        row = f"{failure.workload} {failure.variant or ''}".strip()
        what = f"link `{failure.link}`: {row} from `{failure.source}` to `{failure.target}`"
        key = failure.link, failure.workload, failure.variant, failure.source, failure.target
        found.setdefault(key, VerificationError(f"{what}: {failure.message}", hint=failure.hint))
    return list(found.values())
