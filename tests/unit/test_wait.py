"""Waiting: ends at once when there is something, says what was awaited when there is not, leaves no task behind."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from vpctl.errors import ReadyTimeoutError
from vpctl.wait import first, pause, until


class DeadError(Exception):
    """What ends a wait in these tests."""


async def never() -> None:
    await asyncio.Event().wait()


async def dies() -> BaseException:
    return DeadError()


async def lives() -> BaseException:
    await never()
    raise AssertionError("not reached")


def assert_no_other_task() -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_until_returns_the_first_thing_found() -> None:
    numbers = count()

    async def probe() -> int | None:
        return number if (number := next(numbers)) == 3 else None

    assert await until(probe, timeout=30, what="three", every=0) == 3
    assert next(numbers) == 4


async def test_until_takes_false_for_an_answer() -> None:
    async def probe() -> bool | None:
        return False

    assert await until(probe, timeout=30, what="an answer") is False


async def test_until_names_what_was_awaited_and_last_seen() -> None:
    async def probe() -> None:
        return None

    with pytest.raises(ReadyTimeoutError) as caught:
        await until(probe, timeout=0.01, what="ssh of vm1", every=0.001, last_seen=lambda: "no banner")
    assert caught.value.message == "ssh of vm1: not within 0.01 s; last seen: no banner"


async def test_until_cancels_a_probe_that_hangs() -> None:
    cancelled = []

    async def probe() -> None:
        try:
            await never()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(ReadyTimeoutError):
        await until(probe, timeout=0.01, what="it")
    assert cancelled == [True]


async def test_until_passes_the_probe_s_own_error() -> None:
    async def probe() -> None:
        raise DeadError

    with pytest.raises(DeadError):
        await until(probe, timeout=30, what="it")


async def test_first_returns_the_work() -> None:
    async def work() -> str:
        return "done"

    assert await first(work(), unless=lives()) == "done"
    assert_no_other_task()


async def test_first_raises_what_ended_it() -> None:
    with pytest.raises(DeadError):
        await first(never(), unless=dies())
    assert_no_other_task()


async def test_first_prefers_work_that_is_done() -> None:
    async def work() -> str:
        return "done"

    assert await first(work(), unless=dies()) == "done"


async def test_first_passes_the_work_s_own_error() -> None:
    async def work() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError):
        await first(work(), unless=lives())
    assert_no_other_task()


async def test_first_ends_both_when_it_is_cancelled() -> None:
    waiting = asyncio.create_task(first(never(), unless=lives()))
    await pause(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert_no_other_task()


async def test_first_waits_for_the_cleanup_of_what_it_cancels() -> None:
    cleaned = []

    async def work() -> None:
        try:
            await never()
        finally:
            await pause(0.01)
            cleaned.append(True)

    with pytest.raises(DeadError):
        await first(work(), unless=dies())
    assert cleaned in ([], [True])  # work that never began has nothing to clean
    assert_no_other_task()
