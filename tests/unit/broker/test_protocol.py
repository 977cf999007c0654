"""The broker's wire format, and a broker that no client can talk to death."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.broker import broker_process, made
from tests.support import isolated_directories
from tests.unit.broker.saying import JSON, is_well, said_to
from vpctl.broker.protocol import LINE_LIMIT, Exit, decode, encode
from vpctl.rundir import RunDir


@pytest.fixture(scope="module")
def rundir() -> Iterator[RunDir]:
    """One broker for the whole module: each test leaves it well."""
    with isolated_directories({}) as directories:
        own = made(directories)
        environ = {"VPCTL_RUN_DIR": str(directories.run), "VPCTL_STATE_DIR": str(directories.state)}
        with broker_process(own, environ=environ):
            yield own


@given(st.dictionaries(st.text(), JSON))
def test_a_message_is_one_line_and_comes_back_as_it_was(message: dict[str, Any]) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


@pytest.mark.parametrize("status", [0, -9, None])
def test_an_exit_comes_back_as_it_was_even_an_unknown_one(status: int | None) -> None:
    end = Exit(name="vm/a", generation=3, pid=7, status=status, monotonic=1.25)
    assert Exit.from_json(json.loads(json.dumps(end.as_json()))) == end


@settings(max_examples=60, deadline=None)
@given(st.binary())
def test_no_bytes_end_the_broker(rundir: RunDir, data: bytes) -> None:
    said_to(rundir, data)
    assert is_well(rundir)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["name", "generation", "grace", "more"]), JSON),
    st.sampled_from(["list", "end"]),
    JSON,
)
def test_every_request_is_answered_with_its_own_id(
    rundir: RunDir, arguments: dict[str, Any], verb: str, number: Any
) -> None:
    (line,) = said_to(rundir, encode({**arguments, "do": verb, "id": number})).splitlines()
    reply = json.loads(line)
    assert reply["id"] == number
    assert ("return" in reply) != ("error" in reply)
    assert is_well(rundir)


def test_a_client_that_writes_an_endless_line_is_cut_off(rundir: RunDir) -> None:
    assert said_to(rundir, b"x" * (LINE_LIMIT * 3)) == b""
    assert is_well(rundir)


def test_requests_on_one_connection_are_answered_in_order_past_a_bad_one(rundir: RunDir) -> None:
    lines = said_to(rundir, b'{"id":1,"do":"list"}\nnonsense\n{"id":3,"do":"list"}\n').splitlines()
    replies = [json.loads(line) for line in lines]
    assert [reply["id"] for reply in replies] == [1, None, 3]
    assert ["return" in reply for reply in replies] == [True, False, True]
