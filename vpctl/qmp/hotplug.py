"""Plug and unplug that are done when they are done: the rules, with every reply, are in docs/hotplug.md.

Adding: object-add → chardev-add → netdev_add → device_add. Removing: device_del → DEVICE_DELETED with our id →
netdev_del → chardev-remove → object-del.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vpctl import wait
from vpctl.errors import HotplugError, QmpError, QmpLostError, QmpTimeoutError, ReadyTimeoutError
from vpctl.qmp.device import Command, DeviceIds, DevicePlan, removal_of
from vpctl.qmp.events import Event, Expectation
from vpctl.qmp.replies import Meaning, hint, meaning
from vpctl.qmp.session import QmpRefusedError, Session

__all__ = ["DeviceIds", "DevicePlan", "HotplugTimes", "StepError", "UnplugResult", "plug", "present", "unplug"]

OnStuck = Literal["fail", "reset-survivor"]

PERIPHERALS = "/machine/peripheral"
"""Where QEMU keeps the devices that were given an id."""

_STUCK_HINTS = {
    "paused": "the VM is paused, and lets go after `vpctl qmp {vm} cont`",
    "prelaunch": "the VM has not been started, and lets go after `vpctl qmp {vm} cont`",
    "running": "its guest has no OS up, or ignores hotplug; `on_stuck: reset-survivor` resets it, as does "
    "`vpctl qmp {vm} system_reset`",
    "guest-panicked": "its guest has panicked: `vpctl recover {vm}` replaces it",
    "internal-error": "its QEMU has stopped at an internal error: `vpctl recover {vm}` replaces it",
    "io-error": "its QEMU has stopped at a disk error: make room, then `vpctl qmp {vm} cont`",
}

_ENDINGS = ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR", "MEM_UNPLUG_ERROR")


@dataclass(frozen=True, kw_only=True, slots=True)
class HotplugTimes:
    """Limits and intervals, in seconds."""

    unplug: float = 30.0
    """For the guest to let go of the device, all attempts together."""
    first_repeat: float = 5.0
    """Before `device_del` is repeated: a guest whose ACPI is not up loses it; a native PCIe slot blinks that long."""
    repeat: float = 2.0
    """Between the further repeats."""
    reset: float = 10.0
    """For DEVICE_DELETED after the `system_reset` of `reset-survivor`."""
    busy_first: float = 0.05
    """Before the first new attempt after a "busy"; doubles up to `busy_most`."""
    busy_most: float = 1.0
    remove: float = 10.0
    """For one part behind the device (netdev, chardev, object) to go, all attempts together."""
    add: float = 10.0
    """For one adding command, all attempts together."""
    connect: float = 5.0
    """For the event that proves a netdev's connection."""
    settle: float = 0.25
    """From `netdev_add` to the earliest `netdev_del`: a `stream` of 7.2 goes on setting up its socket after the
    reply, and a removal meanwhile is a crash a few commands later (SIGSEGV; nothing tells when it is done)."""
    undo: float = 10.0
    """For taking back what a failed plug has done."""

    def busy_pauses(self) -> Iterator[float]:
        """Yield the pauses after each "busy"."""
        pause = self.busy_first
        while True:
            yield pause
            pause = min(2 * pause, self.busy_most)

    def repeat_pauses(self) -> Iterator[float]:
        """Yield the pauses before each repeated `device_del`."""
        yield self.first_repeat
        while True:
            yield self.repeat


DEFAULT_TIMES = HotplugTimes()


@dataclass(frozen=True, kw_only=True, slots=True)
class UnplugResult:
    """What it took to remove a device."""

    present: bool
    """Whether the device was there; False: it had gone before."""
    attempts: int
    """How often `device_del` was sent."""
    seconds: float
    reset: bool = False
    """Whether the VM was reset to get rid of the device (`reset-survivor`)."""


async def present(session: Session, device: str) -> bool:
    """Whether QEMU has a device of this id, one that is being removed included."""
    return device in await devices(session)


async def devices(session: Session) -> list[str]:
    """Return the ids of the devices that QEMU has, of those that have one, and some other words (`type`)."""
    return [entry["name"] for entry in await session.execute("qom-list", {"path": PERIPHERALS})]


async def plug(session: Session, plan: DevicePlan, *, times: HotplugTimes = DEFAULT_TIMES) -> None:
    """Add a device with all its parts; on any failure, cancellation included, what was added is removed again.

    If one of the plan's ids is taken, an earlier attempt has left it: all of the plan's ids are unplugged and the
    plug is tried once more. Raises HotplugError (StepError: the step, QEMU's reply, a hint); QmpLostError if
    the connection ended.
    """
    try:
        await _add(session, plan, times)
    except _LeftoverError:
        await unplug(session, plan.ids(), times=times)
        await _add(session, plan, times)


async def unplug(
    session: Session, ids: DeviceIds, *, times: HotplugTimes = DEFAULT_TIMES, on_stuck: OnStuck = "fail"
) -> UnplugResult:
    """Remove a device and then its parts; what is not there counts as removed.

    A guest that does not let go within `times.unplug` is reset if `on_stuck` is `reset-survivor` (the result says
    so), else HotplugError says what the VM's state suggests. Raises QmpLostError if the connection ended.
    """
    result = await _Removal(session, ids.device, times).run(on_stuck)
    for command in ids.backend_commands():
        await _remove(session, command, times)
    return result


class StepError(HotplugError):
    """A step of a plug or unplug failed for good."""

    def __init__(self, message: str, *, step: str, reply: str | None, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        """The command, for instance `netdev_add`."""
        self.reply = reply
        """QEMU's text; None if it did not answer."""


class _LeftoverError(StepError):
    """An id of the plan is taken already."""


async def _add(session: Session, plan: DevicePlan, times: HotplugTimes) -> None:
    """Carry out the adding commands; on failure take back those that were, or may have been, carried out."""
    sent: list[Command] = []
    try:
        for command in plan.commands():
            sent.append(command)
            await _add_part(session, plan, command, times)
    except QmpRefusedError as error:
        left = await _undo(session, plan, sent[:-1], times)
        raise _refusal(session.vm, plan, error, left) from error
    except QmpLostError as error:
        raise QmpLostError(f"{error.message}, plugging `{plan.device['id']}`", hint=error.hint) from error
    except QmpTimeoutError as error:
        # QEMU may yet carry out what it has not answered, so that is taken back as well.
        left = await _undo(session, plan, sent, times)
        message = _with_left(f"{error.message}, plugging `{plan.device['id']}`", left)
        raise StepError(message, step=sent[-1][0], reply=None, hint=error.hint) from error
    except BaseException:  # cancellation first of all
        await _undo(session, plan, sent, times)
        raise


async def _add_part(session: Session, plan: DevicePlan, command: Command, times: HotplugTimes) -> None:
    """Carry out one adding command."""
    name = command[0]
    if name == "device_add" and plan.objects:
        await _wait_for_old_memory(session, plan, times)
    if name != "netdev_add":
        await _retry_busy(session, command, limit=times.add, times=times)
    elif plan.netdev_event is None:
        await _add_netdev(session, command, times)
    else:
        await _connect_netdev(session, command, plan.netdev_event, times)


async def _add_netdev(session: Session, command: Command, times: HotplugTimes) -> None:
    try:
        await _retry_busy(session, command, limit=times.add, times=times)
    finally:
        session.netdev_settles = time.monotonic() + times.settle


async def _connect_netdev(session: Session, command: Command, event_name: str, times: HotplugTimes) -> None:
    """Add a netdev, and wait for the event that proves its connection."""
    name = command[1]["id"]

    def is_ours(event: Event) -> bool:
        return bool(event.get("data", {}).get("netdev-id") == name)

    with session.expect(event_name, match=is_ours) as connected:
        await _add_netdev(session, command, times)
        try:
            await connected.wait(times.connect)
        except QmpTimeoutError as error:
            remedy = "nobody listens on its socket: the other end is plugged first"
            raise QmpTimeoutError(f"{error.message}: netdev `{name}` is not connected", hint=remedy) from error


async def _wait_for_old_memory(session: Session, plan: DevicePlan, times: HotplugTimes) -> None:
    """Wait until QEMU has freed the memory of earlier objects of the same ids.

    That happens some 50 ms after `object-del` (RCU). Until then the memory is registered as `SLOT/ID`, and a
    `device_add` that would register the same name aborts 7.2: `RAMBlock "…/m1" already registered, abort!`.
    """
    old = {arguments["id"] for arguments in plan.objects}

    async def freed() -> bool | None:
        blocks = await session.execute("human-monitor-command", {"command-line": "info ramblock"})
        names = [line.split()[0] for line in str(blocks).splitlines() if line.strip()]
        return None if any(name.rpartition("/")[2] in old for name in names if "/" in name) else True

    what = f"{session.vm}: memory of an earlier {' or '.join(f'`{name}`' for name in sorted(old))} to be freed"
    try:
        await wait.until(freed, timeout=times.remove, what=what, every=0.01)
    except ReadyTimeoutError as error:
        remedy = "use a new object id: adding this one again would abort QEMU"
        raise StepError(error.message, step="device_add", reply=None, hint=remedy) from error


def _refusal(vm: str, plan: DevicePlan, error: QmpRefusedError, left: str | None) -> StepError:
    duplicate = meaning(error.command, error.error_class, error.description) is Meaning.DUPLICATE
    kind = _LeftoverError if duplicate else StepError
    message = f"{vm}: plugging `{plan.device['id']}` failed at `{error.command}`: {error.description}"
    return kind(_with_left(message, left), step=error.command, reply=error.description, hint=hint(error.description))


def _with_left(message: str, left: str | None) -> str:
    return message if left is None else f"{message} (and taking back the steps before it failed: {left})"


async def _undo(session: Session, plan: DevicePlan, sent: Sequence[Command], times: HotplugTimes) -> str | None:
    """Remove what the commands sent have added; return what went wrong, if something did."""
    added = {(removal_of(name), arguments["id"]) for name, arguments in sent if removal_of(name) is not None}
    try:
        async with asyncio.timeout(times.undo):
            if ("device_del", plan.device["id"]) in added:
                await _Removal(session, plan.device["id"], times).run("fail")
            for command in plan.ids().backend_commands():
                if (command[0], command[1]["id"]) in added:
                    await _remove(session, command, times)
    except TimeoutError:
        return f"not within {times.undo:g} s"
    except QmpError as error:
        return error.message
    return None


async def _remove(session: Session, command: Command, times: HotplugTimes) -> None:
    """Remove a part behind a device; it may be gone already, or busy for a moment."""
    name, arguments = command
    what = f"{session.vm}: removing `{arguments['id']}` failed at `{name}`"
    if name == "netdev_del":
        await wait.pause(max(0.0, session.netdev_settles - time.monotonic()))
    try:
        await _retry_busy(session, command, limit=times.remove, times=times)
    except QmpRefusedError as error:
        if meaning(name, error.error_class, error.description) is Meaning.GONE:
            return
        text = error.description
        raise StepError(f"{what}: {text}", step=name, reply=text, hint=hint(text)) from error
    except QmpTimeoutError as error:
        raise StepError(f"{what}: {error.message}", step=name, reply=None, hint=error.hint) from error


async def _retry_busy(session: Session, command: Command, *, limit: float, times: HotplugTimes) -> None:
    """Run a command, again and again with growing pauses while QEMU says that something is busy.

    Raises the last QmpRefusedError when `limit` seconds have passed, and any other at once. Each attempt has the
    whole limit for its reply, so that the last one is not cut short.
    """
    end = time.monotonic() + limit
    pauses = times.busy_pauses()
    while True:
        try:
            await session.execute(*command, timeout=limit)
        except QmpRefusedError as error:
            pause = next(pauses)
            busy = meaning(error.command, error.error_class, error.description) is Meaning.BUSY
            if not busy or time.monotonic() + pause > end:
                raise
        else:
            return
        await wait.pause(pause)


class _Removal:
    """One device on its way out: `device_del` with its repeats until DEVICE_DELETED, or the end of patience."""

    def __init__(self, session: Session, device: str, times: HotplugTimes) -> None:
        self.session = session
        self.device = device
        self.times = times
        self.present = True
        self.attempts = 0
        self.seen: str | None = None
        """The last refusal heard, from QEMU or the guest."""

    async def run(self, on_stuck: OnStuck) -> UnplugResult:
        """Remove the device; HotplugError if it stays."""
        began = time.monotonic()
        was_reset = False
        # Open before the command: DEVICE_DELETED may come before the reply to `device_del`.
        with self.session.expect(*_ENDINGS, match=self._concerns) as endings:
            gone = await self._ask_until_gone(endings, self.times.unplug)
            if not gone and on_stuck == "reset-survivor":
                was_reset = True
                await self._reset()
                gone = await self._ask_until_gone(endings, self.times.reset)
        if not gone:
            raise await self._stuck(time.monotonic() - began, was_reset)
        return UnplugResult(
            present=self.present, attempts=self.attempts, seconds=time.monotonic() - began, reset=was_reset
        )

    def _concerns(self, event: Event) -> bool:
        """Whether an event is about our device: virtio sends an earlier DEVICE_DELETED without `device`."""
        return bool(event.get("data", {}).get("device") == self.device)

    async def _ask_until_gone(self, endings: Expectation, limit: float) -> bool:
        """Send `device_del` until the device has gone; False if the guest refuses or `limit` seconds have passed."""
        end = time.monotonic() + limit
        busy, lost = self.times.busy_pauses(), self.times.repeat_pauses()
        while (left := end - time.monotonic()) > 0:
            answer = await self._ask(left)
            if answer is Meaning.GONE:
                return True
            pause = next(busy if answer is Meaning.BUSY else lost)
            try:
                ending = await endings.wait(max(0.0, min(pause, end - time.monotonic())))
            except QmpTimeoutError:
                continue
            if ending["event"] == "DEVICE_DELETED":
                return True
            self.seen = f"the guest refused: {ending['event']} {ending.get('data', {}).get('msg', '')}".rstrip()
            return False
        return False

    async def _ask(self, left: float) -> Meaning | None:
        """Send `device_del` once; None if QEMU took it, or did not answer."""
        self.attempts += 1
        try:
            limit = min(max(left, self.times.repeat), self.session.default_timeout)
            await self.session.execute("device_del", {"id": self.device}, timeout=limit)
        except QmpTimeoutError as error:
            self.seen = error.message
            return None
        except QmpRefusedError as error:
            answer = meaning("device_del", error.error_class, error.description)
            if answer is Meaning.GONE:
                self.present = self.attempts > 1
            elif answer is Meaning.REFUSED:
                what = f"{self.session.vm}: unplugging `{self.device}` failed at `device_del`: {error.description}"
                text = error.description
                raise StepError(what, step="device_del", reply=text, hint=hint(text)) from error
            self.seen = error.description
            return answer
        return None

    async def _reset(self) -> None:
        """Reset the VM: that completes a removal which its guest ignores."""
        # Under `-action reboot=shutdown`, as during boot, system_reset would end QEMU instead (7.2).
        await self.session.execute("set-action", {"reboot": "reset"})
        await self.session.execute("system_reset")

    async def _stuck(self, seconds: float, was_reset: bool) -> StepError:
        message = f"{self.session.vm}: device `{self.device}` was not released within {seconds:.0f} s"
        if was_reset:
            message += ", a reset included"
        if self.seen is not None:
            message += f"; last reply: {self.seen}"
        return StepError(message, step="device_del", reply=self.seen, hint=await self._stuck_hint())

    async def _stuck_hint(self) -> str:
        try:
            status = (await self.session.execute("query-status"))["status"]
        except QmpError:
            return "QEMU does not answer: `vpctl recover` replaces it"
        return _STUCK_HINTS.get(status, _STUCK_HINTS["running"]).format(vm=self.session.vm)
