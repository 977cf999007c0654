"""What `bench` makes of a result: its files, its errors, its exit code."""

from __future__ import annotations

from typing import Any

from tests.unit.bench.results.made import made_result, made_sample
from vpctl.bench.results.result import BenchResult, Failure, Skip
from vpctl.cli import bench


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
