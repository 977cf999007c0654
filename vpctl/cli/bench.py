"""`vpctl bench`: packets measured inside the guests, over ssh."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpctl.cli.verb import Context, Result
from vpctl.errors import UsageError, VerificationError, VpctlError

if TYPE_CHECKING:
    from vpctl.bench.results.result import BenchResult

REPEATS, QUICK_REPEATS = 7, 3
DURATION, QUICK_DURATION = 2, 1


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
    from vpctl.cli import choose
    from vpctl.cli.view import progress
    from vpctl.cli.view.bench_progress import view
    from vpctl.client.bench import BenchOptions, Views, compared, measured, measured_file, measured_kinds

    options = BenchOptions(
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
    views = Views(boot=lambda: progress.stages(context.log).take, bench=partial(view, context.log))
    if compare_kinds is not None:
        if file is None:
            raise UsageError(
                "`--compare-kinds` needs a topology file: it boots a pair of its own", hint="vpctl bench --help"
            )
        result = await measured_kinds(context, file, compare_kinds, options, views, apart=separate_pairs)
        result = compared(result, thresholds)
    elif separate_pairs or threshold:
        raise UsageError("`--separate-pairs` and `--threshold` go with `--compare-kinds`")
    elif file is None:
        result = await measured(choose.topology(context), options, views)
    else:
        result = await measured_file(context, file, options, views)
    return written(result, output=output, junit_xml=junit_xml)


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
