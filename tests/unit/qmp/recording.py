"""A journal that records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.fakes.qmp_server import FakeQemu, serving
from vpctl.qmp.session import Journal, Session, connect


@asynccontextmanager
async def connected(path: Path, fake: FakeQemu, journal: Journal | None = None) -> AsyncIterator[Session]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(path, fake))
        yield await stack.enter_async_context(connect(path, vm="vm1", timeout=2, default_timeout=1, journal=journal))
