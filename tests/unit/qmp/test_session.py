"""Sessions against a fake QMP server that speaks the real protocol."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.qmp_server import Close, Delay, Event, FakeQemu, Mute, Raw, Refuse, Reply, serving
from tests.unit.qmp.recording import connected
from vpctl.errors import QmpError, QmpLostError, QmpTimeoutError, ReadyTimeoutError
from vpctl.qmp.session import Journal, QmpRefusedError, Session, connect, open_session


class Recorder(Journal):
    """Keeps what a journal would."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.outcomes: list[tuple[str, dict[str, Any]]] = []

    def qmp_event(self, vm: str, event: Mapping[str, Any]) -> None:
        self.events.append(event["event"])

    def qmp_command(
        self, vm: str, command: str, arguments: Mapping[str, Any], outcome: Mapping[str, Any], ms: float
    ) -> None:
        assert ms >= 0
        self.outcomes.append((command, dict(outcome)))


async def test_returns_what_the_command_returned_and_knows_the_version(path: Path) -> None:
    fake = FakeQemu(version=(9, 1, 2))
    fake.script("query-status", [Reply({"status": "running"})])
    async with connected(path, fake) as session:
        assert session.version == (9, 1, 2)
        assert await session.execute("query-status") == {"status": "running"}
    assert fake.received == [("query-status", {})]


async def test_waits_for_a_socket_that_appears_later(path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(open_session(path, vm="vm1", timeout=5))
        await asyncio.wait([opening], timeout=0.1)
        assert not opening.done()
        async with serving(path, FakeQemu()):
            session = await opening
            await session.close()


async def test_names_the_reason_when_nobody_comes(path: Path) -> None:
    with pytest.raises(ReadyTimeoutError, match=r"vm1: QMP at .*not within 0\.1 s.*No such file"):
        await open_session(path, vm="vm1", timeout=0.1)


async def test_names_a_socket_that_somebody_else_holds(path: Path) -> None:
    fake = FakeQemu()
    async with connected(path, fake):
        with pytest.raises(ReadyTimeoutError, match="another client may hold"):
            await open_session(path, vm="vm1", timeout=0.2)


async def test_tries_again_when_an_event_comes_before_the_greeting(path: Path) -> None:
    class OnceTooEarly(FakeQemu):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.opening = (Event("RESUME"),) if self.clients == 0 else ()
            await super().serve(reader, writer)

    fake = OnceTooEarly()
    async with connected(path, fake) as session:
        assert await session.execute("stop") == {}
    assert fake.clients == 2


async def test_tries_again_when_closed_before_the_greeting(path: Path) -> None:
    class OnceClosed(FakeQemu):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.opening = (Close(),) if self.clients == 0 else ()
            await super().serve(reader, writer)

    fake = OnceClosed()
    async with connected(path, fake) as session:
        assert await session.execute("stop") == {}


async def test_refusal_carries_class_text_and_command(path: Path) -> None:
    fake = FakeQemu()
    fake.script("device_add", [Refuse("Bus 'rp9' not found", "GenericError")])
    async with connected(path, fake) as session:
        with pytest.raises(QmpRefusedError) as caught:
            await session.execute("device_add", {"driver": "x", "id": "d0"})
    error = caught.value
    assert (error.vm, error.command, error.error_class) == ("vm1", "device_add", "GenericError")
    assert error.description == "Bus 'rp9' not found"
    assert error.exit_code == 5


async def test_stays_usable_after_a_time_out_and_drops_the_late_reply(path: Path) -> None:
    fake = FakeQemu()
    fake.script("query-status", [Delay(0.15), Reply({"status": "late"})], [Reply({"status": "second"})])
    async with connected(path, fake) as session:
        with pytest.raises(QmpTimeoutError, match=r"no reply to `query-status` within 0\.05 s"):
            await session.execute("query-status", timeout=0.05)
        assert await session.execute("query-status") == {"status": "second"}


async def test_default_time_out_holds_when_none_is_given(path: Path) -> None:
    fake = FakeQemu()
    fake.script("query-status", [Mute()])
    async with serving(path, fake), connect(path, vm="vm1", timeout=1, default_timeout=0.05) as session:
        with pytest.raises(QmpTimeoutError, match=r"0\.05 s"):
            await session.execute("query-status")


async def test_command_under_way_is_lost_when_qemu_dies(path: Path) -> None:
    fake = FakeQemu()
    fake.script("query-status", [Delay(0.02), Close()])
    async with connected(path, fake) as session:
        with pytest.raises(QmpLostError, match=r"vm1: .*with `query-status` under way"):
            await session.execute("query-status")
        with pytest.raises(QmpLostError, match="closed the QMP connection"):
            await session.execute("query-status")
        assert session.lost is not None


async def test_closed_returns_when_qemu_ends_the_connection(path: Path) -> None:
    fake = FakeQemu()
    async with connected(path, fake) as session, asyncio.timeout(2), asyncio.TaskGroup() as group:
        waiting = group.create_task(session.closed())
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        fake.close()


async def test_close_ends_pending_commands_and_is_idempotent(path: Path) -> None:
    fake = FakeQemu()
    fake.script("query-status", [Mute()])
    async with serving(path, fake):
        session = await open_session(path, vm="vm1", timeout=1)
        async with asyncio.TaskGroup() as group:
            pending = group.create_task(_outcome(session))
            await asyncio.wait([pending], timeout=0.05)
            await session.close()
            await session.close()
        assert isinstance(pending.result(), QmpLostError)
        assert "closed on this side" in pending.result().message


async def _outcome(session: Session) -> QmpError:
    try:
        await session.execute("query-status")
    except QmpError as error:
        return error
    raise AssertionError("no error")


async def test_close_is_quick_when_the_server_reads_nothing(path: Path) -> None:
    fake = FakeQemu()
    fake.script("query-status", [Delay(30)])
    async with serving(path, fake):
        session = await open_session(path, vm="vm1", timeout=1)
        with pytest.raises(QmpTimeoutError):
            await session.execute("query-status", timeout=0.02)
        with pytest.raises(QmpTimeoutError):
            await session.execute("object-add", {"filler": "x" * 4_000_000}, timeout=0.1)
        async with asyncio.timeout(2):
            await session.close()


async def test_cancelled_command_leaves_the_session_usable(path: Path) -> None:
    fake = FakeQemu()
    fake.script("query-status", [Delay(0.1), Reply({"status": "late"})])
    recorder = Recorder()
    async with connected(path, fake, recorder) as session:
        task = asyncio.ensure_future(session.execute("query-status"))
        await asyncio.wait([task], timeout=0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.execute("stop") == {}
    assert recorder.outcomes == [("query-status", {"cancelled": True}), ("stop", {"return": {}})]


async def test_damaged_stream_ends_the_session_with_its_reason(path: Path) -> None:
    fake = FakeQemu()
    fake.script("query-status", [Raw(b"this is no JSON\r\n"), Mute()])
    async with connected(path, fake) as session:
        with pytest.raises(QmpLostError, match="the QMP connection failed"):
            await session.execute("query-status")


async def test_value_that_is_no_json_is_the_callers_error_only(path: Path) -> None:
    async with connected(path, FakeQemu()) as session:
        with pytest.raises(TypeError):
            await session.execute("device_add", {"id": Path("/x")})
        assert await session.execute("stop") == {}


async def test_journal_learns_of_every_event_and_every_outcome(path: Path) -> None:
    fake = FakeQemu()
    fake.script("stop", [Event("STOP"), Reply()])
    fake.script("cont", [Refuse("no")])
    fake.script("query-status", [Mute()])
    fake.script("quit", [Close()])
    recorder = Recorder()
    async with connected(path, fake, recorder) as session:
        await session.execute("stop")
        for command in ("cont", "query-status", "quit"):
            with pytest.raises(QmpError):
                await session.execute(command, timeout=0.1)
    assert recorder.events == ["STOP"]
    assert [name for name, _ in recorder.outcomes] == ["stop", "cont", "query-status", "quit"]
    outcomes = [outcome for _, outcome in recorder.outcomes]
    assert outcomes[:3] == [{"return": {}}, {"error": {"class": "GenericError", "desc": "no"}}, {"timeout": 0.1}]
    assert list(outcomes[3]) == ["lost"]


async def test_commands_of_several_tasks_get_their_own_replies(path: Path) -> None:
    fake = FakeQemu()
    fake.script("query-a", [Delay(0.05), Reply("a")])
    fake.script("query-b", [Reply("b")])
    async with connected(path, fake) as session, asyncio.TaskGroup() as group:
        first = group.create_task(session.execute("query-a"))
        second = group.create_task(session.execute("query-b"))
    assert (first.result(), second.result()) == ("a", "b")


@pytest.mark.parametrize("module", ["session", "hotplug", "device"])
def test_importing_does_not_load_qemu_qmp(module: str) -> None:
    code = f"import sys, vpctl.qmp.{module}; sys.exit('qemu.qmp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
