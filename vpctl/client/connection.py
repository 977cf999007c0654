"""The supervisor as commands see it: qemu.qmp's client on the control socket, jobs awaited, errors raised as ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from vpctl import wait
from vpctl.errors import InternalError, InterruptedByUserError, TopologyError, UsageError, VpctlError, errors_by_code
from vpctl.process_record import require_visible
from vpctl.qmp.session import Session, open_session
from vpctl.rundir import RunDir, is_locked

CONNECT_SECONDS = 20.0
"""For a supervisor that was just started, or killed and started again, to open its socket."""

COMMAND_SECONDS = 60.0

LEAVE_SECONDS = 5.0
"""For the supervisor to hear that its job is not waited for any more."""


class SupervisorLostError(InternalError):
    """The supervisor went away in the middle of a command."""


class SupervisorClient:
    """A connection to a supervisor."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def execute(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Execute a command; raises the error that the supervisor said."""
        from vpctl.errors import QmpLostError
        from vpctl.qmp.session import QmpRefusedError

        given = {key: value for key, value in arguments.items() if value is not None}
        try:
            returned: dict[str, Any] = await self._session.execute(command, given, timeout=COMMAND_SECONDS)
        except QmpRefusedError as error:
            raise revive(error.response) from error
        except QmpLostError as error:
            raise SupervisorLostError("the supervisor went away") from error
        return returned

    async def job(
        self,
        command: str,
        *,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Execute a long verb and wait for its end; `on_event` sees journal entries meanwhile.

        What it returns tells whether the job was `joined`, being under way already. Raises the error that the job
        ended with, SupervisorLostError if the supervisor went away. If this is cancelled, the supervisor is told.
        """
        with self._session.subscribe(keep=("JOB_DONE",)) as events:
            started = await self.execute(command, **arguments)
            try:
                returned = await self._end_of(started["job"], events, on_event)
            except asyncio.CancelledError:
                with contextlib.suppress(VpctlError, TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await self.execute("leave-job", job=started["job"])
                raise
        return {**returned, "joined": started["joined"]}

    async def _end_of(
        self,
        job: str,
        events: AsyncIterator[Mapping[str, Any]],
        on_event: Callable[[Mapping[str, Any]], None] | None,
    ) -> dict[str, Any]:
        async for event in events:
            data = event.get("data", {})
            if event["event"] == "JOURNAL" and on_event is not None:
                on_event(data)
            if event["event"] == "JOB_DONE" and data["job"] == job:
                if "error" in data:
                    raise revive(data["error"])
                returned: dict[str, Any] = data["return"]
                return returned
        raise SupervisorLostError("the supervisor went away")


def revive(error: Mapping[str, Any]) -> VpctlError:
    """Return an error as the supervisor raised it."""
    kind = errors_by_code().get(str(error.get("code")), InternalError)
    if issubclass(kind, TopologyError):  # made of problems, which do not travel
        kind = UsageError
    return kind(
        str(error.get("message") or error.get("desc")),
        hint=error.get("hint"),
        where=error.get("where"),
        details=error.get("details"),
    )


@asynccontextmanager
async def connect(rundir: RunDir, *, timeout: float = CONNECT_SECONDS) -> AsyncIterator[SupervisorClient]:
    """Be connected for as long as the block lasts; SupervisorLostError if none answers."""
    require_visible(rundir)
    if not is_locked(rundir.broker_lock):
        # The broker keeps the supervisor alive and the supervisor the broker; without both, nobody will answer.
        raise SupervisorLostError(
            f"vpctl's own processes of `{rundir.name}` are gone, its guests may still run",
            hint=f"`vpctl up FILE` takes them over, `vpctl down {rundir.name}` ends them",
        )
    try:
        session = await open_session(rundir.control_socket, vm=rundir.name, timeout=timeout)
    except VpctlError as error:
        raise SupervisorLostError(
            f"the supervisor of `{rundir.name}` does not answer: {error.message}",
            hint=f"see {rundir.service_log('supervisor')}",
        ) from error
    try:
        yield SupervisorClient(session)
    finally:
        await session.close()


async def job_through_restarts(
    rundir: RunDir,
    command: str,
    *,
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Run a long verb that a new supervisor takes up again (`up`, `recover`), asking again if the old one dies."""
    while True:
        reached = False
        try:
            async with connect(rundir) as supervisor:
                reached = True
                return await supervisor.job(command, on_event=on_event, **arguments)
        except SupervisorLostError as error:
            if not rundir.run.exists() or rundir.stopping.exists():
                raise InterruptedByUserError(
                    f"`{rundir.name}` was stopped meanwhile", hint="vpctl up FILE"
                ) from error
            if not is_locked(rundir.broker_lock):
                await _revived(rundir)
            elif not reached:
                raise  # its patience is over: this one does not start at all
            await wait.pause(0.1)


async def _revived(rundir: RunDir) -> None:
    """Wait for the broker that a living supervisor starts; SupervisorLostError if none comes."""

    async def locked() -> bool | None:
        return is_locked(rundir.broker_lock) or None

    try:
        await wait.until(locked, timeout=CONNECT_SECONDS, what=f"a new broker of `{rundir.name}`")
    except VpctlError as error:
        raise SupervisorLostError(error.message, hint=f"vpctl down {rundir.name}") from error


async def try_status(rundir: RunDir) -> dict[str, Any] | None:
    """Return the status of a topology, or None if its supervisor does not answer."""
    with contextlib.suppress(VpctlError, TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS), connect(rundir, timeout=CONNECT_SECONDS) as supervisor:
            return await supervisor.execute("query-status")
    return None
