"""What QEMU replies and tells, as far as it is used: checked when it comes, so that its users need not. Pure.

The shapes are those of QEMU 7.2 to 11.1 (docs/interop/qemu-qmp-ref); what else a reply holds is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta

from vpctl.errors import QmpError

NAME_CHARACTERS = 200
TEXT_CHARACTERS = 1000

Word = Annotated[str, Meta(max_length=NAME_CHARACTERS)]
Output = Annotated[str, Meta(max_length=1 << 20)]
"""Of the monitor for people, and of a ring buffer, which has some KiB."""


class RunState(TypedDict):
    """The reply to `query-status`."""

    status: Word


class Property(TypedDict):
    """An entry of `qom-list`."""

    name: Word


REPLIES: Mapping[str, Any] = MappingProxyType(
    {
        "query-status": RunState,
        "ringbuf-read": Output,
        "human-monitor-command": Output,
        "qom-list": Annotated[list[Property], Meta(max_length=10_000)],
    }
)
"""Command → the shape of what it returns; of any other nothing is used."""


def reply(vm: str, command: str, returned: Any) -> Any:
    """Return what a command has returned, in its shape; QmpError for anything else."""
    if (shape := REPLIES.get(command)) is None:
        return returned
    try:
        return msgspec.convert(returned, shape)
    except (msgspec.ValidationError, RecursionError) as error:
        raise QmpError(f"{vm}: QEMU's reply to `{command}` has no sense: {error}") from error


TEXTS = ("device", "reason", "msg")
"""The keys of an event's `data` that are used: those of DEVICE_DELETED and its like, of SHUTDOWN, and of refusals."""


def event(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an event with a name, and with `data` that is an object whose texts are texts; None: it has no name.

    What else `data` holds is passed on as it came, for the journal.
    """
    name, data = said.get("event"), said.get("data")
    if not isinstance(name, str) or len(name) > NAME_CHARACTERS:
        return None
    known = data if isinstance(data, Mapping) else {}
    kept = {key: value for key, value in known.items() if key not in TEXTS or _is_text(value)}
    return {**said, "data": kept}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_CHARACTERS
