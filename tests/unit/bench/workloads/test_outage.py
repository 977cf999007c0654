"""Streams over a link, and across the crash of a guest: reports of real agents, and what is made of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.bench import World, recorded, says, serves, world
from tests.fakes.guest import Process
from tests.made import made_link
from vpctl.bench.workload import Crash, Plan, WorkloadError
from vpctl.bench.workloads import outage
from vpctl.bench.workloads.outage import RECEIVER, SENDER, CrashTask, OutageWorkload, StallTask, gap_ms, parse
from vpctl.errors import RecoveryError, VerificationError
from vpctl.guest.ssh import GuestSshError
from vpctl.rundir import RunDir

PLAN = Plan(workloads=["outage"], duration=1)
LINK = made_link("lan0", "vm1", "vm2")


def report(name: str = "stream-recv-crash.txt", **changed: Any) -> str:
    """Return a recorded report with some values changed."""
    line = next(line for line in recorded(name).splitlines() if line.startswith("{"))
    return json.dumps(json.loads(line) | changed) + "\n"


def test_what_the_agents_say_below_their_first_line_is_read() -> None:
    received = parse(recorded("stream-recv-crash.txt"), RECEIVER)
    assert received == {
        **{"received": 1800, "lost": 1600, "corrupt": 0, "last_seq": 3399},
        **{"longest_gap_ms": 1098.5, "gap_lost": 1600},
    }
    assert gap_ms(received) == 1098.5
    assert parse(recorded("stream-send.txt"), SENDER) == {"sent": 1000, "last_seq": 999}


def test_a_gap_that_lasts_to_the_end_is_one_although_nothing_comes_after_it() -> None:
    received = parse(report(last_seq=400, longest_gap_ms=9.5), RECEIVER)
    assert gap_ms(received, last=405) == 9.5
    assert gap_ms(received, last=999) == 599.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (recorded("stream-recv-nothing.txt"), "nothing arrived of the stream"),
        (report(corrupt=3), "3 datagrams of the stream came damaged"),
        (report(received=1), "nothing arrived of the stream"),
    ],
)
def test_no_stream_and_a_damaged_one_have_no_gap(text: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        gap_ms(parse(text, RECEIVER))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (recorded("stream-recv-in-use.txt"), "reported nothing: .*Address already in use"),
        ("started 7\n", "reported nothing"),
        ('{"received":18', "reported '{\"received\":18'"),
        ("{}", "reported '{}': 'received'"),
        (report(longest_gap_ms="9"), "'9' is no number"),
        (report(received=None), "None is no number"),
        (report(longest_gap_ms=float("nan")), "nan is no number"),
        (report(longest_gap_ms=float("inf")), "inf is no number"),
        (report(received=10**400), "10+ is no number"),
        (report(received=0).replace(": 0", ": " + "9" * 5000, 1), "the agent reported '9{10}"),
    ],
)
def test_no_report_and_half_a_report_are_errors_with_what_was_said(text: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=rf"(?s){message}"):
        parse(text, RECEIVER)


@given(st.floats(0, 1, exclude_max=True))
def test_a_report_that_was_cut_off_is_none(share: float) -> None:
    text = recorded("stream-recv-crash.txt").rstrip()
    with pytest.raises(WorkloadError):
        parse(text[: int(len(text) * share)], RECEIVER)


@given(
    st.text()
    | st.dictionaries(
        st.sampled_from(RECEIVER), st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
    ).map(json.dumps)
)
def test_whatever_an_agent_says_is_a_gap_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(WorkloadError):
        assert gap_ms(parse(text, RECEIVER)) is not None


def test_with_a_crash_only_the_links_of_that_vm_are_measured_from_it_on() -> None:
    async def nothing() -> None: ...

    def rows(vm: str) -> list[str]:
        crash = Crash(vm=vm, kill=nothing, recover=nothing, ready=nothing)
        plan = Plan(workloads=["outage"], duration=1, crash=crash)
        return [str(task.row) for task in OutageWorkload().tasks(LINK, plan)]

    assert [str(task.row) for task in OutageWorkload().tasks(LINK, PLAN)] == [
        "outage vm1 to vm2",
        "outage vm2 to vm1",
    ]
    assert rows("vm1") == ["outage crash vm1 to vm2"]
    assert rows("vm2") == ["outage crash vm2 to vm1"]
    assert rows("vm3") == []


@dataclass(slots=True)
class Receiver:
    """vm2's end of the stream: it tells its report once it gets a TERM."""

    text: str
    over: asyncio.Event = field(default_factory=asyncio.Event)
    order: list[str] = field(default_factory=list)

    def into(self, within: World) -> None:
        within.vm2.programs |= {"stream-recv": self._receive, "kill -TERM 77": self._end}

    async def _receive(self, script: str, process: Process) -> int:
        self.order.append("receive")
        return await serves("started 77\n", self.over, after=self.text)(script, process)

    async def _end(self, script: str, process: Process) -> int:
        self.order.append("end")
        self.over.set()
        return 0


async def test_the_receiver_is_there_before_the_sender_and_ends_after_it(rundir: RunDir) -> None:
    async with world(rundir) as within:
        receiver = Receiver(report(last_seq=999, longest_gap_ms=9.5, lost=4))
        receiver.into(within)

        async def send(script: str, process: Process) -> int:
            receiver.order.append("send")
            within.cross(packets=1800)
            process.stdout.write(recorded("stream-send.txt"))
            return 0

        within.vm1.programs["stream-send"] = send
        (figure,) = await StallTask("vm1", "vm2", PLAN).measure(within.pair)
    assert receiver.order == ["receive", "send", "end"]
    assert (figure.workload, figure.metric.name, figure.metric.unit, figure.variant) == ("outage", "gap", "ms", None)
    assert figure.value == 9.5
    assert figure.extra == {"lost": 4, "sent": 1000}
    assert "exec /a stream-send lan0 10.77.0.2 --rate 1000 --first 0 --duration-ms 1000" in within.vm1.scripts[0]


async def test_a_link_that_went_silent_in_the_middle_has_a_gap_of_what_is_missing(rundir: RunDir) -> None:
    async with world(rundir) as within:
        receiver = Receiver(report(received=300, last_seq=299, longest_gap_ms=2.0, lost=0))
        receiver.into(within)

        async def send(script: str, process: Process) -> int:
            within.cross(packets=300)
            process.stdout.write(recorded("stream-send.txt"))
            return 0

        within.vm1.programs["stream-send"] = send
        (figure,) = await StallTask("vm1", "vm2", PLAN).measure(within.pair)
    assert figure.value == 700.0


@pytest.mark.parametrize(
    ("sender", "message"),
    [
        (says("started\n", status=1, stderr="vpctl-agent: lan0: gone\n"), "vm1: the agent failed .* lan0: gone"),
        (says(recorded("stream-send.txt")), "not of this link"),  # nothing crosses
    ],
    ids=["fails", "elsewhere"],
)
async def test_a_stream_that_was_not_sent_over_the_link_is_no_figure(
    rundir: RunDir, sender: Any, message: str
) -> None:
    async with world(rundir) as within:
        Receiver(report()).into(within)
        within.vm1.programs["stream-send"] = sender
        with pytest.raises(VerificationError, match=message):
            await StallTask("vm1", "vm2", PLAN).measure(within.pair)


@dataclass(slots=True)
class Faults:
    """Kills vm1 as a crash does, and brings it back; each step can be replaced."""

    within: World
    kill: Callable[[], Awaitable[None]] = field(init=False)
    recover: Callable[[], Awaitable[None]] = field(init=False)
    ready: Callable[[], Awaitable[None]] = field(init=False)
    senders: list[str] = field(default_factory=list)
    resumed: asyncio.Event = field(default_factory=asyncio.Event)
    """There was a second sender."""

    def __post_init__(self) -> None:
        self.kill, self.recover, self.ready = self._kill, self._recover, self._ready
        self.within.vm1.programs |= {"stream-send": self._send, "uname -r": says("6.1.0\nbuffer 4096\n")}

    async def _send(self, script: str, process: Process) -> int:
        self.senders.append(script)
        if len(self.senders) > 1:
            self.resumed.set()
        return await serves("started\n")(script, process)

    async def _kill(self) -> None:
        await self.within.pair.first.guest.close()

    async def _recover(self) -> None:
        return

    async def _ready(self) -> None:
        await self.within.pair.first.guest.connect()

    @property
    def crash(self) -> Crash:
        return Crash(vm="vm1", kill=self.kill, recover=self.recover, ready=self.ready)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a stream run no longer than it takes to see that it does."""
    monkeypatch.setattr(outage, "BEFORE_SECONDS", 0.3)
    monkeypatch.setattr(outage, "AFTER_SECONDS", 0.2)


def first_number(script: str) -> int:
    """Return the number that a sender begins with."""
    words = script.split()
    return int(words[words.index("--first") + 1])


@pytest.mark.usefixtures("brief")
async def test_the_stream_of_a_killed_guest_goes_on_from_the_new_one_where_it_would_be(rundir: RunDir) -> None:
    async with world(rundir) as within:
        receiver = Receiver(report())
        receiver.into(within)
        faults = Faults(within)
        (figure,) = await CrashTask(faults.crash, "vm2").measure(within.pair)
        assert within.pair.first.guest.facts.buffer == 4096  # the new guest's own
    assert (figure.variant, figure.source, figure.target) == ("crash", "vm1", "vm2")
    assert figure.value == 1098.5
    assert figure.extra == {"lost": 1600}
    before, after = map(first_number, faults.senders)
    assert before == 0
    assert after >= 300  # it ran for 0.3 s
    assert receiver.order == ["receive", "end"]


@pytest.mark.usefixtures("brief")
async def test_a_stream_that_saw_nothing_of_the_crash_is_no_figure(rundir: RunDir) -> None:
    async with world(rundir) as within:
        Receiver(report(gap_lost=0)).into(within)
        with pytest.raises(WorkloadError, match="the stream saw nothing of the crash of `vm1`"):
            await CrashTask(Faults(within).crash, "vm2").measure(within.pair)


@pytest.mark.usefixtures("brief")
async def test_a_recovery_that_fails_ends_the_stream_that_had_gone_on(rundir: RunDir) -> None:
    async with world(rundir) as within:
        Receiver(report()).into(within)
        faults = Faults(within)
        before = asyncio.all_tasks()

        async def fail() -> None:
            async with asyncio.timeout(10):
                await faults.resumed.wait()
            raise RecoveryError("`vm1` does not boot")

        faults.recover = fail
        with pytest.raises(RecoveryError, match="`vm1` does not boot"):
            await CrashTask(faults.crash, "vm2").measure(within.pair)
        left = {task.get_name() for task in asyncio.all_tasks() - before}
        assert not left & {"stream", "resume", "recover", "serve-vm1", "serve-vm2"}


@pytest.mark.usefixtures("brief")
async def test_a_stream_that_ends_before_the_link_is_back_is_told(rundir: RunDir) -> None:
    async with world(rundir) as within:
        Receiver(report()).into(within)
        faults = Faults(within)

        async def forever() -> None:
            await asyncio.Event().wait()

        async def ready() -> None:
            await within.pair.first.guest.connect()
            within.vm1.programs["stream-send"] = says("started\n", status=1, stderr="vpctl-agent: no such option\n")

        faults.recover, faults.ready = forever, ready
        with pytest.raises(WorkloadError, match="vm1: the stream ended: vpctl-agent: no such option"):
            await CrashTask(faults.crash, "vm2").measure(within.pair)


@pytest.mark.usefixtures("brief")
async def test_a_guest_that_cannot_be_logged_in_to_again_is_one_error_of_ours(rundir: RunDir) -> None:
    async with world(rundir) as within:
        Receiver(report()).into(within)
        faults = Faults(within)

        async def ready() -> None:
            raise GuestSshError("no ssh into vm1")

        faults.ready = ready
        with pytest.raises(GuestSshError, match="no ssh into vm1"):
            await CrashTask(faults.crash, "vm2").measure(within.pair)
