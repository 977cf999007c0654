"""A virtio-net end that lives and has no back-end any more: a fault; one whose QEMU has ended has none of its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.qmp_server import Refuse
from tests.fakes.reached import Reached
from tests.unit.supervisor.fronted import (
    LINK,
    Ground,
    answer,
    following,
    ground_in,
    link_state,
    plugged,
)
from vpctl.broker.control_page import SlotState
from vpctl.broker.protocol import Exit
from vpctl.broker.vhost_user import ivshmem_datapath
from vpctl.journal import read
from vpctl.qmp.session import Session
from vpctl.recovery.faults import Fault
from vpctl.recovery.state import LinkState, VmState
from vpctl.rundir import Directories
from vpctl.supervisor.fault_response import FaultResponse
from vpctl.supervisor.hotplug import backends
from vpctl.supervisor.hotplug.backends import EVERY_FEATURE
from vpctl.supervisor.link import Link
from vpctl.wait import until


@pytest.fixture
async def ground(directories: Directories, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    monkeypatch.setattr(backends, "LOOK_AGAIN_SECONDS", 0.02)
    async with ground_in(directories) as made:
        yield made


async def found(ground: Ground) -> bool | None:
    return bool(ground.faults) or None


async def test_a_front_end_that_is_cut_off_while_its_qemu_lives_is_a_fault_and_told_once(ground: Ground) -> None:
    async with plugged(ground) as frontend, following(ground) as vring_watch:
        await asyncio.sleep(0.05)  # what was told before is looked at
        frontend.close()
        await until(lambda: found(ground), timeout=5, what="the fault")
        vring_watch.look("lan0")
        await asyncio.sleep(0.05)
        reason = "`lan0.g1` has no back-end: QEMU lives, and is connected to it no more"
        assert ground.faults == [("vm2", "lan0", Fault.BACKEND_LOST, reason)]
        assert ground.link.state is LinkState.DOWN
        assert ground.link.plugged == {"vm1": [1], "vm2": [1]}, "the repair is a recovery's affair"


async def test_a_front_end_whose_qemu_does_not_answer_has_lost_nothing(ground: Ground) -> None:
    # It is asked at each look: for `connected`, `ready` and `gone`, as far as they are taken in after its end.
    ground.qemus["vm2"].script("query-status", *[[Refuse("the end")]] * 3)
    async with plugged(ground) as frontend, following(ground):
        frontend.close()
        await link_state(ground, LinkState.DOWN)
        await asyncio.sleep(0.05)
        assert ground.faults == []


async def test_a_front_end_whose_qemu_ends_is_asked_no_longer_and_its_link_is_free_for_the_recovery(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def never(machine: Reached) -> Session:
        if machine.name == "vm1":
            return machine.session
        asked.set()  # its socket refuses, and is tried again until the limit
        await asyncio.Event().wait()
        raise AssertionError

    async with plugged(ground) as frontend, following(ground):
        monkeypatch.setattr(Reached, "qmp", never)
        frontend.close()
        await asked.wait()
        assert ground.link.lock.locked()
        machine = ground.state.machines["vm2"]
        machine.take_exit(Exit(name="vm/vm2", generation=machine.generation, pid=1, status=-9, monotonic=0.0))
        async with asyncio.timeout(5), ground.link.lock:
            assert ground.faults == []


async def test_a_front_end_that_died_meanwhile_has_lost_nothing(ground: Ground) -> None:
    async with plugged(ground) as frontend, following(ground):
        ground.state.machines["vm1"].set_state(VmState.CRASHED)
        frontend.close()
        await asyncio.sleep(0.05)
        assert ground.faults == []


async def test_a_broker_that_knows_of_no_front_end_has_died_itself(ground: Ground) -> None:
    async with plugged(ground), following(ground) as vring_watch:
        await ground.broker.backend_close("lan0.g1")
        vring_watch.look("lan0")
        await link_state(ground, LinkState.DOWN)
        await asyncio.sleep(0.05)
        assert ground.faults == []


TIMES = ["detect_ms", "survivor_ms", "boot_ms", "total_ms", "overhead_ms"]
CONTRACT = ["vm", "fault", "policy", "ok", "steps", *TIMES, "links"]


async def test_the_report_of_a_broker_that_died_has_every_key_of_a_recovery_whatever_a_repair_raises(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    async def raises(link: str) -> None:
        tries.append(link)
        raise KeyError(link)

    async with plugged(ground):
        monkeypatch.setattr(ground.hands, "prepare_host", raises)
        async with following(ground) as vring_watch:
            vring_watch.broker_returned(time.monotonic() - 1.0, ["vm/vm2", "vm/vm1"])
            await until(lambda: reported(ground), timeout=5, what="the report")
    [report] = ends(ground)
    assert set(CONTRACT) <= set(report)
    assert (report["vm"], report["fault"], report["ok"]) == (None, "broker-exit", False)
    assert (report["error"], report["adopted"]) == ("KeyError: 'lan0'", ["vm/vm1", "vm/vm2"])
    assert report["links"] == [{"link": "lan0", "ok": False, "outage_ms": None, "policy": None}]
    assert report["total_ms"] >= 1000.0
    assert ground.link.state is LinkState.FAILED
    assert len(tries) == 3


async def test_a_mistake_while_a_link_is_made_anew_after_its_brokers_death_is_tried_again(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    async def raises_once(link: str) -> None:
        tries.append(link)
        if len(tries) == 1:
            raise KeyError(link)
        ground.link.set_state(LinkState.UP)

    async def done(link: str) -> None:
        return None

    async with plugged(ground):
        monkeypatch.setattr(ground.hands, "prepare_host", raises_once)
        monkeypatch.setattr(ground.hands, "repair_of", done)
        async with following(ground) as vring_watch:
            vring_watch.broker_returned(time.monotonic(), [])
            await until(lambda: reported(ground), timeout=5, what="the report")
    [report] = ends(ground)
    assert (report["ok"], len(tries), report["links"][0]["ok"]) == (True, 2, True)
    assert "error" not in report


def ends(ground: Ground) -> list[dict[str, Any]]:
    return [e["attributes"] for e in read(ground.state.rundir.journal) if e["type"] == "recovery.end"]


async def reported(ground: Ground) -> bool | None:
    return bool(ends(ground)) or None


class Starts:
    """Of `Recoveries`, what alarms have a use for."""

    def __init__(self, hands: Any) -> None:
        self.hands = hands
        self.started: list[str] = []

    def start(self, vm: str, *, automatic: bool = False) -> object:
        assert automatic
        self.started.append(vm)
        return {}

    def is_automatic(self, vm: str) -> bool:
        return True


async def test_a_lost_back_end_is_written_down_and_its_link_repaired(ground: Ground) -> None:
    starts = Starts(ground.hands)
    ground.link.set_state(LinkState.UP)
    before = time.monotonic()
    async with asyncio.TaskGroup() as group:
        FaultResponse(ground.state, group, starts).take_link_fault("vm2", "lan0", Fault.BACKEND_LOST, "cut off")
    (entry,) = [entry for entry in read(ground.state.rundir.journal) if entry["type"] == "fault"]
    assert (entry["vm"], entry["link"]) == ("vm2", "lan0")
    assert entry["attributes"] == {"fault": "backend-lost", "reason": "cut off"}
    incident = ground.state.machines["vm2"].incident
    assert incident is not None
    assert (incident.fault, incident.at >= before) == (Fault.BACKEND_LOST, True)
    assert (ground.link.state, starts.started) == (LinkState.DOWN, ["vm2"])
    assert LINK.recovery.mode == "auto"


async def test_rings_that_stop_and_start_by_themselves_are_followed_and_the_front_end_stays(ground: Ground) -> None:
    async with plugged(ground) as frontend, following(ground):
        await frontend.stop()
        await link_state(ground, LinkState.DOWN)
        await until(lambda: _nothing_at(ground, "vm1"), timeout=5, what="vm1's device is gone")
        await frontend.start()
        await link_state(ground, LinkState.UP)
        assert ground.link.plugged == {"vm1": [2], "vm2": [1]}
        slot = await ground.slot()
        assert (slot["state"], slot["generation"]) == (SlotState.ON, 2)
    assert "device_del" not in ground.qemus["vm2"].names()
    assert not [entry for entry in read(ground.state.rundir.journal) if entry["type"] == "fault"]


async def _nothing_at(ground: Ground, vm: str) -> bool | None:
    return not ground.link.plugged[vm] or None


async def test_rings_that_began_anew_while_nobody_listened_are_found(ground: Ground) -> None:
    async with plugged(ground) as frontend:
        await frontend.stop()
        await frontend.start()
        async with following(ground) as vring_watch:
            vring_watch.look_at_all()
            await until(lambda: _generation(ground, 2), timeout=5, what="another generation")
            await link_state(ground, LinkState.UP)


async def _generation(ground: Ground, wanted: int) -> bool | None:
    return ground.link.generation == wanted or None


async def test_a_link_whose_end_is_dead_is_left_to_its_recovery(ground: Ground) -> None:
    async with plugged(ground) as frontend:
        ground.state.machines["vm1"].set_state(VmState.CRASHED)
        async with following(ground) as vring_watch:
            await frontend.stop()
            vring_watch.look_at_all()
            await asyncio.sleep(0.05)
            assert ground.link.plugged == {"vm1": [1], "vm2": [1]}
            assert ground.link.generation == 1


async def test_a_back_end_that_dies_while_a_follower_asks_is_left_to_its_recovery(ground: Ground) -> None:
    async with plugged(ground), following(ground) as vring_watch:
        vring_watch.look("lan0")
        await asyncio.sleep(0)  # it has asked the broker
        ground.state.machines["vm1"].set_state(VmState.CRASHED)
        ground.state.forget("vm1")
        await asyncio.sleep(0.05)
        assert (ground.link.generation, ground.link.asked) == (1, None)
        assert "set_link" not in ground.qemus["vm2"].names()


async def test_a_driver_that_refuses_a_feature_has_the_front_end_offered_the_others(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ivshmem_datapath, "ACK_SECONDS", 0.1)  # nobody plays the driver to the end
    async with plugged(ground), following(ground):
        (front,) = await ground.broker.query_backends()
        refused = front["features"] & -front["features"]
        connection, acknowledge = await answer(ground, 1, front["features"] & ~refused)
        await until(lambda: _served(ground, "lan0.g2"), timeout=5, what="the virtio-net end's next device")
        async with ground.rings(2):
            await link_state(ground, LinkState.UP)
            (front,) = await ground.broker.query_backends()
            assert (front["name"], front["features"] & refused) == ("lan0.g2", 0)
        connection.close()
        os.close(acknowledge)
    assert ground.link.as_json()["offer"] == EVERY_FEATURE & ~refused
    restored = Link("lan0", ground.state.journal, ground.state.save)
    restored.restore(ground.link.as_json())
    assert restored.offer == ground.link.offer


async def _served(ground: Ground, device: str) -> bool | None:
    return device in [front["name"] for front in await ground.broker.query_backends()] or None
