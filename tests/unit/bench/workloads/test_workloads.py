"""Which workloads are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made import made_link
from vpctl.bench.workload import Plan
from vpctl.bench.workloads import DEFAULT, WORKLOADS, chosen
from vpctl.errors import UsageError

NAMES = list(WORKLOADS)


@pytest.mark.parametrize(
    ("names", "crash", "expected"),
    [
        ([], False, list(DEFAULT)),
        ([""], False, list(DEFAULT)),
        ([" , "], False, list(DEFAULT)),
        (["udp,ping"], False, ["ping", "udp"]),
        (["udp", "ping, udp"], False, ["ping", "udp"]),
        ([], True, ["outage"]),
        (["outage,ping"], True, ["ping", "outage"]),
    ],
)
def test_workloads_are_each_there_once_and_in_their_own_order(
    names: Sequence[str], crash: bool, expected: Sequence[str]
) -> None:
    assert chosen(names, crash=crash) == expected


@given(st.lists(st.lists(st.sampled_from(NAMES), min_size=1).map(",".join), min_size=1))
def test_what_is_asked_for_is_what_is_measured(names: list[str]) -> None:
    found = chosen(names)
    assert set(found) == {word for name in names for word in name.split(",")}
    assert found == [name for name in NAMES if name in found]


def test_an_unknown_workload_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="no workload named `pong`") as caught:
        chosen(["ping,pong"])
    assert all(f"`{name}`" in (caught.value.hint or "") for name in NAMES)


def test_a_crash_without_the_workload_that_sees_it_is_an_error() -> None:
    with pytest.raises(UsageError, match="a crash is measured by the workload `outage`") as caught:
        chosen(["ping"], crash=True)
    assert caught.value.hint == "--workload outage"


def test_the_default_leaves_out_what_takes_the_time_of_crashes_and_nothing_else() -> None:
    assert set(NAMES) - set(DEFAULT) == {"outage"}


@pytest.mark.parametrize("name", NAMES)
def test_the_tasks_of_a_workload_are_its_own_and_measure_between_the_links_two_ends(name: str) -> None:
    link = made_link("lan0", "a", "b")
    tasks = WORKLOADS[name].tasks(link, Plan(workloads=[name], duration=1))
    assert tasks
    for task in tasks:
        assert task.row.workload == name
        assert {task.row.source, task.row.target} == {"a", "b"}
        assert task.seconds > 0
    again = WORKLOADS[name].tasks(link, Plan(workloads=[name], duration=1))
    assert all(one is not other for one, other in zip(tasks, again, strict=True))  # they have a memory
    assert len({str(task.row) for task in tasks}) == len(tasks)
