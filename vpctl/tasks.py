"""Work that may fail alone: an exception that was not foreseen is reported, and ends no other task.

An `asyncio.TaskGroup` cancels all of its tasks when one raises. That is right for the parts of one piece of work, and
wrong for the works of several VMs, links or connections that only share a process. Those run through `contained`.
Standard library only: the broker uses it as well.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vpctl import wait

TRACEBACK_CHARACTERS = 8000
"""Of a traceback, the end of which is kept: a recursion's has a thousand frames."""

WHOLE_SECONDS = 60.0
"""Work that ran for longer than this before it failed begins a new series of attempts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Again:
    """When work that failed begins anew: after `first` seconds, then twice as long each time, `longest` at most.

    `most` is the number of attempts in a row, the first one included; None: there is no end to them.
    """

    first: float = 0.5
    longest: float = 60.0
    most: int | None = None

    def pause(self, attempt: int) -> float | None:
        """Return the seconds to wait after this attempt, counted from 1; None: it was the last one."""
        if self.most is not None and attempt >= self.most:
            return None
        return min(self.longest, self.first * 2.0 ** min(attempt - 1, 60))


ONCE = Again(most=1)
"""For work that others begin anew, or that nothing waits for."""

FOR_EVER = Again()
"""For what has to be there as long as the process is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An exception that the work did not foresee."""

    work: str
    """What was being done."""
    error: Exception
    attempt: int
    """How often in a row it has been tried, this time included."""
    pause: float | None
    """The seconds until it begins anew; None: it does not."""

    @property
    def message(self) -> str:
        """The exception in one line."""
        return described(self.error)

    @property
    def traceback(self) -> str:
        """The exception's traceback, of `TRACEBACK_CHARACTERS` at most."""
        return traceback_of(self.error)


def described(error: BaseException) -> str:
    """Return an exception's class and text, in one line of bounded length."""
    return f"{type(error).__name__}: {error}"[:400]


def traceback_of(error: BaseException) -> str:
    """Return the end of an exception's traceback, of `TRACEBACK_CHARACTERS` at most."""
    return "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]


async def contained(
    work: Callable[[], Awaitable[object]], report: Callable[[Failure], None], *, name: str, again: Again = ONCE
) -> bool:
    """Do some work; return whether it came to its end, which it may have been begun for several times.

    An exception that it raises goes to `report`, whose own exceptions go to stderr, and never to the caller.
    Cancellation, and what ends a process, pass through.
    """
    attempt = 0
    while True:
        began = time.monotonic()
        try:
            await work()
        except Exception as error:
            attempt = 1 if time.monotonic() - began > WHOLE_SECONDS else attempt + 1
            pause = again.pause(attempt)
            _tell(report, Failure(work=name, error=error, attempt=attempt, pause=pause))
        else:
            return True
        if pause is None:
            return False
        await wait.pause(pause)


def guarded(work: Callable[[], object], report: Callable[[Failure], None], *, name: str) -> bool:
    """Call a function, as `contained` awaits one; return whether it came to its end."""
    try:
        work()
    except Exception as error:
        _tell(report, Failure(work=name, error=error, attempt=1, pause=None))
        return False
    return True


def _tell(report: Callable[[Failure], None], failure: Failure) -> None:
    try:
        report(failure)
    except Exception:
        traceback.print_exception(failure.error, file=sys.stderr)
        traceback.print_exc()
