"""Heartbeats in what a ring buffer gives: whole lines count, whatever stands around them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.guest.heartbeat import ABSENT, EndState, Heartbeat, LinkEnd, parse

LINK = st.from_regex(r"[a-z][a-z0-9-]{0,14}", fullmatch=True)
OTHERS = [EndState.DOWN, EndState.NO_CARRIER, EndState.READDRESSED, EndState.MOVED]
INTERFACE = st.from_regex(r"[!-~]{1,15}", fullmatch=True).filter(lambda name: not set(name) & set(",;=/:"))
MAC = st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":"))
CHANGES: dict[str, Any] = {"name": st.none() | INTERFACE, "mac": st.none() | MAC, "master": st.none() | INTERFACE}
END = st.builds(LinkEnd, silent=st.integers(0, 9999), **CHANGES) | st.builds(
    LinkEnd, state=st.sampled_from(OTHERS), **CHANGES
)
BEAT = st.builds(
    Heartbeat,
    seq=st.integers(0, 2**64 - 1),
    uptime_ms=st.integers(0, 2**64 - 1),
    boot_id=st.uuids().map(str),
    links=st.dictionaries(LINK, END, max_size=4),
)


def line(beat: Heartbeat) -> str:
    """Return a beat as the agent writes it."""
    words = []
    for name, end in beat.links.items():
        changes = (f";{key}={getattr(end, key)}" for key in CHANGES if getattr(end, key) is not None)
        words.append(f"{name}:{end.silent if end.state is EndState.UP else end.state}{''.join(changes)}")
    links = ",".join(words)
    return f"vpctl1 seq={beat.seq} uptime_ms={beat.uptime_ms} boot_id={beat.boot_id} links={links}\n"


@given(st.lists(BEAT))
def test_every_beat_comes_back_as_it_was(beats: list[Heartbeat]) -> None:
    assert parse("".join(line(beat) for beat in beats)) == beats


@given(st.lists(BEAT, max_size=5), st.data())
def test_a_window_on_the_stream_gives_the_beats_that_are_whole_in_it(
    beats: list[Heartbeat], data: st.DataObject
) -> None:
    text = "".join(line(beat) for beat in beats)
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    whole, place = [], 0
    for beat in beats:
        if begin <= place and place + len(line(beat)) <= end:
            whole.append(beat)
        place += len(line(beat))
    assert parse(text[begin:end]) == whole


@given(st.text(), BEAT)
def test_nothing_that_stands_around_them_costs_the_beats_after_it(noise: str, beat: Heartbeat) -> None:
    assert parse(f"{noise}\n{line(beat)}")[-1] == beat


@pytest.mark.parametrize(
    "text",
    [
        "vpctl2 seq=1 uptime_ms=1 boot_id=x links=\n",
        "vpctl1 seq=x uptime_ms=1 boot_id=x links=\n",
        "vpctl1 seq=1 boot_id=x links=\n",
        "vpctl1\n",
        "\n\n",
        "",
    ],
)
def test_a_foreign_line_counts_for_nothing(text: str) -> None:
    assert parse(text) == []


def test_an_agent_of_an_earlier_version_says_of_a_link_that_it_is_there() -> None:
    [beat] = parse("vpctl1 seq=1 uptime_ms=1 boot_id=x links=lan0,lan1\n")
    assert beat.end("lan0") == LinkEnd()
    assert beat.end("lan2") == ABSENT


@pytest.mark.parametrize(
    "said",
    [
        "vpctl1 seq=1 uptime_ms=1 boot_id=x links=lan0:" + "9" * 400,
        "vpctl1 seq=" + "9" * 5000 + " uptime_ms=1 boot_id=x links=lan0",
        "vpctl1 seq=1 uptime_ms=1 boot_id=x links=" + ",".join(f"lan{number}" for number in range(2000)),
    ],
)
def test_a_beat_beyond_all_bounds_counts_for_nothing(said: str) -> None:
    assert parse(said + "\n") == []


NUMBER = st.integers().map(str) | st.sampled_from(["9" * 400, "", "1e9", "٣", "1_0", "-1"])


@given(
    st.text()
    | st.builds(
        "vpctl1 seq={} uptime_ms={} boot_id={} links={}:{},{}\n".format,
        NUMBER,
        NUMBER,
        st.text(max_size=3),
        st.text(max_size=3),
        NUMBER,
        st.text(max_size=8),
    )
)
def test_any_text_gives_beats_that_can_be_reckoned_with(said: str) -> None:
    for beat in parse(said):
        for number in (beat.seq, beat.uptime_ms, *(end.silent for end in beat.links.values())):
            assert 0.0 - float(number) < 1e21
