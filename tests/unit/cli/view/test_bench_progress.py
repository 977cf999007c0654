"""How far a benchmark is, as lines and as a live table."""

from __future__ import annotations

import io

from vpctl.bench.runner import FailedMeasurement
from vpctl.bench.workload import Figure, Metric, Row
from vpctl.cli.view import bench_progress
from vpctl.cli.view.progress import LiveLog
from vpctl.errors import VerificationError
from vpctl.log import Log

RATE = Metric(name="throughput", unit="Mbit/s", better="higher")

ROW = Row(workload="tcp", source="vm1", target="vm2")


def made_figure(value: float) -> Figure:
    return Figure(workload="tcp", metric=RATE, source="vm1", target="vm2", value=value)


class Estimate:
    """A runner of which only the time left is asked."""

    estimate = 75.0


class Terminal(io.StringIO):
    """A terminal that keeps everything."""

    def isatty(self) -> bool:
        return True


def progress(log: Log) -> str:
    """Show one round of one link that works and one that breaks; return what was written."""
    with bench_progress.view(log, repeats=3) as observer:
        seen = observer(Estimate())  # type: ignore[arg-type]  # nothing else of a runner is used
        seen.began("lan0", ROW, 1)
        seen.measured("lan0", [made_figure(812.0)], 1, 60.0)
        seen.began("lan1", ROW, 1)
        seen.failed(FailedMeasurement(link="lan1", row=ROW, round_=1, error=VerificationError("nothing arrived")))
        seen.broken("lan1", "no packets")
    stream = log.stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_without_a_terminal_progress_is_a_line_for_each_figure() -> None:
    lines = progress(Log(io.StringIO())).splitlines()
    assert lines[0] == "measuring for 1 min 15 s or so"
    assert any(
        "1/3" in line and "lan0" in line and "tcp vm1 to vm2" in line and "812 Mbit/s" in line for line in lines
    )
    assert any("lan1" in line and "nothing arrived" in line for line in lines)
    assert any(line.startswith("warning: ") and "lan1" in line and "no packets" in line for line in lines)


def test_on_a_terminal_the_figures_so_far_are_shown_with_the_time_left() -> None:
    text = progress(LiveLog(Terminal()))
    assert "812 Mbit/s (1)" in text
    assert "round 1 of 3" in text
    assert "1 min 15 s left" in text
    assert "nothing arrived" in text
