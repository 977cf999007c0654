"""Recoveries carried out by hands that only write down what they were told."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.made import made_topology
from vpctl.errors import (
    HostError,
    HotplugError,
    QmpError,
    ReadyTimeoutError,
    RecoveryError,
    VerificationError,
    VpctlError,
    cause_of,
)
from vpctl.recovery import execute
from vpctl.recovery.faults import Fault
from vpctl.recovery.ops import EndGoneError
from vpctl.recovery.plan import RecoveryPlan, Repair, plan_recovery, plan_repair
from vpctl.recovery.report import Recorder
from vpctl.recovery.state import LinkState, LinkView, RingsView
from vpctl.wait import until

TOPOLOGY = made_topology(("ab0", "a", "b"), ("ac0", "a", "c"), ("bc0", "b", "c"))


class FakeHands:
    """Hands over a made-up world: `dead` VMs come alive by `boot`; `fails` and `waits` act at a step."""

    def __init__(self, *dead: str, fails: dict[str, VpctlError] | None = None) -> None:
        self.alive = {"a", "b", "c"} - set(dead)
        self.failed: set[str] = set()
        self.fails = fails or {}
        self.waits: dict[str, Callable[[], Awaitable[object]]] = {}
        self.done: list[str] = []
        self.changed = asyncio.Event()
        self.locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.generations: dict[str, int] = defaultdict(lambda: 1)
        self.plugged: dict[tuple[str, str], list[int]] = defaultdict(lambda: [1])
        self.up: set[str] = {link.name for link in TOPOLOGY.links if not {e.vm for e in link.endpoints} & set(dead)}
        self.broken: list[str] = []
        self.half_booted: set[str] = set()
        self.prepared: list[str] = []
        self.fronts: dict[str, RingsView] = {}
        self.policy: str | None = None
        self.against: dict[str, frozenset[str]] = defaultdict(frozenset)
        self.expected: dict[str, list[str]] = {}
        self.seen_at: float | None = None

    async def step(self, what: str) -> None:
        if what in self.waits:
            await self.waits[what]()
        await asyncio.sleep(0)
        self.done.append(what)
        if what in self.fails:
            raise self.fails[what]

    def change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def fence(self, vm: str) -> None:
        await self.step(f"fence {vm}")
        self.alive.discard(vm)
        for (where, _), numbers in self.plugged.items():
            if where == vm:
                numbers.clear()

    async def free_ram(self, vm: str, generation: int) -> None:
        await self.step(f"release {vm}.g{generation}")

    def is_booting(self, vm: str) -> bool:
        return vm in self.half_booted

    async def boot(self, vm: str) -> float:
        try:
            await self.step(f"boot {vm}")
        except VpctlError:
            self.failed.add(vm)
            self.change()
            raise
        self.alive.add(vm)
        self.change()
        return 900.0

    async def until_ready(self, vm: str) -> None:
        while vm not in self.alive:
            if vm in self.failed:
                raise RecoveryError(f"`{vm}` is crashed")
            await self.changed.wait()

    def is_alive(self, vm: str) -> bool:
        return vm in self.alive

    async def repair_of(self, link: str) -> Repair | None:
        if link in self.up:
            return None
        spec = TOPOLOGY.link(link)
        plugged = {end.vm: tuple(self.plugged[end.vm, link]) for end in spec.endpoints}
        view = LinkView(
            state=LinkState.DOWN,
            generation=self.generations[link],
            plugged=plugged,
            failed=self.against[link],
        )
        self.generations[link] += 1
        return plan_repair(spec, view, self.alive, self.fronts.get(link), policy=self.policy)

    async def prepare_host(self, link: str) -> None:
        self.prepared.append(link)
        if f"prepare {link}" in self.fails:
            raise self.fails[f"prepare {link}"]

    async def hold(self, vm: str, link: str, generation: int) -> None:
        await self.step(f"hold {vm}/{link}.g{generation}")

    def policy_failed(self, repair: Repair) -> None:
        self.against[repair.link] |= {repair.policy}

    async def link_down(self, vm: str, link: str, generation: int) -> None:
        await self.step(f"unlink {vm}/{link}.g{generation}")

    async def link_up(self, vm: str, repair: Repair) -> None:
        await self.step(f"link {vm}/{repair.link}")

    async def unplug(self, vm: str, link: str, generation: int) -> None:
        await self.step(f"unplug {vm}/{link}.g{generation}")
        self.plugged[vm, link].remove(generation)

    async def plug(self, vm: str, repair: Repair) -> None:
        assert vm in self.alive, "plugged into a VM that is not there"
        await self.step(f"plug {vm}/{repair.link}.g{repair.generation}")
        self.plugged[vm, repair.link].append(repair.generation)

    @asynccontextmanager
    async def expecting(self, link: str, vms: Collection[str]) -> AsyncIterator[None]:
        self.expected[link] = list(vms)
        yield
        del self.expected[link]

    async def verify(self, link: str) -> float:
        await self.step(f"prove {link}")
        self.up.add(link)
        return time.monotonic() if self.seen_at is None else self.seen_at

    def foreseen(self, error: Exception, name: str, *, vm: str | None = None, link: str | None = None) -> VpctlError:
        cause = cause_of(error)
        if not isinstance(cause, VpctlError):
            raise error  # a mistake of these tests
        return cause

    def link_lock(self, link: str) -> asyncio.Lock:
        return self.locks[link]

    def link_broken(self, link: str, reason: str) -> None:
        self.broken.append(link)

    def of(self, link: str) -> list[str]:
        return [step for step in self.done if link in step]


def recorder() -> Recorder:
    now = time.monotonic()
    return Recorder(
        vm="a",
        fault=Fault.QEMU_EXIT,
        policy="replug",
        fault_at=now,
        detected_at=now,
        on_step=lambda step: None,
    )


def plan(hands: FakeHands, vm: str = "a") -> RecoveryPlan:
    view = LinkView(state=LinkState.DOWN, generation=1, plugged={})
    links = {link.name: view for link in TOPOLOGY.links}
    return plan_recovery(
        TOPOLOGY.links_of(vm), vm, generation=1, links=links, alive=hands.alive, recreate=not hands.is_alive(vm)
    )


async def recover(hands: FakeHands, record: Recorder | None = None) -> None:
    async with asyncio.timeout(5):
        await execute.recover_vm(plan(hands), hands, record or recorder())


async def test_fences_first_repairs_survivors_while_the_vm_boots_and_proves_each_link_last() -> None:
    hands, record = FakeHands("a"), recorder()

    async def survivors_are_plugged() -> bool | None:
        return {"plug b/ab0.g2", "plug c/ac0.g2"} <= set(hands.done) or None

    # A boot that ends only once the survivors are done.
    hands.waits["boot a"] = lambda: until(survivors_are_plugged, timeout=5, what="survivors", every=0)
    await recover(hands, record)
    assert hands.done[0] == "fence a"
    for vm, link in (("b", "ab0"), ("c", "ac0")):
        steps = [f"unplug {vm}/{link}.g1", f"plug {vm}/{link}.g2", f"plug a/{link}.g2", f"prove {link}"]
        assert hands.of(link) == steps
        assert hands.done.index(steps[2]) > hands.done.index("boot a")
    assert hands.of("bc0") == []  # a link that the crash did not touch
    assert record.boot_ms == 900.0
    assert set(record.outages) == {"ab0", "ac0"}
    assert 0 < record.survivor_ms <= min(record.outages.values())


async def test_a_survivor_looks_for_packets_until_they_are_proved_and_the_outage_ends_with_the_first() -> None:
    hands, record = FakeHands("a"), recorder()
    looking: dict[str, dict[str, list[str]]] = {}

    async def note(step: str) -> None:
        looking[step] = {link: list(vms) for link, vms in hands.expected.items() if link == "ab0"}

    for step in ("unplug b/ab0.g1", "plug b/ab0.g2", "plug a/ab0.g2", "prove ab0"):
        hands.waits[step] = partial(note, step)
    hands.waits["boot a"] = lambda: until(
        lambda: _done(hands, "plug b/ab0.g2"), timeout=5, what="the survivor's plug", every=0
    )
    hands.seen_at = record.fault_at + 0.005
    await recover(hands, record)
    assert looking.pop("unplug b/ab0.g1") == {}  # what goes may carry what was under way
    assert list(looking.values()) == [{"ab0": ["b"]}] * 3
    assert hands.expected == {}
    assert record.outages["ab0"] == pytest.approx(5)


async def test_a_vm_that_is_well_keeps_its_process_and_only_its_links_are_repaired() -> None:
    hands = FakeHands()
    hands.up.remove("ab0")
    await recover(hands)
    assert hands.done == ["unplug a/ab0.g1", "unplug b/ab0.g1", "plug a/ab0.g2", "plug b/ab0.g2", "prove ab0"]


async def test_a_boot_that_fails_is_the_cause_and_ends_the_repairs_that_wait_for_it() -> None:
    cause = ReadyTimeoutError("`a`: boot stage `ssh`: no answer", hint="logs are in /x")
    hands = FakeHands("a", fails={"boot a": cause})
    with pytest.raises(RecoveryError, match="recovery of `a` failed: `a`: boot stage `ssh`: no answer") as caught:
        await recover(hands)
    assert caught.value.__cause__ is cause
    assert caught.value.hint == "logs are in /x"
    assert "plug b/ab0.g2" in hands.done  # the survivor's side is ready for the next attempt
    assert sorted(hands.broken) == ["ab0", "ac0"]


async def test_a_fence_that_fails_starts_nothing() -> None:
    hands = FakeHands("a", fails={"fence a": QmpError("a: its QEMU does not end")})
    with pytest.raises(QmpError):
        await recover(hands)
    assert hands.done == ["fence a"]


async def test_a_link_that_fails_does_not_stop_another() -> None:
    hands = FakeHands("a", fails={"unplug b/ab0.g1": HotplugError("b: lan0 is stuck", hint="on_stuck")})
    with pytest.raises(RecoveryError, match="b: lan0 is stuck") as caught:
        await recover(hands)
    assert caught.value.hint == "on_stuck"
    assert "prove ac0" in hands.done
    assert "plug b/ab0.g2" not in hands.done
    assert hands.broken == ["ab0"]


async def test_a_link_without_packets_has_no_outage_figure_and_is_broken() -> None:
    hands, record = FakeHands("a", fails={"prove ab0": VerificationError("no packets")}), recorder()
    with pytest.raises(RecoveryError, match="no packets"):
        await recover(hands, record)
    assert set(record.outages) == {"ac0"}
    assert hands.broken == ["ab0"]
    failed = [(step["name"], step["target"]) for step in record.steps if not step["ok"]]
    assert failed == [("verify", "ab0")]


async def test_the_second_of_two_recoveries_that_meet_at_a_link_finds_it_repaired() -> None:
    hands = FakeHands("a", "b")
    records = recorder(), recorder()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for vm, record in zip(("a", "b"), records, strict=True):
            group.create_task(execute.recover_vm(plan(hands, vm), hands, record))
    assert hands.done.count("prove ab0") == 1
    assert len([step for step in hands.of("ab0") if step.startswith("plug")]) == 2
    assert sorted(link for record in records for link in record.outages) == ["ab0", "ab0", "ac0", "bc0"]
    assert not hands.broken


async def test_a_cancelled_repair_leaves_the_lock_free_and_the_link_marked_as_broken() -> None:
    hands = FakeHands("a")
    began = asyncio.Event()

    async def for_ever() -> None:
        began.set()
        await asyncio.Event().wait()

    hands.waits["plug b/ab0.g2"] = for_ever
    task = asyncio.create_task(execute.repair_link("ab0", hands, recorder()))
    await began.wait()
    assert hands.link_lock("ab0").locked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not hands.link_lock("ab0").locked()
    assert hands.broken == ["ab0"]


async def test_several_links_that_fail_are_each_reported() -> None:
    errors = {f"prove {link}": VerificationError(link) for link in ("ab0", "bc0")}
    hands = FakeHands(fails=dict(errors))
    hands.up.clear()
    found = await execute.connect_links(["ab0", "ac0", "bc0"], hands, recorder())
    assert {error.message for error in found} == {"ab0", "bc0"}
    assert hands.up == {"ac0"}


async def test_the_host_is_seen_to_before_a_link_is_even_if_that_needs_no_repair() -> None:
    hands = FakeHands("a", fails={"prepare ac0": HostError("no bridge can be made")})
    hands.alive.add("a")
    errors = await execute.connect_links([link.name for link in TOPOLOGY.links], hands, recorder())
    assert sorted(hands.prepared) == ["ab0", "ac0", "bc0"]
    assert [error.message for error in errors] == ["no bridge can be made"]
    assert (hands.broken, hands.of("ac0"), hands.of("bc0")) == (["ac0"], [], [])
    assert hands.of("ab0")[-1] == "prove ab0"


async def test_a_survivor_that_waits_for_the_front_end_counts_as_repaired_when_it_has_let_go() -> None:
    hands, record = FakeHands("b"), recorder()
    link = TOPOLOGY.link("ab0")
    hands.fronts["ab0"] = RingsView(vm="b")
    task = asyncio.create_task(execute.repair_link(link.name, hands, record))
    await until(lambda: _done(hands, "unplug a/ab0.g1"), timeout=5, what="the survivor's unplug", every=0)
    early = record.survivor_ms
    assert early > 0
    hands.alive.add("b")
    hands.change()
    await task
    assert hands.of("ab0") == ["unplug a/ab0.g1", "plug b/ab0.g2", "plug a/ab0.g2", "prove ab0"]
    assert record.survivor_ms == early


async def test_a_device_that_is_kept_is_neither_unplugged_nor_plugged() -> None:
    hands = FakeHands()
    hands.up.remove("ab0")
    hands.fronts["ab0"] = RingsView(vm="b", idle=True)
    await execute.repair_link("ab0", hands, recorder())
    assert hands.of("ab0") == ["unplug a/ab0.g1", "link b/ab0", "plug a/ab0.g2", "prove ab0"]


async def test_a_link_that_is_set_down_at_the_survivor_is_set_up_when_the_other_guest_is_there() -> None:
    hands, record = FakeHands("a"), recorder()
    hands.fronts["ab0"] = RingsView(vm="b")
    hands.policy = "relink"
    task = asyncio.create_task(execute.repair_link("ab0", hands, record))
    await until(lambda: _done(hands, "unlink b/ab0.g1"), timeout=5, what="the survivor's link", every=0)
    await asyncio.sleep(0)
    early = record.survivor_ms
    hands.alive.add("a")
    hands.change()
    await task
    assert hands.of("ab0") == ["unlink b/ab0.g1", "link b/ab0", "plug a/ab0.g2", "prove ab0"]
    assert 0 < early == record.survivor_ms


async def test_by_resume_the_survivor_is_told_nothing_and_counts_as_repaired_at_once() -> None:
    hands, record = FakeHands("a"), recorder()
    hands.plugged["a", "ab0"].clear()
    hands.fronts["ab0"] = RingsView(vm="b")
    hands.policy = "resume"
    task = asyncio.create_task(execute.repair_link("ab0", hands, record))
    await until(lambda: _done(hands, "hold b/ab0.g1"), timeout=5, what="the survivor's rings held", every=0)
    await asyncio.sleep(0)
    early = record.survivor_ms
    hands.alive.add("a")
    hands.change()
    await task
    assert hands.of("ab0") == ["hold b/ab0.g1", "plug a/ab0.g2", "prove ab0"]
    assert [step["name"] for step in record.steps] == ["hold", "resume", "verify"]
    assert 0 < early == record.survivor_ms
    assert record.policies == {"ab0": "resume"}
    assert hands.against["ab0"] == set()


@pytest.mark.parametrize("step", ["plug a/ab0.g2", "prove ab0"])
async def test_after_a_resume_that_failed_the_next_repair_begins_new_rings(step: str) -> None:
    hands, record = FakeHands("a", fails={step: HotplugError("a: its driver does not go on")}), recorder()
    hands.plugged["a", "ab0"].clear()
    hands.alive.add("a")
    hands.fronts["ab0"] = RingsView(vm="b")
    hands.policy = "resume"
    with pytest.raises(HotplugError):
        await execute.repair_link("ab0", hands, record)
    assert hands.against["ab0"] == {"resume"}
    assert hands.broken == ["ab0"]
    hands.fails.clear()
    hands.done.clear()
    await execute.repair_link("ab0", hands, record)
    assert hands.of("ab0")[0] == "unlink b/ab0.g1"
    assert hands.of("ab0")[-3:] == ["link b/ab0", "plug a/ab0.g3", "prove ab0"]
    assert record.policies == {"ab0": "relink"}


async def test_a_guest_that_dies_again_says_nothing_of_the_rings_it_was_to_go_on_with() -> None:
    hands = FakeHands("a", fails={"plug a/ab0.g2": QmpError("a: its QEMU has ended")})
    hands.plugged["a", "ab0"].clear()
    hands.fronts["ab0"] = RingsView(vm="b")
    hands.policy = "resume"
    hands.alive.add("a")

    async def die() -> None:
        hands.alive.discard("a")

    hands.waits["plug a/ab0.g2"] = die
    with pytest.raises(QmpError):
        await execute.repair_link("ab0", hands, recorder())
    assert hands.against["ab0"] == set()


async def test_a_survivor_that_is_there_and_does_not_let_go_speaks_against_relink_before_the_dead_is_back() -> None:
    hands = FakeHands("a", fails={"unlink b/ab0.g1": HotplugError("b: its driver does not take that in")})
    hands.plugged["a", "ab0"].clear()
    hands.policy = "relink"
    with pytest.raises(HotplugError):
        await execute.repair_link("ab0", hands, recorder())
    assert hands.against["ab0"] == {"relink"}
    hands.fails.clear()
    hands.done.clear()
    hands.alive.add("a")
    await execute.repair_link("ab0", hands, recorder())
    assert hands.of("ab0") == ["unplug b/ab0.g1", "plug a/ab0.g3", "plug b/ab0.g3", "prove ab0"]


async def test_a_dead_guest_that_does_not_come_back_speaks_against_no_policy() -> None:
    hands = FakeHands("a")
    hands.plugged["a", "ab0"].clear()
    hands.policy = "relink"
    hands.against["ab0"] = frozenset()
    task = asyncio.create_task(execute.repair_link("ab0", hands, recorder()))
    await until(lambda: _done(hands, "unlink b/ab0.g1"), timeout=5, what="the survivor's part", every=0)
    FakeHands.change(hands)
    hands.fails["boot a"] = ReadyTimeoutError("no answer")
    with pytest.raises(ReadyTimeoutError):
        await hands.boot("a")
    with pytest.raises(RecoveryError):
        await task
    assert hands.against["ab0"] == set()


@pytest.mark.parametrize("lives", [True, False])
async def test_an_end_that_has_gone_speaks_against_no_policy_though_its_vm_is_back(lives: bool) -> None:
    error = EndGoneError("link `ab0` has lost its end in `b`") if lives else VerificationError("no packets")
    hands = FakeHands(fails={"prove ab0": error})
    hands.up.discard("ab0")
    hands.policy = "relink"
    hands.against["ab0"] = frozenset()
    with pytest.raises(type(error)):
        await execute.repair_link("ab0", hands, recorder())
    assert bool(hands.against["ab0"]) is not lives


async def _done(hands: FakeHands, step: str) -> bool | None:
    return step in hands.done or None
