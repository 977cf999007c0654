"""What guests say of their links' ends: a link that carries nothing is not `up`; only a wedged driver is a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.guest import traffic
from vpctl.guest.heartbeat import ABSENT, EndState, Heartbeat, LinkEnd
from vpctl.journal import read
from vpctl.recovery.faults import Fault
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.watch.interfaces import InterfaceWatch

LINK = "lan0"
UP, DOWN, NO_CARRIER, READDRESSED, MOVED = (LinkEnd(state=s) for s in EndState if s is not EndState.ABSENT)
PORT = LinkEnd(master="bond0")
SILENT = LinkEnd(silent=10)
"""For as long as `health.heartbeat` by default."""


class Pair(TopologyState):
    """Two guests that are ready, a link between them that is up, and what comes of what they say."""

    def __init__(self, directories: Directories) -> None:
        super().__init__(made_run(made_topology((LINK, "a", "b"))), made(directories))
        self.echoes: bool | str = True
        """Whether each gets an echo from the other, or why not."""
        self.probes = 0
        self.answer = asyncio.Event()
        """Set: a probe is answered at once."""
        self.answer.set()
        self.users: frozenset[str] = frozenset()
        """What is in the way of the link's packets."""
        self.faults: list[tuple[str, str, Fault]] = []
        self.group = asyncio.TaskGroup()
        self.ends = InterfaceWatch(
            self, self.group, lambda vm, link, fault, *_: self.faults.append((vm, link, fault))
        )
        self.beats = 0
        for machine in self.machines.values():
            machine.set_state(VmState.READY)
        self.links[LINK].set_state(LinkState.UP)

    async def probe(self, link: str, *, count: int, seconds: float = 0.0) -> list[dict[str, Any]]:
        self.probes += 1
        await self.answer.wait()
        if self.echoes is True:
            return [{"ok": True}, {"ok": True}]
        return [traffic.unanswered(link, vm, "?", str(self.echoes)) for vm in self.machines]

    async def filters(self, link: str) -> frozenset[str]:
        return self.users

    async def say(self, **ends: LinkEnd) -> None:
        """Have VMs say something of the link, and let come what comes of it."""
        for vm, end in ends.items():
            self.beats += 1
            links: Mapping[str, LinkEnd] = {} if end == ABSENT else {LINK: end}
            self.machines[vm].last_beat = Heartbeat(seq=self.beats, uptime_ms=1, boot_id="x", links=links)
            self.ends.take(self.machines[vm])
        for _ in range(10):
            await asyncio.sleep(0)

    def now(self) -> LinkState:
        return self.links[LINK].state


@pytest.fixture
async def pair(directories: Directories) -> Any:
    pair = Pair(directories)
    async with pair.group:
        yield pair
        pair.answer.set()


@pytest.mark.parametrize("end", [ABSENT, DOWN, NO_CARRIER])
async def test_a_link_is_down_while_an_end_is_off_and_up_again_when_packets_flow(pair: Pair, end: LinkEnd) -> None:
    for _ in range(2 if end == NO_CARRIER else 1):
        await pair.say(a=end, b=UP)
        assert pair.now() is LinkState.UP, "it may be on its way"
    await pair.say(a=end, b=UP)
    assert pair.now() is LinkState.DOWN
    reasons = [e["attributes"].get("reason") for e in read(pair.rundir.journal) if e["type"] == "link.state"]
    assert reasons[-1].startswith("a has ")
    assert pair.probes == 0
    pair.echoes = "no answer"
    await pair.say(a=UP, b=UP)
    assert pair.now() is LinkState.DOWN, "an interface is no packet"
    pair.echoes = True
    await pair.say(a=UP, b=UP)
    assert pair.now() is LinkState.UP
    assert pair.faults == []


async def test_an_end_that_is_down_is_named_and_not_the_carrier_that_the_other_has_lost_by_it(pair: Pair) -> None:
    for _ in range(3):
        await pair.say(a=NO_CARRIER, b=DOWN)
    assert pair.links[LINK].reason == "b has set its interface down"


async def test_a_link_stays_down_until_the_last_of_its_ends_is_back(pair: Pair) -> None:
    for _ in range(2):
        await pair.say(a=DOWN, b=NO_CARRIER)
    await pair.say(a=UP)
    assert (pair.now(), pair.probes) == (LinkState.DOWN, 0)
    await pair.say(b=UP)
    assert pair.now() is LinkState.UP


async def test_the_same_beat_seen_twice_is_one(pair: Pair) -> None:
    await pair.say(a=DOWN)
    for _ in range(3):
        pair.ends.take(pair.machines["a"])
    assert pair.now() is LinkState.UP


async def test_an_end_that_is_off_and_on_again_is_no_news(pair: Pair) -> None:
    for end in (DOWN, UP, DOWN, UP):
        await pair.say(a=end)
    assert pair.now() is LinkState.UP


async def test_a_link_that_is_down_for_another_reason_is_not_called_up(pair: Pair) -> None:
    pair.links[LINK].set_state(LinkState.DOWN)
    await pair.say(a=DOWN, b=UP)
    await pair.say(a=UP, b=UP)
    assert (pair.now(), pair.probes) == (LinkState.DOWN, 0)


async def test_silence_with_no_echo_either_way_is_a_wedged_driver(pair: Pair) -> None:
    pair.echoes = traffic.NO_ANSWER
    await pair.say(b=UP, a=LinkEnd(silent=9))
    assert pair.probes == 0
    await pair.say(a=SILENT)
    assert pair.faults == [("a", LINK, Fault.DRIVER_WEDGED)]


async def test_a_link_that_rested_and_whose_driver_does_not_come_back_is_repaired_too(pair: Pair) -> None:
    for _ in range(2):
        await pair.say(a=DOWN, b=UP)
    assert pair.links[LINK].rests
    pair.echoes = traffic.NO_ANSWER
    await pair.say(a=UP, b=UP)
    assert (pair.faults, pair.links[LINK].rests) == ([], True)
    await pair.say(a=SILENT)
    assert pair.faults == [("a", LINK, Fault.DRIVER_WEDGED)]
    pair.links[LINK].set_state(LinkState.DOWN)  # as the fault has it
    assert not pair.links[LINK].rests, "nobody would repair it"


async def test_a_link_that_rests_does_so_for_a_successor_as_well(pair: Pair, directories: Directories) -> None:
    for _ in range(2):
        await pair.say(a=DOWN)
    successor = TopologyState(pair.run, pair.rundir)
    successor.links[LINK].restore(pair.links[LINK].as_json())
    assert (successor.links[LINK].state, successor.links[LINK].rests) == (LinkState.DOWN, True)
    assert successor.links[LINK].reason == pair.links[LINK].reason


async def test_silence_is_no_fault_where_echoes_come_back(pair: Pair) -> None:
    await pair.say(b=UP, a=SILENT)
    assert (pair.probes, pair.faults, pair.now()) == (1, [], LinkState.UP)


@pytest.mark.parametrize("why", ["ssh to `b` timed out", "the interface has no carrier"])
async def test_what_could_not_be_asked_proves_nothing(pair: Pair, why: str) -> None:
    pair.echoes = why
    await pair.say(b=UP, a=SILENT)
    assert (pair.probes, pair.faults) == (1, [])


async def test_packets_that_a_user_drops_are_no_fault(pair: Pair) -> None:
    pair.echoes, pair.users = traffic.NO_ANSWER, frozenset({"netem"})
    await pair.say(b=UP, a=SILENT)
    assert (pair.probes, pair.faults, pair.now()) == (0, [], LinkState.UP)
    pair.users = frozenset()
    await pair.say(a=LinkEnd(silent=11))
    assert pair.faults == [("a", LINK, Fault.DRIVER_WEDGED)]


async def test_an_end_that_was_given_another_address_is_its_users_affair(pair: Pair) -> None:
    pair.echoes = traffic.NO_ANSWER
    await pair.say(b=READDRESSED, a=SILENT)
    await pair.say(a=READDRESSED, b=SILENT)
    assert (pair.faults, pair.now()) == ([], LinkState.UP)


@pytest.mark.parametrize("end", [MOVED, PORT, LinkEnd(master="bond0", silent=10)])
async def test_an_interface_that_a_user_has_put_to_another_use_is_neither_down_nor_a_fault(
    pair: Pair, end: LinkEnd
) -> None:
    pair.echoes = traffic.NO_ANSWER
    for _ in range(4):
        await pair.say(b=end, a=SILENT)
        await pair.say(a=end, b=SILENT)
    assert (pair.faults, pair.now()) == ([], LinkState.UP)


async def test_a_link_in_repair_or_between_guests_that_are_not_ready_is_left_alone(pair: Pair) -> None:
    pair.echoes = traffic.NO_ANSWER
    async with pair.links[LINK].lock:
        for _ in range(3):
            await pair.say(b=UP, a=SILENT)
            await pair.say(b=DOWN)
    pair.machines["b"].set_state(VmState.CRASHED)
    await pair.say(a=SILENT)
    await pair.say(a=DOWN)
    await pair.say(a=DOWN)
    assert (pair.probes, pair.faults, pair.now()) == (0, [], LinkState.UP)


async def test_a_failed_link_over_which_packets_come_is_up_again(pair: Pair) -> None:
    """On a busy host its first packets came too late for whoever waited for them."""
    pair.links[LINK].set_state(LinkState.FAILED)
    await pair.say(a=UP)
    assert (pair.probes, pair.faults, pair.now()) == (1, [], LinkState.UP)


@pytest.mark.parametrize("end", [SILENT, NO_CARRIER, DOWN, READDRESSED, ABSENT])
async def test_a_failed_link_over_which_nothing_comes_stays_so_unasked(pair: Pair, end: LinkEnd) -> None:
    pair.links[LINK].set_state(LinkState.FAILED)
    await pair.say(a=end)
    assert (pair.probes, pair.now()) == (0, LinkState.FAILED)


async def test_a_failed_link_that_is_heard_one_way_is_not_asked_about_at_every_beat(pair: Pair) -> None:
    pair.links[LINK].set_state(LinkState.FAILED)
    pair.echoes = traffic.NO_ANSWER
    for _ in range(20):
        await pair.say(a=UP, b=SILENT)
    assert (pair.probes, pair.faults, pair.now()) == (1, [], LinkState.FAILED)
    pair.links[LINK].begin(7)
    pair.links[LINK].set_state(LinkState.FAILED)
    await pair.say(a=UP)
    assert pair.probes == 2, "it is another by now"


async def test_a_link_with_a_guest_that_is_paused_is_left_alone(pair: Pair) -> None:
    pair.echoes = traffic.NO_ANSWER
    pair.machines["b"].take_event({"event": "STOP"})
    await pair.say(a=SILENT)
    await pair.say(a=DOWN)
    await pair.say(a=DOWN)
    assert (pair.probes, pair.faults, pair.now()) == (0, [], LinkState.UP)


CHANGES: dict[str, Any] = {
    "a guest dies": lambda pair: pair.machines["a"].set_state(VmState.CRASHED),
    "a repair begins": lambda pair: pair.links[LINK].begin(7),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_was_asked_of_a_link_counts_for_nothing_once_it_is_another(pair: Pair, change: str) -> None:
    pair.echoes = traffic.NO_ANSWER
    pair.answer.clear()
    await pair.say(b=UP, a=SILENT)
    await pair.say(a=LinkEnd(silent=11))
    assert pair.probes == 1, "one at a time"
    CHANGES[change](pair)
    pair.answer.set()
    await pair.say()
    assert pair.faults == []
