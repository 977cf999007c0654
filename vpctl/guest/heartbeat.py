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
    MOVED = "moved"
    """A user has moved it to another network namespace, where the agent cannot follow it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkEnd:
    """A link's end as its guest sees it."""

    state: EndState = EndState.UP
    silent: int = 0
    """Beats in a row, of one second of the guest's each, in which nothing has come, though the peer was asked."""
    name: str | None = None
    """The interface's name, where a user has given it another one than the link's."""
    mac: str | None = None
    """Its MAC, where that is not the link's: a user's or a bond's choice."""
    master: str | None = None
    """The bridge, bond or the like that a user has made it a port of."""

    @property
    def use(self) -> str:
        """What a user has made of the interface, in words; empty: it is as the topology has it."""
        if self.state is EndState.MOVED:
            return "in another network namespace"
        words = [f"port of {self.master}"] if self.master else []
        words += ["another address"] if self.state is EndState.READDRESSED and not self.master else []
        words += [f"named {self.name}"] if self.name else []
        words += [f"MAC {self.mac}"] if self.mac and not self.master else []  # a bond gives its ports one MAC
        return ", ".join(words)


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
"""Characters of a beat; the agent's have 3072 at most."""

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
    """Return name and end of `NAME:STATE[;name=NAME][;master=NAME][;mac=MAC]`, or ValueError.

    An agent of an earlier version wrote the name alone; keys of a later one count for nothing.
    """
    said, *changes = word.split(";")
    name, _, state = said.partition(":")
    change = dict(part.partition("=")[::2] for part in changes)
    mac = change.get("mac")
    return name, LinkEnd(
        state=EndState.UP if not state or state.isdecimal() else EndState(state),
        silent=int(state) if state.isdecimal() else 0,
        name=_interface(change.get("name")),
        mac=mac if mac and _MAC.fullmatch(mac) else None,
        master=_interface(change.get("master")),
    )


_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_NAME_BYTES = 15


def _interface(name: str | None) -> str | None:
    """Return what may be the name of an interface, None for anything else."""
    return name if name and len(name) <= _NAME_BYTES and name.isascii() and name.isprintable() else None
