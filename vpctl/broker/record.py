"""The list of a broker's processes as it is written down: its successor, `down` and others work from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vpctl.broker.fields import Count, Name, PathText, read
from vpctl.broker.protocol import Child
from vpctl.errors import UsageError
from vpctl.process import ProcessId
from vpctl.rundir import host_boot_id, read_json


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
