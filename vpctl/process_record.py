"""A topology's processes as its broker writes them down, and what is found beside: its successor and commands use it.

The record is all there is of a broker that died, or whose sockets cannot be seen from here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpctl.errors import HostError, UsageError
from vpctl.fields import Count, Name, PathText, read
from vpctl.process import ProcessId, find_orphans
from vpctl.rundir import RunDir, host_boot_id, read_json, read_owner

SUPERVISOR = "supervisor"
"""The name under which the broker keeps the supervisor; no VM can be called that, see `process_name`."""


def process_name(vm: str) -> str:
    """Return the name of a VM's process in the broker's list."""
    return f"vm/{vm}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A process in the broker's care. `generation` counts the lives of what it is (a VM's, from 1)."""

    name: str
    generation: int
    process: ProcessId
    directory: str
    """Where its log is, and where `exit.json` will be."""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "generation": self.generation,
            "pid": self.process.pid,
            "start_time": self.process.start_time,
            "directory": self.directory,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Child:
        return cls(
            name=data["name"],
            generation=data["generation"],
            process=ProcessId(pid=data["pid"], start_time=data["start_time"]),
            directory=data["directory"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    name: Name
    generation: Count
    pid: Count
    start_time: int
    directory: PathText


def recorded(path: Path) -> Iterator[Child]:
    """Yield the processes of a list that still run.

    A list from before a host reboot counts for nothing, and an entry that cannot be one is passed over.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.get("boot_id") != host_boot_id():
        return
    entries = record.get("processes")
    for data in entries if isinstance(entries, list) else []:
        try:
            entry = read(_Entry, data, what=str(path))
        except UsageError:
            continue
        process = ProcessId(pid=entry.pid, start_time=entry.start_time)
        if process.is_alive():
            yield Child(name=entry.name, generation=entry.generation, process=process, directory=entry.directory)


def known_children(rundir: RunDir) -> Iterator[Child]:
    """Yield the recorded processes that still run; a record from before a host reboot counts for nothing."""
    return recorded(rundir.processes)


def known_broker(rundir: RunDir) -> ProcessId | None:
    """Return the broker that wrote the record of processes, if it lives and is not this process.

    Its lock says the same where the run directory can be seen; with a /tmp of one's own (PrivateTmp=, pam_namespace,
    a container's) it cannot, and the record in the state directory can.
    """
    record: Any = read_json(rundir.processes)
    try:
        if record["boot_id"] != host_boot_id():
            return None
        broker = ProcessId(pid=int(record["broker"]["pid"]), start_time=int(record["broker"]["start_time"]))
    except (LookupError, TypeError, ValueError):
        return None
    return broker if broker.pid != os.getpid() and broker.is_alive() else None


def require_visible(rundir: RunDir) -> None:
    """Raise HostError if a broker runs whose run directory cannot be seen from here."""
    if read_owner(rundir.run) is None and (broker := known_broker(rundir)) is not None:
        raise HostError(
            f"`{rundir.name}` runs, but its run directory {rundir.run} cannot be seen from here",
            hint=f"process {broker.pid} has a /tmp of its own; `vpctl down {rundir.name}` ends it from here, too",
        )


def orphans(rundir: RunDir, known: Collection[ProcessId] = ()) -> list[ProcessId]:
    """Return the QEMUs of a topology that are in no record: their broker died between their start and its note of it.

    The command line names a socket in the run directory, and they write to a log in the state directory or listen in
    the run directory: other people's editors and the QEMUs of other containers do not. `known` are processes that are
    accounted for, with all that runs in their sessions: a wrapper around QEMU is recorded in its place.
    """
    option = f"path={str(rundir.run).replace(',', ',,')}/"
    found = find_orphans(option, logs=rundir.state / "vms", sockets=rundir.run)
    sessions = {process.pid for process in known}
    return [process for process in found if process not in known and _session(process) not in sessions]


def _session(process: ProcessId) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None
