"""What `bench` does around a run: its links, its progress, its files, its exit code."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.made import made_topology
from tests.unit.bench.results.made import made_result, made_sample
from vpctl.bench.results.result import BenchResult, Failure, Skip, read_result
from vpctl.bench.runner import Failed
from vpctl.bench.workload import Figure, Metric, Row
from vpctl.cli import bench
from vpctl.cli.view import bench_progress
from vpctl.cli.view.progress import LiveLog
from vpctl.errors import NotFoundError, VerificationError
from vpctl.log import Log
from vpctl.topology.model import Topology

RATE = Metric(name="throughput", unit="Mbit/s", better="higher")
ROW = Row(workload="tcp", source="vm1", target="vm2")


def made_figure(value: float) -> Figure:
    return Figure(workload="tcp", metric=RATE, source="vm1", target="vm2", value=value)


@pytest.fixture
def topology() -> Topology:
    return made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm1", "vm2"))


def test_without_a_choice_every_link_is_measured_and_a_choice_keeps_its_order(topology: Topology) -> None:
    assert [link.name for link in bench.chosen_links(topology, [])] == ["lan0", "lan1"]
    assert [link.name for link in bench.chosen_links(topology, ["lan1", "lan0", "lan1"])] == ["lan1", "lan0"]


def test_an_unknown_link_is_named_with_those_there_are(topology: Topology) -> None:
    with pytest.raises(NotFoundError, match="no link named `lan9`") as caught:
        bench.chosen_links(topology, ["lan9"])
    assert caught.value.hint == "links are `lan0`, `lan1`"


def test_a_topology_without_links_is_told_so() -> None:
    with pytest.raises(NotFoundError, match="has no links"):
        bench.chosen_links(made_topology(vms=("vm1",)), [])


def test_a_link_that_is_not_up_is_not_measured(topology: Topology) -> None:
    status = {"links": [{"name": "lan0", "state": "up"}, {"name": "lan1", "state": "recovering"}]}
    bench.require_up(status, topology.links[:1])
    with pytest.raises(VerificationError, match="link `lan1` is recovering"):
        bench.require_up(status, topology.links)


def failing(**more: Any) -> BenchResult:
    failure = {"link": "lan0", "kind": "stream", "workload": "tcp", "from": "vm1", "to": "vm2", "round": 1}
    failures = [Failure.model_validate({**failure, "message": "it broke", **entry}) for entry in more["entries"]]
    return made_result(samples=[made_sample()], failures=failures)


def test_figures_that_are_missing_are_an_error_each_and_exit_code_1() -> None:
    result = failing(entries=[{}, {"round": 2}, {"from": "vm2", "to": "vm1"}])
    shown = bench.written(result, output=None, junit_xml=None)
    assert shown.exit_code == 1
    assert [error.message for error in shown.errors] == [
        "link `lan0`: tcp from `vm1` to `vm2`: it broke",
        "link `lan0`: tcp from `vm2` to `vm1`: it broke",
    ]


def test_a_result_without_failures_is_exit_code_0() -> None:
    assert bench.written(made_result(samples=[made_sample()]), output=None, junit_xml=None).exit_code == 0


def test_nothing_measured_at_all_is_an_error_with_the_reason() -> None:
    skip = Skip(link="lan0", kind="stream", workload="tcp", reason="`vm2` has no `iperf3`")
    shown = bench.written(made_result(samples=[], skipped=[skip]), output=None, junit_xml=None)
    assert shown.exit_code == 1
    assert "`vm2` has no `iperf3`" in shown.errors[0].message


def test_files_are_written_and_can_be_read_again(tmp_path: Path) -> None:
    result = made_result(samples=[made_sample()])
    output, xml = tmp_path / "r.json", tmp_path / "r.xml"
    shown = bench.written(result, output=output, junit_xml=xml)
    again = read_result(output)
    assert again.samples == result.samples
    assert again.as_json() == json.loads(json.dumps(shown.data))
    assert (tmp_path / "r.raw.jsonl.gz").exists()
    assert ET.parse(xml).getroot().tag == "testsuites"


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
        seen.failed(Failed(link="lan1", row=ROW, round_=1, error=VerificationError("nothing arrived")))
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
