"""Sizes, durations and names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpctl.topology import values
from vpctl.topology.values import WrongValueError


@settings(deadline=None)
@given(st.integers(1, 1 << 40), st.sampled_from(["", "K", "M", "G"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    number = number if unit == "" else number % (10**9 - 1) + 1
    assert values.size(f"{number}{unit}") == number << {"": 0, "K": 10, "M": 20, "G": 30}[unit]


@pytest.mark.parametrize(
    "text", ["", "M", "1T", "1.M", ".5G", "-1M", "1 M", "1e3", "0", "0.3K", "\uff11M", "1M\n", "1.5"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(WrongValueError):
        values.size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("500ms", 0.5), ("2m", 120), ("1.5h", 5400), ("24h", 86400)]
)
def test_reads_durations(text: str, seconds: float) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    "value", ["", "10", 10, 1.5, True, None, "10 s", "-1s", "0s", "25h", "0.1ms", "1d", "s", "1s\n"]
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(WrongValueError):
        values.duration(value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("3s", 3), ("3000ms", 3), ("03.5s", 3.5), ("0.05m", 3), ("24h", 86400)]
)
def test_heartbeats_from_the_shortest_on(text: str, seconds: float) -> None:
    assert values.heartbeat(text) == seconds


@pytest.mark.parametrize("text", ["1ms", "1s", "2.999999999s", "2999ms", "0.049m", "0.0001h"])
def test_a_heartbeat_that_is_too_short_is_told_what_would_do(text: str) -> None:
    with pytest.raises(WrongValueError, match="too short for a guest that beats once a second") as raised:
        values.heartbeat(text)
    assert raised.value.hint == f"at least `{values.SHORTEST_HEARTBEAT}s`"


@settings(deadline=None)
@given(st.from_regex(f"^({values.DURATION})$", fullmatch=True))
def test_the_heartbeats_pattern_means_its_limit(text: str) -> None:
    try:
        enough = values.duration(text) >= values.SHORTEST_HEARTBEAT
    except WrongValueError:
        return  # below a millisecond, above a day
    if text.endswith("s"):
        assert bool(re.fullmatch(values.HEARTBEAT, text)) is enough
    elif enough:
        assert re.fullmatch(values.HEARTBEAT, text)


@pytest.mark.parametrize("name", ["a", "vm1", "a-", "a" * 31])
def test_names(name: str) -> None:
    assert values.name(name) == name


@pytest.mark.parametrize(
    "name", ["", "1a", "-a", "A", "a_b", "a" * 32, "ä", "a\n", "a b", "a/b", "..", 1, None, True]
)
def test_what_is_no_name(name: object) -> None:
    with pytest.raises(WrongValueError):
        values.name(name)


@pytest.mark.parametrize("name", ["lo", "eth0", "mgmt", "all", "default", "a" * 16])
def test_what_is_no_link_name(name: str) -> None:
    with pytest.raises(WrongValueError):
        values.link_name(name)


@settings(deadline=None)
@given(st.text())
def test_whatever_is_proposed_as_a_name_is_one(text: str) -> None:
    proposed = values.as_name(text)
    assert proposed is None or values.name(proposed) == proposed
