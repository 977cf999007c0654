"""Packets over a link, seen by whoever sees them first."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.errors import VerificationError
from vpctl.guest import traffic
from vpctl.guest.heartbeat import EndState, Heartbeat, LinkEnd
from vpctl.recovery.ops import EndGoneError
from vpctl.recovery.state import VmState
from vpctl.rundir import Directories
from vpctl.supervisor import verify
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.verify import EARLY_SECONDS, Verification

TOPOLOGY = made_topology(("lan0", "a", "b"))
LINK = "lan0"


class Guests(TopologyState):
    """Guests that see packets when the test says so: each look at `vm` waits for `seen[vm]`, True or a reason."""

    def __init__(self, directories: Directories) -> None:
        super().__init__(made_run(TOPOLOGY), made(directories))
        self.seen: dict[str, asyncio.Future[bool | str]] = defaultdict(asyncio.get_running_loop().create_future)
        self.looks: list[tuple[str, float]] = []
        self.looking = 0
        for machine in self.machines.values():
            machine.set_state(VmState.READY)
            self.links[LINK].plugging(machine.name, 1)

    async def probe_from(self, link: str, vm: str, *, count: int, seconds: float) -> dict[str, Any]:
        self.looks.append((vm, seconds))
        self.looking += 1
        try:
            seen = await asyncio.shield(self.seen[vm])
        finally:
            self.looking -= 1
        if seen is True:
            return {"link": link, "from": vm, "to": "?", "ok": True, "loss_percent": 0.0, "rtt_ms": 1.0}
        return traffic.unanswered(link, vm, "?", str(seen))

    def tell(self, **seen: bool | str) -> None:
        for vm, what in seen.items():
            self.seen.pop(vm).set_result(what)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_a_survivor_sees_before_the_last_end_is_plugged_is_the_proof(directories: Directories) -> None:
    guests = Guests(directories)
    seen = Verification(guests)
    async with seen.expecting(LINK, ["b"]):
        await turns()
        assert guests.looks == [("b", EARLY_SECONDS)]
        guests.tell(b=True)
        await turns()
        between = time.monotonic()
        assert await seen.verify(LINK) <= between
    assert guests.looking == 0


async def test_the_first_that_sees_packets_is_enough_and_the_other_is_let_off(directories: Directories) -> None:
    guests = Guests(directories)
    seen = Verification(guests)
    async with seen.expecting(LINK, ["b"]):
        proving = asyncio.create_task(seen.verify(LINK))
        await turns()
        assert guests.looks == [("b", EARLY_SECONDS), ("a", traffic.PROBE_SECONDS)]
        guests.tell(a=True)
        await proving
        assert guests.looking == 1
    assert guests.looking == 0


async def test_one_that_looked_in_vain_looks_again_when_the_other_end_is_there(directories: Directories) -> None:
    guests = Guests(directories)
    seen = Verification(guests)
    async with seen.expecting(LINK, ["b"]):
        await turns()
        guests.tell(b="no answer")
        await turns()
        proving = asyncio.create_task(seen.verify(LINK))
        await turns()
        assert guests.looks[1:] == [("a", traffic.PROBE_SECONDS), ("b", traffic.PROBE_SECONDS)]
        guests.tell(b=True)
        await proving
    assert guests.looking == 0


async def test_without_a_survivor_both_look(directories: Directories) -> None:
    guests = Guests(directories)
    seen = Verification(guests)
    async with seen.expecting(LINK, []):
        proving = asyncio.create_task(seen.verify(LINK))
        await turns()
        assert {vm for vm, _ in guests.looks} == {"a", "b"}
        guests.tell(a="no answer")
        await turns()
        assert not proving.done()
        guests.tell(b=True)
        await proving


async def test_where_a_user_has_put_an_end_to_another_use_no_packets_are_no_fault(directories: Directories) -> None:
    guests = Guests(directories)
    end = LinkEnd(state=EndState.MOVED)
    guests.machines["b"].last_beat = Heartbeat(seq=1, uptime_ms=1, boot_id="x", links={LINK: end})
    seen = Verification(guests)
    async with seen.expecting(LINK, []):
        proof = asyncio.create_task(seen.verify(LINK))
        await turns()
        guests.tell(a="no answer", b="no such interface")
        await proof


@pytest.mark.parametrize(
    ("told", "reason"), [({"a": "no such interface"}, "no such interface"), ({}, "no intact reply within 0.05 s")]
)
async def test_where_nobody_sees_any_the_error_says_what_was_missing(
    directories: Directories, monkeypatch: pytest.MonkeyPatch, told: Mapping[str, str], reason: str
) -> None:
    monkeypatch.setattr(traffic, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(verify, "START_SECONDS", 0.0)
    guests = Guests(directories)
    seen = Verification(guests)
    async with seen.expecting(LINK, ["b"]):
        proving = asyncio.create_task(seen.verify(LINK))
        await turns()
        guests.tell(**told)
        with pytest.raises(VerificationError, match=f"no packets from `.`.*: {reason}"):
            await proving
    assert guests.looking == 0


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("how", ["dead", "reborn"])
async def test_a_link_whose_end_has_gone_is_not_waited_for(directories: Directories, when: str, how: str) -> None:
    """Its packets would be waited for, and whoever brings that VM back with them."""

    def dies() -> None:
        guests.machines["a"].set_state(VmState.CRASHED)
        guests.forget("a")
        if how == "reborn":
            guests.machines["a"].generation += 1
            guests.machines["a"].set_state(VmState.READY)

    guests = Guests(directories)
    seen = Verification(guests)
    async with asyncio.timeout(5), seen.expecting(LINK, ["b"]):
        if when == "before":
            dies()
        proving = asyncio.create_task(seen.verify(LINK))
        await turns()
        assert proving.done() is (when == "before")
        if when == "meanwhile":
            dies()
        with pytest.raises(EndGoneError, match="`lan0` has lost its end in `a`"):
            await proving
    assert guests.looking == 0
