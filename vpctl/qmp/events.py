"""Events around a command: the listener is open before the command is sent, and it learns of the connection's end.

qemu.qmp's own listeners keep a history without bound and fall silent at EOF; these do neither.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vpctl.errors import QmpLostError, QmpTimeoutError

Event = Mapping[str, Any]
"""A QMP event as it came: `event`, `timestamp`, and `data` if it has any."""

BACKLOG = 1024
"""Events that a listener keeps for a reader who is slow; beyond that the oldest are dropped and counted.

Not those that the listener was asked to keep: a waiter for one of them would wait for ever.
"""


class Expectation:
    """The events, from the moment it was opened, that have one of the names and match; oldest first.

    `wait` takes the next one; as an async iterator it yields all of them and ends with the connection.
    """

    def __init__(
        self,
        vm: str,
        names: frozenset[str],
        match: Callable[[Event], bool] | None,
        keep: frozenset[str] = frozenset(),
    ) -> None:
        self.vm = vm
        self.names = names
        self._keep = keep
        self.dropped = 0
        self._match = match
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._lost: QmpLostError | None = None

    async def wait(self, timeout: float) -> Event:
        """Return the next event.

        Raises QmpTimeoutError after `timeout` seconds (it may be called again: no event gets lost in between),
        QmpLostError once the connection has ended and every event that came before was taken.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._next()
        except TimeoutError as error:
            wanted = " or ".join(sorted(self.names)) or "event"
            raise QmpTimeoutError(f"{self.vm}: no {wanted} within {timeout:g} s") from error

    def __aiter__(self) -> Expectation:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._next()
        except QmpLostError as error:
            raise StopAsyncIteration from error

    async def _next(self) -> Event:
        while not self._events:
            if self._lost is not None:
                raise QmpLostError(self._lost.message, hint=self._lost.hint) from self._lost
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()

    def offer(self, event: Event) -> None:
        """Keep an event if it is one of those waited for."""
        if self.names and event["event"] not in self.names:
            return
        if self._match is not None and not self._match(event):
            return
        if len(self._events) >= BACKLOG:
            self._drop_one()
        self._events.append(event)
        self._news.set()

    def _drop_one(self) -> None:
        """Drop the oldest event that need not be kept; the oldest of all if there is no other."""
        oldest = next((number for number, old in enumerate(self._events) if old["event"] not in self._keep), 0)
        del self._events[oldest]
        self.dropped += 1

    def lose(self, error: QmpLostError) -> None:
        """Learn that no more events will come."""
        self._lost = error
        self._news.set()


class Hub:
    """Hands each event to every listener, and the end of the connection too."""

    def __init__(self, vm: str) -> None:
        self.vm = vm
        self.lost: QmpLostError | None = None
        self._listeners: list[Expectation] = []

    @contextmanager
    def listen(
        self, *names: str, match: Callable[[Event], bool] | None = None, keep: Collection[str] = ()
    ) -> Iterator[Expectation]:
        """Listen for as long as the block lasts; without names, to everything. Events named in `keep` are kept."""
        listener = Expectation(self.vm, frozenset(names), match, frozenset(keep))
        if self.lost is not None:
            listener.lose(self.lost)
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)

    def publish(self, event: Event) -> None:
        """Hand an event out."""
        for listener in self._listeners:
            listener.offer(event)

    def end(self, error: QmpLostError) -> None:
        """Say that the connection has ended; only the first reason counts."""
        if self.lost is not None:
            return
        self.lost = error
        for listener in self._listeners:
            listener.lose(error)
