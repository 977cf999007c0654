"""Jobs: long verbs that outlast the command that began them and that several clients may wait for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vpctl.errors import InternalError, UsageError, VpctlError, cause_of
from vpctl.tasks import described, traceback_of


class Foreseen(Protocol):
    """Makes whatever a command raised an error that can be told, see `TopologyState.foreseen`."""

    def __call__(self, error: Exception, *, name: str) -> VpctlError:
        """Return the error."""


def untold(error: Exception, *, name: str) -> VpctlError:
    """Return an exception as an error, its traceback on stderr; for where there is no journal."""
    cause = cause_of(error)
    if isinstance(cause, VpctlError):
        return cause
    print(f"{name}: {traceback_of(error)}", file=sys.stderr, flush=True)
    return InternalError(described(cause), hint="its traceback is on stderr")


def error_object(error: VpctlError) -> dict[str, Any]:
    """Return an error as QMP has it, with the contract's keys beside."""
    return {"class": "GenericError", "desc": error.message, **error.as_json()}


@dataclass(kw_only=True, slots=True)
class Job:
    """A long verb that runs: what it was asked for, and how many wait for it."""

    name: str
    wishes: object
    ends: bool
    waiting: int = 1
    task: asyncio.Task[None] | None = None


class Jobs:
    """Long verbs: started once per key, joined by clients that ask for the same while they run."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        event: Callable[[str, Mapping[str, Any]], None],
        foreseen: Foreseen | None = None,
    ) -> None:
        self._group = group
        self._event = event
        self._foreseen = foreseen or untold
        self._running: dict[str, Job] = {}
        self._count = 0

    def start(
        self,
        key: str,
        work: Callable[[], Awaitable[Mapping[str, Any]]],
        *,
        wishes: object = None,
        ends: bool = False,
    ) -> dict[str, Any]:
        """Start the work, or join the one of the same key; returns `{"job": id, "joined": …}`.

        `wishes` is how the work is to be done, None for any way: UsageError where one runs that is done otherwise.
        `ends`: the work ends when all who wait for it have called `leave`.
        """
        if (running := self._running.get(key)) is not None:
            if wishes is not None and wishes != running.wishes:
                raise UsageError(
                    f"`{key.replace('/', ' ')}` runs already, and was asked for otherwise",
                    hint="wait for its end, or for `vpctl events` to tell of it",
                )
            running.waiting += 1
            return {"job": running.name, "joined": True}
        self._count += 1
        job = Job(name=f"{key}#{self._count}", wishes=wishes, ends=ends)
        self._running[key] = job
        job.task = self._group.create_task(self._run(key, job.name, work), name=job.name)
        return {"job": job.name, "joined": False}

    def leave(self, name: str) -> dict[str, Any]:
        """Wait for a job no more; `{"ended": …}` tells whether that has ended it."""
        for key, job in self._running.items():
            if job.name == name:
                job.waiting -= 1
                if job.ends and job.waiting <= 0 and job.task is not None:
                    del self._running[key]  # who asks from now on begins another
                    return {"ended": job.task.cancel()}
                break
        return {"ended": False}

    async def _run(self, key: str, job: str, work: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        try:
            outcome: dict[str, Any] = {"return": await work()}
        except Exception as error:
            outcome = {"error": error_object(self._foreseen(error, name=job))}
        finally:
            if key in self._running and self._running[key].name == job:
                del self._running[key]
        self._event("JOB_DONE", {"job": job, **outcome})

    def is_running(self, key: str) -> bool:
        """Whether a job of this key runs."""
        return key in self._running
