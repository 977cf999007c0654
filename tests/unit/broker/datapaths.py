"""A data path that does nothing but remember, and whose guest lets go when it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

from vpctl.broker.vhost_user.datapath import Eventfd, VringSet


class Remembers:
    """A `Datapath`: `lets_go` is the guest's word."""

    def __init__(self, name: str = "lan0.g2", *, obeys: bool = True) -> None:
        self.name = name
        self.vrings: VringSet | None = None
        self.calls: list[tuple[int, int]] = []
        self.is_detached = False
        self.was_asked = asyncio.Event()
        self.lets_go = asyncio.Event()
        if obeys:
            self.lets_go.set()

    @property
    def is_on(self) -> bool:
        return (
            self.vrings is not None
            and not self.is_detached
            and not (self.was_asked.is_set() and self.lets_go.is_set())
        )

    def attach(self, vrings: VringSet) -> None:
        self.vrings = vrings

    def change_call(self, ring: int, call: Eventfd) -> None:
        self.calls.append((ring, call.id))

    async def off(self) -> bool:
        self.was_asked.set()
        await self.lets_go.wait()
        return True

    def detach(self) -> None:
        self.is_detached = True

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "memory": None, "ends": []}
