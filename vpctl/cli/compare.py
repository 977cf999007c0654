"""`vpctl compare`: what changed from one result to another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpctl.cli.verb import Context, Result

if TYPE_CHECKING:
    from rich.text import Text

    from vpctl.bench.results.result import BenchResult, Comparison
    from vpctl.cli.view.figures import Marks
    from vpctl.errors import RegressionError

NAMED = 5
"""Rows that an error names; the table has them all."""

WIDE = 100
"""Columns from which on a link's kind stands beside its name."""


async def compare(
    context: Context,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The result that was.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The result that is.")],
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PERCENT",
            help="The least change that counts (15), of all rows or of a metric's or workload's; repeatable.",
        ),
    ] = None,
) -> Result:
    """Judge each row of NEW against OLD: better, worse, same, unclear; exit code 7 if one is worse or missing."""
    from vpctl.bench.results import compare as judging
    from vpctl.bench.results.differences import host_differences
    from vpctl.bench.results.result import read_result
    from vpctl.cli.view import render
    from vpctl.cli.view.figures import ASCII, marks_for

    before, after = read_result(old), read_result(new)
    thresholds = judging.parse_thresholds(threshold or (), judging.names_in(before, after))
    rows = judging.rows_of_two_results(before, after, thresholds)
    warnings = [*host_differences(before, after), *judging.notes_of_two_results(before, after)]
    for warning in warnings:
        context.log.warning(warning)
    data = {
        "schema_version": 1,
        "ok": not any(judging.is_regression(row) for row in rows),
        "old": {"file": str(old), **origin(before)},
        "new": {"file": str(new), **origin(after)},
        "rows": [row.model_dump(mode="json", by_alias=True, exclude_none=True) for row in rows],
        "warnings": warnings,
        "counts": counts(rows),
    }
    error = regression(rows)
    width, ascii_only = render.console(sys.stdout).width, marks_for(sys.stdout) is ASCII
    return Result(
        data=data,
        table=compare_table(rows, width=width, ascii=ascii_only),
        errors=(error,) if error is not None else (),
        exit_code=error.exit_code if error is not None else 0,
    )


def origin(result: BenchResult) -> dict[str, Any]:
    """Return which run a result is of."""
    return {"topology": result.topology, "started": result.started, "vpctl_version": result.vpctl_version}


def counts(rows: Sequence[Comparison]) -> dict[str, int]:
    """Return how many rows have each verdict, those that none has included."""
    verdicts = [row.verdict for row in rows]
    return {name: verdicts.count(name) for name in ("better", "worse", "same", "unclear", "missing")}


def regression(rows: Sequence[Comparison]) -> RegressionError | None:
    """Return the error that names the rows which are worse or missing; None if there are none."""
    from vpctl.bench.results.compare import is_regression
    from vpctl.cli.view.bench_table import row_words
    from vpctl.cli.view.figures import percent
    from vpctl.errors import RegressionError

    bad = [row for row in rows if is_regression(row)]
    if not bad:
        return None
    named = []
    for row in bad[:NAMED]:
        how = percent(row.ratio) if row.ratio is not None else row.verdict
        named.append(f"{row_words(row)} on {row.new_link} ({how})")
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    number = counts(bad)
    what = " and ".join(f"{number[name]} {name}" for name in ("worse", "missing") if number[name])
    return RegressionError(
        f"{what} of {len(rows)} rows: {', '.join(named)}{more}",
        hint="docs/verdicts.md tells what a verdict means; `--threshold NAME=PERCENT` what counts",
    )


def compare_table(rows: Sequence[Comparison], *, width: int = 80, ascii: bool = False) -> Text:
    """Return a line per row in so many columns, then the reasons of unclear and missing ones, then the counts."""
    from vpctl.cli.view.bench_table import reasons
    from vpctl.cli.view.columns import NARROWEST, styled
    from vpctl.cli.view.figures import ASCII, UNICODE

    marks = ASCII if ascii else UNICODE
    width = max(width, NARROWEST)
    why = reasons(rows, width, lambda row: row.old_link)
    total = ", ".join(f"{number} {verdict}" for verdict, number in counts(rows).items() if number)
    lines = [*row_lines(rows, width, marks), "", *why, *([""] if why else []), total]
    return styled(lines, marks, heading="WORKLOAD ")


def row_lines(rows: Sequence[Comparison], width: int, marks: Marks) -> list[str]:
    """Return a heading and a line per row."""
    from vpctl.cli.view.bench_table import namer
    from vpctl.cli.view.columns import Cell, Column, Direction, lay_out
    from vpctl.cli.view.figures import figure, percent

    columns = (
        Column(title="WORKLOAD", least=9),
        Column(title="DIRECTION", least=9),
        Column(title="VARIANT", least=5),
        Column(title="LINK", least=5),
        Column(title="OLD", right=True),
        Column(title="NEW", right=True),
        Column(title="CHANGE", right=True),
        Column(title="VERDICT"),
    )
    name = namer(rows)
    # A link's name is enough if it has one kind in all rows, and at 80 columns there is no room for more.
    links = {(row.old_link, row.old_kind) for row in rows}
    with_kind = width >= WIDE or len(links) > len({link for link, _ in links})
    cells: list[Sequence[Cell]] = []
    for row in rows:
        what = name(row), Direction(source=row.source, target=row.target), row.variant or ""
        link = f"{row.old_link} ({row.old_kind})" if with_kind else row.old_link
        after = "-" if row.new_median is None else figure(row.new_median, row.unit, marks)
        change = "" if row.ratio is None else percent(row.ratio)
        cells.append((*what, link, figure(row.old_median, row.unit, marks), after, change, row.verdict))
    return lay_out(columns, cells, width=width, marks=marks)
