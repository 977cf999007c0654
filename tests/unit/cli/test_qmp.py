"""Arguments of a QMP command, as they are typed."""

from __future__ import annotations

from typing import Any

import pytest

from vpctl.cli import qmp
from vpctl.errors import UsageError


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], {}),
        (
            ["id=nic0", "force=true", "size=4096", 'data={"a": [1]}'],
            {"id": "nic0", "force": True, "size": 4096, "data": {"a": [1]}},
        ),
        (['id="42"', "path=a=b", "empty="], {"id": "42", "path": "a=b", "empty": ""}),
        (["addr.type=unix", "addr.path=/x", "addr.a.b=1"], {"addr": {"type": "unix", "path": "/x", "a": {"b": 1}}}),
    ],
)
def test_arguments_of_a_qmp_command_are_json_or_plain_words(words: list[str], arguments: dict[str, Any]) -> None:
    assert qmp.parse(words) == arguments


@pytest.mark.parametrize("words", [["nonsense"], ["=x"], ["a=1", "a.b=2"]])
def test_an_argument_that_is_none_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(UsageError):
        qmp.parse(words)
