"""Whatever is asked for is answered or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.broker import broker_process, made
from tests.support import isolated_directories
from tests.unit.broker.saying import JSON, is_well, said_to
from vpctl.broker.protocol import encode
from vpctl.broker.requests import VERBS
from vpctl.rundir import RunDir


@pytest.fixture(scope="module")
def rundir() -> Iterator[RunDir]:
    """One broker for the whole module: each test leaves it well."""
    with isolated_directories({}) as directories:
        own = made(directories)
        environ = {"VPCTL_RUN_DIR": str(directories.run), "VPCTL_STATE_DIR": str(directories.state)}
        with broker_process(own, environ=environ):
            yield own


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
