"""JSON read into dataclasses: every field of its type and within bounds, none missing, none more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from vpctl.errors import UsageError
from vpctl.fields import Count, Name, PathText, Within, read


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    at: Count


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: Name
    path: PathText = "/"
    ratio: float = 0.0
    on: bool = False
    data: Annotated[bytes, Within(0, 2)] = b""
    inner: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (0, "")


def test_an_object_is_read_with_all_that_is_in_it() -> None:
    given = {
        "name": "a",
        "path": "/x",
        "ratio": 1,
        "on": True,
        "data": "00ff",
        "inner": [{"at": 3}],
        "pair": [1, "b"],
    }
    expected = Outer(name="a", path="/x", ratio=1.0, on=True, data=b"\x00\xff", inner=(Inner(at=3),), pair=(1, "b"))
    assert read(Outer, given, what="it") == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "it: a list is no object"),
        ({}, "it: name is missing"),
        ({"name": "a", "more": 1}, "it: there is no 'more'"),
        ({"name": ""}, "it: name: '' is not within 1 and 255"),
        ({"name": "a\0"}, r"it: name: 'a\\x00' is no text"),
        ({"name": "a", "path": "x"}, "it: path: 'x' is no absolute path"),
        ({"name": "a", "on": 1}, "it: on: `1` is no true or false"),
        ({"name": "a", "ratio": float("inf")}, "it: ratio: `inf` is no number"),
        ({"name": "a", "data": "0"}, "it: data: '0' is no hexadecimal text"),
        ({"name": "a", "data": "000000"}, "it: data: '000000' is not within 0 and 2"),
        ({"name": "a", "inner": [{"at": -1}]}, r"it: inner\[0\]: at: `-1` is not within 0 and"),
        ({"name": "a", "inner": {}}, "it: inner: an object is no list"),
        ({"name": "a", "pair": [1]}, "it: pair: 1 entries, not 2"),
        ({"name": "a", "pair": [True, "b"]}, r"it: pair\[0\]: `True` is no whole number"),
    ],
)
def test_a_wrong_field_is_named(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        read(Outer, given, what="it")
