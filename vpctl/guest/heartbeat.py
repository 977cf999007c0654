"""The heartbeat that the guest agent writes: one line each second, read from QEMU's ring buffer. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """One beat: its number, the guest's uptime (ms), its boot id, and the links that are set up."""

    seq: int
    uptime_ms: int
    boot_id: str
    links: tuple[str, ...]


def parse(text: str) -> list[Heartbeat]:
    """Return the whole, well-formed beats in what a ring buffer gave; a cut or foreign line counts for nothing."""
    beats = []
    for line in text.split("\n")[:-1]:  # what no newline ends may be cut
        words = line.split(" ")
        if words[0] != "vpctl1":
            continue
        fields = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        try:
            beat = Heartbeat(
                seq=int(fields["seq"]),
                uptime_ms=int(fields["uptime_ms"]),
                boot_id=fields["boot_id"],
                links=tuple(filter(None, fields["links"].split(","))),
            )
        except (KeyError, ValueError):
            continue
        beats.append(beat)
    return beats
