"""What goes over the broker's socket: one JSON object per line, in both directions.

request   {"id": 1, "do": "spawn" | "end" | "list" | "stop", …}
          {"id": 1, "do": "create" | "clear" | "write" | "read" | "drop" | "memories", "memory": …, …}
          {"id": 1, "do": "serve" | "query-ivshmem" | "ring" | "ivshmem-replace" | "close", …}
          {"id": 1, "do": "backend-open" | "query-backends" | "attach" | "detach" | "backend-close", …}
reply     {"id": 1, "return": {…}}   or   {"id": 1, "error": "…"}
event     {"event": "exit", "name": …, "generation": …, "pid": …, "status": …, "monotonic": …}
          {"event": "link", "name": …, "end": …, "what": "join" | "leave" | "ack" | "stuck", "id": …}
          {"event": "failure", "work": …, "message": …}
          {"event": "link", "name": …, "session": …, "what": "connected" | "ready" | "stopped" | "gone" | …, …}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LINE_LIMIT = 1 << 20
"""Bytes in one message at most; an argv is some 3 KiB."""

WARM = "--warm"
"""The supervisor's option that has it wait for its topology's name; see `python -m vpctl.supervisor`."""

EXIT_NO_TOPOLOGY = 78
"""A supervisor's exit code when what it is to supervise cannot be read (EX_CONFIG of sysexits.h).

The guests are kept, and another supervisor is started after a long pause only.
"""

GRACE_SECONDS = 2.0
"""From SIGTERM to SIGKILL. A QEMU that works ends within milliseconds; guests keep nothing that a stop could lose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """The end of a process.

    `status` is as subprocess has it (negative: signal), or None: it was adopted from a broker that died, so the
    kernel told somebody else. `monotonic` is CLOCK_MONOTONIC in seconds, the same clock for every process.
    """

    name: str
    generation: int
    pid: int
    status: int | None
    monotonic: float

    def as_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in Exit.__slots__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Exit:
        return cls(**{key: data[key] for key in Exit.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class IvshmemEvent:
    """What happened at an end of something served: its QEMU has connected, has gone, or its guest acknowledges.

    stuck: the QEMU keeps its device's control interrupt from being raised.
    """

    name: str
    end: int
    what: Literal["join", "leave", "ack", "stuck"]
    id: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> IvshmemEvent:
        return cls(**{key: data[key] for key in IvshmemEvent.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendEvent:
    """What happened at a front-end, a virtio-net on vhost-user; `name` is its device.

    connected: its QEMU has come. ready: its rings work. stopped: they do not any more. gone: it has hung up, or was
    hung up on. refused: it has said something wrong. answer: the guest that works its rings has said something.
    """

    name: str
    what: Literal["connected", "ready", "stopped", "gone", "refused", "answer"]
    session: int
    """Counts the times that its rings began to work."""
    details: Mapping[str, Any]
    """ready: queue_pairs, features. stopped, gone: reason, released (whether the other guest has let go).

    refused: reason, closed. answer: state (on or off), features, request.
    """

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BackendEvent:
        details = {key: value for key, value in data.items() if key not in ("event", "name", "what", "session")}
        return cls(name=data["name"], what=data["what"], session=data["session"], details=details)


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerFailure:
    """Something in the broker that it did not foresee, and that its log has whole; it goes on."""

    work: str
    message: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BrokerFailure:
        return cls(work=data["work"], message=data["message"])


def link_event(data: Mapping[str, Any]) -> IvshmemEvent | BackendEvent:
    """Read an event of a link."""
    return BackendEvent.from_json(data) if "session" in data else IvshmemEvent.from_json(data)


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read a line; ValueError unless it is a JSON object."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the caller catches one kind for all bad input
    return message
