"""How far a benchmark is, on stderr: a table of the figures so far on a terminal, else a line for each figure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vpctl.cli.view import render
from vpctl.cli.view.figures import figure as quantity
from vpctl.cli.view.figures import marks_for
from vpctl.cli.view.progress import LiveLog
from vpctl.log import Log

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from vpctl.bench.runner import FailedMeasurement, Observer, Runner
    from vpctl.bench.workload import Figure, Row


@contextmanager
def view(log: Log, *, repeats: int) -> Iterator[Callable[[Runner], Observer]]:
    """Yield what makes the observer of a run, fit for where the log goes; a live table is gone afterwards."""
    if not isinstance(log, LiveLog):
        yield lambda runner: Lines(log, runner, repeats)
        return
    from rich.live import Live

    with Live(console=render.console(log.stream), transient=True, auto_refresh=False) as live:
        yield lambda runner: Table(live, runner, repeats)


class Lines:
    """A line for each measurement."""

    def __init__(self, log: Log, runner: Runner, repeats: int) -> None:
        self._log = log
        self._repeats = repeats
        log.info(f"measuring for {duration(runner.estimate)} or so")

    def began(self, link: str, row: Row, round_: int) -> None:
        self._log.debug(f"{self._round(round_)}  {link}  {row} …")

    def measured(self, link: str, figures: Sequence[Figure], round_: int, left: float) -> None:
        for figure in figures:
            self._log.info(f"{self._round(round_)}  {link:<15}  {named(figure):<32} {shown(figure)}")

    def failed(self, failure: FailedMeasurement) -> None:
        self._log.info(f"{self._round(failure.round_)}  {failure.link:<15}  {failure.row}: {failure.error.message}")

    def broken(self, link: str, reason: str) -> None:
        self._log.warning(f"link `{link}` is not measured any more: {reason}")

    def _round(self, round_: int) -> str:
        return f"{round_}/{self._repeats}" if round_ else "warm-up"


class Table:
    """The medians so far, a column for each link, and what is being measured; what went wrong stays above it."""

    def __init__(self, live: Live, runner: Runner, repeats: int) -> None:
        self._live = live
        self._runner = runner
        self._repeats = repeats
        self._figures: dict[str, dict[str, list[Figure]]] = {}
        self._links: dict[str, None] = {}
        self._now = ""

    def began(self, link: str, row: Row, round_: int) -> None:
        self._links[link] = None
        where = f"round {round_} of {self._repeats}" if round_ else "warm-up"
        self._now = f"{where}: {row} over {link}, {duration(self._runner.estimate)} left"
        self._live.update(self._drawn(), refresh=True)

    def measured(self, link: str, figures: Sequence[Figure], round_: int, left: float) -> None:
        for figure in figures:
            row = self._figures.setdefault(named(figure), {}).setdefault(link, [])
            if round_ > 0:
                row.append(figure)
        self._live.update(self._drawn(), refresh=True)

    def failed(self, failure: FailedMeasurement) -> None:
        self._warn(f"link `{failure.link}`: {failure.row}: {failure.error.message}")

    def broken(self, link: str, reason: str) -> None:
        self._warn(f"link `{link}` is not measured any more: {reason}")

    def _warn(self, text: str) -> None:
        # By the table's own console, which makes room for it: a line of the log's would be drawn over.
        self._live.console.print(render.Printable(f"warning: {text}"))

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        rows = [
            [name, *(self._cell(figures.get(link, ())) for link in self._links)]
            for name, figures in self._figures.items()
        ]
        return Group(render.table(["median so far", *self._links], rows), Text(self._now, style="dim"))

    def _cell(self, figures: Sequence[Figure]) -> str:
        from vpctl.bench.results.stats import median

        if not figures:
            return "…"
        value = median([figure.value for figure in figures])
        return f"{quantity(value, figures[0].metric.unit, marks_for(sys.stderr))} ({len(figures)})"


def named(figure: Figure) -> str:
    """Return what a figure is of."""
    variant = f" {figure.variant}" if figure.variant is not None else ""
    return f"{figure.workload}{variant} {figure.source} to {figure.target}"


def shown(figure: Figure) -> str:
    """Return a figure's value with its unit."""
    return quantity(figure.value, figure.metric.unit, marks_for(sys.stderr))


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
