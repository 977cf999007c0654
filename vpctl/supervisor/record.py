"""What a supervisor leaves to its successor in `status.json`, read again: another version may have written it. Pure.

Keys that earlier versions did not write have defaults. An entry without what nothing else tells (state, generation,
and the devices of a link) is left out, and its VM or link looked at afresh; guests are never given up for it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from vpctl.recovery.faults import Fault
from vpctl.recovery.state import LinkState, VmState

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class SshRecord(Struct, kw_only=True):
    """How to reach a guest: the port on the host."""

    port: Annotated[int, Meta(ge=0, le=65535)] | None = None


class IncidentRecord(Struct, kw_only=True):
    """See `recovery.faults.Incident`."""

    fault: Fault
    at: float
    detected_at: float


class VmRecord(Struct, kw_only=True):
    """A VM in `status.json`: what `Machine.restore` takes over of `Machine.as_json`."""

    name: str
    state: VmState
    generation: Number
    reason: str | None = None
    ssh: SshRecord = msgspec.field(default_factory=SshRecord)
    parked_fds: Number = 0
    interrupts: dict[str, list[Number]] = msgspec.field(default_factory=dict)
    incident: IncidentRecord | None = None


class LinkRecord(Struct, kw_only=True):
    """A link in `status.json`: what `Link.restore` takes over of `Link.as_json`."""

    name: str
    state: LinkState
    generation: Number
    plugged: dict[str, list[Number]]
    reason: str | None = None
    rests: bool = False
    offer: Annotated[int, Meta(ge=0)] | None = None
    gone: list[str] = msgspec.field(default_factory=list)
    failed: list[str] = msgspec.field(default_factory=list)


class TimingRecord(Struct, kw_only=True):
    """A stage of a boot."""

    vm: str


@dataclass(kw_only=True, slots=True)
class Record:
    """What was written down, as `restore` of machines and links takes it."""

    vms: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    up: dict[str, Any] | None = None
    timings: list[dict[str, Any]] = field(default_factory=list)
    """Those of `up`, of VMs that there are."""
    unread: list[str] = field(default_factory=list)
    """The VMs and links of which nothing, or nothing that has sense, was written down."""


def read_record(data: object, *, run_id: str, vms: Collection[str], links: Collection[str]) -> Record | None:
    """Read what a supervisor of this run wrote down; None if there is no such thing."""
    if not isinstance(data, dict) or data.get("run_id", run_id) != run_id:
        return None
    record = Record()
    for kind, shape, known, found in (
        ("vms", VmRecord, vms, record.vms),
        ("links", LinkRecord, links, record.links),
    ):
        entries = data.get(kind)
        for entry in entries if isinstance(entries, list) else ():
            if (read := _converted(entry, shape)) is not None and read["name"] in known:
                found[read["name"]] = read
        record.unread += [name for name in known if name not in found]
    if isinstance(up := data.get("up"), dict):
        record.up = up
        timings = up.get("timings")
        for entry in timings if isinstance(timings, list) else ():
            if (timing := _converted(entry, TimingRecord)) is not None and timing["vm"] in vms:
                record.timings.append(entry)
    return record


def _converted(entry: object, shape: type[Struct]) -> dict[str, Any] | None:
    """Return an entry with all keys of its shape, None if it does not fit."""
    try:
        converted: dict[str, Any] = msgspec.to_builtins(msgspec.convert(entry, shape))
    except (msgspec.ValidationError, RecursionError):
        return None
    return converted


def afresh(vm: str, generation: int) -> dict[str, Any]:
    """Return the record of a VM of which nothing is known: if its QEMU runs, its boot is seen through again."""
    record: dict[str, Any] = msgspec.to_builtins(VmRecord(name=vm, state=VmState.BOOTING, generation=generation))
    return record
