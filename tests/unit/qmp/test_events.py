"""Events around a command: expected, subscribed to, kept and lost."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest

from tests.fakes.qmp_server import Close, Delay, Event, FakeQemu, Reply
from tests.unit.qmp.recording import connected
from vpctl.errors import QmpLostError, QmpTimeoutError
from vpctl.qmp.events import BACKLOG


async def test_expectation_sees_an_event_that_comes_before_the_reply(path: Path) -> None:
    fake = FakeQemu()
    fake.script("stop", [Event("STOP"), Reply()])
    async with connected(path, fake) as session:
        with session.expect("STOP") as stopped:
            await session.execute("stop")
            assert (await stopped.wait(0.5))["event"] == "STOP"


async def test_expectation_takes_only_its_names_and_matches(path: Path) -> None:
    fake = FakeQemu()
    events = [Event("DEVICE_DELETED", {"path": "/x"}), Event("RESET"), Event("DEVICE_DELETED", {"device": "d0"})]
    fake.script("device_del", [Reply(), *events])
    async with connected(path, fake) as session:
        with session.expect("DEVICE_DELETED", match=lambda event: "device" in event["data"]) as deleted:
            await session.execute("device_del", {"id": "d0"})
            assert (await deleted.wait(0.5))["data"] == {"device": "d0"}
            with pytest.raises(QmpTimeoutError, match=r"no DEVICE_DELETED within 0\.02 s"):
                await deleted.wait(0.02)


async def test_expectation_that_timed_out_still_gets_the_event_later(path: Path) -> None:
    fake = FakeQemu()
    fake.script("stop", [Reply(), Delay(0.1), Event("STOP")])
    async with connected(path, fake) as session:
        with session.expect("STOP") as stopped:
            await session.execute("stop")
            with pytest.raises(QmpTimeoutError):
                await stopped.wait(0.02)
            assert (await stopped.wait(1))["event"] == "STOP"


async def test_expectation_fails_at_once_when_the_connection_ends(path: Path) -> None:
    fake = FakeQemu()
    fake.script("stop", [Reply(), Delay(0.02), Close()])
    async with connected(path, fake) as session:
        with session.expect("STOP") as stopped:
            await session.execute("stop")
            began = time.monotonic()
            with pytest.raises(QmpLostError):
                await stopped.wait(30)
    assert time.monotonic() - began < 5


async def test_expectation_opened_after_the_end_fails_too(path: Path) -> None:
    fake = FakeQemu()
    async with connected(path, fake) as session:
        fake.close()
        await session.closed()
        with session.expect("STOP") as stopped, pytest.raises(QmpLostError):
            await stopped.wait(30)


async def test_subscription_yields_the_last_events_before_it_ends(path: Path) -> None:
    fake = FakeQemu()
    fake.script("quit", [Reply(), Event("SHUTDOWN", {"reason": "host-qmp-quit"}), Close()])
    async with connected(path, fake) as session:
        with session.subscribe() as events:
            await session.execute("quit")
            assert [event["event"] async for event in events] == ["SHUTDOWN"]
        assert session.lost is not None


async def test_slow_subscriber_keeps_the_newest_and_counts_what_it_lost(path: Path) -> None:
    fake = FakeQemu()
    flood = [Event("STOP", {"n": n}) for n in range(BACKLOG + 5)]
    fake.script("stop", [Reply(), *flood, Event("RESUME")])
    async with connected(path, fake) as session:
        with session.subscribe() as slow, session.expect("RESUME") as end:
            await session.execute("stop")
            await end.wait(5)
            assert slow.dropped == 6
            assert (await slow.wait(1))["data"]["n"] == 6


async def test_slow_subscriber_keeps_what_it_asked_to_keep(path: Path) -> None:
    fake = FakeQemu()
    flood = [Event("STOP", {"n": n}) for n in range(BACKLOG + 5)]
    fake.script("stop", [Reply(), Event("JOB_DONE", {"job": 1}), *flood, Event("RESUME")])
    async with connected(path, fake) as session:
        with session.subscribe(keep=("JOB_DONE",)) as slow, session.expect("RESUME") as end:
            await session.execute("stop")
            await end.wait(5)
            assert slow.dropped == 7
            assert (await slow.wait(1))["event"] == "JOB_DONE"
            assert (await slow.wait(1))["data"]["n"] == 7


async def test_events_nobody_reads_are_not_kept(path: Path) -> None:
    fake = FakeQemu()
    fake.script("stop", [Reply(), *[Event("STOP")] * 500, Event("RESUME")])
    async with connected(path, fake) as session:
        with session.expect("RESUME") as end:
            await session.execute("stop")
            await end.wait(5)
        from qemu.qmp import EventListener

        gc.collect()
        listeners = [thing for thing in gc.get_objects() if isinstance(thing, EventListener)]
        assert listeners
        assert all(listener.empty() and not listener.history for listener in listeners)
