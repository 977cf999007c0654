"""The broker's vhost-user back-ends, as it tells of them when asked: what it says unasked only wakes who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vpctl.broker.client import BrokerClient
from vpctl.errors import HotplugError

RINGS_SECONDS = 20.0
"""From a front end's plug to its rings: a driver that is there takes some tens of milliseconds."""

EVERY_FEATURE = (1 << 64) - 1
"""What a front end may be offered as long as nobody refuses any of it; the broker knows what it can do."""

LOOK_AGAIN_SECONDS = 1.0
"""While nothing is told: it may have been told to a supervisor, or by a broker, that has died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """What is known of one."""

    name: str
    """Of the front end's device."""
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

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Front:
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
        )


class Fronts:
    """All that the broker has."""

    def __init__(self, broker: Callable[[], BrokerClient]) -> None:
        self._broker = broker
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._news.set()
        self._news = asyncio.Event()

    async def all(self) -> list[Front]:
        """Return what there is."""
        return [Front.from_json(entry) for entry in await self._broker().fronts()]

    async def of(self, device: str) -> Front | None:
        """Return the one of a device; None: it has none, or had it of a broker that died."""
        return next((front for front in await self.all() if front.name == device), None)

    async def until_ready(self, vm: str, device: str) -> int:
        """Return the session of a device's rings when they are ready; HotplugError if that does not come about."""
        front: Front | None = None
        try:
            async with asyncio.timeout(RINGS_SECONDS):
                while True:
                    news = self._news
                    front = await self.of(device)
                    if front is not None and front.session is not None:
                        return front.session
                    await _set_within(news, LOOK_AGAIN_SECONDS)
        except TimeoutError as error:
            raise _never_ready(vm, device, front) from error


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _never_ready(vm: str, device: str, front: Front | None) -> HotplugError:
    if front is None:
        return HotplugError(f"{vm}: the broker serves no `{device}` any more", hint="vpctl events")
    if front.refused is not None:
        return HotplugError(f"{vm}: `{device}` cannot be served: {front.refused}", hint=f"vpctl logs {vm}")
    if not front.connected:
        return HotplugError(f"{vm}: its QEMU has let go of the back-end of `{device}`", hint=f"vpctl logs {vm}")
    message = f"{vm}: no driver has started the rings of `{device}` within {RINGS_SECONDS:g} s"
    return HotplugError(message, hint=f"is virtio_net there? `vpctl exec {vm} -- ls -l /sys/bus/virtio/drivers`")
