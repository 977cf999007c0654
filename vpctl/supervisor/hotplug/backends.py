"""The broker's vhost-user back-ends, as it tells of them when asked: what it says unasked only wakes who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vpctl.broker.client import BrokerClient
from vpctl.errors import HotplugError

RINGS_SECONDS = 20.0
"""From a virtio-net end's plug to its rings: a driver that is there takes some tens of milliseconds."""

TAKEN_UP_SECONDS = 10.0
"""From a vhost-pci end's plug to its driver's word that it works the rings: a driver that is there takes some tens of
milliseconds, and its interface has to be set up by then."""

EVERY_FEATURE = (1 << 64) - 1
"""What a virtio-net end may be offered as long as nobody refuses any of it; the broker knows what it can do."""

LOOK_AGAIN_SECONDS = 1.0
"""While nothing is told: it may have been told to a supervisor, or by a broker, that has died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendStatus:
    """What the broker says of its back-end for one virtio-net device."""

    name: str
    """The virtio-net device."""
    connected: bool
    session: int | None
    """Counts how often its driver has started its rings; None: they do not run."""
    features: int
    """What it has negotiated."""
    attached: str | None
    """The device by which the other guest works the rings, or has worked those of a session that is over."""
    works: bool
    """Whether the present session's rings are shown to that guest."""
    accepted: int | None
    """The features that its driver takes, once it has answered."""
    refused: str | None
    """What the broker would not do for it, the last time that there was something."""
    rings: tuple[tuple[int, int], ...]
    """(size, chains of descriptors that wait) of each ring of the session."""

    @property
    def disorder(self) -> str | None:
        """What is wrong with the rings' memory, so that nobody could go on with them."""
        for number, (size, waiting) in enumerate(self.rings):
            if waiting > size:
                return f"ring {number} has {size} descriptors, and {waiting} wait"
        return None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BackendStatus:
        answer = data["answer"]
        return cls(
            name=data["name"],
            connected=data["connected"],
            session=data["session"],
            features=data["features"] or 0,
            attached=data["attached"],
            works=data["session"] is not None and data["on"],
            accepted=answer["features"] if answer is not None and answer["state"] == "on" else None,
            refused=data["refused"],
            rings=tuple((ring["size"], ring["waiting"]) for ring in data["rings"]),
        )


class Backends:
    """The back-ends that the broker has, and waits for what becomes of them."""

    def __init__(self, broker: Callable[[], BrokerClient]) -> None:
        self._broker = broker
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def all(self) -> list[BackendStatus]:
        """Return what there is."""
        return [BackendStatus.from_json(entry) for entry in await self._broker().query_backends()]

    async def of(self, device: str) -> BackendStatus | None:
        """Return the one of a device; None: it has none, or had it of a broker that died."""
        return next((status for status in await self.all() if status.name == device), None)

    async def until_ready(self, vm: str, device: str) -> int:
        """Return the session of a device's rings when they are ready; HotplugError if that does not come about."""
        status = await self._until(device, lambda status: status.session is not None, seconds=RINGS_SECONDS)
        if status is None or status.session is None:
            raise _never_ready(vm, device, status)
        return status.session

    async def until_taken_up(self, device: str) -> None:
        """Wait until a vhost-pci end's driver says that it works a device's rings; HotplugError if it does not."""
        status = await self._until(device, lambda status: status.accepted is not None, seconds=TAKEN_UP_SECONDS)
        if status is None or status.accepted is None:
            back = status.attached if status is not None and status.attached is not None else "the vhost-pci end"
            message = f"`{back}`: its driver does not go on with the rings of `{device}`"
            raise HotplugError(f"{message} within {TAKEN_UP_SECONDS:g} s", hint="vpctl events")

    async def _until(
        self, device: str, what: Callable[[BackendStatus], bool], *, seconds: float
    ) -> BackendStatus | None:
        """Return a device's virtio-net end when it is as wanted, or as it is when time is up; None: there is none."""
        status: BackendStatus | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    changed = self._changed
                    status = await self.of(device)
                    if status is None or what(status):  # one that a broker took along does not come back
                        return status
                    await _set_within(changed, LOOK_AGAIN_SECONDS)
        except TimeoutError:
            return status


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _never_ready(vm: str, device: str, status: BackendStatus | None) -> HotplugError:
    if status is None:
        return HotplugError(f"{vm}: the broker serves no `{device}` any more", hint="vpctl events")
    if status.refused is not None:
        return HotplugError(f"{vm}: `{device}` cannot be served: {status.refused}", hint=f"vpctl logs {vm}")
    if not status.connected:
        return HotplugError(f"{vm}: its QEMU has let go of the back-end of `{device}`", hint=f"vpctl logs {vm}")
    message = f"{vm}: no driver has started the rings of `{device}` within {RINGS_SECONDS:g} s"
    return HotplugError(message, hint=f"is virtio_net there? `vpctl exec {vm} -- ls -l /sys/bus/virtio/drivers`")
