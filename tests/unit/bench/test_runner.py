"""Rounds over fake tasks: order, failures, guests that end, and what is told of it all."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from tests.fakes.bench import made_guest, made_pair
from vpctl.bench import runner as runner_module
from vpctl.bench.guest import GuestFacts, GuestLostError, Raw
from vpctl.bench.runner import FAILURES_PER_TASK, FailedMeasurement, Outcome, Runner
from vpctl.bench.workload import Crash, Figure, Metric, Pair, Plan, Row, Task, Workload, WorkloadError
from vpctl.guest.ssh import GuestSshError
from vpctl.process import ProcessId, identify
from vpctl.topology.model import LinkSpec

METRIC = Metric(name="throughput", unit="Mbit/s", better="higher")

Measure = Callable[[Pair, int], Awaitable[float]]
"""Measures a link; told how often it was measured before."""


async def at_once(pair: Pair, times: int) -> float:
    return float(times)


async def fails(pair: Pair, times: int) -> float:
    raise WorkloadError("nothing arrived")


async def hangs(pair: Pair, times: int) -> float:
    await asyncio.Event().wait()
    return 0.0


@dataclass(slots=True)
class FakeTask:
    row: Row
    act: Measure
    log: list[str]
    seconds: float = 1.0
    times: int = 0

    async def measure(self, pair: Pair) -> list[Figure]:
        self.times += 1
        self.log.append(f"{self.row.workload} {pair.link.name}")
        value = await self.act(pair, self.times)
        row = self.row
        return [Figure(workload=row.workload, metric=METRIC, source=row.source, target=row.target, value=value)]


@dataclass(slots=True)
class FakeWorkload:
    name: str
    act: Measure = at_once
    needs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    only: Sequence[str] | None = None
    """Links that it is for; None: all."""
    seconds: float = 1.0
    log: list[str] = field(default_factory=list)

    def tasks(self, link: LinkSpec, plan: Plan) -> list[Task]:
        if self.only is not None and link.name not in self.only:
            return []
        row = Row(workload=self.name, source="vm1", target="vm2", also=self.also)
        return [FakeTask(row=row, act=self.act, log=self.log, seconds=self.seconds)]


@dataclass(slots=True)
class Told:
    """An observer that writes down what it is told."""

    lines: list[str] = field(default_factory=list)
    left: list[float] = field(default_factory=list)

    def began(self, link: str, row: Row, round_: int) -> None:
        self.lines.append(f"{round_} {row.workload} {link}")

    def measured(self, link: str, figures: Sequence[Figure], round_: int, left: float) -> None:
        self.lines.append(f"{round_} measured {link} {[figure.value for figure in figures]}")
        self.left.append(left)

    def failed(self, failure: FailedMeasurement) -> None:
        self.lines.append(f"{failure.round_} failed {failure.link}: {failure.error.message}")

    def broken(self, link: str, reason: str) -> None:
        self.lines.append(f"broken {link}: {reason}")


@contextmanager
def qemus(*vms: str) -> Iterator[dict[str, ProcessId]]:
    """Have a process in place of each VM's QEMU for as long as the block lasts."""
    with ExitStack() as stack:
        found = {}
        for vm in vms:
            process = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
            stack.callback(process.kill)
            identity = identify(process.pid)
            assert identity is not None
            found[vm] = identity
        yield found


@pytest.fixture(scope="module")
def alive() -> Iterator[dict[str, ProcessId]]:
    """Six VMs that nothing happens to."""
    with qemus(*(f"vm{number}" for number in range(1, 7))) as found:
        yield found


def pairs_of(processes: dict[str, ProcessId], *links: tuple[str, str, str]) -> list[Pair]:
    """Return links (name, first VM, second VM) between guests with these QEMUs; a VM is one guest."""
    guests = {vm: made_guest(vm, process) for vm, process in processes.items()}
    return [made_pair(guests[first], guests[second], name) for name, first, second in links]


THREE = (("lan0", "vm1", "vm2"), ("lan1", "vm3", "vm4"), ("lan2", "vm5", "vm6"))


@dataclass(slots=True)
class Bench:
    """A runner and what it is given."""

    pairs: list[Pair]
    workloads: list[FakeWorkload]
    repeats: int = 2
    crash: Crash | None = None
    carries: Callable[[Pair], str | None] = lambda pair: None
    """Why a link that is probed carries nothing."""
    told: Told = field(default_factory=Told)
    probed: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    raw: Raw = field(default_factory=Raw)
    estimate: float = 0.0

    async def run(self) -> Outcome:
        for workload in self.workloads:
            workload.log = self.log
        known: dict[str, Workload] = {workload.name: workload for workload in self.workloads}
        plan = Plan(workloads=list(known), duration=1, crash=self.crash)

        def observer(runner: Runner) -> Told:
            self.estimate = runner.estimate
            return self.told

        async def probe(pair: Pair) -> str | None:
            self.probed.append(pair.link.name)
            return self.carries(pair)

        runner = Runner(self.pairs, known, plan, repeats=self.repeats, raw=self.raw, observer=observer, probe=probe)
        async with asyncio.timeout(20):
            return await runner.run()


def values(outcome: Outcome, link: str) -> list[float]:
    return [figure.value for figure in outcome.figures[link]]


# Section: order


async def test_each_task_goes_over_all_links_before_the_next_and_every_round_begins_at_another_link(
    alive: dict[str, ProcessId],
) -> None:
    bench = Bench(pairs_of(alive, *THREE), [FakeWorkload("ping"), FakeWorkload("tcp")], repeats=3)
    await bench.run()
    first, second, third = (
        [f"{workload} {link}" for workload in ("ping", "tcp") for link in order]
        for order in (["lan0", "lan1", "lan2"], ["lan1", "lan2", "lan0"], ["lan2", "lan0", "lan1"])
    )
    assert bench.log == [*first, *second, *third, *first]


async def test_links_with_fewer_tasks_are_passed_over(alive: dict[str, ProcessId]) -> None:
    tcp = FakeWorkload("tcp", only=["lan1"])
    bench = Bench(pairs_of(alive, *THREE[:2]), [FakeWorkload("ping"), tcp], repeats=1)
    await bench.run()
    assert bench.log == ["ping lan0", "ping lan1", "tcp lan1", "ping lan1", "ping lan0", "tcp lan1"]


async def test_the_warm_up_counts_for_nothing_but_is_run_and_told(alive: dict[str, ProcessId]) -> None:
    bench = Bench(pairs_of(alive, *THREE[:1]), [FakeWorkload("ping")], repeats=2)
    outcome = await bench.run()
    assert values(outcome, "lan0") == [2.0, 3.0]
    assert bench.told.lines == [
        *("0 ping lan0", "0 measured lan0 [1.0]"),
        *("1 ping lan0", "1 measured lan0 [2.0]"),
        *("2 ping lan0", "2 measured lan0 [3.0]"),
    ]


async def test_how_long_it_takes_is_known_beforehand_and_comes_to_nothing(alive: dict[str, ProcessId]) -> None:
    bench = Bench(pairs_of(alive, *THREE[:2]), [FakeWorkload("ping", seconds=2), FakeWorkload("tcp", seconds=3)])
    outcome = await bench.run()
    assert bench.estimate == 2 * (2 + 3) * 3
    assert bench.told.left == sorted(bench.told.left, reverse=True)
    assert bench.told.left[-1] == 0
    assert set(outcome.seconds) == {(link, name) for link in ("lan0", "lan1") for name in ("ping", "tcp")}
    assert all(seconds > 0 for seconds in outcome.seconds.values())


async def test_time_is_of_all_repeats_of_a_workload_together(alive: dict[str, ProcessId]) -> None:
    async def slowly(pair: Pair, times: int) -> float:
        await asyncio.sleep(0.05 if pair.link.name == "lan1" else 0)
        return 1.0

    bench = Bench(pairs_of(alive, *THREE[:2]), [FakeWorkload("ping", slowly)], repeats=3)
    outcome = await bench.run()
    assert outcome.seconds["lan1", "ping"] >= 4 * 0.05
    assert outcome.seconds["lan0", "ping"] < outcome.seconds["lan1", "ping"]


async def test_raw_output_is_kept_with_what_it_was_for(alive: dict[str, ProcessId]) -> None:
    async def talks(pair: Pair, times: int) -> float:
        bench.raw.add("vm1", "ping", None)
        return 1.0

    bench = Bench(pairs_of(alive, *THREE[:2]), [FakeWorkload("ping", talks)], repeats=1)
    await bench.run()
    assert [(record.link, record.workload, record.round) for record in bench.raw.records] == [
        *(("lan0", "ping", 0), ("lan1", "ping", 0)),
        *(("lan1", "ping", 1), ("lan0", "ping", 1)),
    ]


async def test_nothing_to_be_measured_is_no_error() -> None:
    outcome = await Bench([], [FakeWorkload("ping")]).run()
    assert (outcome.figures, outcome.failures) == ({}, [])


# Section: what is missing


async def test_a_workload_whose_program_a_guest_lacks_is_skipped_with_the_reason_on_its_links_only(
    alive: dict[str, ProcessId],
) -> None:
    pairs = pairs_of(alive, *THREE[:2])
    for end, missing in ((pairs[0].second, {"iperf3", "ping"}), (pairs[1].first, {"ping"})):
        end.guest.facts = GuestFacts(kernel="", missing=frozenset(missing), buffer=0, limits={})
    bench = Bench(pairs, [FakeWorkload("tcp", needs=("iperf3",)), FakeWorkload("outage")], repeats=1)
    outcome = await bench.run()
    assert outcome.skipped == {("lan0", "tcp"): "`vm2` has no `iperf3`"}
    assert sorted(set(bench.log)) == ["outage lan0", "outage lan1", "tcp lan1"]
    assert bench.estimate == 3 * 2  # what is skipped takes no time


async def test_everything_that_is_missing_is_named(alive: dict[str, ProcessId]) -> None:
    pairs = pairs_of(alive, *THREE[:1])
    for end in (pairs[0].first, pairs[0].second):
        end.guest.facts = GuestFacts(kernel="", missing=frozenset({"iperf3"}), buffer=0, limits={})
    outcome = await Bench(pairs, [FakeWorkload("tcp", needs=("iperf3",))]).run()
    assert outcome.skipped["lan0", "tcp"] == "`vm1` has no `iperf3`; `vm2` has no `iperf3`"


# Section: failures


async def test_a_measurement_that_fails_is_tried_again_and_after_two_failures_no_more(
    alive: dict[str, ProcessId],
) -> None:
    bench = Bench(pairs_of(alive, *THREE[:2]), [FakeWorkload("tcp", fails), FakeWorkload("ping")], repeats=4)
    outcome = await bench.run()
    assert bench.log.count("tcp lan0") == bench.log.count("tcp lan1") == FAILURES_PER_TASK == 2
    assert len(values(outcome, "lan0")) == len(values(outcome, "lan1")) == 4  # of ping
    assert [(failed.link, failed.round_, failed.error.message) for failed in outcome.failures] == [
        *(("lan0", 0, "nothing arrived"), ("lan1", 0, "nothing arrived")),
        *(("lan1", 1, "nothing arrived"), ("lan0", 1, "nothing arrived")),
    ]
    assert outcome.skipped["lan0", "tcp"] == "tcp vm1 to vm2 failed 2 times"
    assert bench.told.lines.count("0 failed lan0: nothing arrived") == 1


async def test_one_failure_costs_one_figure(alive: dict[str, ProcessId]) -> None:
    async def once(pair: Pair, times: int) -> float:
        if times == 2:
            raise WorkloadError("one late tick")
        return float(times)

    outcome = await Bench(pairs_of(alive, *THREE[:1]), [FakeWorkload("tcp", once)], repeats=3).run()
    assert values(outcome, "lan0") == [3.0, 4.0]
    assert [failed.round_ for failed in outcome.failures] == [1]
    assert outcome.skipped == {}


async def test_what_comes_of_the_same_measurement_has_the_failure_as_its_reason(alive: dict[str, ProcessId]) -> None:
    bench = Bench(pairs_of(alive, *THREE[:1]), [FakeWorkload("tcp", fails, also=("cpu",))], repeats=1)
    outcome = await bench.run()
    assert outcome.skipped == {("lan0", "cpu"): "tcp vm1 to vm2 failed: nothing arrived"}


async def test_a_link_that_carries_nothing_any_more_is_given_up_and_the_others_go_on(
    alive: dict[str, ProcessId],
) -> None:
    async def on_lan0(pair: Pair, times: int) -> float:
        if pair.link.name == "lan0" and times == 2:
            raise WorkloadError("nothing arrived")
        return 1.0

    bench = Bench(
        pairs_of(alive, *THREE[:2]),
        [FakeWorkload("tcp", on_lan0, also=("cpu",)), FakeWorkload("ping")],
        repeats=3,
        carries=lambda pair: "no packets from `vm1` to `vm2`: timeout",
    )
    outcome = await bench.run()
    assert bench.probed == ["lan0"]
    why = "no packets from `vm1` to `vm2`: timeout"
    assert bench.told.lines.count(f"broken lan0: {why}") == 1
    assert {key: reason for key, reason in outcome.skipped.items() if key[1] != "cpu"} == {
        ("lan0", "tcp"): f"the link broke: {why}",
        ("lan0", "ping"): f"the link broke: {why}",
    }
    assert ("lan0", "cpu") in outcome.skipped
    assert bench.log.count("tcp lan0") == 2  # warm-up, and the one that failed
    assert len(values(outcome, "lan1")) == 2 * 3
    assert len(outcome.failures) == 1


async def test_a_measurement_that_hangs_is_ended_and_the_next_ones_are_made(
    alive: dict[str, ProcessId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "PATIENCE_SECONDS", 0.1)
    hung = FakeWorkload("tcp", hangs, seconds=0.01)
    bench = Bench(pairs_of(alive, *THREE[:1]), [hung, FakeWorkload("ping")], repeats=2)
    outcome = await bench.run()
    assert [failed.error.message for failed in outcome.failures] == ["not done within 0 s"] * 2
    assert values(outcome, "lan0") == [2.0, 3.0]
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_bug_at_one_measurement_costs_its_figure_and_is_told(alive: dict[str, ProcessId]) -> None:
    async def bug(pair: Pair, times: int) -> float:
        return 1.0 / (times - 2)

    outcome = await Bench(pairs_of(alive, *THREE[:1]), [FakeWorkload("tcp", bug)], repeats=3).run()
    assert values(outcome, "lan0") == [1.0, 0.5]
    assert ["ZeroDivisionError" in failed.error.message for failed in outcome.failures] == [True]


# Section: guests that end


async def test_a_guest_that_ends_breaks_its_links_at_once_and_no_other(alive: dict[str, ProcessId]) -> None:
    with qemus("vm1", "vm2", "vm3") as doomed:
        survivors = {"vm5": alive["vm5"], "vm6": alive["vm6"]}
        links = (("lan0", "vm1", "vm2"), ("lan1", "vm2", "vm3"), ("lan2", "vm5", "vm6"))

        async def dies(pair: Pair, times: int) -> float:
            if pair.link.name == "lan0" and times == 2:
                subprocess_end(doomed["vm2"])
                return await hangs(pair, times)  # nobody hears of it any more
            return 1.0

        def carries(pair: Pair) -> str | None:
            return pytest.fail("a guest that has ended is not probed")

        bench = Bench(
            pairs_of({**doomed, **survivors}, *links),
            [FakeWorkload("tcp", dies), FakeWorkload("ping", patient)],
            repeats=3,
            carries=carries,
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        outcome = await bench.run()
        # Not after the minute that a measurement may take.
        assert loop.time() - began < 10
    assert [(failed.link, failed.round_, failed.error.message) for failed in outcome.failures] == [
        ("lan0", 1, "`vm2` ended in the middle of it"),
        ("lan1", 1, "`vm2` ended in the middle of it"),
    ]
    assert all(isinstance(failed.error, GuestLostError) for failed in outcome.failures)
    assert len(values(outcome, "lan2")) == 2 * 3
    for link in ("lan0", "lan1"):
        assert outcome.skipped[link, "ping"] == "the link broke: `vm2` ended in the middle of it"
    assert bench.probed == []


async def patient(pair: Pair, times: int) -> float:
    await asyncio.sleep(0.05)
    return 1.0


def subprocess_end(process: ProcessId) -> None:
    """End a stand-in for a QEMU by its pid."""
    assert process.signal(signal.SIGKILL)


async def test_ssh_that_breaks_a_moment_before_its_qemu_ends_is_told_as_the_end(alive: dict[str, ProcessId]) -> None:
    with qemus("vm1") as doomed:

        async def breaks(pair: Pair, times: int) -> float:
            asyncio.get_running_loop().call_later(0.1, subprocess_end, doomed["vm1"])
            raise GuestSshError("vm1: the connection broke")

        bench = Bench(pairs_of({**alive, **doomed}, THREE[0]), [FakeWorkload("tcp", breaks)], repeats=1)
        outcome = await bench.run()
    (failed,) = outcome.failures
    assert isinstance(failed.error, GuestLostError)
    assert isinstance(failed.error.__cause__, GuestSshError)
    assert failed.error.hint == "vpctl logs vm1"


async def test_ssh_that_breaks_while_its_qemu_lives_is_told_as_that_and_the_link_is_probed(
    alive: dict[str, ProcessId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LAST_BREATH_SECONDS", 0.05)

    async def breaks(pair: Pair, times: int) -> float:
        if times == 1:
            raise GuestSshError("vm1: the connection broke")
        return 1.0

    bench = Bench(pairs_of(alive, THREE[0]), [FakeWorkload("tcp", breaks)], repeats=1)
    outcome = await bench.run()
    assert [failed.error.message for failed in outcome.failures] == ["vm1: the connection broke"]
    assert bench.probed == ["lan0"]
    assert values(outcome, "lan0") == [1.0]


async def test_where_a_vm_is_killed_on_purpose_its_end_is_no_failure(alive: dict[str, ProcessId]) -> None:
    async def nothing() -> None: ...

    with qemus("vm1") as doomed:

        async def outage(pair: Pair, times: int) -> float:
            subprocess_end(doomed["vm1"])
            await asyncio.sleep(0.1)
            return 7.0

        bench = Bench(
            pairs_of({**alive, **doomed}, THREE[0]),
            [FakeWorkload("outage", outage)],
            repeats=0,
            crash=Crash(vm="vm1", kill=nothing, recover=nothing, ready=nothing),
        )
        outcome = await bench.run()
    assert outcome.failures == []
    assert bench.told.lines == ["0 outage lan0", "0 measured lan0 [7.0]"]


async def test_a_run_that_is_cancelled_leaves_nothing_under_way(alive: dict[str, ProcessId]) -> None:
    begun = asyncio.Event()

    async def begins(pair: Pair, times: int) -> float:
        begun.set()
        return await hangs(pair, times)

    running = asyncio.create_task(Bench(pairs_of(alive, THREE[0]), [FakeWorkload("tcp", begins)]).run())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
