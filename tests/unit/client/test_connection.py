"""The supervisor as commands see it: its errors come back as they were raised."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.fakes.broker import made
from vpctl.broker.service import hold
from vpctl.client import connection
from vpctl.errors import Problem, TopologyError, UsageError, VpctlError, errors_by_code
from vpctl.guest.ssh import GuestSshError
from vpctl.rundir import Directories, RunDir
from vpctl.supervisor.control import ControlServer
from vpctl.supervisor.jobs import Jobs, error_object

EXIT_CODES = {
    "usage": 2,
    "topology": 2,
    "host": 3,
    "timeout": 4,
    "qmp": 5,
    "verification": 1,
    "recovery": 6,
    "regression": 7,
    "not-found": 8,
    "interrupted": 130,
    "internal": 70,
}
PROBLEM = Problem(message="m", file="f", line=1, column=2, hint="h")
ERRORS = [
    kind("m", hint="h", where="f:1:2", details="d")
    for kind in errors_by_code().values()
    if not issubclass(kind, TopologyError)
]


def test_every_code_of_the_contract_is_known() -> None:
    assert set(errors_by_code()) == set(EXIT_CODES)


@pytest.mark.parametrize("error", [*ERRORS, TopologyError([PROBLEM]), GuestSshError("m", hint="h")], ids=repr)
def test_an_error_comes_back_with_its_exit_code_and_words(error: VpctlError) -> None:
    revived = connection.revive(json.loads(json.dumps(error_object(error))))
    assert revived.exit_code == EXIT_CODES[error.code]
    assert (revived.message, revived.hint) == (error.message, error.hint)
    assert (revived.where, revived.details) == (error.where, error.details)


@pytest.mark.parametrize("error", [{"class": "GenericError", "desc": "m"}, {"code": "new", "message": "m"}])
def test_an_error_of_unknown_code_is_internal(error: dict[str, Any]) -> None:
    revived = connection.revive(error)
    assert (revived.exit_code, revived.message) == (70, "m")


@asynccontextmanager
async def supervised(rundir: RunDir) -> AsyncIterator[None]:
    """A supervisor of a few commands, under a lock that says that a broker lives."""

    async def work() -> Mapping[str, Any]:
        control.event("JOURNAL", {"type": "fault"})
        await asyncio.sleep(0)
        return {"ok": True}

    async def fail() -> Mapping[str, Any]:
        raise UsageError("no", hint="yes")

    async def execute(name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if name == "echo":
            return arguments
        if name in ("work", "fail"):
            return jobs.start(name, work if name == "work" else fail)
        if name == "die":
            task.cancel()
            await asyncio.Event().wait()
        raise UsageError(f"unknown command `{name}`")

    hold(rundir)
    async with asyncio.TaskGroup() as group:
        control = ControlServer(rundir.control_socket)
        jobs = Jobs(group, control.event)
        task = group.create_task(control.run(execute))
        yield
        task.cancel()


@pytest.fixture
def rundir(directories: Directories) -> RunDir:
    return made(directories)


async def test_arguments_that_are_none_are_not_sent(rundir: RunDir) -> None:
    async with supervised(rundir), connection.connect(rundir) as supervisor:
        assert await supervisor.execute("echo", a=1, b=None, c=False) == {"a": 1, "c": False}


async def test_a_job_returns_what_it_returned_and_shows_the_journal_meanwhile(rundir: RunDir) -> None:
    seen: list[Mapping[str, Any]] = []
    async with supervised(rundir), connection.connect(rundir) as supervisor:
        assert await supervisor.job("work", on_event=seen.append) == {"ok": True, "joined": False}
    assert seen == [{"type": "fault"}]


async def test_a_job_that_fails_raises_what_it_raised(rundir: RunDir) -> None:
    async with supervised(rundir), connection.connect(rundir) as supervisor:
        for command, message in (("fail", "no"), ("nonsense", "unknown command `nonsense`")):
            with pytest.raises(UsageError, match=message):
                await supervisor.job(command)


async def test_a_supervisor_that_dies_under_a_command_is_lost(rundir: RunDir) -> None:
    async with supervised(rundir), connection.connect(rundir) as supervisor:
        with pytest.raises(connection.SupervisorLostError):
            await supervisor.job("die")


async def test_where_broker_and_supervisor_are_gone_nobody_is_waited_for(rundir: RunDir) -> None:
    with pytest.raises(connection.SupervisorLostError, match="own processes of `pair` are gone"):
        async with connection.connect(rundir):
            pass
    assert await connection.try_status(rundir) is None
