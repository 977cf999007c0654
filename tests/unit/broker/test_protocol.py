"""The broker's wire format, and a broker that no client can talk to death."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.broker import broker_process, made
from tests.support import isolated_directories
from vpctl.broker.protocol import LINE_LIMIT, Exit, decode, encode
from vpctl.broker.requests import VERBS
from vpctl.process import ProcessId
from vpctl.process_record import Child
from vpctl.rundir import RunDir

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def rundir() -> Iterator[RunDir]:
    """One broker for the whole module: each test leaves it well."""
    with isolated_directories({}) as directories:
        own = made(directories)
        environ = {"VPCTL_RUN_DIR": str(directories.run), "VPCTL_STATE_DIR": str(directories.state)}
        with broker_process(own, environ=environ):
            yield own


def said_to(rundir: RunDir, data: bytes) -> bytes:
    """Send bytes and nothing more; return all that comes back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(rundir.broker_socket))
        received = b""
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while chunk := client.recv(65536):
                received += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass  # what it said before it hung up counts
    return received


def is_well(rundir: RunDir) -> bool:
    reply = json.loads(said_to(rundir, b'{"id":1,"do":"list"}\n'))
    return [child["name"] for child in reply["return"]["processes"]] == ["supervisor"]


@given(st.dictionaries(st.text(), JSON))
def test_a_message_is_one_line_and_comes_back_as_it_was(message: dict[str, Any]) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


@given(st.text(), st.integers(), st.integers(), st.integers(), st.text())
def test_a_child_comes_back_as_it_was(name: str, generation: int, pid: int, start: int, directory: str) -> None:
    process = ProcessId(pid=pid, start_time=start)
    child = Child(name=name, generation=generation, process=process, directory=directory)
    assert Child.from_json(json.loads(json.dumps(child.as_json()))) == child


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


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "there is no verb$"),
        ({"do": "reboot"}, "there is no verb 'reboot'"),
        ({"do": ["list"]}, "there is no verb$"),
        ({"do": "spawn"}, "`spawn`: name is missing"),
        ({"do": "spawn", "argv": []}, "`spawn`: argv: a list is not within 1 and 8192"),
        ({"do": "spawn", "argv": [1]}, r"`spawn`: argv\[0\]: `1` is no text"),
        ({"do": "spawn", "argv": {"a": 1}}, "`spawn`: argv: an object is no list"),
        ({"do": "spawn", "argv": ["a\0b"]}, r"`spawn`: argv\[0\]: 'a\\x00b' is no text"),
        ({"do": "spawn", "argv": ["\ud800"]}, r"`spawn`: argv\[0\]: '\\ud800' is no text"),
        ({"do": "spawn", "argv": ["true"], "generation": -1}, "`spawn`: generation: `-1` is not within 0 and"),
        ({"do": "spawn", "argv": ["true"], "generation": 1 << 4000}, "`spawn`: generation: a number of more than 64"),
        ({"do": "spawn", "argv": ["true"], "shell": True}, "`spawn`: there is no 'shell'"),
        ({"do": "spawn", "argv": ["true"], "directory": "/dev/null/x"}, "cannot start `true`: Not a directory"),
        ({"do": "spawn", "argv": ["true"], "cwd": "/no/such"}, "cannot start `true`: No such file"),
        ({"do": "end", "name": "supervisor"}, "`end`: generation is missing"),
        ({"do": "end", "name": ["vm/x"], "generation": 1, "grace": 0}, "`end`: name: a list is no text"),
        ({"do": "end", "name": "x", "generation": True, "grace": 0}, "`end`: generation: `True` is no whole number"),
        ({"do": "end", "name": "x", "generation": 1, "grace": 1e9}, r"`end`: grace: `1000000000\.0` is not within"),
        ({"do": "end", "name": "x", "generation": 1, "grace": float("nan")}, "`end`: grace: `nan` is no number"),
        ({"do": "stop_blocking", "name": "x", "path": "y"}, "`stop_blocking`: path: 'y' is no absolute path"),
        ({"do": "write", "memory": "m", "parts": [[0]]}, r"`write`: parts\[0\]: 1 entries, not 2"),
        ({"do": "write", "memory": "m", "parts": [[0, "0"]]}, r"`write`: parts\[0\]\[1\]: '0' is no hexadecimal"),
        ({"do": "serve", "name": "x", "memory": "m", "ends": [7]}, r"`serve`: ends\[0\]: `7` is no object"),
    ],
)
def test_a_bad_request_is_refused_in_words(rundir: RunDir, request_: dict[str, Any], message: str) -> None:
    spawn = {"name": "vm/x", "generation": 1, "directory": str(rundir.state / "x"), "cwd": "/"}
    filled = {**spawn, **request_} if "argv" in request_ else request_
    reply = json.loads(said_to(rundir, encode({"id": "mine", **filled})))
    assert reply["id"] == "mine"
    assert re.match(message, reply["error"]), reply["error"]
    assert reply["code"] in ("usage", "host")
    assert is_well(rundir)


def test_deep_nesting_is_a_bad_request(rundir: RunDir) -> None:
    reply = json.loads(said_to(rundir, b"[" * 100_000 + b"\n"))
    assert reply["error"].startswith("bad request: ")
    assert is_well(rundir)


def test_a_client_that_writes_an_endless_line_is_cut_off(rundir: RunDir) -> None:
    assert said_to(rundir, b"x" * (LINE_LIMIT * 3)) == b""
    assert is_well(rundir)


def test_requests_on_one_connection_are_answered_in_order_past_a_bad_one(rundir: RunDir) -> None:
    lines = said_to(rundir, b'{"id":1,"do":"list"}\nnonsense\n{"id":3,"do":"list"}\n').splitlines()
    replies = [json.loads(line) for line in lines]
    assert [reply["id"] for reply in replies] == [1, None, 3]
    assert ["return" in reply for reply in replies] == [True, False, True]


REQUESTS = st.sampled_from(sorted(VERBS.items())).flatmap(
    lambda verb: st.fixed_dictionaries(
        {},
        optional={
            field.name: JSON
            | st.sampled_from(["x", "lan0", "/no/such", "00", [], [[0, "00"]], 0, 1, 4096, 1 << 40, -1, 0.5, True])
            for field in fields(verb[1])
        },
    ).map(lambda arguments: {**arguments, "do": verb[0], "id": 1})
)


@settings(max_examples=200, deadline=None)
@given(st.lists(REQUESTS.filter(lambda asked: asked["do"] != "stop"), min_size=1, max_size=8))
def test_whatever_is_asked_for_is_answered_or_refused_and_the_broker_goes_on(
    rundir: RunDir, asked: list[dict[str, Any]]
) -> None:
    replies = [json.loads(line) for line in said_to(rundir, b"".join(map(encode, asked))).splitlines()]
    answers = [reply for reply in replies if "event" not in reply]
    assert len(answers) == len(asked)
    assert not [reply for reply in replies if reply.get("code") == "internal"], replies
    assert is_well(rundir)
