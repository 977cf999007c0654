"""What `up` believes of a link in the end: what it has just seen."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor.bring_up import BringUp
from vpctl.supervisor.world import World


class Probed(World):
    """A world whose links' probes have an outcome that was set."""

    carries: bool

    async def probe_all(self, *, count: int, seconds: float) -> list[dict[str, Any]]:
        return [{"link": name, "ok": ok} for name in self.links for ok in (True, self.carries)]


class NothingToDo:
    """Recoveries, and the hands that they have, which find every link repaired."""

    def __init__(self) -> None:
        self.hands = self
        self.locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.seen: list[str] = []
        """The links that were looked at."""

    def link_lock(self, link: str) -> asyncio.Lock:
        return self.locks[link]

    async def prepare_host(self, link: str) -> None:
        return

    async def repair_of(self, link: str) -> None:
        self.seen.append(link)

    def progress(self, step: dict[str, Any]) -> None:
        return


@pytest.mark.parametrize(
    ("before", "carries", "after"),
    [
        (LinkState.UP, True, LinkState.UP),
        (LinkState.UP, False, LinkState.FAILED),
        (LinkState.FAILED, True, LinkState.UP),
        (LinkState.FAILED, False, LinkState.FAILED),
        (LinkState.RECOVERING, True, LinkState.RECOVERING),
    ],
)
async def test_a_link_is_up_if_its_last_packets_came_whatever_became_of_the_first(
    directories: Directories, before: LinkState, carries: bool, after: LinkState
) -> None:
    world = Probed(made_run(made_topology(("lan0", "vm1", "vm2"))), made(directories))
    world.carries = carries
    for machine in world.machines.values():
        machine.set_state(VmState.READY)
    world.links["lan0"].set_state(before)
    nothing: Any = NothingToDo()
    async with asyncio.TaskGroup() as group:
        up = await BringUp(world, lambda: nothing, nothing, nothing, group).run(explicit=False)
    assert (up["links"][0]["state"], world.links["lan0"].state) == (after, after)


@pytest.mark.parametrize("explicit", [False, True])
async def test_after_a_takeover_a_link_that_rests_is_left_alone_unless_a_user_asks(
    directories: Directories, explicit: bool
) -> None:
    world = Probed(made_run(made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm1", "vm2"))), made(directories))
    world.carries = False
    for machine in world.machines.values():
        machine.set_state(VmState.READY)
    world.links["lan0"].rest("vm1 has set its interface down")
    world.links["lan1"].set_state(LinkState.UP)
    world.up = {}
    nothing: Any = NothingToDo()
    async with asyncio.TaskGroup() as group:
        await BringUp(world, lambda: nothing, nothing, nothing, group).run(explicit=explicit)
    assert sorted(nothing.seen) == (["lan0", "lan1"] if explicit else ["lan1"])
    assert world.links["lan0"].rests
    assert world.links["lan1"].state is LinkState.FAILED
