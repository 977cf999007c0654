"""The only polling loop: wait until something is so, with a deadline and a word about what was last seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from vpctl.errors import ReadyTimeoutError

T = TypeVar("T")


async def until(
    probe: Callable[[], Awaitable[T | None]],
    *,
    timeout: float,
    what: str,
    every: float = 0.05,
    last_seen: Callable[[], str] | None = None,
) -> T:
    """Call `probe` every `every` seconds until it returns something other than None; return that.

    Raises ReadyTimeoutError after `timeout` seconds, naming `what` and, if given, what `last_seen` tells.
    A probe that is under way at the deadline is cancelled.
    """
    try:
        async with asyncio.timeout(timeout):
            while True:
                found = await probe()
                if found is not None:
                    return found
                await asyncio.sleep(every)
    except TimeoutError as error:
        seen = f"; last seen: {last_seen()}" if last_seen is not None else ""
        raise ReadyTimeoutError(f"{what}: not within {timeout:g} s{seen}") from error


async def pause(seconds: float) -> None:
    """Let time pass: for back-off and for periodic work, never as a guess at when something is done."""
    await asyncio.sleep(seconds)


async def first(work: Awaitable[T], *, unless: Awaitable[BaseException]) -> T:
    """Return what `work` returns, unless `unless` finishes first: then raise the exception it returns.

    Both run as tasks and neither outlives the call. If both are done, `work` wins.
    """
    task = asyncio.ensure_future(work)
    end = asyncio.ensure_future(unless)
    both: set[asyncio.Future[Any]] = {task, end}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise end.result()
    finally:
        for pending in both:
            pending.cancel()
        await asyncio.wait(both)


class Standstill:
    """Whether this process is in a system call that may wait for another one and holds up the loop meanwhile.

    To cancel the task that is in it changes nothing, so the handler of signals raises KeyboardInterrupt out of it.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.is_interrupted = False
        """Set by the handler: a call that begins after that is not made."""

    @contextmanager
    def possible(self) -> Iterator[None]:
        """Have a signal end the block by KeyboardInterrupt."""
        self.is_on = True
        try:
            if self.is_interrupted:  # looked at after the word that we may stand: no signal comes in between
                raise KeyboardInterrupt
            yield
        finally:
            self.is_on = False


standstill = Standstill()
"""Of this process: its signals are its own, too."""
