"""The heartbeat that the guest agent writes: one line each second, read from QEMU's ring buffer. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class EndState(StrEnum):
    """What a guest says of a link's interface."""

    UP = "up"
    ABSENT = "absent"
    DOWN = "down"
    NO_CARRIER = "no-carrier"
    READDRESSED = "readdressed"
    """It is up, and its address is not the link's any more: whoever did that may talk to somebody else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkEnd:
    """A link's end as its guest sees it."""

    state: EndState = EndState.UP
    silent: int = 0
    """Beats in a row, of one second of the guest's each, in which nothing has come, though the peer was asked."""


ABSENT = LinkEnd(state=EndState.ABSENT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """One beat: its number, the guest's uptime (ms), its boot id, and the ends of links that are set up."""

    seq: int
    uptime_ms: int
    boot_id: str
    links: Mapping[str, LinkEnd]

    def end(self, link: str) -> LinkEnd:
        """Return what it says of a link."""
        return self.links.get(link, ABSENT)


LINE = 4096
"""Characters of a beat; the agent's have 2048 at most."""

_HUGE = re.compile(r"\d{21}")
"""A number beyond any counter of 64 bits: from some 300 digits on there is no float of it."""


def parse(text: str) -> list[Heartbeat]:
    """Return the whole, well-formed beats in what a ring buffer gave; a cut or foreign line counts for nothing."""
    beats = []
    for line in text.split("\n")[:-1]:  # what no newline ends may be cut
        if len(line) > LINE or _HUGE.search(line):
            continue
        words = line.split(" ")
        if words[0] != "vpctl1":
            continue
        fields = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        try:
            beat = Heartbeat(
                seq=int(fields["seq"]),
                uptime_ms=int(fields["uptime_ms"]),
                boot_id=fields["boot_id"],
                links=dict(_link_end(word) for word in fields["links"].split(",") if word),
            )
        except (KeyError, ValueError):
            continue
        beats.append(beat)
    return beats


def _link_end(word: str) -> tuple[str, LinkEnd]:
    """Return name and end of `NAME:STATE`; an agent of an earlier version wrote the name alone. Or ValueError."""
    name, _, state = word.partition(":")
    if not state or state.isdecimal():
        return name, LinkEnd(silent=int(state or "0"))
    return name, LinkEnd(state=EndState(state))
