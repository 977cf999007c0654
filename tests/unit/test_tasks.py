"""Contained work: what it raises reaches the report and nothing else, and it begins anew within its budget."""

from __future__ import annotations

import asyncio

import pytest

from vpctl.tasks import ONCE, TRACEBACK_CHARACTERS, Again, Failure, contained, guarded

SOON = Again(first=0.0, most=3)


async def test_another_task_of_the_group_goes_on() -> None:
    told: asyncio.Queue[Failure] = asyncio.Queue()
    seen: list[Failure] = []

    async def breaks() -> None:
        raise KeyError("vm1")

    async def works() -> None:
        seen.append(await told.get())

    async with asyncio.TaskGroup() as group:
        group.create_task(contained(breaks, told.put_nowait, name="watch-vm1"))
        group.create_task(works())
    [failure] = seen
    assert (failure.work, failure.message) == ("watch-vm1", "KeyError: 'vm1'")
    assert (failure.attempt, failure.pause) == (1, None)
    assert "in breaks" in failure.traceback


async def test_it_begins_anew_until_it_comes_to_its_end() -> None:
    told: list[Failure] = []

    async def breaks_twice() -> None:
        if len(told) < 2:
            raise RecursionError

    assert await contained(breaks_twice, told.append, name="look", again=SOON)
    assert [failure.attempt for failure in told] == [1, 2]


async def test_its_budget_ends_and_the_last_failure_says_so() -> None:
    told: list[Failure] = []

    async def breaks() -> None:
        raise OverflowError

    assert not await contained(breaks, told.append, name="look", again=SOON)
    assert [failure.pause for failure in told] == [0.0, 0.0, None]


def test_pauses_double_up_to_the_longest_and_never_overflow() -> None:
    again = Again(first=0.5, longest=60.0)
    assert [again.pause(attempt) for attempt in (1, 2, 3, 8, 9, 100_000)] == [0.5, 1.0, 2.0, 60.0, 60.0, 60.0]
    assert ONCE.pause(1) is None


async def test_cancellation_passes_through_at_work_and_in_a_pause() -> None:
    told: asyncio.Queue[Failure] = asyncio.Queue()
    begun = asyncio.Event()
    hours = Again(first=1000.0, longest=1000.0)

    async def waits() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def breaks() -> None:
        raise KeyError

    for work, under_way in ((waits, begun.wait), (breaks, told.get)):
        task = asyncio.create_task(contained(work, told.put_nowait, name="x", again=hours))
        await under_way()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_report_that_fails_itself_is_contained_too(capsys: pytest.CaptureFixture[str]) -> None:
    def report(failure: Failure) -> None:
        raise ValueError("no report")

    async def breaks() -> None:
        raise KeyError("vm1")

    assert not await contained(breaks, report, name="x")
    said = capsys.readouterr().err
    assert "KeyError: 'vm1'" in said
    assert "ValueError: no report" in said


def test_a_function_is_guarded_alike() -> None:
    told: list[Failure] = []
    nothing: dict[str, int] = {}
    assert not guarded(lambda: nothing["vm1"], told.append, name="take")
    assert guarded(lambda: None, told.append, name="take")
    assert [failure.message for failure in told] == ["KeyError: 'vm1'"]


async def test_the_traceback_of_an_endless_recursion_is_bounded() -> None:
    told: list[Failure] = []

    def deeper(number: int) -> int:
        return deeper(number + 1) + 1

    assert not guarded(lambda: deeper(0), told.append, name="deep")
    assert len(told[0].traceback) <= TRACEBACK_CHARACTERS
    assert "RecursionError" in told[0].message
