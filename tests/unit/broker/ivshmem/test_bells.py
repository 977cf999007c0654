"""Eventfds whose other holders make whoever writes to them wait, or read them first."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.broker.ivshmem.serving import count_of, rung
from vpctl.broker.ivshmem import bells as module
from vpctl.broker.ivshmem.bells import Bells, Hearing
from vpctl.process import eventfd_id
from vpctl.wait import pause, until

FULL = (1 << 64) - 2
"""What an eventfd counts at most: one more has to wait."""


def block(fd: int) -> None:
    """Make whoever writes to an eventfd wait, as any holder of it can."""
    os.set_blocking(fd, True)
    os.eventfd_write(fd, FULL)


@contextmanager
def eventfds(count: int) -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(count)]
    ours = {eventfd_id(os.getpid(), fd) for fd in fds} - {None}
    assert len(ours) == count
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)
    for thread in threading.enumerate():  # a write that has just ended closes its descriptor there
        if thread.name == "bells":
            thread.join(30)
    # Only these are counted: what other tests have left is closed whenever it is collected.
    assert not [path for path in Path("/proc/self/fd").iterdir() if eventfd_id(os.getpid(), int(path.name)) in ours]


async def until_true(probe: list[str] | list[int], count: int) -> None:
    async def yet() -> bool | None:
        return len(probe) >= count or None

    await until(yet, timeout=10, what=f"{count} of {probe}", every=0.005)


async def test_one_eventfd_that_blocks_is_given_up_and_the_others_are_signalled() -> None:
    stuck: list[str] = []
    with eventfds(3) as (bad, worse, good):
        bells = Bells()
        made = [bells.bell(fd, lambda fd=fd: stuck.append(str(fd))) for fd in (bad, worse, good)]  # type: ignore[misc]
        for fd in (bad, worse):
            block(fd)
        for bell in made:
            bell.ring()
        await rung(good)
        await until_true(stuck, 2)
        assert stuck == [str(bad), str(worse)]
        os.set_blocking(bad, False)
        count_of(bad)
        for bell in made:
            bell.ring()
        await rung(good)
        assert count_of(bad) == 0, "it is not trusted again"
        for bell in made:
            bell.close()
        bells.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "bells"], "the thread ends"


async def test_a_bell_that_is_closed_while_it_blocks_tells_nobody_and_leaves_nothing() -> None:
    stuck: list[str] = []
    with eventfds(2) as (bad, good):
        bells = Bells()
        one, other = (bells.bell(fd, lambda: stuck.append("stuck")) for fd in (bad, good))
        block(bad)
        one.ring()
        await pause(module.PATIENCE / 10)
        one.close()
        one.close()
        one.ring()
        other.ring()
        await rung(good)
        other.close()
        await pause(0)
        bells.close()
        bells.close()
        assert stuck == []


async def test_a_write_that_merely_comes_late_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a busy host does to the thread: it is interrupted again and again, and nothing blocks it.
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    stuck: list[str] = []
    with eventfds(1) as (fd,):
        bells = Bells()
        bell = bells.bell(fd, lambda: stuck.append("stuck"))
        for _ in range(200):
            bell.ring()
            bells._interrupt()
            await rung(fd)
        bell.close()
        bells.close()
    assert stuck == []


async def test_what_is_rung_many_times_is_signalled_once_more_at_most_for_each() -> None:
    with eventfds(2) as (bad, fd):
        bells = Bells()
        blocker, bell = (bells.bell(each, lambda: None) for each in (bad, fd))
        block(bad)
        blocker.ring()
        for _ in range(1000):
            bell.ring()
        await rung(fd)
        assert count_of(fd) == 0, "while it waits it is rung once"
        for each in (blocker, bell):
            each.close()
        bells.close()


async def test_each_signal_is_heard_once_and_nothing_waits_where_another_reads_first() -> None:
    heard: list[int] = []
    with eventfds(1) as (fd,):
        hearing = Hearing(fd, lambda: heard.append(1))
        os.set_blocking(fd, True)  # whoever reads it when it is 0 waits
        for number in range(1, 4):
            os.eventfd_write(fd, 1)  # nobody reads it
            await until_true(heard, number)
        os.eventfd_read(fd)
        for _ in range(100):
            os.eventfd_write(fd, 1)
            os.eventfd_read(fd)  # before the loop comes to it
            await pause(0)
        os.eventfd_write(fd, 1)
        await until_true(heard, 4)
        assert len(heard) <= 3 + 100 + 1
        hearing.close()
        hearing.close()


async def test_what_was_rung_is_written_or_given_up_before_it_counts_as_settled() -> None:
    stuck: list[str] = []
    with eventfds(2) as (bad, good):
        bells = Bells()
        blocked, bell = (bells.bell(fd, lambda: stuck.append("stuck")) for fd in (bad, good))
        block(bad)
        blocked.ring()
        bell.ring()
        await bell.settled()
        assert count_of(good) == 1
        await blocked.settled()
        await pause(0.05)
        assert stuck == ["stuck"]
        for each in (blocked, bell):
            each.close()
            await each.settled()
        bells.close()
