"""The connection to a broker that may be of another version, or whose messages have no sense."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.broker import made
from vpctl.broker.client import connect
from vpctl.broker.protocol import Exit
from vpctl.errors import InternalError, VpctlError
from vpctl.rundir import Directories, RunDir

EXIT = {"event": "exit", "name": "vm/a", "generation": 1, "pid": 7, "status": 0, "monotonic": 1.0}
WORDS = ["event", "id", "name", "what", "session", "end", "return", "error", "code", "hint", "generation"]
VALUE = (
    st.none()
    | st.integers(0, 3)
    | st.text(max_size=3)
    | st.sampled_from(["exit", "link", "failure"])
    | st.lists(st.none())
)
MESSAGE = st.dictionaries(st.sampled_from(WORDS), VALUE, max_size=6)


async def told(rundir: RunDir, *messages: dict[str, Any]) -> tuple[list[object], object]:
    """Return what a client makes of these messages, and the outcome of a request that is answered by the last."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for message in messages:
            writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()
        writer.close()

    rundir.broker_socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, path=rundir.broker_socket)
    events: list[object] = []
    outcome: object
    try:
        async with asyncio.timeout(20), connect(rundir) as client:
            try:
                outcome = await client.memories()
            except (VpctlError, KeyError) as error:
                outcome = error
            await client.lost.wait()
            while not client.events.empty():
                events.append(client.events.get_nowait())
    finally:
        server.close()
    return events, outcome


@pytest.mark.parametrize(
    "junk", [{"event": "exit"}, {"event": "link", "name": "lan0.g1"}, {"event": "link", "session": 1}]
)
async def test_a_message_that_lacks_what_it_needs_costs_no_other(
    directories: Directories, junk: dict[str, Any]
) -> None:
    events, outcome = await told(made(directories), junk, EXIT, {"id": 1, "return": {"memories": {"ram": 1}}})
    assert events == [Exit(name="vm/a", generation=1, pid=7, status=0, monotonic=1.0)]
    assert outcome == {"ram": 1}


async def test_an_error_of_a_kind_that_is_not_known_is_an_internal_one(directories: Directories) -> None:
    _, outcome = await told(made(directories), {"id": 1, "error": "no", "code": "of-a-later-version"})
    assert isinstance(outcome, InternalError)
    assert outcome.message == "no"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(MESSAGE, max_size=5))
def test_whatever_comes_the_connection_lasts_to_its_end(
    directories: Directories, messages: list[dict[str, Any]]
) -> None:
    events, _ = asyncio.run(told(made(directories), *messages, EXIT))
    assert isinstance(events[-1], Exit)
    assert events[-1].pid == 7
