"""Plug and unplug against every reply that QEMU is known to give, in every order that events may come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.qmp_server import Close, Delay, Event, FakeQemu, Model, Mute, Refuse, Reply, serving
from tests.unit.qmp.devices import ADDS, ASKS, FULL, REMOVES
from vpctl.errors import HotplugError, QmpLostError
from vpctl.qmp.hotplug import DevicePlan, HotplugTimes, StepError, plug, present, unplug
from vpctl.qmp.session import Session, connect
from vpctl.rundir import Directories
from vpctl.wait import until

PATIENT = 30.0
"""Where a test does not wait for a limit to pass, a busy host does not either."""

TIMES = HotplugTimes(
    unplug=PATIENT,
    first_repeat=PATIENT,
    repeat=0.05,
    reset=PATIENT,
    busy_first=0.01,
    busy_most=0.04,
    remove=PATIENT,
    add=PATIENT,
    connect=PATIENT,
    settle=0.0,
    undo=PATIENT,
)

IMPATIENT = replace(TIMES, unplug=0.6, first_repeat=0.1)
"""For a guest that is not waited for to the end."""

PARTS = {("object", "m1"), ("chardev", "c1"), ("netdev", "n1"), ("device", "d1")}
PLUGGED: set[tuple[str, str]] = set(PARTS)


@asynccontextmanager
async def connected(directories: Directories, fake: FakeQemu) -> AsyncIterator[Session]:
    directories.run.mkdir(parents=True, exist_ok=True)
    path = directories.run / "vm1.qmp"
    async with serving(path, fake), connect(path, vm="vm1", timeout=PATIENT, default_timeout=PATIENT) as session:
        yield session


@pytest.fixture
def fake() -> FakeQemu:
    """A QEMU without the device."""
    return FakeQemu()


@pytest.fixture
def plugged() -> FakeQemu:
    """A QEMU with the device in place."""
    fake = FakeQemu()
    fake.parts = set(PARTS)
    return fake


@pytest.fixture
async def empty(directories: Directories, fake: FakeQemu) -> AsyncIterator[Session]:
    """A session to the one without."""
    async with connected(directories, fake) as session:
        yield session


@pytest.fixture
async def session(directories: Directories, plugged: FakeQemu) -> AsyncIterator[Session]:
    """A session to the one with."""
    async with connected(directories, plugged) as session:
        yield session


# Plans


# Plug


async def test_plug_adds_every_part_in_order(fake: FakeQemu, empty: Session) -> None:
    await plug(empty, FULL, times=TIMES)
    assert [command for command in fake.received if command[0] != ASKS] == FULL.commands()
    assert fake.parts == PARTS
    assert await present(empty, "d1")
    assert not await present(empty, "d2")


REFUSALS = [
    ("device_add", "Bus 'pcie.0' does not support hotplugging", "pcie-root-port"),
    ("device_add", "PCI: slot 0 function 0 already occupied by virtio-net-pci, new func x cannot be exposed", "port"),
    ("device_add", "PCI: slot 0 function 0 not available for virtio-net-pci, in use by e1000,id=d0", "port is taken"),
    ("device_add", "No 'PCI' bus found for device 'virtio-net-pci'", "no such port"),
    ("device_add", "Bus 'rp9' not found", "no such port"),
    ("device_add", "PCI: slot 1 is not valid for x, parent device only allows plugging into slot 0.", "slot 0"),
    ("device_add", "can't use already busy memdev: m1", "fresh object"),
    ("device_add", "Property 'virtio-net-device.netdev' can't find value 'n1'", "left out"),
    ("device_add", "Property 'virtio-net-device.netdev' can't take value 'n1', it's in use", "another device"),
    ("device_add", "'ivshmem-doorbell' is not a valid device model name", "doctor"),
    ("chardev-add", "Failed to add chardev 'c1': Failed to connect to '/x': No such file or directory", "listens"),
    ("netdev_add", "Parameter 'type' does not accept value 'stream'", None),
    ("object-add", "can't open backing store /x for guest RAM: Permission denied", None),
]


@pytest.mark.parametrize(("command", "text", "hint"), REFUSALS)
async def test_refused_step_is_named_and_the_steps_before_it_are_taken_back(
    fake: FakeQemu, empty: Session, command: str, text: str, hint: str | None
) -> None:
    fake.script(command, [Refuse(text)])
    with pytest.raises(StepError) as caught:
        await plug(empty, FULL, times=TIMES)
    assert (caught.value.step, caught.value.reply) == (command, text)
    assert f"`d1` failed at `{command}`: {text}" in caught.value.message
    assert (hint is None and caught.value.hint is None) or (hint or "?") in (caught.value.hint or "")
    done = [name for name, _ in FULL.commands()].index(command)
    assert fake.names() == ADDS[: ADDS.index(command) + 1] + REMOVES[len(REMOVES) - done :]
    assert fake.parts == set()


OLD = "Block Name PSize Offset Used Total\n0000:00:01.0:00.0/m1 4 KiB 0x0 0x1000 0x1000\n"


async def test_device_waits_until_qemu_has_freed_the_memory_of_an_earlier_object(
    fake: FakeQemu, empty: Session
) -> None:
    """7.2 aborts at a device_add that comes within some 50 ms of the object-del of the same id."""
    fake.script(ASKS, [Reply(OLD)], [Reply(OLD)], [Reply(OLD.replace("/m1", "/m11"))])
    await plug(empty, FULL, times=TIMES)
    assert fake.names()[-4:] == [ASKS] * 3 + ["device_add"]


async def test_memory_that_is_never_freed_is_an_error_not_an_abort(fake: FakeQemu, empty: Session) -> None:
    fake.script(ASKS, *[[Reply(OLD)]] * 200)
    with pytest.raises(StepError, match="memory of an earlier `m1`") as caught:
        await plug(empty, FULL, times=replace(TIMES, remove=1.0))
    assert "new object id" in (caught.value.hint or "")
    assert "device_add" not in fake.names()
    assert fake.parts == set()


async def test_taking_back_waits_for_a_busy_chardev(fake: FakeQemu, empty: Session) -> None:
    fake.script("device_add", [Refuse("Bus 'rp1' not found")])
    fake.script("chardev-remove", [Refuse("Chardev 'c1' is busy")], [Refuse("Chardev 'c1' is busy")])
    with pytest.raises(StepError) as caught:
        await plug(empty, FULL, times=TIMES)
    assert len(fake.commands("chardev-remove")) == 3
    assert "taking back" not in caught.value.message
    assert fake.parts == set()


async def test_error_says_so_when_taking_back_fails(fake: FakeQemu, empty: Session) -> None:
    fake.script("device_add", [Refuse("Bus 'rp1' not found")])
    fake.script("netdev_del", [Refuse("Device 'n1' is not a netdev")])
    with pytest.raises(StepError, match=r"taking back the steps before it failed: .*is not a netdev"):
        await plug(empty, FULL, times=TIMES)


@pytest.mark.parametrize(
    ("left", "refused_at"),
    [
        ({("device", "d1")}, "device_add"),
        ({("netdev", "n1")}, "netdev_add"),
        ({("chardev", "c1")}, "chardev-add"),
        ({("object", "m1")}, "object-add"),
        (PLUGGED, "object-add"),
    ],
)
async def test_leftover_of_an_earlier_attempt_is_unplugged_first(
    fake: FakeQemu, empty: Session, left: set[tuple[str, str]], refused_at: str
) -> None:
    fake.parts = set(left)
    await plug(empty, FULL, times=TIMES)
    names = fake.names()
    assert names.index(refused_at) < names.index("device_del") < len(names) - len(ADDS)
    assert names[-len(ADDS) :] == ADDS
    assert fake.parts == PARTS


async def test_leftover_that_comes_back_is_an_error_after_one_more_attempt(fake: FakeQemu, empty: Session) -> None:
    fake.script("device_add", [Refuse("Duplicate device ID 'd1'")], [Refuse("Duplicate device ID 'd1'")])
    with pytest.raises(HotplugError, match="Duplicate device ID"):
        await plug(empty, FULL, times=TIMES)
    assert len(fake.commands("device_add")) == 2
    assert fake.parts == set()


async def test_step_without_reply_is_taken_back_too(fake: FakeQemu, empty: Session) -> None:
    """QEMU answers late and has carried it out: the removal queued behind it finds the netdev."""
    fake.script("netdev_add", [Delay(1.1), Model()])
    with pytest.raises(StepError, match="no reply to `netdev_add`") as caught:
        await plug(empty, FULL, times=replace(TIMES, add=1.0))
    assert (caught.value.step, caught.value.reply) == ("netdev_add", None)
    assert fake.commands("netdev_del") == [{"id": "n1"}]
    assert fake.parts == set()


async def test_device_add_without_reply_is_unplugged_properly(fake: FakeQemu, empty: Session) -> None:
    fake.script("device_add", [Delay(1.1), Model()])
    with pytest.raises(StepError, match="no reply to `device_add`"):
        await plug(empty, FULL, times=replace(TIMES, add=1.0))
    assert fake.names()[len(ADDS) :] == REMOVES
    assert fake.parts == set()


async def test_qemu_that_hangs_for_good_does_not_hold_the_plug(fake: FakeQemu, empty: Session) -> None:
    fake.script("netdev_add", [Delay(60)])
    began = time.monotonic()
    with pytest.raises(StepError, match="and taking back"):
        await plug(empty, FULL, times=replace(TIMES, add=1.0, undo=0.5))
    assert time.monotonic() - began < PATIENT


@pytest.mark.parametrize("command", ADDS)
async def test_plug_is_lost_with_the_connection(fake: FakeQemu, empty: Session, command: str) -> None:
    fake.script(command, [Close()])
    with pytest.raises(QmpLostError, match=f"with `{command}` under way, plugging `d1`"):
        await plug(empty, FULL, times=TIMES)


async def test_cancelled_plug_is_taken_back(fake: FakeQemu, empty: Session) -> None:
    fake.script("device_add", [Delay(0.1), Model()])

    async def is_under_way() -> bool | None:
        return fake.names() == ADDS or None

    task = asyncio.ensure_future(plug(empty, FULL, times=TIMES))
    await until(is_under_way, timeout=30, what="the last command", every=0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.parts == set()
    assert fake.names()[len(ADDS) :] == REMOVES


STREAM = DevicePlan(
    netdev={"type": "stream", "id": "n1", "server": False},
    netdev_event="NETDEV_STREAM_CONNECTED",
    device={"driver": "virtio-net-pci", "id": "d1", "netdev": "n1"},
)


@pytest.mark.parametrize("before_reply", [True, False])
async def test_netdev_counts_only_once_it_is_connected(fake: FakeQemu, empty: Session, before_reply: bool) -> None:
    event = Event("NETDEV_STREAM_CONNECTED", {"netdev-id": "n1"})
    fake.script("netdev_add", [event, Model()] if before_reply else [Model(), Delay(0.05), event])
    await plug(empty, STREAM, times=TIMES)
    assert fake.parts == {("netdev", "n1"), ("device", "d1")}


async def test_listeners_link_is_down_before_the_device_is_there_and_a_failure_is_taken_back(
    fake: FakeQemu, empty: Session
) -> None:
    """A guest that sends before 7.2 has bound the socket ends QEMU, unless the link is down."""
    fake.script("set_link", [Reply()])
    fake.script("device_add", [Refuse("Bus 'rp1' not found")])
    with pytest.raises(StepError, match="device_add"):
        await plug(empty, replace(STREAM, netdev_event=None, netdev_down=True), times=TIMES)
    assert fake.names() == ["netdev_add", "set_link", "device_add", "netdev_del"]
    assert fake.received[1] == ("set_link", {"name": "n1", "up": False})
    assert fake.parts == set()


async def test_netdev_that_nobody_answers_is_an_error_though_qemu_said_yes(fake: FakeQemu, empty: Session) -> None:
    fake.script("netdev_add", [Model(), Event("NETDEV_STREAM_CONNECTED", {"netdev-id": "other"})])
    with pytest.raises(StepError, match="netdev `n1` is not connected") as caught:
        await plug(empty, STREAM, times=replace(TIMES, connect=0.2))
    assert "other end" in (caught.value.hint or "")
    assert fake.names() == ["netdev_add", "netdev_del"]


async def test_netdev_is_not_removed_while_qemu_still_sets_it_up(fake: FakeQemu, empty: Session) -> None:
    """7.2 answers netdev_add of a stream before its socket listens, and crashes if the netdev goes meanwhile."""
    fake.script("device_add", [Refuse("Bus 'rp1' not found")])
    began = time.monotonic()
    with pytest.raises(StepError):
        await plug(empty, FULL, times=replace(TIMES, settle=0.2))
    assert time.monotonic() - began >= 0.19
    assert fake.parts == set()


# Unplug


async def test_unplug_removes_every_part_in_order(plugged: FakeQemu, session: Session) -> None:
    result = await unplug(session, FULL.ids(), times=TIMES)
    assert plugged.received == FULL.ids().commands()
    assert plugged.parts == set()
    assert (result.present, result.attempts, result.reset) == (True, 1, False)


async def test_unplug_waits_for_deleted_before_it_touches_the_netdev(directories: Directories) -> None:
    fake = FakeQemu(unplug_after=0.05)
    fake.parts = set(PARTS)
    seen: list[bool] = []

    class Watch(FakeQemu):
        def turn(self, command: str) -> Any:
            if command == "netdev_del":
                seen.append(("device", "d1") in self.parts)
            return super().turn(command)

    fake.__class__ = Watch
    async with connected(directories, fake) as session:
        await unplug(session, FULL.ids(), times=TIMES)
    assert seen == [False]


async def test_unplug_of_nothing_is_done_at_once(fake: FakeQemu, empty: Session) -> None:
    result = await unplug(empty, FULL.ids(), times=TIMES)
    assert (result.present, result.attempts) == (False, 1)
    assert fake.names() == REMOVES


async def test_deleted_may_come_before_the_reply(plugged: FakeQemu, session: Session) -> None:
    plugged.script("device_del", [*plugged.deletion("d1"), Reply()])
    assert (await unplug(session, FULL.ids(), times=TIMES)).attempts == 1
    assert plugged.parts == set()


async def test_deletions_of_others_and_of_the_virtio_part_do_not_count(plugged: FakeQemu, session: Session) -> None:
    virtio, ours = plugged.deletion("d1")
    others = Event("DEVICE_DELETED", {"device": "d2", "path": "/machine/peripheral/d2"})
    plugged.script("device_del", [Reply(), others, virtio, Delay(0.08), ours])
    result = await unplug(session, FULL.ids(), times=TIMES)
    assert result.seconds >= 0.07
    assert result.attempts == 1


async def test_lost_request_is_repeated_first_after_long_then_after_short_intervals(
    plugged: FakeQemu, session: Session
) -> None:
    times: list[float] = []

    class Clock(FakeQemu):
        def turn(self, command: str) -> Any:
            times.append(time.monotonic())
            return super().turn(command)

    plugged.__class__ = Clock
    plugged.script("device_del", [Reply()], [Reply()], [Reply()])
    result = await unplug(session, FULL.ids(), times=replace(TIMES, first_repeat=1.0))
    assert result.attempts == 4
    first, second, third = (times[n + 1] - times[n] for n in range(3))
    assert first >= 0.99
    assert 0.045 <= second < 0.99
    assert 0.045 <= third < 0.99


async def test_event_that_comes_late_ends_the_wait_between_repeats(plugged: FakeQemu, session: Session) -> None:
    plugged.script("device_del", [Reply()], [Reply(), Delay(0.02), *plugged.deletion("d1")])
    times = replace(TIMES, first_repeat=0.1, repeat=20.0)
    result = await unplug(session, FULL.ids(), times=times)
    assert result.attempts == 2
    assert result.seconds < 20


async def test_removal_that_is_under_way_is_waited_for(plugged: FakeQemu, session: Session) -> None:
    refusal = Refuse("Device d1 is already in the process of unplug")
    plugged.script("device_del", [refusal, Delay(0.03), *plugged.deletion("d1")])
    assert (await unplug(session, FULL.ids(), times=TIMES)).attempts == 1
    assert plugged.parts == set()


async def test_busy_guest_is_asked_again_with_growing_pauses(plugged: FakeQemu, session: Session) -> None:
    busy = Refuse("Hot-unplug failed: guest is busy (power indicator blinking)")
    plugged.script("device_del", *[[busy]] * 4)
    began = time.monotonic()
    result = await unplug(session, FULL.ids(), times=TIMES)
    assert result.attempts == 5
    assert time.monotonic() - began >= 0.01 + 0.02 + 0.04 + 0.04  # doubled, up to busy_most
    assert result.seconds < PATIENT  # and never first_repeat


async def test_device_that_vanishes_between_repeats_is_done(plugged: FakeQemu, session: Session) -> None:
    plugged.script("device_del", [Reply()], [Refuse("Device 'd1' not found", "DeviceNotFound")])
    result = await unplug(session, FULL.ids(), times=replace(TIMES, first_repeat=0.05))
    assert (result.present, result.attempts) == (True, 2)


async def test_time_out_of_device_del_is_no_failure_if_deleted_comes(plugged: FakeQemu, session: Session) -> None:
    session.default_timeout = 0.25
    plugged.script("device_del", [Mute(), Delay(0.3), *plugged.deletion("d1")])
    await unplug(session, FULL.ids(), times=TIMES)
    assert plugged.parts == set()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("netdev_del", "Device 'n1' not found"),
        ("chardev-remove", "Chardev 'c1' not found"),  # 7.2: a vhost-user netdev takes its chardev along
        ("object-del", "object 'm1' not found"),
    ],
)
async def test_part_that_is_gone_counts_as_removed(
    plugged: FakeQemu, session: Session, command: str, text: str
) -> None:
    plugged.script(command, [Refuse(text)])
    await unplug(session, FULL.ids(), times=TIMES)
    assert plugged.names() == REMOVES


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("chardev-remove", "Chardev 'c1' is busy"),
        ("object-del", "object 'm1' is in use, can not be deleted"),
        ("netdev_del", "Device 'n1' is in use"),
    ],
)
async def test_busy_part_is_retried(plugged: FakeQemu, session: Session, command: str, text: str) -> None:
    plugged.script(command, [Refuse(text)], [Refuse(text)])
    await unplug(session, FULL.ids(), times=TIMES)
    assert len(plugged.commands(command)) == 3
    assert plugged.parts == set()


async def test_part_that_stays_busy_is_an_error_with_the_reply(plugged: FakeQemu, session: Session) -> None:
    plugged.script("chardev-remove", *[[Refuse("Chardev 'c1' is busy")]] * 50)
    with pytest.raises(StepError, match="`c1` failed at `chardev-remove`: Chardev 'c1' is busy") as caught:
        await unplug(session, FULL.ids(), times=replace(TIMES, remove=1.0))
    assert (caught.value.step, caught.value.reply) == ("chardev-remove", "Chardev 'c1' is busy")
    assert ("object", "m1") in plugged.parts


async def test_part_without_reply_is_an_error_in_time(plugged: FakeQemu, session: Session) -> None:
    plugged.script("netdev_del", [Mute()])
    with pytest.raises(StepError, match="no reply to `netdev_del`"):
        await unplug(session, FULL.ids(), times=replace(TIMES, remove=0.3))


async def test_refused_device_del_is_an_error_at_once(plugged: FakeQemu, session: Session) -> None:
    plugged.script("device_del", [Refuse("Bus 'pcie.0' does not support hotplugging")])
    with pytest.raises(StepError, match="does not support hotplugging") as caught:
        await unplug(session, FULL.ids(), times=TIMES)
    assert plugged.names() == ["device_del"]
    assert "pcie-root-port" in (caught.value.hint or "")


@pytest.mark.parametrize("event", ["DEVICE_UNPLUG_GUEST_ERROR", "MEM_UNPLUG_ERROR"])
async def test_refusal_by_the_guest_ends_the_wait(plugged: FakeQemu, session: Session, event: str) -> None:
    plugged.script("device_del", [Reply(), Event(event, {"device": "d1", "msg": "Device or resource busy"})])
    with pytest.raises(StepError, match=f"the guest refused: {event} Device or resource busy"):
        await unplug(session, FULL.ids(), times=TIMES)
    assert len(plugged.commands("device_del")) == 1
    assert ("device", "d1") in plugged.parts


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        ("running", "reset-survivor"),
        ("paused", "vpctl qmp vm1 cont"),
        ("prelaunch", "vpctl qmp vm1 cont"),
        ("guest-panicked", "vpctl recover vm1"),
    ],
)
async def test_hint_for_a_guest_that_never_lets_go_depends_on_its_state(
    plugged: FakeQemu, session: Session, status: str, hint: str
) -> None:
    plugged.unplug_after = None
    plugged.status = status
    with pytest.raises(StepError, match=r"device `d1` was not released within \d+ s") as caught:
        await unplug(session, FULL.ids(), times=IMPATIENT)
    assert hint in (caught.value.hint or "")
    assert "netdev_del" not in plugged.names()  # 7.2 would abort at the next reset


async def test_reset_survivor_resets_after_the_limit_and_says_so(plugged: FakeQemu, session: Session) -> None:
    plugged.unplug_after = None
    result = await unplug(session, FULL.ids(), times=IMPATIENT, on_stuck="reset-survivor")
    assert result.reset
    names = plugged.names()
    # Under `-action reboot=shutdown` a system_reset would end QEMU.
    assert names.index("set-action") + 1 == names.index("system_reset")
    assert plugged.commands("set-action") == [{"reboot": "reset"}]
    assert plugged.parts == set()


async def test_reset_survivor_does_not_reset_a_guest_that_lets_go(plugged: FakeQemu, session: Session) -> None:
    result = await unplug(session, FULL.ids(), times=TIMES, on_stuck="reset-survivor")
    assert not result.reset
    assert "system_reset" not in plugged.names()


async def test_reset_that_does_not_help_is_an_error(plugged: FakeQemu, session: Session) -> None:
    plugged.unplug_after = None
    plugged.script("system_reset", [Reply()])
    with pytest.raises(StepError, match="a reset included"):
        await unplug(session, FULL.ids(), times=replace(IMPATIENT, reset=0.5), on_stuck="reset-survivor")


async def test_silent_qemu_is_an_error_in_time(plugged: FakeQemu, session: Session) -> None:
    session.default_timeout = 0.25
    plugged.script("device_del", [Delay(60)])
    began = time.monotonic()
    with pytest.raises(StepError, match="no reply to `device_del`") as caught:
        await unplug(session, FULL.ids(), times=IMPATIENT)
    assert "recover" in (caught.value.hint or "")
    assert time.monotonic() - began < PATIENT


@pytest.mark.parametrize("command", REMOVES)
async def test_unplug_is_lost_with_the_connection(plugged: FakeQemu, session: Session, command: str) -> None:
    plugged.script(command, [Close()])
    with pytest.raises(QmpLostError, match=f"with `{command}` under way"):
        await unplug(session, FULL.ids(), times=TIMES)


async def test_unplug_is_lost_when_qemu_dies_before_deleted(plugged: FakeQemu, session: Session) -> None:
    plugged.script("device_del", [Reply(), Delay(0.02), Close()])
    began = time.monotonic()
    with pytest.raises(QmpLostError):
        await unplug(session, FULL.ids(), times=TIMES)
    assert time.monotonic() - began < PATIENT


async def test_plug_works_again_after_unplug_with_the_same_ids(fake: FakeQemu, empty: Session) -> None:
    for _ in range(3):
        await plug(empty, FULL, times=TIMES)
        await unplug(empty, FULL.ids(), times=TIMES)
    assert fake.names() == (ADDS + REMOVES) * 3
