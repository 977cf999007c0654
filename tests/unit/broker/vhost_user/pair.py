"""A played front-end and the back-end that it talks to."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.fakes.vhost_user_frontend import MIB, Dialect, Frontend, frontend
from vpctl.broker.vhost_user.backend import (
    Backend,
    BackendSpec,
)
from vpctl.broker.vhost_user.negotiation import OFFER
from vpctl.process import open_files
from vpctl.wait import until

OLD = Dialect(name="7.2", repeats_memory=True)

TABLES = Dialect(name="without slots", slots=False)

NEW = Dialect(name="10.0", enable_waits=True)

NEWEST = Dialect(name="11.1", enable_waits=True, fds_wait=True)

CALL_FIRST = Dialect(name="call first", call_first=True)

DIALECTS = [OLD, TABLES, NEW, NEWEST, CALL_FIRST]

every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


class Told:
    """What a back-end tells, in order."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []

    async def exactly(self, *whats: str) -> Mapping[str, Any]:
        """Wait until this was told, and see that it is all; return the last, and forget it."""

        async def yet() -> bool | None:
            return len(self.events) >= len(whats) or None

        await until(yet, timeout=5, what=f"{whats}", every=0.001, last_seen=lambda: f"{self.events}")
        assert [each["what"] for each in self.events] == list(whats), self.events
        last = self.events[-1]
        self.events.clear()
        return last


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A back-end and a front-end that belong together."""

    back: Backend
    front: Frontend
    told: Told
    tasks: asyncio.TaskGroup

    async def ready(self) -> None:
        """Do all up to rings that work."""
        await self.front.up()
        await self.told.exactly("connected", "ready")


@contextmanager
def empty_at_the_end() -> Iterator[Path]:
    """Yield a directory in which no socket is left afterwards."""
    with TemporaryDirectory(prefix="vb", dir="/tmp") as name:
        yield Path(name)
        assert list(Path(name).iterdir()) == []


@asynccontextmanager
async def pair(
    dialect: Dialect = OLD, *, size: int = 256 * MIB, queue_pairs: int = 1, features: int = OFFER
) -> AsyncIterator[Pair]:
    told = Told()
    with empty_at_the_end() as directory:
        path = directory / "front"
        async with frontend(path, dialect=dialect, size=size, queue_pairs=queue_pairs) as front:
            spec = BackendSpec(
                name="lan0.g1",
                path=str(path),
                ram="ram/vm2.g1",
                features=features,
                queue_pairs=queue_pairs,
                many_regions=dialect.slots,
            )
            back = Backend(spec, ram=os.dup(front.ram), known=lambda file: False, tell=told.events.append)
            async with asyncio.TaskGroup() as tasks:
                back.open(tasks)
                try:
                    yield Pair(back=back, front=front, told=told, tasks=tasks)
                finally:
                    back.close()


def leaves_no_descriptor(go: Callable[[], Coroutine[Any, Any, None]]) -> None:
    before = open_files(os.getpid())
    asyncio.run(go())
    if open_files(os.getpid()) < before:  # what tests before this one had left to the collector went meanwhile
        gc.collect()
        before = open_files(os.getpid())
        asyncio.run(go())
    assert open_files(os.getpid()) == before
