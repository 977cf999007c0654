"""The only place that prints: data to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from vpctl.cli.verb import Context, Result
from vpctl.errors import TopologyError, VpctlError
from vpctl.text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

PLAIN_WIDTH = 240
"""Columns where no terminal sets them: a pipe or file gets whole lines."""

STATE_STYLES = {
    "up": "green",
    "ready": "green",
    "ok": "green",
    "starting": "yellow",
    "booting": "yellow",
    "recovering": "yellow",
    "warning": "yellow",
    "degraded": "yellow",
    "stopped": "yellow",
    "down": "red",
    "crashed": "red",
    "failed": "red",
}


def console(stream: TextIO) -> Console:
    """Return a console on a stream; rich obeys NO_COLOR and TERM by itself."""
    from rich.console import Console

    return Console(
        file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False, emoji=False, markup=False
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """Return a plain table: readable without colour, greppable in a pipe."""
    from rich.table import Table
    from rich.text import Text

    made = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left", title_style="bold"
    )
    for column in columns:
        made.add_column(column.upper(), header_style="bold", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in row))
    return made


def result(outcome: Result, context: Context) -> None:
    """Write a verb's result to stdout, and to stderr what is wrong in spite of it."""
    for wrong in outcome.errors:
        error(wrong, as_json=False)
    if context.json:
        if outcome.data is not None:
            print(json.dumps(outcome.data, indent=1, default=str))
    elif outcome.text is not None:
        print(outcome.text if outcome.raw else printable(outcome.text))
    elif outcome.table is not None:
        console(sys.stdout).print(Printable(outcome.table))


class Printable:
    """Something to be drawn in which whatever a terminal would act upon is shown instead, our own colours apart."""

    def __init__(self, drawn: RenderableType) -> None:
        self._drawn = drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it, as rich asks for it."""
        for segment in console.render(self._drawn, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def line(text: str) -> None:
    """Print a line of data at once: what follows may be a long time coming."""
    print(text, flush=True, file=sys.stdout)


def error(caught: VpctlError, *, as_json: bool) -> None:
    """Write an error: one sentence, its details, a hint; as JSON to stdout if that was asked for."""
    if as_json:
        from vpctl.cli.streams import OutputError

        try:
            print(json.dumps({"schema_version": 1, "error": caught.as_json()}, indent=1, default=str), flush=True)
        except OutputError as broken:
            if not broken.is_closed:
                error(caught, as_json=False)
        return
    for line in error_lines(caught):
        print(line, file=sys.stderr)


def error_lines(caught: VpctlError) -> list[str]:
    """Return an error as people read it."""
    return printable("\n".join(_error_lines(caught))).split("\n")


def _error_lines(caught: VpctlError) -> list[str]:
    if isinstance(caught, TopologyError):
        lines = []
        for problem in caught.problems:
            lines.append(f"error: {problem.where}: {problem.message}")
            lines += [f"hint: {problem.hint}"] if problem.hint else []
        return lines
    where = f"{caught.where}: " if caught.where else ""
    lines = [f"error: {where}{caught.message}"]
    if caught.details:
        lines += [f"  {line}" for line in caught.details.splitlines()]
    if caught.hint:
        lines.append(f"hint: {caught.hint}")
    return lines


def is_live(stream: TextIO) -> bool:
    """Whether live output makes sense on a stream: a terminal that moves its cursor, and not a CI job's."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
