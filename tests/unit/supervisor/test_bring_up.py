"""What `up` believes of a link in the end: what it has just seen."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from tests.fakes.broker import made
from tests.made import made_run, made_topology
from vpctl.errors import QmpLostError, ReadyTimeoutError, VpctlError
from vpctl.recovery.faults import Signs
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor import bring_up
from vpctl.supervisor.bring_up import BringUp
from vpctl.supervisor.state import TopologyState
from vpctl.supervisor.vm.exit import VmEnd
from vpctl.supervisor.vm.machine import Machine


class Probed(TopologyState):
    """A topology whose links' probes have an outcome that was set."""

    carries: bool

    async def probe_all(self, *, count: int, seconds: float) -> list[dict[str, Any]]:
        return [{"link": name, "ok": ok} for name in self.links for ok in (True, self.carries)]


class Booting(Machine):
    """A VM whose boot ends when it is told to: `fails` with an error, or well; its QEMU may end at any time."""

    def prepare(self) -> None:
        loop = asyncio.get_running_loop()
        self.ended, self.booted = loop.create_future(), loop.create_future()
        self.cancelled = False

    async def boot(self, broker: Any) -> float:
        try:
            if (error := await self.booted) is not None:
                raise error
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.set_state(VmState.READY)
        return 1.0

    def qemu_ends(self, status: int) -> None:
        assert self.ended is not None
        self.ended.set_result(VmEnd(status=status, signs=Signs(), monotonic=0.0, process_ended=True))


class Booted:
    """An `up` of two VMs and a link, that waits for its VMs."""

    def __init__(self, directories: Directories, *, keep: bool = False) -> None:
        run, rundir = made_run(made_topology(("lan0", "vm1", "vm2")), keep=keep), made(directories)
        self.state = Probed(run, rundir)
        self.state.carries = True
        self.vm1, self.vm2 = (
            Booting(name, run, rundir, self.state.journal, self.state.save) for name in ("vm1", "vm2")
        )
        self.state.machines = {"vm1": self.vm1, "vm2": self.vm2}
        for machine in (self.vm1, self.vm2):
            machine.prepare()
        self.nothing: Any = NothingToDo()

    async def up(self, *, repairs: Exception | None = None) -> dict[str, Any]:
        self.nothing.error = repairs
        async with asyncio.TaskGroup() as group:
            work = BringUp(self.state, lambda: self.nothing, self.nothing, self.nothing, group)
            try:
                return await work.run(explicit=True)
            except VpctlError as error:
                return {"error": error}
        raise AssertionError("unreachable")


class NothingToDo:
    """Recoveries, and the hands that they have, which find every link repaired."""

    def __init__(self) -> None:
        self.hands = self
        self.locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.seen: list[str] = []
        """The links that were looked at."""
        self.error: Exception | None = None
        """What the repair of a link ends with."""
        self.stopped = False

    def link_lock(self, link: str) -> asyncio.Lock:
        return self.locks[link]

    async def prepare_host(self, link: str) -> None:
        return

    async def repair_of(self, link: str) -> None:
        self.seen.append(link)
        if self.error is not None:
            raise self.error

    def link_broken(self, link: str, reason: str) -> None:
        return

    def foreseen(self, error: Exception, name: str, **of: Any) -> VpctlError:
        assert isinstance(error, VpctlError)
        return error

    def watch(self, machine: Any) -> None:
        return

    async def stop(self) -> None:
        self.stopped = True

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
    state = Probed(made_run(made_topology(("lan0", "vm1", "vm2"))), made(directories))
    state.carries = carries
    for machine in state.machines.values():
        machine.set_state(VmState.READY)
    state.links["lan0"].set_state(before)
    nothing: Any = NothingToDo()
    async with asyncio.TaskGroup() as group:
        up = await BringUp(state, lambda: nothing, nothing, nothing, group).run(explicit=False)
    assert (up["links"][0]["state"], state.links["lan0"].state) == (after, after)


@pytest.mark.parametrize("explicit", [False, True])
async def test_after_a_takeover_a_link_that_rests_is_left_alone_unless_a_user_asks(
    directories: Directories, explicit: bool
) -> None:
    state = Probed(made_run(made_topology(("lan0", "vm1", "vm2"), ("lan1", "vm1", "vm2"))), made(directories))
    state.carries = False
    for machine in state.machines.values():
        machine.set_state(VmState.READY)
    state.links["lan0"].rest("vm1 has set its interface down")
    state.links["lan1"].set_state(LinkState.UP)
    state.up = {}
    nothing: Any = NothingToDo()
    async with asyncio.TaskGroup() as group:
        await BringUp(state, lambda: nothing, nothing, nothing, group).run(explicit=explicit)
    assert sorted(nothing.seen) == (["lan0", "lan1"] if explicit else ["lan1"])
    assert state.links["lan0"].rests
    assert state.links["lan1"].state is LinkState.FAILED


async def test_a_boot_that_fails_ends_up_at_once(directories: Directories) -> None:
    """It used to wait for the other guest's whole boot."""
    booted = Booted(directories)
    booted.vm1.booted.set_result(ReadyTimeoutError("`vm1`: boot stage `kernel`: QEMU was killed by SIGKILL"))
    outcome = await booted.up()
    assert "killed by SIGKILL" in outcome["error"].message
    assert booted.vm2.cancelled
    assert booted.nothing.stopped


async def test_an_up_that_is_to_be_kept_lets_the_other_boot(directories: Directories) -> None:
    booted = Booted(directories, keep=True)
    booted.vm1.booted.set_result(ReadyTimeoutError("no"))
    asyncio.get_running_loop().call_later(0.05, booted.vm2.booted.set_result, None)
    outcome = await booted.up()
    assert outcome["error"].message == "no"
    assert (booted.vm2.state, booted.nothing.stopped) == (VmState.READY, False)


async def test_a_qemu_that_ends_after_its_boot_ends_an_up_that_is_not_done(directories: Directories) -> None:
    booted = Booted(directories)
    booted.vm1.booted.set_result(None)
    asyncio.get_running_loop().call_later(0.05, booted.vm1.qemu_ends, -9)
    error = (await booted.up())["error"]
    assert error.message == "`vm1`: QEMU was killed by SIGKILL before everything was up"
    assert error.exit_code == 4
    assert booted.vm2.cancelled


async def test_a_plug_that_fails_since_its_qemu_has_ended_is_told_as_that(directories: Directories) -> None:
    """The connection breaks before the end of the process is told: the error was 5, without a cause."""
    booted = Booted(directories)
    for machine in (booted.vm1, booted.vm2):
        machine.booted.set_result(None)
    asyncio.get_running_loop().call_later(0.1, booted.vm2.qemu_ends, -9)
    error = (await booted.up(repairs=QmpLostError("vm2: the connection ended")))["error"]
    assert (error.exit_code, "`vm2`: QEMU was killed by SIGKILL" in error.message) == (4, True)


async def test_a_plug_that_fails_by_itself_stays_what_it_is(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring_up, "END_SECONDS", 0.05)
    booted = Booted(directories)
    for machine in (booted.vm1, booted.vm2):
        machine.booted.set_result(None)
    error = (await booted.up(repairs=QmpLostError("vm2: the connection ended")))["error"]
    assert (error.exit_code, error.message) == (5, "vm2: the connection ended")


@pytest.mark.parametrize(
    ("state", "generation", "reason"),
    [
        (VmState.RECOVERING, 1, "`vm2` is recovering: QEMU was killed by SIGKILL"),
        (VmState.READY, 2, "`vm2` has ended meanwhile, and was recovered"),
    ],
)
async def test_a_qemu_that_ends_while_links_are_verified_is_named_and_its_links_are_its_recoverys(
    directories: Directories, state: VmState, generation: int, reason: str
) -> None:
    booted = Booted(directories)
    probed = booted.state.probe_all

    async def probe_all(**given: Any) -> list[dict[str, Any]]:
        booted.state.carries = False
        booted.vm2.set_state(state, reason="QEMU was killed by SIGKILL")
        booted.vm2.generation = generation
        return await probed(**given)

    booted.state.probe_all = probe_all  # type: ignore[method-assign]
    for machine in (booted.vm1, booted.vm2):
        machine.generation = 1
        machine.set_state(VmState.READY)
    booted.state.links["lan0"].set_state(LinkState.RECOVERING)
    up = await booted.up()
    assert [check["reason"] for check in up["checks"] if not check["ok"]] == [reason]
    assert booted.state.links["lan0"].state is LinkState.RECOVERING


async def test_a_link_whose_vm_is_paused_stays_as_it_is(directories: Directories) -> None:
    state = Probed(made_run(made_topology(("lan0", "vm1", "vm2"))), made(directories))
    state.carries = False
    for machine in state.machines.values():
        machine.set_state(VmState.READY)
    state.links["lan0"].set_state(LinkState.UP)
    state.machines["vm1"].take_event({"event": "STOP"})
    nothing: Any = NothingToDo()
    async with asyncio.TaskGroup() as group:
        up = await BringUp(state, lambda: nothing, nothing, nothing, group).run(explicit=True)
    assert up["links"][0]["state"] == "up"
