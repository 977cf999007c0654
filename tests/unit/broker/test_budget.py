"""What may happen so often in a second."""

from __future__ import annotations

import asyncio

import pytest

from vpctl.broker import budget
from vpctl.broker.budget import Budget, Paced


def test_what_a_budget_does_not_have_it_has_in_the_next_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    three = Budget(3)
    assert [three.take() for _ in range(4)] == [0, 0, 0, 1]
    now += 0.75
    assert three.take() == 0.25
    now += 0.25
    assert [three.take() for _ in range(4)] == [0, 0, 0, 1]
    now += 1000
    assert [three.take() for _ in range(4)] == [0, 0, 0, 1]


async def test_what_comes_too_often_is_done_once_later_and_never_after_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "SECOND", 0.05)
    done = asyncio.Queue[int]()
    paced = Paced(2, lambda: done.put_nowait(1))
    for _ in range(100):
        paced.ask()
    assert done.qsize() == 2
    async with asyncio.timeout(5):
        for _ in range(3):
            await done.get()
    assert done.empty(), "the 98 that came too often are one"
    for _ in range(100):
        paced.ask()
    paced.close()
    paced.close()
    taken = done.qsize()
    await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=0.1)
    assert done.qsize() == taken
