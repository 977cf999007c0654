"""Jobs: joined, left, ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from vpctl.errors import HostError, Problem, TopologyError, UsageError, VpctlError
from vpctl.supervisor.jobs import Jobs, error_object
from vpctl.wait import until


async def jobs_of(works: Sequence[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Start works of one key in one turn; return what each was told, and the events."""
    events: list[dict[str, Any]] = []
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group, lambda name, data: events.append({"event": name, **data}))
        replies = [jobs.start("up", work) for work in works]
        assert jobs.is_running("up")
    assert not jobs.is_running("up")
    return replies, events


async def test_a_job_is_joined_while_it_runs_and_told_once() -> None:
    async def work() -> Mapping[str, Any]:
        await asyncio.sleep(0)
        return {"ok": True}

    async def never() -> Mapping[str, Any]:
        raise AssertionError("joined, not started")

    replies, events = await jobs_of([work, never])
    assert replies == [{"job": "up#1", "joined": False}, {"job": "up#1", "joined": True}]
    assert events == [{"event": "JOB_DONE", "job": "up#1", "return": {"ok": True}}]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("no"), "usage", "no"),
        (ExceptionGroup("several", [ValueError("x"), ExceptionGroup("inner", [HostError("disk")])]), "host", "disk"),
        (RuntimeError("oops"), "internal", "RuntimeError: oops"),
        (ExceptionGroup("several", [KeyError("x")]), "internal", "KeyError: 'x'"),
    ],
)
async def test_a_job_that_fails_tells_its_one_cause_and_the_others_go_on(
    error: Exception, code: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> Mapping[str, Any]:
        raise error

    _, (event,) = await jobs_of([work])
    assert (event["error"]["code"], event["error"]["message"]) == (code, message)
    assert ("Traceback" in capsys.readouterr().err) is (code == "internal")


async def test_a_job_of_the_same_key_can_run_again_afterwards() -> None:
    told = []

    async def work() -> Mapping[str, Any]:
        return {}

    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group, lambda name, data: told.append(data["job"]))
        jobs.start("up", work)
        jobs.start("recover/vm1", work)

        async def over() -> bool | None:
            return None if jobs.is_running("up") else True

        await until(over, timeout=5, what="the first job", every=0)
        jobs.start("up", work)
    assert told == ["up#1", "recover/vm1#2", "up#3"]


async def test_only_the_same_is_joined() -> None:
    done = asyncio.Event()

    async def work() -> Mapping[str, Any]:
        await done.wait()
        return {}

    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group, lambda name, data: None)
        jobs.start("crash/vm1", work, wishes="kill")
        assert jobs.start("crash/vm1", work, wishes="kill")["joined"]
        assert jobs.start("crash/vm1", work)["joined"]  # without a wish: however it is done
        with pytest.raises(UsageError, match="`crash vm1` runs already, and was asked for otherwise"):
            jobs.start("crash/vm1", work, wishes="panic")
        done.set()


@pytest.mark.parametrize("ends", [True, False])
async def test_a_job_ends_when_the_last_who_wait_leave_it_if_it_is_of_that_sort(ends: bool) -> None:
    done, told = asyncio.Event(), []

    async def work() -> Mapping[str, Any]:
        await done.wait()
        return {}

    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group, lambda name, data: told.append(data["job"]))
        name = jobs.start("check/lan0", work, ends=ends)["job"]
        jobs.start("check/lan0", work)
        assert jobs.leave(name) == {"ended": False}
        assert jobs.leave("check/lan0#77") == {"ended": False}
        assert jobs.leave(name) == {"ended": ends}
        done.set()
    assert told == ([] if ends else [name])
    assert not jobs.is_running("check/lan0")


def test_every_error_class_can_be_told() -> None:
    problem = Problem(message="m", file="f", line=1, column=2)
    errors: list[VpctlError] = [HostError("m"), TopologyError([problem])]
    assert [json.dumps(error_object(error)) for error in errors]
